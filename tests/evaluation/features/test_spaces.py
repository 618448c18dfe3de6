"""Feature spaces of other people's networks, with tiny random ones of the same classes in their place."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.backbones.published import inception_state
from torch import Tensor, nn

from robustok.backbones.dino import hub_names
from robustok.backbones.inception import Inception
from robustok.backbones.resampling import resampled
from robustok.evaluation.features.extractor import RichExtractor, outputs
from robustok.evaluation.features.registry import extractor
from robustok.evaluation.features.spaces import inception
from robustok.evaluation.features.spaces.vision import VISION_MODELS, Preprocessing
from robustok.runtime.weights import sha256
from robustok.shapes import to_images

SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 1}
TEXT = {**SMALL, "vocab_size": 8, "bos_token_id": 0, "eos_token_id": 1}


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    noise = torch.randint(256, (3, 3, 40, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return F.interpolate(noise.float(), scale_factor=2, mode="bilinear").to(torch.uint8)  # 80 x 112, not only noise


def tiny_clip() -> nn.Module:
    from transformers import CLIPConfig, CLIPModel

    return CLIPModel(CLIPConfig(text_config=TEXT, vision_config={**SMALL, "image_size": 28, "patch_size": 14}))


def tiny_siglip2() -> nn.Module:
    from transformers import SiglipConfig, SiglipModel

    return SiglipModel(SiglipConfig(text_config=TEXT, vision_config={**SMALL, "image_size": 48, "patch_size": 16}))


def tiny_mae() -> nn.Module:
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    decoder = {f"decoder_{name}": size for name, size in SMALL.items()}
    return ViTMAEForPreTraining(ViTMAEConfig(**SMALL, **decoder, image_size=224, patch_size=16))


def tiny_convnextv2() -> nn.Module:
    from transformers import ConvNextV2Config, ConvNextV2ForImageClassification

    return ConvNextV2ForImageClassification(ConvNextV2Config(hidden_sizes=[8, 8, 16, 24], depths=[1, 1, 2, 1]))


def tiny_dinov2() -> nn.Module:
    from transformers import Dinov2Config, Dinov2Model

    config = {name: size for name, size in SMALL.items() if name != "intermediate_size"}
    return Dinov2Model(Dinov2Config(**config, image_size=70, patch_size=14))


TINY = {
    "clip": tiny_clip,
    "siglip2": tiny_siglip2,
    "mae": tiny_mae,
    "convnextv2": tiny_convnextv2,
    "dinov2": tiny_dinov2,
    "dinov2-224": tiny_dinov2,
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, nn.Module]]:
    """A folder as the hub has it, and the model in it with random numbers in every tensor."""
    made: dict[str, tuple[Path, nn.Module]] = {}

    def get(name: str) -> tuple[Path, nn.Module]:
        if name not in made:
            torch.manual_seed(0)
            model = TINY[name]().eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
            folder = tmp_path_factory.mktemp(name)
            model.save_pretrained(folder)
            made[name] = folder, model
        return made[name]

    return get


@pytest.mark.parametrize("name", TINY)
def test_each_image_has_its_features_whatever_the_batch(name, published, pixels):
    folder, _ = published(name)
    extract = extractor(f"{name}:{folder}")
    features = extract(pixels)
    assert features.shape == (3, 24 if name == "convnextv2" else 64)
    assert features.dtype == torch.float32
    assert (features[0] - features[1]).abs().max() > 1e-3
    torch.testing.assert_close(extract(pixels[1:2]), features[1:2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(extract(pixels.flip(0)).flip(0), features, rtol=1e-4, atol=1e-5)
    assert extract.name == name
    assert extract.describe()["features"] == name
    assert len(extract.describe()["weights"]) == 16
    assert extract.describe()["resize"].startswith("bicubic, antialiased, ")


def normalized(pixels: Tensor, side: int, mean: list[float], std: list[float]) -> Tensor:
    x = F.interpolate(pixels / 255, (side, side), mode="bicubic", antialias=True)
    return (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
OPENAI = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


@torch.no_grad()
def test_mae_s_class_token_sees_every_patch(published, pixels):
    folder, model = published("mae")
    model.vit.config.mask_ratio = 0.0
    for module in model.vit.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6
    torch.manual_seed(1)  # of the order that transformers shuffles the patches into, which must not matter
    wanted = model.vit(normalized(pixels, 224, *IMAGENET)).last_hidden_state[:, 0]
    torch.testing.assert_close(extractor(f"mae:{folder}")(pixels), wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_convnextv2_s_last_map_is_averaged_and_not_normalized(published, pixels):
    folder, model = published("convnextv2")
    wanted = model.convnextv2(normalized(pixels, 224, *IMAGENET)).last_hidden_state.mean(dim=(2, 3))
    torch.testing.assert_close(extractor(f"convnextv2:{folder}")(pixels), wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_clip_s_class_token_by_transformers_at_266_pixels(published, pixels):
    from transformers import CLIPVisionConfig, CLIPVisionModel

    folder, model = published("clip")
    vision = CLIPVisionModel(CLIPVisionConfig(**SMALL, image_size=266, patch_size=14, hidden_act="gelu")).eval()
    state = {**model.vision_model.state_dict()}
    positions = state["embeddings.position_embedding.weight"]
    grid = positions[1:].T.reshape(1, 64, 2, 2)
    resized = F.interpolate(grid, (19, 19), mode="bicubic", antialias=True)[0].flatten(1).T
    vision.load_state_dict({**state, "embeddings.position_embedding.weight": torch.cat([positions[:1], resized])})
    x = F.pad(normalized(pixels, 256, *OPENAI), (0, 10, 0, 10))
    wanted = vision.post_layernorm(vision(x).last_hidden_state[:, 0])
    torch.testing.assert_close(extractor(f"clip:{folder}")(pixels), wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_siglip2_s_attention_pooling_by_transformers_at_224_pixels(published, pixels):
    from transformers import SiglipVisionConfig, SiglipVisionModel

    folder, model = published("siglip2")
    vision = SiglipVisionModel(SiglipVisionConfig(**SMALL, image_size=224, patch_size=16)).eval()
    state = {**model.vision_model.state_dict()}
    grid = state["embeddings.position_embedding.weight"].T.reshape(1, 64, 3, 3)
    resized = F.interpolate(grid, (14, 14), mode="bicubic", antialias=True)[0].flatten(1).T
    vision.load_state_dict({**state, "embeddings.position_embedding.weight": resized})
    wanted = vision(normalized(pixels, 224, [0.5] * 3, [0.5] * 3)).pooler_output
    torch.testing.assert_close(extractor(f"siglip2:{folder}")(pixels), wanted, rtol=1e-4, atol=1e-5)


def dinov2_by_hand(state: dict[str, Tensor], images: Tensor, positions: Tensor) -> Tensor:
    """The class token as DINOv2's own code computes it, from its own tensors (one head a layer)."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    x = F.conv2d(images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=14)
    x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x.flatten(2).mT], dim=1) + positions
    for i in range(2):
        block = f"blocks.{i}"
        q, k, v = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").chunk(3, dim=-1)
        mixed = (q @ k.mT / 64**0.5).softmax(-1) @ v
        x = x + state[f"{block}.ls1.gamma"] * linear(mixed, f"{block}.attn.proj")
        hidden = F.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
        x = x + state[f"{block}.ls2.gamma"] * linear(hidden, f"{block}.mlp.fc2")
    return norm(x, "norm")[:, 0]


