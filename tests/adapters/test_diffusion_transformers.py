"""SiT, LightningDiT and MAETok's SiT: velocities, files there and back, full-size names, refusals, further training."""

import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tests.adapters.parity import assert_as_published, grid, published_keys, sequence, weights_file

from robustok.adapters import FAMILIES as KNOWN
from robustok.adapters import recognized
from robustok.adapters.diffusion_transformers import LightningDiT, MAETokSiT, SiT
from robustok.adapters.maetok import MAETok
from robustok.generators.diffusion_transformer import DiffusionTransformer, DiffusionTransformerModel
from robustok.generators.flow import sample_latents
from robustok.generators.protocol import lacking, makes

FAMILIES = {"sit": SiT, "lightningdit": LightningDiT, "maetok_sit": MAETokSiT}
ALL = pytest.mark.parametrize("fixture", FAMILIES)


@pytest.fixture
def published(parity):
    """`published("sit")` is (the model of a fixture's weights, its inputs and outputs, its meta)."""

    def load(fixture: str):
        meta, io = parity(fixture)
        return FAMILIES[fixture].from_checkpoint(weights_file(fixture), heads=meta["config"]["num_heads"]), io, meta

    return load


@ALL
@torch.no_grad()
def test_velocities(published, fixture):
    model, io, meta = published(fixture)
    as_there = grid if io["x"].ndim == 4 else lambda x: x
    x = sequence(io["x"]) if io["x"].ndim == 4 else io["x"]
    nobody = torch.full_like(io["y"], model.null_class)
    for name, labels in (("velocity", io["y"]), ("velocity_null", nobody)):
        native = DiffusionTransformerModel.forward(model, x, io["t"], labels)
        assert_as_published(as_there(native), io, meta, name)
        ours = native if fixture == "maetok_sit" else -native
        t = io["t"] if fixture == "maetok_sit" else 1 - io["t"]
        torch.testing.assert_close(model.velocity(x, t, labels), ours, atol=1e-5, rtol=1e-5)
    assert model.null_class == meta["config"]["num_classes"]
    assert (makes(model), lacking(model)) == ("latents", [])


@ALL
def test_a_file_comes_back_bit_by_bit(published, fixture, tmp_path):
    model, _, _ = published(fixture)
    theirs = load_file(weights_file(fixture))
    model.to_checkpoint(tmp_path / "back.safetensors")
    back = load_file(tmp_path / "back.safetensors")
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[name], theirs[name]) and back[name].dtype == theirs[name].dtype for name in theirs)
    torch.save({"model": {k: 0 * v for k, v in theirs.items()}, "ema": theirs, "opt": {}, "args": None}, tmp_path / "t")
    again = FAMILIES[fixture].from_checkpoint(tmp_path / "t", heads=model.config.heads)
    assert again.fingerprint() == model.fingerprint()  # the average, as in their sampling scripts
    model.save_pretrained(tmp_path / "folder", note="nothing")
    loaded = FAMILIES[fixture].from_pretrained(tmp_path / "folder")
    assert (loaded.config, loaded.fingerprint()) == (model.config, model.fingerprint())


@ALL
def test_the_published_model_fits(fixture):
    for keys in published_keys(fixture).values():
        model = FAMILIES[fixture].from_state(keys)
        ours = model.to_state()
        assert {name: (w.shape, w.dtype) for name, w in ours.items()} == {
            n: (w.shape, w.dtype) for n, w in keys.items()
        }
        assert (model.config.width, model.config.heads, model.config.depth) == (1152, 16, 28)


def test_a_file_tells_its_family():
    for fixture, family in {**FAMILIES, "maetok": MAETok, "maetok_ape": MAETok}.items():
        state = load_file(weights_file(fixture))
        assert recognized(state) is family
        assert [known for known in KNOWN if known.matches(state)] == [family]
    with pytest.raises(ValueError, match="is no checkpoint of sit: this looks like lightningdit"):
        SiT.from_state(load_file(weights_file("lightningdit")))


def test_every_option_is_read_from_the_weights():
    config = DiffusionTransformer(
        tokens=16, channels=3, classes=2, width=24, depth=3, heads=3, hidden=20, qk_norm=True, shifts=False
    )
    for changed in ({}, {"rotary": False}, {"norm": "layer"}, {"mlp": "gelu"}, {"variance": True, "patch": 2}):
        wanted = replace(config, **changed)
        assert LightningDiT.from_state(LightningDiT(wanted).to_state()).config == wanted


def test_heads_that_nothing_tells_are_asked_for():
    config = DiffusionTransformer(tokens=5, channels=3, classes=2, width=24, layout="sequence", rotary=False)
    state = MAETokSiT(replace(config, qk_norm=False)).to_state()
    with pytest.raises(ValueError, match="weights 24 wide do not tell their attention heads; pass heads, a divisor"):
        MAETokSiT.from_state(state)
    assert MAETokSiT.from_state(state, heads=4, interpolant="cosine").config.interpolant == "cosine"


def test_a_file_that_lacks_something_is_refused():
    config = DiffusionTransformer(
        tokens=4, channels=3, classes=2, width=16, rotary=False, norm="layer", mlp="gelu", qk_norm=False
    )
    state = SiT(config).to_state()
    state["blocks.0.attn.qkv.extra"] = state.pop("blocks.0.attn.qkv.bias")
    with pytest.raises(ValueError, match=r"no checkpoint of sit: 1 keys missing \(blocks.0.attn.qkv.bias\), 1 keys"):
        SiT.from_state(state, heads=4)
    with pytest.raises(ValueError, match=r"1 keys missing \(pos_embed\); give a whole checkpoint"):
        SiT.config_from_state({name: w for name, w in state.items() if name != "pos_embed"})


@ALL
def test_the_authors_training_goes_on(published, fixture):
    model, _, _ = published(fixture)
    n, d = model.latent_shape
    latents, labels = torch.randn(4, n, d, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    losses = [
        model.loss(latents, labels, model.draw(len(labels), generator=torch.Generator().manual_seed(1)))
        for _ in range(2)
    ]
    assert torch.equal(*losses)
    losses[0].backward()
    assert all(p.grad is not None for name, p in model.named_parameters())
    # what a network that says nothing loses: noise and data, and for LightningDiT a right angle
    silent = type(model)(model.config)
    loss = silent.loss(
        torch.zeros(64, n, d), torch.zeros(64).long(), silent.draw(64, generator=torch.Generator().manual_seed(1))
    )
    assert loss.item() == pytest.approx(1 + model.direction, abs=4 * math.sqrt(2 / (64 * n * d)))


@ALL
def test_published_sampling_runs(published, fixture):
    model, _, _ = published(fixture)
    for config in model.published.values():
        few = replace(config, steps=2)
        assert sample_latents(model, torch.tensor([1]), few, seed=0).shape == (1, *model.latent_shape)
    assert model.sampling in model.published.values()
