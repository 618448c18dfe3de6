"""The two players' losses, LeCam and the adaptive weight against closed forms."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustok.losses.adversarial import (
    Kind,
    LogitAverages,
    adaptive_weight,
    discriminator_loss,
    feature_matching,
    generator_loss,
    lecam,
)

KINDS: list[Kind] = ["hinge", "non-saturating"]


def logits(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, 1, 1, -1).requires_grad_()


def test_features_match_layer_by_layer_whatever_a_layers_size():
    real = [torch.zeros(2, 1, 4, 4), torch.ones(2, 8)]
    fake = [torch.full((2, 1, 4, 4), -0.5), torch.tensor([[1.0] * 8, [3.0] * 8])]
    assert feature_matching(real, fake).item() == pytest.approx((0.5 + 1.0) / 2)
    assert feature_matching(fake, fake) == 0
    with pytest.raises(ValueError, match="zip"):
        feature_matching(real, fake[:1])


@pytest.mark.parametrize(("kind", "blind"), [("hinge", 1.0), ("non-saturating", math.log(2))])
def test_a_discriminator_that_knows_nothing_pays_the_same_on_both_sides(kind: Kind, blind: float):
    assert discriminator_loss(logits(0), logits(0), kind).item() == pytest.approx(blind)


def test_hinge_by_hand():
    real, fake = logits(2.0, 0.5, -1.0), logits(-3.0, -0.5, 1.0)
    assert discriminator_loss(real, fake, "hinge").item() == pytest.approx(((0 + 0.5 + 2) / 3 + (0 + 0.5 + 2) / 3) / 2)
    assert generator_loss(fake, "hinge").item() == pytest.approx(2.5 / 3)


def test_non_saturating_is_cross_entropy_with_the_true_labels():
    real, fake = logits(2.0, 0.5, -1.0), logits(-3.0, -0.5, 1.0)
    entropy = F.binary_cross_entropy_with_logits
    wanted = (entropy(real, torch.ones_like(real)) + entropy(fake, torch.zeros_like(fake))) / 2
    assert discriminator_loss(real, fake, "non-saturating").item() == pytest.approx(wanted.item())
    wanted = entropy(fake, torch.ones_like(fake))
    assert generator_loss(fake, "non-saturating").item() == pytest.approx(wanted.item())


@pytest.mark.parametrize("kind", KINDS)
def test_the_discriminator_learns_from_both_sides_and_in_the_right_direction(kind: Kind):
    real, fake = logits(-0.5, 0.0, 0.5), logits(-0.5, 0.0, 0.5)
    discriminator_loss(real, fake, kind).backward()
    assert (real.grad < 0).all()  # descent raises real logits
    assert (fake.grad > 0).all()  # and lowers fake ones


@pytest.mark.parametrize("kind", KINDS)
def test_the_decoder_wants_the_opposite_of_the_discriminator(kind: Kind):
    fake = logits(-5.0, 0.0, 5.0)
    generator_loss(fake, kind).backward()
    assert (fake.grad < 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_decoder_still_learns_from_a_discriminator_that_wins(kind: Kind):
    fake = logits(-30.0)
    generator_loss(fake, kind).backward()
    assert fake.grad.item() == pytest.approx(-1)


def test_hinge_leaves_alone_what_is_beyond_the_margin():
    real, fake = logits(1.5), logits(-1.5)
    discriminator_loss(real, fake, "hinge").backward()
    assert real.grad.item() == fake.grad.item() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_float32_whatever_the_logits_are(kind: Kind):
    half = logits(1.0, 2.0).bfloat16()
    assert discriminator_loss(half, half, kind).dtype == torch.float32
    assert generator_loss(half, kind).dtype == torch.float32


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="no adversarial loss is called 'vanilla'; choose 'hinge' or 'non-saturating'"):
        discriminator_loss(logits(0), logits(0), "vanilla")
    with pytest.raises(ValueError, match="no adversarial loss is called 'vanilla'; choose 'hinge' or 'non-saturating'"):
        generator_loss(logits(0), "vanilla")


def test_averages_start_as_a_mean_and_become_exponential():
    averages = LogitAverages(decay=0.75)
    for value, mean in ((4.0, 4.0), (2.0, 3.0), (0.0, 2.0), (2.0, 2.0), (10.0, 0.75 * 2.0 + 0.25 * 10.0)):
        averages.update(logits(value), logits(-value))
        assert averages.real.item() == pytest.approx(mean)
        assert averages.fake.item() == pytest.approx(-mean)


def test_a_batch_that_is_not_finite_leaves_the_averages_alone():
    averages = LogitAverages()
    averages.update(logits(math.nan), logits(1.0))
    averages.update(logits(2.0), logits(4.0))
    averages.update(logits(1.0), logits(math.inf))
    assert (averages.real.item(), averages.fake.item(), averages.updates.item()) == (2, 4, 1)


def test_a_batch_in_parts_moves_the_averages_once():
    whole, parts = LogitAverages(decay=0.5), LogitAverages(decay=0.5)
    for value in (4.0, 2.0, -6.0):
        whole.update(logits(value), logits(1 - value))
        parts.update(logits(value + 3), logits(1 - value - 3), 0.25)
        parts.update(logits(value - 1), logits(1 - value + 1), 0.75, first=False)
        assert parts.updates == whole.updates
        assert parts.real.item() == pytest.approx(whole.real.item())
        assert parts.fake.item() == pytest.approx(whole.fake.item())
    parts.update(logits(math.nan), logits(1.0), 0.5)
    parts.update(logits(1.0), logits(1.0), 0.5, first=False)
    assert parts.real.item() == pytest.approx(whole.real.item())
    assert parts.updates == 3


def test_averages_survive_saving():
    averages, restored = LogitAverages(), LogitAverages()
    averages.update(logits(3.0), logits(-1.0))
    restored.load_state_dict(averages.state_dict())
    for each in (averages, restored):
        each.update(logits(1.0), logits(5.0))
    assert torch.equal(averages.real, restored.real)
    assert torch.equal(averages.fake, restored.fake)


def test_averages_refuse_a_decay_that_never_forgets():
    with pytest.raises(ValueError, match="decay is 1.0, but an average needs one in"):
        LogitAverages(decay=1.0)


def test_lecam_measures_each_side_from_the_average_of_the_other():
    averages = LogitAverages()
    averages.update(logits(1.0), logits(-2.0))
    real, fake = logits(0.0, 2.0), logits(-1.0)
    value = lecam(real, fake, averages)
    assert value.item() == pytest.approx(((0 + 2) ** 2 + (2 + 2) ** 2) / 2 + (-1 - 1) ** 2)
    value.backward()
    assert (real.grad > 0).all()  # descent pulls the sides together
    assert (fake.grad < 0).all()


def at_last(layer: nn.Parameter, *losses: Tensor) -> list[Tensor]:
    """The losses' gradients at the decoder's last layer."""
    return [torch.autograd.grad(loss, layer, retain_graph=True)[0] for loss in losses]


def test_adaptive_weight_makes_both_gradients_equally_long():
    layer = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    reconstruction, adversarial = (3 * layer**2).sum(), (0.01 * layer).sum()
    weight = adaptive_weight(*at_last(layer, reconstruction, adversarial))
    wanted = (6 * layer).norm().item() / (0.01 * math.sqrt(3) + 1e-6)
    assert weight.item() == pytest.approx(wanted)
    assert not weight.requires_grad
    (reconstruction + weight * adversarial).backward()  # the graph is still there
    assert layer.grad.isfinite().all()


def test_adaptive_weight_from_gradients_at_the_output_is_the_same():
    torch.manual_seed(0)
    last, hidden, target = nn.Linear(4, 6), torch.randn(8, 4), torch.randn(8, 6)
    output = last(hidden)

    def losses(output: Tensor) -> tuple[Tensor, Tensor]:
        return (output - target).square().mean(), output.tanh().mean()

    leaf = output.detach().requires_grad_()
    at_output = [torch.autograd.grad(loss, leaf)[0] for loss in losses(leaf)]
    onward = [torch.autograd.grad(output, last.weight, gradient, retain_graph=True)[0] for gradient in at_output]
    direct = at_last(last.weight, *losses(output))
    assert adaptive_weight(*onward).item() == pytest.approx(adaptive_weight(*direct).item())


def test_adaptive_weight_has_a_ceiling_where_the_adversary_is_silent():
    pull, silent = torch.ones(3), torch.zeros(3)
    assert adaptive_weight(pull, silent).item() == 1e4
    assert adaptive_weight(pull, silent, ceiling=7.0).item() == 7
    assert adaptive_weight(silent, silent).item() == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_adaptive_weight_is_zero_where_a_gradient_is_not_finite(bad: float):
    good, broken = torch.ones(3), torch.tensor([1.0, bad, 1.0])
    assert adaptive_weight(good, broken).item() == 0
    assert adaptive_weight(broken, good).item() == 0
    assert adaptive_weight(broken, broken).item() == 0


def test_adaptive_weight_is_computed_in_float32():
    small = torch.full((1000,), 1e-3).bfloat16()
    assert adaptive_weight(small, small).dtype == torch.float32
    assert adaptive_weight(small, small).item() == pytest.approx(1, rel=1e-4)