def own_layout(hub: dict[str, Tensor]) -> dict[str, Tensor]:
    """DINOv2's own names, query, key and value fused."""
    whole = {
        "embeddings.cls_token": "cls_token",
        "embeddings.mask_token": "mask_token",
        "embeddings.position_embeddings": "pos_embed",
    }
    parts = {
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "encoder.layer": "blocks",
        "attention.output.dense": "attn.proj",
        "layer_scale1.lambda1": "ls1.gamma",
        "layer_scale2.lambda1": "ls2.gamma",
        "layernorm": "norm",
    }
    own: dict[str, Tensor] = {}
    for name, tensor in hub.items():
        name = whole.get(name, name)
        for theirs, ours in parts.items():
            name = name.replace(theirs, ours)
        own[name] = tensor
    for i in range(2):
        for kind in ("weight", "bias"):
            names = [f"blocks.{i}.attention.attention.{part}.{kind}" for part in ("query", "key", "value")]
            own[f"blocks.{i}.attn.qkv.{kind}"] = torch.cat([own.pop(name) for name in names])
    return own


def test_dinov2_takes_all_three_layouts(published, pixels, tmp_path):
    folder, model = published("dinov2")
    hub = load_file(folder / "model.safetensors")
    memory = model.state_dict()
    own = own_layout(hub)
    assert "encoder.layer.0.attention.attention.query.weight" in hub
    assert "encoder.layer.0.attention.q_proj.weight" in memory
    assert "blocks.0.attn.qkv.weight" in own
    features = extractor(f"dinov2:{folder}")(pixels)
    without_mask = {name: tensor for name, tensor in own.items() if name != "mask_token"}  # timm's
    for i, state in enumerate([hub, memory, own, without_mask]):
        renamed = hub_names(state)
        assert renamed.keys() | {"embeddings.mask_token"} == hub.keys()
        assert all(torch.equal(renamed[name], hub[name]) for name in renamed)
        torch.save({"model": state} if i == 2 else state, tmp_path / f"{i}.pth")
        assert torch.equal(extractor(f"dinov2:{tmp_path / f'{i}.pth'}")(pixels), features)


