"""The embedded VGG-16 trunk, against plain sums and against the weights it was made from."""

import re
from importlib.resources import files

import numpy as np
import pytest
import torch
from safetensors.numpy import load

from robustok.backbones.vgg import HED_MEAN, VGGHED, hed_weight_file, vgg_hed
from robustok.evaluation.features.registry import extractor
from robustok.losses.perceptual import Perceptual
from robustok.runtime.weights import sha256
from robustok.shapes import to_images
from robustok.training.objective import Objective
from robustok.training.pretrained import perceptual_network

# Features of `pattern` from the package's own float32 weights, computed in float64.
KNOWN = {54: 104.92, 58: 87.64, 166: 74.01, 255: 73.93, 36: 44.35, 2: 0.078}


def pattern() -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(40), torch.arange(40), indexing="ij")
    return torch.stack([(7 * x + 3 * y) % 256, (5 * x * y) % 256, (11 * y + x * x) % 256])[None].to(torch.uint8)


def plain_convolution(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """3 x 3, padded by one zero, then what is below 0 is 0; (c, h, w) and (out, c, 3, 3)."""
    _, h, w = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    shifted = [(i, j, padded[:, i : i + h, j : j + w]) for i in range(3) for j in range(3)]
    total = sum(np.einsum("oc,chw->ohw", kernel[:, :, i, j], part) for i, j, part in shifted)
    return np.maximum(total + bias[:, None, None], 0)


def test_maps_are_those_of_plain_sums():
    weights = {name: tensor.astype(np.float64) for name, tensor in load(hed_weight_file().read_bytes()).items()}
    pixels = pattern()[:, :, :16, :16]
    x = pixels[0].numpy().astype(np.float64) - np.array(HED_MEAN)[:, None, None]
    for ours, numbers in zip(vgg_hed()(to_images(pixels)).stages, ((0, 2), (5, 7), (10, 12, 14)), strict=True):
        for number in numbers:
            x = plain_convolution(x, weights[f"features.{number}.weight"], weights[f"features.{number}.bias"])
        np.testing.assert_allclose(ours[0].numpy(), x, rtol=1e-4, atol=1e-5 * x.max())
        x = x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2).max(axis=(2, 4))


def test_features_are_those_of_the_weights_that_it_was_made_from():
    features = extractor("vgg-hed")(pattern())[0]
    assert features.shape == (256,)
    # half precision rounds a weight by at most 2^-11 of it; the known values are rounded to two or three digits more
    for i, value in KNOWN.items():
        assert float(features[i]) == pytest.approx(value, rel=2e-3, abs=1e-3), i
    assert float(features.norm()) == pytest.approx(216.0414, rel=1e-3)


def test_the_file_is_the_one_that_its_readme_names():
    readme = (files("robustok.backbones") / "vgg_hed_weights" / "README.md").read_text()
    assert re.search(r"`([0-9a-f]{64})`", readme)[1] == sha256(str(hed_weight_file()))
    assert f"| {len(hed_weight_file().read_bytes())} |" in readme
    assert {str(tensor.dtype) for tensor in load(hed_weight_file().read_bytes()).values()} == {"float16"}


def test_gradients_reach_the_images_and_nothing_else():
    distance = perceptual_network(VGGHED(), 3, None)
    target = to_images(pattern())
    images = (0.9 * target).requires_grad_()
    distance(target, images).backward()
    assert not list(distance.parameters())
    assert not distance.state_dict()
    step = 1e-2 * images.grad / images.grad.norm()
    with torch.no_grad():
        there, back = distance(target, images + step), distance(target, images - step)
    assert float(there - back) == pytest.approx(2e-2 * float(images.grad.norm()), rel=0.05)


def test_levels_are_the_maps():
    levels = Perceptual(vgg_hed(), 2).feature_maps(to_images(pattern()))
    assert [level.shape for level in levels] == [(1, 64, 40, 40), (1, 128, 20, 20)]


def test_more_maps_than_there_are_are_refused():
    with pytest.raises(ValueError, match="perceptual_stages is 4, but VGGHED has 3 maps; ask for 1 to 3"):
        Objective(network=VGGHED())
    assert Objective(network=VGGHED(), perceptual_stages=3).network == VGGHED()
    with pytest.raises(ValueError, match="stages is 4, but this VGG-16 has 3"):
        vgg_hed()(to_images(pattern()), 4)
