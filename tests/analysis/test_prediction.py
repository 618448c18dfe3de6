"""Departures, teacher forcing, free running and code use, of generators that err in a known way."""

import math
from itertools import pairwise

import pytest
import torch
from tests.analysis.erring import Erring
from torch import Tensor

from robustok.analysis.code_usage import code_usage, jensen_shannon, kullback_leibler
from robustok.analysis.departures import code_steps, departures, typical_distance
from robustok.analysis.prediction import forced_logits, free_running, teacher_forcing
from robustok.generators.autoregressive import Autoregressive, AutoregressiveModel
from robustok.generators.sampling import Sampling
from robustok.generators.unmasking import MaskedSampling, masked_after
from robustok.tokenizer.perturbation import neighbors, perturb

LINE = torch.arange(64.0)[:, None] ** 1.001  # codes on a line, no two gaps equal


def draw(*shape: int, codes: int = 64, seed: int = 0) -> Tensor:
    return torch.randint(codes, shape, generator=torch.Generator().manual_seed(seed))


def test_ranks_on_a_line():
    codebook = torch.tensor([[0.0], [1.0], [3.0], [7.0], [15.0]])
    start, end = torch.tensor([0, 0, 0, 2, 2, 4]), torch.tensor([1, 2, 4, 1, 4, 0])
    steps = code_steps(start, end, codebook)
    assert steps.rank.tolist() == [1, 2, 4, 1, 4, 4]
    assert steps.distance.tolist() == [1, 3, 15, 2, 12, 15]


def test_ranks_agree_with_the_neighbor_table():
    codebook = torch.randn(100, 5, generator=torch.Generator().manual_seed(0))
    near = neighbors(codebook, 40)
    start = torch.arange(100)
    for column in (0, 9, 39):
        assert (code_steps(start, near[:, column], codebook).rank == column + 1).all()


def test_equally_near_codes_share_the_best_rank():
    steps = code_steps(torch.tensor([1, 1]), torch.tensor([0, 2]), torch.tensor([[0.0], [1.0], [2.0], [9.0]]))
    assert steps.rank.tolist() == [1, 1]


def test_typical_distance_of_three_codes():
    assert typical_distance(torch.tensor([[0.0], [1.0], [3.0]])) == pytest.approx(2)


def test_departures_counted_by_hand():
    codebook = torch.tensor([[0.0], [1.0], [3.0]])
    real, made = torch.tensor([[0, 1, 2, 0], [0, 1, 2, 0]]), torch.tensor([[0, 0, 2, 2], [1, 0, 2, 0]])
    found = departures(made, real, codebook)
    assert found.alpha == 0.5
    assert found.by_position == (0.5, 1.0, 0.0, 0.5)
    assert found.distance == pytest.approx((1 + 3 + 1 + 1) / 4 / 2)
    assert found.distance_by_position == pytest.approx((0.5, 0.5, None, 1.5), nan_ok=True)
    assert dict(found.within) == {1: 0.75, 2: 1.0}
    assert departures(made, real, codebook, first=2).by_position == (0.0, 0.5)
    none = departures(real, real, codebook)
    assert (none.alpha, none.rank, none.delta, none.distance, none.within) == (0, None, None, None, ())


@pytest.mark.parametrize(("alpha", "delta"), [(0.7, 10), (0.25, 3), (1.0, 40)])
def test_departures_of_a_perturbation_are_its_alpha_and_delta(alpha, delta):
    real = draw(200, 32)
    noisy = perturb(real, neighbors(LINE, delta), alpha, 1.0, generator=torch.Generator().manual_seed(1))
    found = departures(noisy, real, LINE)
    assert found.alpha == round(alpha * 32) / 32  # exactly, in every image
    assert found.interval == pytest.approx((found.alpha, found.alpha))
    assert abs(found.delta - delta) <= max(1, 0.1 * delta)  # a median of some thousand draws
    assert dict(found.within)[63] == 1


def test_departures_of_other_shapes_are_refused(unchecked):
    with pytest.raises(ValueError, match="the same images and a position before the last"):
        departures(draw(2, 4), draw(2, 5), LINE)
    with pytest.raises(ValueError, match="position 4 on"):
        departures(draw(2, 4), draw(2, 4), LINE, first=4)