@torch.no_grad()
def test_dinov2_by_hand_in_both_conventions(published, pixels):
    folder, _ = published("dinov2")
    own = own_layout(load_file(folder / "model.safetensors"))
    first, grid = own["pos_embed"][:, :1], own["pos_embed"][:, 1:].mT.reshape(1, 64, 5, 5)

    resized = F.interpolate(grid, (19, 19), mode="bicubic", antialias=True).flatten(2).mT
    x = F.pad(normalized(pixels, 256, *IMAGENET), (0, 10, 0, 10))
    wanted = dinov2_by_hand(own, x, torch.cat([first, resized], dim=1))
    torch.testing.assert_close(extractor(f"dinov2:{folder}")(pixels), wanted, rtol=1e-4, atol=1e-5)

    resized = F.interpolate(grid, scale_factor=(16.1 / 5, 16.1 / 5), mode="bicubic").flatten(2).mT
    images = [
        Image.fromarray(image.permute(1, 2, 0).numpy()).resize((224, 224), Image.Resampling.BICUBIC) for image in pixels
    ]
    x = torch.stack([torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) for image in images])
    wanted = dinov2_by_hand(own, normalized(x, 224, *IMAGENET), torch.cat([first, resized], dim=1))
    features = extractor(f"dinov2-224:{folder}")(pixels)
    torch.testing.assert_close(features, wanted, rtol=1e-3, atol=1e-3)  # a pixel in a thousand is a level of 255 off


