"""SiT samples, is guided and is trained as its authors do it."""

import torch
from tests.adapters.parity import assert_as_published, grid, sequence, weights_file

from robustok.adapters.diffusion_transformers import SiT
from robustok.generators.flow import FlowSampling, guided_field, integrate
from robustok.generators.flow_matching import flow_losses


def loaded(parity):
    meta, io = parity("sit")
    return SiT.from_checkpoint(weights_file("sit"), heads=meta["config"]["num_heads"]), io, meta


def steps(model, io, config):
    """Their z after each of our steps, for their labels and noise; theirs are grids."""
    noise = iter(sequence(io["sde_noise"]))
    field = guided_field(model, io["y"], config)
    return [grid(x) for x in integrate(field, sequence(io["z"]), config, lambda: next(noise))]


@torch.no_grad()
def test_guidance_of_three_channels(parity):
    model, io, meta = loaded(parity)
    config = FlowSampling(guidance=meta["sampling"]["cfg_scale"], guided_channels=3)
    first = [  # each latent has a time of its own
        guided_field(model, label[None], config)(sequence(x)[None], 1 - t.item())
        for x, t, label in zip(io["x"], io["t"], io["y"], strict=True)
    ]
    first = -grid(torch.cat(first))
    # their second half has the same guided channels and the others as without label
    second = torch.cat([first[:, :3], io["velocity_null"][:, 3:]], dim=1)
    assert_as_published(torch.cat([first, second]), io, meta, "velocity_cfg")


@torch.no_grad()
def test_ode_samples(parity):
    model, io, meta = loaded(parity)
    points, scale = meta["sampling"]["num_steps"], meta["sampling"]["cfg_scale"]
    guided = {"guidance": scale, "guided_channels": 3}
    for name, fields in (("ode_euler_nocfg", {}), ("ode_euler_cfg", guided)):
        trajectory = [io["z"], *steps(model, io, FlowSampling(steps=points - 1, **fields))]
        assert_as_published(torch.stack(trajectory), io, meta, name)
    end = steps(model, io, FlowSampling(steps=points - 1, method="heun", **guided))[-1]
    assert_as_published(end, io, meta, "ode_heun2_cfg")


@torch.no_grad()
def test_sde_samples(parity):
    model, io, meta = loaded(parity)
    for name, diffusion in (("sde_euler_sigma", "linear"), ("sde_euler_decreasing", "decreasing")):
        config = FlowSampling(steps=meta["sampling"]["num_steps"], method="sde", diffusion=diffusion)
        assert_as_published(steps(model, io, config)[-1], io, meta, name)


@torch.no_grad()
def test_training_loss(parity):
    model, io, meta = loaded(parity)
    latents, noise, t = sequence(io["x"]), sequence(io["train_noise"]), 1 - io["t"]
    losses = flow_losses(lambda x, t: model.velocity(x, t, io["y"]), latents, noise, t)
    assert_as_published(losses.error, io, meta, "train_loss")
    x_t = (1 - t)[:, None, None] * latents + t[:, None, None] * noise
    assert_as_published(-grid(model.velocity(x_t, t, io["y"])), io, meta, "train_pred")
