"""Pretrained networks by config: a tokenizer that begins with DINOv2, weights from every kind of place, refusals."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from robustok.backbones import dino, vgg
from robustok.backbones.dino import DINO, MEAN, STD, DINOv2, VisionTransformer
from robustok.backbones.lite import POOLED, EfficientNetLite0
from robustok.backbones.vgg import LPIPSVGG
from robustok.losses.lpips import lpips_distance
from robustok.presets.scales import TINY_DINOV2, TINY_PART
from robustok.presets.tokenizers import robustok_imagenet256
from robustok.runtime.weights import HubModel, WeightFile, weights_at
from robustok.tokenizer.encoder import Conv, patchify
from robustok.tokenizer.tokenizer import Tokenizer, TokenizerConfig
from robustok.training import pretrained
from robustok.training.pretrained import begin_with_dinov2, dino_weights, perceptual_network, semantic_teacher
from robustok.training.tokenizer_training import TokenizerStage

TINY = robustok_imagenet256("smoke")


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights on this machine, and no network."""
    monkeypatch.setenv("ROBUSTOK_WEIGHTS", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    for name in ("DINOV2_B14", "DINO_S16"):
        monkeypatch.setattr(pretrained, name, replace(getattr(pretrained, name), url="http://127.0.0.1:9/"))


def begun() -> Tokenizer:
    torch.manual_seed(0)
    tokenizer = Tokenizer(TINY.tokenizer).eval()
    begin_with_dinov2(tokenizer, TINY_DINOV2)
    return tokenizer


@torch.no_grad()
def test_an_encoder_begins_as_the_network_itself():
    """What it makes of an image's patches, before and after its blocks, is what DINOv2 makes of them."""
    encoder, network = begun().encoder, VisionTransformer(TINY_DINOV2, dino_weights(TINY_DINOV2))
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    embedded, last = network(2 * (x * std + mean) - 1, after=(0, 2)).sequences  # of x once it is normalized
    ours = torch.cat([encoder.class_token.expand(2, 1, -1), encoder.embed(patchify(x, 8)) + encoder.positions], dim=1)
    torch.testing.assert_close(ours, embedded, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder.blocks(ours), last, rtol=1e-4, atol=1e-5)


def test_a_decoder_begins_with_the_same_blocks_and_empty_mask_tokens():
    tokenizer = begun()
    encoder, decoder = tokenizer.encoder.state_dict(), tokenizer.decoder.state_dict()
    same = [name for name in decoder if name.startswith(("blocks.", "norm.")) or name in ("class_token", "positions")]
    assert len(same) > 20
    assert all(torch.equal(encoder[name], decoder[name]) for name in same)
    assert tokenizer.decoder.mask_token.std().item() == pytest.approx(1e-6, rel=1e-3)
    assert tokenizer.encoder.latent_tokens.std().item() == pytest.approx(1e-6, rel=1e-3)


def test_other_encoders_and_sizes_are_refused():
    part = Conv(stem=4, channels=(16, 32), blocks=1, attention=False)
    with pytest.raises(ValueError, match="a ConvEncoder cannot begin with a DINOv2; make encoder and decoder a ViT"):
        begin_with_dinov2(Tokenizer(TokenizerConfig(image_size=32, encoder=part, decoder=part)), TINY_DINOV2)
    for other in (replace(TINY_PART, depth=3), replace(TINY_PART, layer_scale=None)):
        config = replace(TINY.tokenizer, encoder=other)
        with pytest.raises(ValueError, match="not those of a DINOv2 64 wide and 2 deep; give the ViT that width and"):
            begin_with_dinov2(Tokenizer(config), TINY_DINOV2)


def test_weights_from_a_file_a_folder_and_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = DINOv2(width=64, depth=1)
    state = {name: torch.full_like(w, 0.5) for name, w in dino.random_weights(config).items()}
    (tmp_path / "folder").mkdir()
    save_file(state, tmp_path / "folder" / "model.safetensors")
    torch.save(state, tmp_path / "own.pth")
    monkeypatch.setattr(HubModel, "path", lambda self: {"some/model": tmp_path / "folder"}[self.repository])
    for source in (tmp_path / "own.pth", tmp_path / "folder", "some/model"):
        read = dino_weights(replace(config, weights=str(source)))
        assert read.keys() == state.keys()
        assert all(torch.equal(read[name], state[name]) for name in state)
    for source in (tmp_path / "none.pth", "none.pth"):
        with pytest.raises(ValueError, match="there is no file .*none.pth; give a safetensors or torch file"):
            dino_weights(replace(config, weights=str(source)))


@pytest.mark.parametrize(
    ("place", "config"),
    [
        ("start", replace(TINY, start=replace(TINY_DINOV2, weights="published"))),
        ("teacher", replace(TINY, teacher=replace(TINY_DINOV2, weights="published"))),
    ],
)
def test_a_missing_file_is_one_clear_error(place: str, config):
    with pytest.raises(ValueError) as caught:
        TokenizerStage(config)
    said = str(caught.value)
    assert said.startswith("DINOv2 ViT-B/14 could not be downloaded (")
    assert "; download http://127.0.0.1:9/ (346 MB) to " in said
    assert "\n" not in said


def test_a_file_of_unknown_hash_is_taken_as_it_is(tmp_path: Path):
    (tmp_path / "cache").mkdir()
    torch.save({"a": torch.ones(1)}, tmp_path / "cache" / "net.pth")
    file = WeightFile(title="a net", names=("net.pth",), url="http://127.0.0.1:9/", sha256=None, size=1)
    assert weights_at("published", file)["a"] == 1
    assert file.about() == "SHA-256 unknown, license unknown"


def test_lpips_in_training_is_the_metric(tmp_path: Path):
    """The same numbers as the metric from the same files; and of fewer maps, the first terms of it."""
    config = LPIPSVGG(width=4)
    torch.save(vgg.random_vgg_weights(config), tmp_path / "vgg.pth")
    torch.save(vgg.random_lin_layers(config), tmp_path / "lin.pth")
    config = replace(config, weights=str(tmp_path / "vgg.pth"), lin_layers=str(tmp_path / "lin.pth"))
    a, b = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    metric = lpips_distance(tmp_path / "vgg.pth", tmp_path / "lin.pth")
    whole = perceptual_network(config, 5, None)(a, b)
    assert whole.item() == pytest.approx(metric(a, b).item(), rel=1e-6)
    assert 0 < perceptual_network(config, 2, None)(a, b) < whole


def test_teachers():
    assert semantic_teacher(EfficientNetLite0()).width == POOLED
    teacher = semantic_teacher(TINY_DINOV2)
    assert teacher.network(torch.zeros(2, 3, 32, 32)).pooled.shape == (2, teacher.width)


def test_random_weights_are_the_same_every_time_and_leave_torchs_generator_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, second = (dino_weights(DINO(weights="random", width=64, depth=1)) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), before)