@pytest.mark.parametrize("size", [(256, 256), (96, 160), (224, 300)])
def test_rounded_views_resize_as_pil_does(size: tuple[int, int]):
    pixels = torch.randint(256, (1, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image = Image.fromarray(pixels[0].permute(1, 2, 0).numpy()).resize((224, 224), Image.Resampling.BICUBIC)
    wanted = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float()
    view = Preprocessing(side=224, mean=(0, 0, 0), std=(1, 1, 1), rounded=True)
    difference = (view(pixels)[0] * 255 - wanted).abs()
    # a value within rounding of half-way between two levels may go either way, in either pass
    assert difference.max() <= 1 + 1e-3
    assert (difference < 1e-3).float().mean() > 0.998


def test_views_normalize_resize_and_pad():
    white = torch.full((2, 3, 256, 256), 255, dtype=torch.uint8)
    x = VISION_MODELS["dinov2"].view(white)
    assert x.shape == (2, 3, 266, 266)
    torch.testing.assert_close(x[0, :, 0, 0], (1 - torch.tensor(IMAGENET[0])) / torch.tensor(IMAGENET[1]))
    assert x[:, :, 256:].abs().max() == 0
    assert x[:, :, :, 256:].abs().max() == 0
    views = {name: model.view for name, model in VISION_MODELS.items()}
    assert views["dinov2"].describe() == "bicubic, antialiased, not rounded, to 256 pixels, then padded to 266"
    assert views["dinov2-224"].describe() == "bicubic, antialiased, rounded, to 224 pixels"
    sides = {name: view.padded for name, view in views.items()}
    assert sides == {"clip": 266, "siglip2": 224, "mae": 224, "convnextv2": 224, "dinov2": 266, "dinov2-224": 224}


def test_positions_for_the_same_grid_stay():
    positions = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    assert resampled(positions, 3, 1) is positions
    flat = resampled(torch.ones(10, 4), 5, 1)
    torch.testing.assert_close(flat, torch.ones(26, 4))


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inception") / "narrow.pth"
    torch.save(inception_state(16), path)
    return path


def test_inception_gives_features_logits_and_spatial_features_at_once(inception_file, pixels):
    extract = extractor(f"inception:{inception_file}")
    assert isinstance(extract, RichExtractor)
    found = outputs(extract, pixels)
    with torch.no_grad():
        wanted = Inception(inception_state(16))(to_images(pixels))
    torch.testing.assert_close(tuple(found)[:3], tuple(wanted))
    assert torch.equal(extract(pixels), found.features)
    assert extract.describe()["resize"] == "bilinear as TensorFlow 1, to 299 pixels"


def test_inception_from_its_file_in_the_cache(inception_file, pixels, tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTOK_WEIGHTS", str(tmp_path))
    (tmp_path / "pt_inception-2015-12-05-6726825d.pth").write_bytes(inception_file.read_bytes())
    with pytest.raises(ValueError, match="is not FID's Inception: its SHA-256 is .*, not 6726825d0af5f729...; remove"):
        extractor("inception")
    monkeypatch.setattr(inception, "WEIGHTS", replace(inception.WEIGHTS, sha256=sha256(inception_file)))
    assert torch.equal(extractor("inception")(pixels), extractor(f"inception:{inception_file}")(pixels))


def test_hub_models_are_found_in_the_cache(published, pixels, tmp_path, monkeypatch):
    folder, _ = published("mae")
    monkeypatch.setenv("ROBUSTOK_WEIGHTS", str(tmp_path))
    (tmp_path / "facebook--vit-mae-large").symlink_to(folder)
    assert torch.equal(extractor("mae")(pixels), extractor(f"mae:{folder}")(pixels))


def test_wrong_weights_are_refused(published, inception_file, tmp_path):
    folder, _ = published("mae")
    state = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())

    def folder_with(tensors: dict[str, Tensor], about: dict[str, Any] | None) -> Path:
        made = tmp_path / str(len(list(tmp_path.iterdir())))
        made.mkdir()
        save_file(tensors, made / "model.safetensors")
        if about is not None:
            (made / "config.json").write_text(json.dumps(about))
        return made

    fewer = {name: tensor for name, tensor in state.items() if name != "vit.layernorm.weight"}
    more = {**state, "vit.head.weight": torch.zeros(1)}
    for tensors, message in (
        (fewer, r"1 keys missing \(layernorm.weight\)"),
        (more, r"1 keys unexpected \(.*head.weight\)"),
    ):
        with pytest.raises(ValueError, match=f"does not fit ViTMAEModel: {message}.*give the published file"):
            extractor(f"mae:{folder_with(tensors, config)}")
    with pytest.raises(ValueError, match="does not fit ViTMAEModel"):
        extractor(f"mae:{folder_with(state, {**config, 'intermediate_size': 100})}")
    with pytest.raises(ValueError, match="no config.json beside .*model.safetensors; put the one"):
        extractor(f"mae:{folder_with(state, None)}")
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds neither model.safetensors nor pytorch_model.bin; download"):
        extractor(f"mae:{empty}")
    with pytest.raises(ValueError, match="is no DINOv2: .*; download config.json"):
        extractor(f"dinov2:{inception_file}")
    with pytest.raises(ValueError, match="there is no file .*nowhere"):
        extractor(f"inception:{tmp_path / 'nowhere'}")
