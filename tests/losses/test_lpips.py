"""LPIPS by hand, against its formula written out with torch.nn.functional, and its refusals."""

import pytest
import torch
import torch.nn.functional as F
from tests.backbones.published import vgg_state
from torch import Tensor, nn

from robustok.backbones.frozen import FeatureMaps
from robustok.backbones.vgg import CONVS
from robustok.losses.lpips import LPIPS, lpips_distance
from robustok.losses.perceptual import Perceptual

WIDTHS = (4, 6, 8, 10, 10)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def lin_state(seed: int = 0) -> dict[str, Tensor]:
    return {f"lin{i}.model.1.weight": noise(1, width, 1, 1, seed=seed + i).abs() for i, width in enumerate(WIDTHS)}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lpips")
    torch.save(vgg_state(WIDTHS), folder / "vgg16.pth")
    torch.save(lin_state(), folder / "lin.pth")
    return folder / "vgg16.pth", folder / "lin.pth"


def formula(images: Tensor, outputs: Tensor, vgg: dict[str, Tensor], lin_layers: dict[str, Tensor]) -> Tensor:
    """As the authors' code goes: scale, five slices of VGG, unit length, 1 x 1 convolution, mean over places."""
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    x, y = (images - shift) / scale, (outputs - shift) / scale
    total = torch.zeros(len(images))
    for i, numbers in enumerate(CONVS):
        if i > 0:
            x, y = F.max_pool2d(x, 2, 2), F.max_pool2d(y, 2, 2)
        for number in numbers:
            weight, bias = vgg[f"features.{number}.weight"], vgg[f"features.{number}.bias"]
            x, y = F.relu(F.conv2d(x, weight, bias, padding=1)), F.relu(F.conv2d(y, weight, bias, padding=1))
        unit_x, unit_y = (z / (z.square().sum(1, keepdim=True).sqrt() + 1e-10) for z in (x, y))
        total += F.conv2d((unit_x - unit_y) ** 2, lin_layers[f"lin{i}.model.1.weight"]).mean(dim=(1, 2, 3))
    return total


@pytest.mark.parametrize("size", [(16, 16), (33, 24)])
def test_lpips_is_the_authors_formula(files, size):
    images, outputs = noise(5, 3, *size), noise(5, 3, *size, seed=9)
    found = LPIPS(*files, batch_size=2)(images, outputs)
    assert found.shape == (5,)
    torch.testing.assert_close(found, formula(images, outputs, vgg_state(WIDTHS), lin_state()), rtol=1e-4, atol=1e-6)


def test_equal_images_are_at_distance_zero_and_the_order_does_not_matter(files):
    distance = LPIPS(*files)
    images, outputs = noise(3, 3, 16, 16), noise(3, 3, 16, 16, seed=9)
    assert distance(images, images).tolist() == [0, 0, 0]
    torch.testing.assert_close(distance(images, outputs), distance(outputs, images))
    assert distance(images, outputs).min() > 0
    nearer = images + 0.1 * (outputs - images)
    assert (distance(images, nearer) < distance(images, outputs)).all()


class Colors(nn.Module):
    """The image itself as every feature map."""

    def forward(self, images: Tensor, stages: int) -> FeatureMaps:
        return FeatureMaps((images,) * stages)


def test_by_hand():
    """Red against green at one of two places: squares 1 and 1 in two channels, halved by the mean over places."""
    red, mixed = torch.zeros(1, 3, 1, 2), torch.zeros(1, 3, 1, 2)
    red[:, 0] = 0.5
    mixed[:, 0, :, 0], mixed[:, 1, :, 1] = 0.25, 0.75  # only the direction counts
    lin_layers = [torch.tensor([1.0, 10.0, 100.0]), torch.tensor([0.0, 2.0, 0.0])]
    distance = Perceptual(Colors(), maps=2, lin_layers=lin_layers)
    assert distance.per_image(red, mixed).tolist() == pytest.approx([(1 + 10) / 2 + 2 / 2])
    assert Perceptual(Colors(), maps=1).per_image(red, mixed).tolist() == pytest.approx([(1 + 1) / 2])
    assert Perceptual(Colors(), maps=1, lin_layers=[torch.zeros(3)]).per_image(red, mixed).tolist() == [0]
    both = Perceptual(Colors(), maps=2, lin_layers=lin_layers)
    assert both(torch.cat([red, red]), torch.cat([mixed, red])).item() == pytest.approx(6.5 / 2)
    with pytest.raises(ValueError, match="there are 2 lin layers for 3 maps; give one for each map"):
        Perceptual(Colors(), maps=3, lin_layers=lin_layers)


def test_one_trains_with_it(files):
    distance = lpips_distance(*files)
    target, output = noise(2, 3, 16, 16), noise(2, 3, 16, 16, seed=9).requires_grad_()
    distance(target, output).backward()
    assert output.grad.abs().sum() > 0
    assert list(distance.parameters()) == []
    assert distance.state_dict() == {}
    black = torch.full((1, 3, 16, 16), -1.0, requires_grad=True)  # where maps may be zero at every channel
    distance(black.detach(), black).backward()
    assert black.grad.isfinite().all()


def test_says_what_it_is(files):
    about = LPIPS(*files).describe()
    assert about.keys() == {"network", "version", "weights", "heads"}


def test_refusals(files, tmp_path):
    distance = LPIPS(*files)
    images = noise(2, 3, 16, 16)
    with pytest.raises(ValueError, match=r"floats in \[-1, 1\], not torch.uint8; .*to_images"):
        distance(images, images.to(torch.uint8))
    with pytest.raises(ValueError, match=r"some from -?\d.* to 2; clamp the decoder's output"):
        distance(images, images.index_fill(3, torch.tensor([0]), 2.0))
    with pytest.raises(ValueError, match="some from nan to nan"):
        distance(images * torch.nan, images)
    with pytest.raises(ValueError, match=r"\(images, 3, height, width\), not \(2, 1, 16, 16\); give RGB"):
        distance(images[:, :1], images[:, :1])
    with pytest.raises(ValueError, match=r"\(2, 3, 16, 16\) cannot be compared with \(1, 3, 16, 16\); give each"):
        distance(images, images[:1])
    with pytest.raises(ValueError, match="5 stages of VGG-16 need sides of 16 pixels"):
        distance(images[..., :8], images[..., :8])
    torch.save({**lin_state(), "lin2.model.1.weight": torch.ones(1, 3, 1, 1)}, tmp_path / "other.pth")
    with pytest.raises(
        ValueError,
        match=r"other.pth holds no lin layers for VGG-16.*have \[4, 6, 3, 10, 10\]; take vgg.pth of version 0.1",
    ):
        lpips_distance(files[0], tmp_path / "other.pth")
    with pytest.raises(ValueError, match="no lin layers for VGG-16.*None, None, None"):
        lpips_distance(files[0], files[0])
