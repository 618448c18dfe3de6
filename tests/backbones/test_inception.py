"""FID's Inception against what torch-fidelity made of the same weights, and the pieces in which it is peculiar."""

import pytest
import torch
import torch.nn.functional as F
from tests.backbones.published import INCEPTION, inception_state
from torch import Tensor

from robustok.backbones.inception import KEYS, Inception, InceptionFeatures, resize_like_tensorflow
from robustok.shapes import to_images


@pytest.fixture(scope="module")
def narrow() -> Inception:
    return Inception(inception_state(16))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_features_equal_torch_fidelity_s(parity):
    meta, given = parity("inception")
    state = inception_state()
    assert {key: list(tensor.shape) for key, tensor in state.items()} == meta["keys"]
    network = Inception(state)
    for size in ("64x64", "96x160", "256x256", "299x299"):
        seen: dict[str, Tensor] = {}
        places = {"64": network.stem[3], "192": network.stem[6], "768": network.last[0]}
        for name, layer in places.items():
            layer.register_forward_hook(lambda _m, _i, out, name=name, seen=seen: seen.update({name: out.mean((2, 3))}))
        with torch.no_grad():
            features = network(to_images(given[f"images.{size}"]))
        for name, ours in {**seen, "2048": features.pooled, "logits_unbiased": features.logits}.items():
            wanted = given[f"{name}.{size}"]
            assert (ours - wanted).abs().max() <= 1e-4 * wanted.abs().max(), f"{name} at {size}"


def test_keys_are_those_of_the_published_file(parity):
    meta, _ = parity("inception")
    assert set(meta["keys"]) == KEYS


def test_resizing_by_hand():
    """From 2 to 4 pixels, TensorFlow 1 looks at places 0, 0.5, 1 and 1.5, the last of which it has not."""
    row = torch.tensor([0.0, 1.0]).expand(1, 3, 1, 2)
    assert resize_like_tensorflow(row, 4)[0, 0].tolist() == [[0.0, 0.5, 1.0, 1.0]] * 4
    column = torch.arange(4.0).view(1, 1, 4, 1).expand(1, 3, 4, 1)
    assert resize_like_tensorflow(column, 2)[0, 0].tolist() == [[0.0, 0.0], [2.0, 2.0]]  # skips, does not average
    images = noise(1, 3, 5, 5)
    assert torch.equal(resize_like_tensorflow(images, 5), images)


def test_spatial_features_are_seven_channels_of_the_branch_mixed_6_conv(narrow: Inception):
    """Which ADM's evaluator takes from TensorFlow's graph; its block mixed_6 is the port's Mixed_6d."""
    seen: list[Tensor] = []
    branch = narrow.middle[6].branches[0]
    hook = branch.register_forward_hook(lambda _m, _i, out: seen.append(out))
    spatial = narrow(noise(1, 3, 32, 32)).spatial
    hook.remove()
    assert seen[0].shape == (1, 12, 17, 17)
    assert spatial.shape == (1, 2023)
    assert torch.equal(spatial.view(17, 17, 7), seen[0][0, :7].permute(1, 2, 0))
    layer = {name: inception_state(16)[f"Mixed_6d.branch1x1.bn.{name}"] for name in ("bias", "weight", "running_mean")}
    variance = inception_state(16)["Mixed_6d.branch1x1.bn.running_var"]
    shift = layer["bias"] - layer["running_mean"] * layer["weight"] / (variance + 1e-3).sqrt()
    torch.testing.assert_close(branch.bias, shift)


def test_averages_leave_out_the_padding_and_the_last_block_takes_the_maximum(narrow: Inception):
    def pool(block: torch.nn.Module) -> torch.nn.Module:
        return block.branches[-1][0]

    ones = torch.ones(1, 1, 3, 3)
    blocks = [*narrow.middle[:3], *narrow.middle[4:], *narrow.last[:1], *narrow.last[2:3]]
    assert all(torch.equal(pool(block)(ones), ones) for block in blocks)  # with padding, a corner were 4/9
    corner = torch.zeros(1, 1, 3, 3).index_fill(2, torch.tensor([0]), 9.0)
    assert pool(narrow.last[2])(corner)[0, 0, 1].tolist() == [3.0, 3.0, 3.0]
    assert pool(narrow.last[3])(corner)[0, 0, 1].tolist() == [9.0, 9.0, 9.0]


def test_logits_are_of_the_pooled_features_without_bias(narrow: Inception):
    features = narrow(noise(2, 3, 20, 20))
    assert [tuple(part.shape) for part in features] == [(2, 128), (2, 1008), (2, 2023)]
    state = inception_state(16)
    full = F.linear(features.pooled, state["fc.weight"], state["fc.bias"])
    torch.testing.assert_close(features.logits + narrow.bias, full)


def test_an_image_has_the_same_features_alone_and_in_a_batch(narrow: Inception):
    images = noise(5, 3, 32, 48)
    for whole, alone in zip(narrow(images), narrow(images[3:4]), strict=True):
        torch.testing.assert_close(whole[3:4], alone, rtol=1e-4, atol=1e-5)


def test_gradient_reaches_the_images_and_nothing_is_trained_or_saved(narrow: Inception):
    images = noise(1, 3, 32, 32).requires_grad_()
    narrow(images).pooled.sum().backward()
    assert images.grad.abs().sum() > 0
    assert list(narrow.parameters()) == []
    assert narrow.state_dict() == {}


def test_autocast_and_memory_order_do_not_matter(narrow: Inception):
    images = noise(2, 3, 32, 32)
    wanted = narrow(images)
    assert isinstance(wanted, InceptionFeatures)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(narrow(images).pooled, wanted.pooled)
    assert torch.equal(narrow(images.contiguous(memory_format=torch.channels_last)).pooled, wanted.pooled)


def test_other_weights_are_refused():
    state = inception_state(16)
    state["Mixed_5b.branch1x1.bn.num_batches_tracked"] = torch.tensor(0)
    Inception(state)
    del state["fc.bias"]
    state["AuxLogits.conv0.conv.weight"] = torch.zeros(1)
    with pytest.raises(
        ValueError, match=r"1 keys missing \(fc.bias\), 1 keys unexpected \(AuxLogits.*torchvision's inception"
    ):
        Inception(state)


def test_the_recipe_has_every_layer():
    assert {f"{name}.conv.weight" for name in INCEPTION} == {key for key in KEYS if key.endswith("conv.weight")}
