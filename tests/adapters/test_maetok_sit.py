"""MAETok's SiT samples and is trained as its authors do it, on both paths."""

import pytest
import torch
from tests.adapters.parity import assert_as_published, weights_file

from robustok.adapters.diffusion_transformers import MAETokSiT
from robustok.generators.flow import FlowSampling, guided_field, integrate
from robustok.generators.flow_matching import flow_losses


def loaded(parity, interpolant="linear"):
    meta, io = parity("maetok_sit")
    heads, how = meta["config"]["num_heads"], meta["sampling"]
    model = MAETokSiT.from_checkpoint(weights_file("maetok_sit"), heads=heads, interpolant=interpolant)
    interval = {"guidance_low": how["guidance_low"], "guidance_high": how["guidance_high"]}
    return model, io, meta, {"guidance": how["cfg_scale"]}, interval


def sampled(model, io, config):
    noise = iter(io["sde_noise"])
    *_, end = integrate(guided_field(model, io["y"], config), io["z"], config, lambda: next(noise))
    return end


@torch.no_grad()
def test_ode_samples(parity):
    model, io, meta, guidance, interval = loaded(parity)
    steps = meta["sampling"]["num_steps"]
    for name, config in (
        ("ode_euler_nocfg", FlowSampling(steps=steps)),
        ("ode_euler_cfg", FlowSampling(steps=steps, **guidance, **interval)),
        ("ode_heun_cfg", FlowSampling(steps=steps, method="heun-but-last", **guidance)),
    ):
        assert_as_published(sampled(model, io, config), io, meta, name)


@pytest.mark.parametrize("name", ["sde_linear_nocfg", "sde_cosine_nocfg", "sde_linear_cfg"])
@torch.no_grad()
def test_sde_samples(parity, name):
    path = "cosine" if "cosine" in name else "linear"
    model, io, meta, guidance, interval = loaded(parity, path)
    guided = {} if "nocfg" in name else {**guidance, **interval}
    config = FlowSampling(steps=meta["sampling"]["num_steps"], method="sde", interpolant=path, **guided)
    assert_as_published(sampled(model, io, config), io, meta, name)


@pytest.mark.parametrize("path", ["linear", "cosine"])
@torch.no_grad()
def test_training_loss(parity, path):
    model, io, meta, _, _ = loaded(parity, path)
    ratio = io["train_normal"].exp().flatten()  # of the noise's factor to the data's
    t = ratio / (1 + ratio) if path == "linear" else 2 / torch.pi * ratio.atan()
    losses = flow_losses(lambda x, t: model(x, t, io["y"]), io["x"], io["train_noise"], t, path)
    assert_as_published(losses.error, io, meta, f"train_loss_{path}")
