"""MaskGIT's sampler beside a plain computation step by step, and what a sample may depend on."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from robustok.generators.autoregressive import Autoregressive, AutoregressiveModel
from robustok.generators.fit import check_sampling
from robustok.generators.generate import plain_sampling, sample
from robustok.generators.masked import Masked, MaskedModel
from robustok.generators.noise import uniforms
from robustok.generators.protocol import GeneratorLike, lacking, makes
from robustok.generators.sampling import Sampling
from robustok.generators.unmasking import MaskedSampling, masked_after, sample_masked

N, CODES, MASK = 16, 5, 5


class Toy:
    """Logits of a place depend on the place, the label and how many tokens there are of each code."""

    codebook_size, tokens_per_image, null_class, device = CODES, N, 2, torch.device("cpu")

    def __init__(self) -> None:
        random = torch.Generator().manual_seed(0)
        self.by_place, self.by_label, self.by_counts = (
            torch.randn(*shape, generator=random) for shape in ((N, CODES), (3, CODES), (CODES + 1, CODES))
        )
        self.asked: list[tuple[int, int]] = []  # rows, and masked tokens of the first

    def predict_masked(self, tokens: Tensor, labels: Tensor) -> Tensor:
        self.asked.append((len(tokens), int((tokens[0] == MASK).sum())))
        counts = torch.nn.functional.one_hot(tokens, CODES + 1).float().mean(dim=1)
        return self.by_place + (self.by_label[labels] + 3 * counts @ self.by_counts)[:, None]

    def fingerprint(self) -> str:
        return "toy"


def one_by_one(toy: Toy, label: int, sampling: MaskedSampling, number: int, start: list[int] | None = None) -> list:
    """The tokens of one sample, computed without tensors of several images and without sorting by torch."""
    numbers = uniforms(3, [number], sampling.steps * 2 * N).view(sampling.steps, 2, N)
    tokens = [MASK] * N if start is None else list(start)
    for step in range(sampling.steps):
        share = (step + 1) / sampling.steps
        masks = math.cos(math.pi / 2 * share) if sampling.mask_schedule == "cosine" else 2 / math.pi * math.acos(share)
        left = 0 if step == sampling.steps - 1 else math.floor(N * masks)
        hidden = [place for place in range(N) if tokens[place] == MASK]
        if len(hidden) <= left:
            continue
        scale = 1 + (sampling.guidance - 1) * step / sampling.steps
        given = torch.tensor([tokens])
        labelled, unlabelled = (toy.predict_masked(given, torch.tensor([of]))[0] for of in (label, toy.null_class))
        certainty = {}
        for place in hidden:
            logits = (unlabelled + scale * (labelled - unlabelled))[place] / sampling.temperature
            logits = logits / (1.3 - 0.8 * share) if sampling.temperature_annealing else logits
            noisy, sharp = sampling.noise_on == "logits", sampling.choice_temperature * (1 - share)
            p = (logits / sharp if noisy and sharp else logits).softmax(0).double()
            if sampling.top_k == 1 or (noisy and sharp == 0):
                code = int(p.argmax())
                certainty[place] = 0.0  # it could not have been another
            else:
                passed = (p / p.sum()).cumsum(0) <= numbers[step, 0, place]
                code = int(passed.sum())
                certainty[place] = math.log(p[code])
            if noisy:
                certainty[place] = float(logits[code])
            noise = -math.log(-math.log(numbers[step, 1, place]))
            certainty[place] += sampling.choice_temperature * (1 - share) * noise
            tokens[place] = code
        for place in sorted(hidden, key=lambda place: certainty[place])[:left]:
            tokens[place] = MASK
    return tokens


def test_the_schedule_is_the_cosine():
    assert masked_after(100, 3) == [86, 50, 0]  # cos of 30 and 60 degrees
    assert masked_after(256, 8) == [math.floor(256 * math.cos(math.pi / 2 * s / 8)) for s in range(1, 8)] + [0]
    assert masked_after(9, 1) == [0]


def test_the_schedule_of_titok_is_the_arccosine():
    assert masked_after(90, 2, "arccos") == [60, 0]  # arccos of 1/2 is 60 of 90 degrees
    assert masked_after(100, 4, "arccos")[2] == math.floor(100 * math.acos(0.75) / (math.pi / 2)) == 46
    assert masked_after(100, 10, "arccos")[6] >= 50 > masked_after(100, 10, "arccos")[7]  # half is cos 45 = .707


@pytest.mark.parametrize(("n", "steps"), [(256, 64), (64, 64), (10, 7), (5, 12), (1, 3)])
def test_every_step_of_the_schedule_does_something_while_there_are_tokens(n: int, steps: int):
    after = masked_after(n, steps)
    assert len(after) == steps
    assert after[-1] == 0
    falling = [n, *after] if n >= steps else [n, *dict.fromkeys(after)]
    assert all(b < a or (a, b) == (1, 1) for a, b in pairwise(falling))


@pytest.mark.parametrize(
    "sampling",
    [
        MaskedSampling(steps=5, choice_temperature=0.0),
        MaskedSampling(steps=5, choice_temperature=0.0, guidance=3.0),
        MaskedSampling(steps=4, choice_temperature=4.5, top_k=1),
        MaskedSampling(steps=6, choice_temperature=4.5, guidance=2.5),
        MaskedSampling(steps=1),
        MaskedSampling(steps=6, mask_schedule="arccos"),
        MaskedSampling(steps=5, temperature_annealing=True, temperature=0.7),
        MaskedSampling(steps=5, guidance=2.0, noise_on="logits", temperature=0.7),
        MaskedSampling(steps=6, choice_temperature=2.0, mask_schedule="arccos", noise_on="logits", top_k=1),
        MaskedSampling(steps=4, choice_temperature=0.0, noise_on="logits", temperature_annealing=True),
    ],
)
@pytest.mark.parametrize("kept", [False, True])
def test_it_is_what_a_plain_computation_gives(sampling: MaskedSampling, kept: bool):
    toy, labels = Toy(), torch.tensor([0, 1, 1, 0])
    keep = torch.rand(4, N, generator=torch.Generator().manual_seed(1)) < torch.tensor([[0.0], [0.3], [0.7], [1.0]])
    own = torch.randint(CODES, (4, N), generator=torch.Generator().manual_seed(2))
    given: dict[str, Any] = {"keep": keep, "tokens": own} if kept else {}
    tokens = sample_masked(toy, labels, sampling, seed=3, first=7, **given)
    start = torch.where(keep, own, MASK).tolist()
    wanted = [one_by_one(toy, int(labels[i]), sampling, 7 + i, start[i] if kept else None) for i in range(4)]
    assert tokens.tolist() == wanted
    assert (tokens < CODES).all()  # no mask is left


def test_an_image_s_own_tokens_stay_and_what_is_left_costs_only_its_steps():
    toy, sampling, labels = Toy(), MaskedSampling(steps=8), torch.zeros(6, dtype=torch.long)
    own = torch.randint(CODES, (6, N), generator=torch.Generator().manual_seed(2))

    def drawn(share: float) -> Tensor:
        toy.asked.clear()
        keep = (torch.arange(N) < share * N).expand(6, N)
        tokens = sample(toy, labels, sampling, seed=3, start=own, keep=keep)
        assert torch.equal(tokens[keep], own[keep])
        return tokens

    assert torch.equal(drawn(1.0), own)
    assert toy.asked == []
    assert torch.equal(drawn(0.0), sample(toy, labels, sampling, seed=3))
    drawn(0.0)
    assert toy.asked == [(6, N), *((6, left) for left in masked_after(N, 8)[:-1])]
    drawn(0.75)  # of 16 tokens 4 are drawn: 3 are left after step 7, none after step 8
    assert masked_after(N, 8)[-3:] == [6, 3, 0]
    assert toy.asked == [(6, 4), (6, 3)]


def test_a_sample_depends_on_its_seed_and_number_alone():
    torch.manual_seed(0)
    model = MaskedModel(Masked(codebook_size=9, tokens=12, classes=3, width=16, depth=2, heads=1)).eval()
    for parameter in model.parameters():
        parameter.data *= 5
    labels, sampling = torch.arange(7) % 3, MaskedSampling(steps=5, guidance=2.0)
    all_at_once = sample_masked(model, labels, sampling, seed=5)
    parts = [sample_masked(model, labels[i : i + 2], sampling, seed=5, first=i, batch_size=1) for i in range(0, 7, 2)]
    assert torch.equal(torch.cat(parts), all_at_once)
    assert not torch.equal(sample_masked(model, labels, sampling, seed=6), all_at_once)
    keep = torch.rand(7, 12, generator=torch.Generator().manual_seed(1)) < torch.arange(7)[:, None] / 6
    mixed = sample_masked(model, labels, sampling, seed=5, keep=keep, tokens=all_at_once)
    alone = [
        sample_masked(model, labels[[i]], sampling, seed=5, first=i, keep=keep[[i]], tokens=all_at_once[[i]])
        for i in range(7)
    ]
    assert torch.equal(torch.cat(alone), mixed)


def test_guidance_asks_for_both_labels_only_where_it_does_something():
    toy, labels = Toy(), torch.tensor([0, 1])
    sample_masked(toy, labels, MaskedSampling(steps=3, guidance=2.0), seed=0)
    assert [rows for rows, _ in toy.asked] == [2, 4, 4]  # linear: the first step has scale 1


def test_what_kind_of_generator_takes_which_settings():
    toy = Toy()
    ar = AutoregressiveModel(Autoregressive(codebook_size=5, tokens=4, classes=2, width=16, depth=1, heads=1))
    assert isinstance(toy, GeneratorLike)
    assert (makes(toy), lacking(toy)) == ("tokens", [])
    assert plain_sampling(toy) == MaskedSampling()
    assert plain_sampling(ar) == Sampling()
    message = "a Toy is not sampled as a Sampling says; .* masked ones MaskedSampling"
    with pytest.raises(ValueError, match=message):
        sample(toy, torch.tensor([0]), Sampling(), seed=0)
    with pytest.raises(ValueError, match="a AutoregressiveModel is not sampled as a MaskedSampling says"):
        check_sampling(ar, MaskedSampling())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"choice_temperature": -1.0}, "choice_temperature is -1.0; choose 0 to keep the likeliest tokens, or more"),
        ({"choice_temperature": math.inf}, "choice_temperature is inf; choose 0"),
        ({"temperature": 0.0}, "temperature is 0.0, which must be above 0"),
    ],
)
def test_wrong_settings_say_so(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        replace(MaskedSampling(), **changes)


WORDS = [("mask_schedule", "'cosine', 'arccos'"), ("noise_on", "'choice', 'logits'")]


@pytest.mark.parametrize(("name", "known"), WORDS)
def test_wrong_words_say_what_there_is(name: str, known: str):
    settings = MaskedSampling()
    object.__setattr__(settings, name, "cos")  # past the types that tests check
    with pytest.raises(ValueError, match=f"{name} is 'cos'; choose from {known}"):
        settings.__post_init__()


def test_tokens_that_would_be_taken_for_masks_are_refused():
    keep = torch.ones(1, N, dtype=torch.bool)
    with pytest.raises(ValueError, match="tokens hold code 5, but the generator knows codes 0 to 4; give tokens of"):
        sample_masked(Toy(), torch.tensor([0]), MaskedSampling(), seed=0, keep=keep, tokens=torch.full((1, N), MASK))


def test_weights_that_make_no_numbers_are_refused():
    toy = Toy()
    toy.by_place = toy.by_place * math.nan
    with pytest.raises(ValueError, match="sampling ended in NaN or infinity"):
        sample_masked(toy, torch.tensor([0]), MaskedSampling(steps=2), seed=0)


@pytest.mark.parametrize(
    ("labels", "keep", "tokens", "message"),
    [
        ([0.7, 1.0], None, None, r"labels are \(2,\) of torch.float32; give the numbers of classes in a row"),
        ([True, False], None, None, r"labels are \(2,\) of torch.bool"),
        ([[0, 1]], None, None, r"labels are \(1, 2\)"),
        ([0, 1], [[True] * 3] * 2, [[0] * 4] * 2, r"keep is \(2, 3\) .*; give \(2, 4\) bools"),
        ([0, 1], [[1] * 4] * 2, [[0] * 4] * 2, r"keep is \(2, 4\) of torch.int64"),
        ([0, 1], [[True] * 4] * 2, [[0.5] * 4] * 2, "tokens are of torch.float32; .* whole numbers as tokens"),
        ([0, 1], [[True] * 4] * 2, [[-1] * 4] * 2, "tokens hold code -1, but the generator knows codes 0 to 4"),
    ],
)
def test_what_would_be_cut_to_whole_numbers_is_refused(labels, keep, tokens, message, unchecked):
    shape = {"codebook_size": 5, "tokens": 4, "classes": 2, "width": 16, "depth": 1, "heads": 1}
    given = [None if x is None else torch.tensor(x) for x in (keep, tokens)]
    for model in (AutoregressiveModel(Autoregressive(**shape)), MaskedModel(Masked(**shape))):
        with pytest.raises(ValueError, match=message):
            sample(model, torch.tensor(labels), plain_sampling(model), seed=0, keep=given[0], start=given[1])