@pytest.mark.parametrize("blocks", [(1,) * 16, (1, 4, 11)])
def test_teacher_forcing_finds_how_a_generator_errs(blocks):
    images, labels = draw(20, 16), torch.arange(600) % 20
    generator = Erring(images, LINE, 0.7, 10, blocks)
    forced, drawn = teacher_forcing(generator, images[labels], labels, LINE, Sampling())
    wrong = math.sqrt(0.7 * 0.3 / (600 * 16))  # standard error
    assert forced.sampled.alpha == pytest.approx(0.7, abs=4 * wrong)
    assert abs(forced.sampled.delta - 10) <= 1
    assert dict(forced.sampled.within)[8] == pytest.approx(0.8, abs=0.03)
    assert (forced.likeliest.alpha, forced.rank, forced.top[1]) == (0, 1, 1)  # 0.3 is more than 0.07
    assert forced.probability == pytest.approx(0.3, abs=1e-6)
    assert forced.perplexity == pytest.approx(1 / 0.3, abs=1e-5)
    assert forced.step == tuple(i for i, size in enumerate(blocks) for _ in range(size))
    assert departures(drawn, images[labels], LINE) == forced.sampled


def test_guidance_temperature_and_top_k_reach_teacher_forcing():
    images, labels = draw(5, 8), torch.arange(50) % 5
    generator = Erring(images, LINE, 0.7, 10)
    forced, _ = teacher_forcing(generator, images[labels], labels, LINE, Sampling(top_k=1))
    assert forced.sampled.alpha == 0
    sharp, _ = teacher_forcing(generator, images[labels], labels, LINE, Sampling(temperature=0.5))
    assert sharp.probability == pytest.approx(0.3**2 / (0.3**2 + 10 * 0.07**2), abs=1e-6)
    asked = []
    generator.predictor = lambda given: asked.append(given) or Erring.predictor(generator, given)
    teacher_forcing(generator, images[labels], labels, LINE, Sampling(guidance=2.0))
    assert torch.equal(asked[0], torch.cat([labels, torch.full_like(labels, 5)]))


def test_one_pass_of_our_model_gives_what_sampling_step_by_step_sees():
    torch.manual_seed(0)
    model = AutoregressiveModel(
        Autoregressive(codebook_size=9, tokens=12, classes=3, width=16, depth=2, heads=1)
    ).eval()
    for parameter in model.parameters():
        parameter.data *= 5  # so that tokens depend on each other
    tokens, labels = draw(4, 12, codes=9), torch.tensor([0, 1, 2, 0])
    sampling = Sampling(guidance=3.0, schedule="linear")

    class Stepwise:
        """The same model without its parallel pass."""

        codebook_size, tokens_per_image, null_class, blocks, device = 9, 12, 3, (1,) * 12, torch.device("cpu")
        predictor, fingerprint = staticmethod(model.predictor), staticmethod(model.fingerprint)

    (places, at_once), *rest = forced_logits(model, tokens, labels, sampling)
    steps = list(forced_logits(Stepwise(), tokens, labels, sampling))
    assert (places, rest) == (slice(0, 12), [])
    assert [s.start for s, _ in steps] == list(range(12))
    torch.testing.assert_close(torch.cat([logits for _, logits in steps], dim=1), at_once, atol=1e-4, rtol=1e-4)


class Filling(Erring):
    """The same that fills in masks, and remembers which."""

    def __init__(self, *given):
        Erring.__init__(self, *given)
        self.masked = []

    def predict_masked(self, tokens: Tensor, labels: Tensor) -> Tensor:
        self.masked.append(tokens == self.codebook_size)
        assert torch.equal(tokens[~self.masked[-1]], self.images[labels][~self.masked[-1]])
        return self.logits[self.images[labels]]


def test_a_masked_generator_is_given_as_many_real_tokens_as_it_has_in_sampling():
    images, labels = draw(20, 16), torch.arange(600) % 20
    generator, sampling = Filling(images, LINE, 0.7, 10), MaskedSampling(steps=5)
    forced, _ = teacher_forcing(generator, images[labels], labels, LINE, sampling)
    assert forced.sampled.alpha == pytest.approx(0.7, abs=4 * math.sqrt(0.7 * 0.3 / (600 * 16)))
    assert forced.probability == pytest.approx(0.3, abs=1e-6)
    left = [16, *masked_after(16, 5)]
    assert [masked.sum(dim=1).unique().tolist() for masked in generator.masked] == [[m] for m in left[:-1]]
    steps = torch.tensor(forced.step)
    assert steps.bincount().tolist() == [before - after for before, after in pairwise(left)]
    assert all(torch.equal(masked[0], steps >= step) for step, masked in enumerate(generator.masked))
    assert steps.tolist() != sorted(steps.tolist())


