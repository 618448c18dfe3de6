"""DINO and DINOv2: equal to transformers in every layout of weights; resampled embeddings; refusals."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robustok.backbones.dino import DINO, DINOv2, VisionTransformer, our_names, random_weights, resized, shapes
from robustok.backbones.resampling import resampled, resampled_patches

SMALL = {DINO: DINO(width=128, depth=3), DINOv2: DINOv2(width=128, depth=3, patch=14, side=518)}
HUB = (  # from our names to those of the files on the hub
    ("class_token", "embeddings.cls_token"),
    ("positions", "embeddings.position_embeddings"),
    ("embed.", "embeddings.patch_embeddings.projection."),
    ("blocks.", "encoder.layer."),
    ("attention.proj.", "attention.output.dense."),
    ("scale1.gamma", "layer_scale1.lambda1"),
    ("scale2.gamma", "layer_scale2.lambda1"),
)


def weights(config: DINO | DINOv2) -> dict[str, Tensor]:
    """In the authors' layout, none of them zero or one."""
    generator = torch.Generator().manual_seed(1)
    return {name: 0.1 * torch.randn(empty.shape, generator=generator) for name, empty in shapes(config).items()}


def in_hub_files(state: Mapping[str, Tensor], kind: type) -> dict[str, Tensor]:
    """The same weights by the names of hub files: query, key and value apart; DINO's MLP and norms named otherwise."""
    found = {}
    for name, tensor in our_names(state).items():
        for ours, theirs in HUB:
            name = name.replace(ours, theirs)
        if name in ("norm.weight", "norm.bias"):
            name = f"layer{name}"
        if kind is DINO:
            name = name.replace("mlp.fc1.", "intermediate.dense.").replace("mlp.fc2.", "output.dense.")
            name = name.replace("norm1", "layernorm_before").replace("norm2", "layernorm_after")
        if ".qkv." in name:
            for part, third in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                found[name.replace("attention.qkv", f"attention.attention.{part}")] = third
        else:
            found[name] = tensor
    return found


@pytest.fixture(scope="module")
def theirs() -> dict[type, torch.nn.Module]:
    """Both networks by transformers, loaded from hub files."""
    from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

    size = {"hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 3}
    dino = ViTConfig(**size, intermediate_size=512, layer_norm_eps=1e-6)
    dino2 = Dinov2Config(**size, patch_size=14, image_size=518)
    made = {}
    for kind, network, config in ((DINO, ViTModel, dino), (DINOv2, Dinov2Model, dino2)):
        files = in_hub_files(weights(SMALL[kind]), kind) | {"embeddings.mask_token": torch.zeros(1, 128)}
        files = files if kind is DINOv2 else {k: v for k, v in files.items() if "mask_token" not in k}
        options = {} if kind is DINOv2 else {"add_pooling_layer": False}
        model, report = network.from_pretrained(
            None, config=config, state_dict=files, output_loading_info=True, **options
        )
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
        made[kind] = model.eval()
    return made


@pytest.mark.parametrize("kind", [DINO, DINOv2])
def test_equal_to_transformers_in_every_layout(theirs: dict[type, torch.nn.Module], kind: type):
    config = SMALL[kind]
    images = torch.rand(2, 3, config.side, config.side, generator=torch.Generator().manual_seed(2)) * 2 - 1
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        wanted = theirs[kind](((images + 1) / 2 - mean) / std, output_hidden_states=True)
    layouts = {
        "authors": weights(config),
        "hub": in_hub_files(weights(config), kind),
        "in memory": theirs[kind].state_dict(),
    }
    for layout, state in layouts.items():
        network = VisionTransformer(config, state)
        pooled = network(images).pooled
        torch.testing.assert_close(pooled, wanted.last_hidden_state[:, 0], rtol=1e-4, atol=1e-5, msg=layout)
    for got, i in zip(network(images, after=(0, 2)).sequences, (0, 2), strict=True):
        torch.testing.assert_close(got, wanted.hidden_states[i], rtol=1e-4, atol=1e-5)


def test_nothing_is_trained_or_saved_and_gradients_reach_the_images():
    network = VisionTransformer(DINO(width=64, depth=2, patch=8, side=16), random_weights(DINO(width=64, depth=2)))
    assert not list(network.parameters())
    assert not network.state_dict()
    images = torch.zeros(1, 3, 24, 24, requires_grad=True)
    network(images, after=(0, 2)).sequences[1].square().sum().backward()
    assert images.grad.abs().sum() > 0


def test_published_sizes():
    """22 and 86 million parameters (tables of both papers; DINOv2's mask token apart)."""
    count = {config: sum(t.numel() for t in shapes(config).values()) for config in (DINO(), DINOv2())}
    assert count[DINO()] == 21_665_664
    assert count[DINOv2()] == 86_580_480 - 768


def test_resized_patches_see_what_the_old_ones_saw():
    """Where patches grow: the new kernel's product with a resized patch is the old one's with the patch."""
    generator = torch.Generator().manual_seed(0)
    kernel, patch = torch.randn(5, 3, 14, 14, generator=generator), torch.randn(1, 3, 14, 14, generator=generator)
    larger = F.interpolate(patch, (16, 16), mode="bicubic", antialias=True)
    got, wanted = F.conv2d(larger, resampled_patches(kernel, 16)), F.conv2d(patch, kernel)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    assert resampled_patches(kernel, 14) is kernel
    assert resampled_patches(kernel, 8).shape == (5, 3, 8, 8)


def test_positions_of_another_grid_are_those_of_timm():
    """Its convention: bicubic with antialiasing, the class token's left alone."""
    positions = torch.randn(1 + 37**2, 4, generator=torch.Generator().manual_seed(0))
    plane = positions[1:].view(37, 37, 4).permute(2, 0, 1)[None]
    wanted = F.interpolate(plane, (16, 16), mode="bicubic", antialias=True)[0].permute(1, 2, 0).reshape(256, 4)
    got = resampled(positions, 16, 1)
    assert torch.equal(got[0], positions[0])
    torch.testing.assert_close(got[1:], wanted)


def test_images_of_another_size():
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(resized(images, 16), F.avg_pool2d(images, 2))
    assert resized(images, 48).shape == (1, 3, 48, 48)


def test_weights_of_another_network_are_refused():
    config = DINO(width=64, depth=2)
    state = random_weights(config)
    with pytest.raises(ValueError, match="not the weights of a DINO of 3 blocks: 12 keys missing"):
        VisionTransformer(replace(config, depth=3), state)
    with pytest.raises(ValueError, match="weights of a DINO are 64 wide, not 128; set width to 64"):
        VisionTransformer(replace(config, width=128), state)
    with pytest.raises(ValueError, match="not the weights of a DINOv2 of 2 blocks: 4 keys missing .*scale1.gamma"):
        VisionTransformer(DINOv2(width=64, depth=2), state)
    with pytest.raises(ValueError, match="width is a multiple of 64"):
        DINO(width=100)
    with pytest.raises(ValueError, match="side 250 is not a multiple of the patch, 16"):
        DINO(side=250)


def test_built_without_memory():
    with torch.device("meta"):
        network = VisionTransformer(DINOv2(), random_weights(DINOv2()))
        assert network(torch.empty(2, 3, 256, 256)).pooled.shape == (2, 768)
