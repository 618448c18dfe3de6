"""Discriminators: shapes, what is trained, and that a few steps are enough to tell real from fake."""

import pytest
import torch
from torch import Tensor, nn

from robustok.losses.adversarial import discriminator_loss
from robustok.losses.discriminator import FeatureDiscriminator, PatchGAN, activations, build_discriminator

SMALL = [PatchGAN(width=16), FeatureDiscriminator(width=16), FeatureDiscriminator(width=16, spectral=False)]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def fresh(config: PatchGAN | FeatureDiscriminator) -> nn.Module:
    torch.manual_seed(0)
    return build_discriminator(config)


@pytest.mark.parametrize(
    ("config", "side", "shape"),
    [
        (PatchGAN(width=16), 32, (1, 6, 6)),
        (PatchGAN(width=16, halvings=3), 256, (1, 30, 30)),  # as pix2pix's 70 x 70 PatchGAN
        (FeatureDiscriminator(width=16), 32, (3, 8, 8)),
        (FeatureDiscriminator(width=16, stages=(5, 1)), 64, (2, 32, 32)),
        (FeatureDiscriminator(width=16, size=64), 32, (3, 16, 16)),
    ],
)
def test_one_logit_a_place(config: PatchGAN | FeatureDiscriminator, side: int, shape: tuple[int, ...]):
    assert fresh(config)(noise(2, 3, side, side)).shape == (2, *shape)


@pytest.mark.parametrize(("config", "layers"), [(SMALL[0], 4 - 1), (SMALL[1], 3 * 2)])
def test_activations_are_those_of_every_trained_layer_before_the_last(
    config: PatchGAN | FeatureDiscriminator, layers: int
):
    network, images = fresh(config).eval(), noise(2, 3, 32, 32)
    with activations(network) as found:
        network(images)
    assert len(found) == layers
    last = network.layers[-1] if isinstance(config, PatchGAN) else network.heads[-1][-1]
    logits = network(images)
    end = last(found[-1])  # the last head's, which is on the coarsest map
    torch.testing.assert_close(logits[:, -1:], torch.nn.functional.interpolate(end, size=logits.shape[-2:]))
    assert len(found) == layers  # outside, nothing is taken


@pytest.mark.parametrize("config", SMALL)
def test_an_image_gets_the_same_logits_alone_and_in_a_batch(config: PatchGAN | FeatureDiscriminator):
    network, images = fresh(config).eval(), noise(5, 3, 32, 32)
    torch.testing.assert_close(network(images)[3:4], network(images[3:4]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", SMALL)
def test_gradient_reaches_every_weight_and_the_images(config: PatchGAN | FeatureDiscriminator):
    network, images = fresh(config), noise(2, 3, 32, 32).requires_grad_()
    network(images).square().mean().backward()
    assert images.grad.abs().sum() > 0
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


@pytest.mark.parametrize("config", SMALL)
def test_a_few_steps_tell_smooth_images_from_noisy_ones(config: PatchGAN | FeatureDiscriminator):
    network = fresh(config)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, betas=(0.5, 0.9))
    for step in range(12):
        color = noise(8, 3, 1, 1, seed=step).expand(8, 3, 32, 32)
        real, fake = network(color), network(color + 0.3 * noise(8, 3, 32, 32, seed=100 + step))
        loss = discriminator_loss(real, fake)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert real.mean() > fake.mean() + 0.2


@pytest.mark.parametrize("config", SMALL)
def test_saving_keeps_the_trained_part_and_only_that(config: PatchGAN | FeatureDiscriminator):
    network, other = fresh(config), build_discriminator(config)
    other.load_state_dict(network.state_dict())
    images = noise(2, 3, 32, 32)
    assert torch.equal(network.eval()(images), other.eval()(images))
    assert not any(name.startswith("backbone") for name in network.state_dict())


def test_every_head_has_the_same_say():
    network, images = fresh(FeatureDiscriminator(width=16, stages=(1, 3, 5))).eval(), noise(2, 3, 32, 32)
    maps = network.backbone(images).stages
    alone = [head(maps[stage]).mean() for stage, head in zip((0, 2, 4), network.heads, strict=True)]
    assert network(images).mean().item() == pytest.approx(sum(alone).item() / 3, abs=1e-6)


def test_convolutions_are_kept_at_spectral_norm_one():
    network, images = fresh(FeatureDiscriminator(width=16)), noise(1, 3, 32, 32)
    for weight in network.parameters():
        weight.data.mul_(5)
    for _ in range(12):  # each forward pass in train mode is one step of power iteration
        network(images)
    convolutions = [layer for layer in network.heads.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 9
    for layer in convolutions:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.03)


def test_it_runs_under_bfloat16_autocast():
    for config in SMALL:
        with torch.autocast("cpu", torch.bfloat16):
            logits = fresh(config)(noise(2, 3, 32, 32))
        discriminator_loss(logits, logits).backward()
        assert logits.isfinite().all()


def test_a_small_image_is_refused():
    with pytest.raises(ValueError, match="needs sides of 12 pixels or more, but the images are 8 x 16"):
        fresh(PatchGAN(width=16))(noise(1, 3, 8, 16))
    assert fresh(PatchGAN(width=16))(noise(1, 3, 12, 12)).shape == (1, 1, 1, 1)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="width is 24; give a multiple of 16"):
        PatchGAN(width=24)
    with pytest.raises(ValueError, match="width is 0; give a multiple of 16"):
        FeatureDiscriminator(width=0)
    with pytest.raises(ValueError, match="size is 0; give a side in pixels, or None for images as they are"):
        FeatureDiscriminator(size=0)
    with pytest.raises(ValueError, match="halvings is 0; a PatchGAN needs 1 or more"):
        PatchGAN(halvings=0)
    for stages in ((), (0, 1), (6,)):
        with pytest.raises(ValueError, match="name one or more of Lite0's stages 1 to 5"):
            FeatureDiscriminator(stages=stages)