def test_what_a_masked_generator_draws_and_says_has_the_temperature_of_its_steps():
    """Noise on logits makes draws wilder, and at the last step none; what it says of real tokens is without noise."""
    images, labels = draw(20, 16), torch.arange(600) % 20
    how = {"mask_schedule": "arccos", "noise_on": "logits", "temperature_annealing": True}
    sampling = MaskedSampling(steps=4, choice_temperature=2.0, **how)
    forced, _ = teacher_forcing(Filling(images, LINE, 0.7, 10), images[labels], labels, LINE, sampling)

    def real(temperature: float) -> float:
        """The probability of the real token, of .3, beside ten of .07."""
        return 0.3 ** (1 / temperature) / (0.3 ** (1 / temperature) + 10 * 0.07 ** (1 / temperature))

    left = [1 - (step + 1) / 4 for step in forced.step]
    assert torch.tensor(forced.step).bincount().tolist() == [3, 3, 3, 7]
    said = [real(0.5 + 0.8 * one) for one in left]
    assert forced.probability == pytest.approx(sum(said) / 16, abs=1e-6)
    wrong = [1 - real(2 * one * (0.5 + 0.8 * one)) if one else 0.0 for one in left]
    assert forced.sampled.alpha == pytest.approx(sum(wrong) / 16, abs=4 * math.sqrt(0.25 / (600 * 16)))


def test_free_running_after_more_real_tokens_and_at_any_batch_size():
    images, labels = draw(20, 16), torch.arange(200) % 20
    generator = Erring(images, LINE, 0.5, 4)

    def run(batch_size: int):
        return free_running(
            generator, images[labels], labels, LINE, Sampling(), prefixes=(0, 12), batch_size=batch_size
        )

    (label, late), free = run(200)
    assert [d.first for d in (label, late)] == [0, 12]
    assert (len(label.by_position), len(late.by_position)) == (16, 4)
    for found in (label, late):
        assert found.alpha == pytest.approx(0.5, abs=0.07)
    assert departures(free, images[labels], LINE) == label
    assert torch.equal(run(33)[1], free)
    with pytest.raises(ValueError, match="leave out 0"):
        free_running(generator, images[labels], labels, LINE, Sampling(), prefixes=(4,))


def test_divergences_of_known_counts():
    p, q = torch.tensor([3, 1]), torch.tensor([1, 3])
    assert kullback_leibler(p, q, pseudo=0.0) == pytest.approx(0.5 * math.log(3))
    assert kullback_leibler(p, q) == pytest.approx(0.4 * math.log(3.5 / 1.5))  # 3.5 / 5 and 1.5 / 5
    middle = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert jensen_shannon(p, q) == pytest.approx(middle)
    assert jensen_shannon(p, 2 * p) == pytest.approx(0, abs=1e-12)
    assert jensen_shannon(torch.tensor([4, 0]), torch.tensor([0, 9])) == pytest.approx(math.log(2))


def test_code_use_beside_its_floor():
    real, other, same = draw(300, 16, seed=1), draw(300, 16, seed=2), draw(300, 16, seed=3)
    alike, floor = code_usage({"generated": same, "other": other}, real, 64).values()
    assert alike.js == pytest.approx(floor.js, rel=0.5)  # two samples of one distribution
    # plug-in JS of two samples of m tokens over k equally likely codes: (k - 1) / (4 m)
    assert floor.js == pytest.approx(63 / (4 * 300 * 16), rel=0.6)
    half = code_usage({"generated": same // 2}, real, 64)["generated"]
    assert half.js == pytest.approx(0.75 * math.log(4 / 3), rel=0.05)  # p = 1/k on k codes, q = 2/k on half of them
    assert half.perplexity == pytest.approx(32, rel=0.02)
    assert half.used == 0.5
    new, floor = code_usage({"generated": same, "other": other // 2}, real // 2, 64).values()
    assert new.unseen == pytest.approx(0.5, abs=0.03)
    assert floor.unseen == 0
    with pytest.raises(ValueError, match="give as many of both"):
        code_usage({"generated": same[:10], "other": other}, real, 64)
