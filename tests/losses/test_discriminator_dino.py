"""The discriminator on DINO's tokens: its heads by hand, its normalization, what is trained."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustok.backbones.dino import DINO, VisionTransformer, random_weights
from robustok.losses.discriminator import DinoDiscriminator, TogetherNorm, build_discriminator

NETWORK = DINO(weights="random", width=64, depth=2, patch=8, side=32)


def fresh(**fields: object) -> nn.Module:
    torch.manual_seed(0)
    config = DinoDiscriminator(**({"network": NETWORK, "after": (0, 1, 2), "kernel": 3} | fields))
    return build_discriminator(config, VisionTransformer(NETWORK, random_weights(NETWORK)))


def noise(count: int) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def by_hand(head: nn.Module, x: Tensor) -> Tensor:
    """A head of tokens (b c n), normalized by group of 16 channels, without spectral norm: (b n)."""
    first, residual, last = head
    conv, norm = first[0], first[1]
    x = F.leaky_relu(F.group_norm(F.conv1d(x, conv.weight, conv.bias), 4, norm.weight, norm.bias, 1e-6), 0.2)
    conv, norm = residual.inner[0], residual.inner[1]
    around = torch.cat([x[..., -1:], x, x[..., :1]], dim=-1)
    y = F.leaky_relu(F.group_norm(F.conv1d(around, conv.weight, conv.bias), 4, norm.weight, norm.bias, 1e-6), 0.2)
    return F.conv1d((x + y) / 2**0.5, last.weight, last.bias)[:, 0]


def test_heads_by_hand():
    network, images = fresh(spectral=False), noise(2)
    sequences = network.backbone(images, after=(0, 1, 2)).sequences
    tokens = [(sequence[:, 1:] + sequence[:, :1]).transpose(1, 2) for sequence in sequences]
    wanted = [by_hand(head, x).view(2, 4, 4) for head, x in zip(network.heads, tokens, strict=True)]
    torch.testing.assert_close(network(images), torch.stack(wanted, dim=1), rtol=1e-4, atol=1e-5)


def test_as_released():
    """Five heads of 384 channels on 14 x 14 tokens: before the first block, and after every third."""
    config = DinoDiscriminator()
    with torch.device("meta"):
        network = build_discriminator(config, VisionTransformer(config.network, random_weights(config.network)))
        assert network(torch.empty(2, 3, 256, 256)).shape == (2, 5, 14, 14)
    c = 384
    conv1, conv9, norm, last = c * c + c, 9 * c * c + c, 2 * c, c + 1
    assert sum(w.numel() for w in network.parameters()) == 5 * (conv1 + conv9 + 2 * norm + last)


def test_an_image_gets_the_same_logits_alone_and_in_a_batch():
    network, images = fresh().eval(), noise(3)
    torch.testing.assert_close(network(images)[1:2], network(images[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [3, 8, 11])
def test_normalized_together_in_groups(count: int):
    x = 3 + 2 * torch.randn(count, 5, 7, generator=torch.Generator().manual_seed(0))
    norm = TogetherNorm(5, 4)
    nn.init.constant_(norm.weight, 2.0)
    nn.init.constant_(norm.bias, 1.0)
    for got, group in zip(norm(x).split(4), x.split(4), strict=True):
        mean, std = group.mean(dim=(0, 2), keepdim=True), group.std(dim=(0, 2), correction=0, keepdim=True)
        torch.testing.assert_close(got, 2 * (group - mean) / std + 1, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("together", [0, 2])
def test_gradient_reaches_heads_and_images_and_the_network_stays(together: int):
    network, images = fresh(together=together), noise(3).requires_grad_()
    network(images).square().mean().backward()
    assert images.grad.abs().sum() > 0
    assert all(weight.grad is not None for weight in network.parameters())
    assert not any(name.startswith("backbone") for name in (*network.state_dict(), *dict(network.named_parameters())))


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="after is \\(3,\\); name one or more numbers of blocks from 0 to 2"):
        DinoDiscriminator(network=NETWORK, after=(3,))
    with pytest.raises(ValueError, match="kernel is 4; give an odd number"):
        DinoDiscriminator(kernel=4)
    with pytest.raises(ValueError, match="together is -1; give a number of images, or 0"):
        DinoDiscriminator(together=-1)
