"""What a continuous latent passes: divergences in closed form, draws, widths."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from robustok.tokenizer.bottleneck import KL, Plain, VarianceExpansion, bottleneck_loss, encoder_width, posterior


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_kl_is_that_of_two_normal_distributions():
    of = posterior(KL(width=6), 2 * normal(4, 5, 12))
    deviation = (0.5 * of.log_variance.double()).exp()
    wanted = kl_divergence(Normal(of.mean.double(), deviation), Normal(0.0, 1.0)).mean()
    assert float(bottleneck_loss(KL(width=6, weight=0.3), of)) == pytest.approx(0.3 * float(wanted), rel=1e-5)


def test_kl_is_least_at_the_standard_normal():
    of = posterior(KL(width=2), torch.zeros(1, 3, 4))
    assert bottleneck_loss(KL(width=2, weight=1.0), of) == 0
    assert bottleneck_loss(KL(width=2, weight=1.0), posterior(KL(width=2), 0.1 * normal(1, 3, 4))) > 0


def test_variance_expansion_in_closed_form():
    config = VarianceExpansion(width=1, weight=2.0, floor=0.5)
    of = posterior(config, torch.tensor([[[9.0, 0.0], [-3.0, 2.0**0.5]]]))  # means do not matter
    wanted = 2.0 * (1 / 1.5 + 1 / (torch.tensor(2.0**0.5).exp() + 0.5)) / 2
    torch.testing.assert_close(bottleneck_loss(config, of), wanted)


def test_variance_expansion_settles_where_reconstruction_holds_it():
    """Against a loss c v that shrinks the variance, it comes to rest where weight / (v + floor)^2 = c."""
    config, pull = VarianceExpansion(width=1, weight=0.5, floor=0.1), 2.0
    log_variance = torch.zeros(1, 1, 1, dtype=torch.float64, requires_grad=True)
    for _ in range(300):
        of = posterior(config, torch.zeros(1, 1, 2))._replace(log_variance=log_variance)
        loss = bottleneck_loss(config, of) + pull * log_variance.exp().sum()
        (gradient,) = torch.autograd.grad(loss, log_variance)
        log_variance = (log_variance - 0.5 * gradient).detach().requires_grad_()
    assert float(log_variance.detach().exp()) == pytest.approx((0.5 / pull) ** 0.5 - 0.1, rel=1e-6)


def test_draws_have_the_posteriors_moments():
    encoded = torch.tensor([1.0, -2.0, 0.0, 2.0]).expand(1, 100_000, 4)  # means, log variances
    of = posterior(KL(width=2), encoded)
    drawn = of.draw(normal(1, 100_000, 2))[0]
    deviation = torch.tensor([1.0, 2.718282])
    assert ((drawn.mean(dim=0) - torch.tensor([1.0, -2.0])) / deviation).abs().max() < 5 / 100_000**0.5
    assert (drawn.std(dim=0) / deviation - 1).abs().max() < 5 / 200_000**0.5


def test_gradients_pass_a_draw():
    encoded = normal(2, 3, 4).requires_grad_()
    noise = normal(2, 3, 2, seed=1)
    (gradient,) = torch.autograd.grad(posterior(KL(width=2), encoded).draw(noise).sum(), encoded)
    half = 0.5 * (0.5 * encoded[:, :, 2:]).exp() * noise
    torch.testing.assert_close(gradient, torch.cat([torch.ones(2, 3, 2), half.detach()], dim=2))


def test_a_plain_latent_is_the_encoders_output():
    encoded = normal(2, 3, 4)
    of = posterior(Plain(width=4), encoded)
    assert of.log_variance is None
    assert torch.equal(of.draw(normal(2, 3, 4, seed=1)), encoded)
    assert bottleneck_loss(Plain(width=4), of) == 0


def test_widths_of_the_encoder():
    assert [encoder_width(kind(width=6)) for kind in (Plain, KL, VarianceExpansion)] == [6, 12, 12]


def test_log_variances_are_cut_off():
    of = posterior(KL(width=1), torch.tensor([[[0.0, 100.0], [0.0, -100.0]]]))
    assert of.log_variance.flatten().tolist() == [20.0, -30.0]
    assert bottleneck_loss(KL(width=1), of).isfinite()


def test_half_precision_becomes_float32():
    of = posterior(KL(width=1), torch.zeros(1, 1, 2, dtype=torch.bfloat16))
    assert (of.mean.dtype, of.log_variance.dtype) == (torch.float32, torch.float32)


def test_wrong_settings_are_named():
    for kind in (Plain, KL, VarianceExpansion):
        with pytest.raises(ValueError, match="width is 0; it must be at least 1"):
            kind(width=0)
    for kind in (KL, VarianceExpansion):
        with pytest.raises(ValueError, match=r"weight is -1.0; it must be at least 0"):
            kind(weight=-1.0)
    with pytest.raises(ValueError, match="floor is 0; it is a variance above 0, or the term could be infinite"):
        VarianceExpansion(floor=0)
