"""LightningDiT samples, is guided and is trained as its authors do it."""

import torch
from tests.adapters.parity import assert_as_published, grid, sequence, weights_file

from robustok.adapters.diffusion_transformers import LightningDiT
from robustok.generators.flow import FlowSampling, guided_field, integrate, time_grid
from robustok.generators.flow_matching import flow_losses


def loaded(parity):
    meta, io = parity("lightningdit")
    how = meta["sampling"]
    guided = {"guidance": how["cfg_scale"], "guided_channels": 3, "guidance_high": 1 - how["cfg_interval_start"]}
    shifted = {"steps": how["num_steps"] - 1, "shift": 1 / how["timestep_shift"]}
    model = LightningDiT.from_checkpoint(weights_file("lightningdit"), heads=meta["config"]["num_heads"])
    return model, io, meta, guided, shifted


@torch.no_grad()
def test_guidance_of_three_channels_below_a_noise_level(parity):
    model, io, meta, guided, _ = loaded(parity)
    x, labels = sequence(io["x"]), io["y"]
    nobody = torch.full_like(labels, model.null_class)
    for name, t in (("velocity_cfg_tlow", 0.05), ("velocity_cfg_thigh", 0.6)):
        first = -grid(guided_field(model, labels, FlowSampling(**guided))(x, 1 - t))
        unlabelled = -grid(model.velocity(x, torch.full((len(x),), 1 - t), nobody))
        second = torch.cat([first[:, :3], unlabelled[:, 3:]], dim=1)
        assert_as_published(torch.cat([first, second]), io, meta, name)


@torch.no_grad()
def test_shifted_ode_samples(parity):
    model, io, meta, guided, shifted = loaded(parity)
    assert_as_published(1 - torch.tensor(time_grid(FlowSampling(**shifted))), io, meta, "ode_times")
    for name, fields in (("ode_euler_cfg", guided), ("ode_euler_nocfg", {})):
        config = FlowSampling(**shifted, **fields)
        field = guided_field(model, io["y"], config)
        after = [grid(x) for x in integrate(field, sequence(io["z"]), config, lambda: io["z"])]
        assert_as_published(torch.stack([io["z"], *after]), io, meta, name)


@torch.no_grad()
def test_training_losses(parity):
    model, io, meta, _, _ = loaded(parity)
    latents, noise = sequence(io["x"]), sequence(io["train_noise"])
    losses = flow_losses(lambda x, t: model.velocity(x, t, io["y"]), latents, noise, 1 - io["t"])
    assert_as_published(losses.error, io, meta, "train_loss")
    assert_as_published(losses.direction, io, meta, "train_cos_loss")
