"""Each step of sampling against a hand-computed case, and what a sample may depend on."""

import math
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from tests.unchecked import check
from torch import Tensor

from robustok import inference
from robustok.adapters.var import VAR, VARConfig
from robustok.adapters.var_vq import Codes
from robustok.generators import sampling
from robustok.generators.autoregressive import Autoregressive, AutoregressiveModel
from robustok.generators.generate import plain_sampling
from robustok.generators.generate import sample as sampled
from robustok.generators.llama import Llama, LlamaModel
from robustok.generators.masked import Masked, MaskedModel
from robustok.generators.noise import uniforms
from robustok.generators.sampling import (
    Sampling,
    balanced_labels,
    draw,
    guidance_scales,
    guide,
    probabilities,
    sample_tokens,
)


class Markov:
    """Four codes, three tokens; a token's logits depend on the one before (the first's on the label) by a table."""

    codebook_size, tokens_per_image, null_class, device = 4, 3, 2, torch.device("cpu")
    blocks = (1, 1, 1)

    def __init__(self):
        self.start = torch.tensor([[0.0, 1, 2, 3], [3.0, 2, 1, 0], [0.0, 0, 0, 0]])
        self.next = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
        self.asked = []  # rows of every prediction

    def predictor(self, labels: Tensor):
        def predict(tokens: Tensor | None) -> Tensor:
            self.asked.append(len(labels))
            return self.start[labels].unsqueeze(1) if tokens is None else self.next[tokens[:, -1:]]

        return predict

    def fingerprint(self) -> str:
        return "markov"


@pytest.fixture(scope="module")
def transformer():
    torch.manual_seed(0)
    config = Autoregressive(codebook_size=9, tokens=20, classes=3, width=16, depth=2, heads=1)
    model = AutoregressiveModel(config).eval()
    for parameter in model.parameters():
        parameter.data *= 5  # so that tokens depend on each other
    return model


def test_guidance_schedules():
    assert guidance_scales(Sampling(guidance=3.0), 4) == [3, 3, 3, 3]
    assert guidance_scales(Sampling(guidance=3.0, schedule="linear"), 4) == [1, 1.5, 2, 2.5]
    assert guidance_scales(Sampling(guidance=4.0, schedule="ramp"), 4) == [1, 2, 3, 4]
    assert guidance_scales(Sampling(guidance=4.0, schedule="ramp"), 1) == [1]
    assert guidance_scales(Sampling(guidance=3.0, guided_steps=2), 4) == [3, 3, 1, 1]
    cosine = guidance_scales(Sampling(guidance=5.0, schedule="power-cosine", power=2.0), 4)
    assert cosine == pytest.approx([1 + 2 * (1 - math.cos(math.pi * s * s / 16)) for s in range(4)])
    assert guidance_scales(Sampling(guidance=5.0, schedule="power-cosine", power=0.0), 3) == [5, 5, 5]
    assert guidance_scales(Sampling(schedule="power-cosine"), 3) == [1, 1, 1]


def test_guidance_moves_away_from_the_unlabelled():
    labelled, unlabelled = torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, 2.0]])
    assert guide(labelled, unlabelled, 1.0).tolist() == labelled.tolist()
    assert guide(labelled, unlabelled, 3.0).tolist() == [[-1, 5]]


LOGITS = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (Sampling(), [0.1, 0.4, 0.2, 0.3]),
        (Sampling(temperature=0.5), [1 / 30, 16 / 30, 4 / 30, 9 / 30]),
        (Sampling(top_k=1), [0, 1, 0, 0]),
        (Sampling(top_k=2), [0, 4 / 7, 0, 3 / 7]),
        (Sampling(top_k=9), [0.1, 0.4, 0.2, 0.3]),
        (Sampling(top_p=0.3), [0, 1, 0, 0]),
        (Sampling(top_p=0.6), [0, 4 / 7, 0, 3 / 7]),
        (Sampling(top_p=0.8), [0, 4 / 9, 2 / 9, 3 / 9]),
        (Sampling(top_k=2, top_p=0.5), [0, 1, 0, 0]),  # 4/7 is enough
        (Sampling(temperature=0.5, top_k=3, top_p=0.6), [0, 16 / 25, 0, 9 / 25]),  # 16/29 is not
    ],
)
def test_temperature_then_top_k_then_top_p(config, wanted):
    assert probabilities(LOGITS, config)[0].tolist() == pytest.approx(wanted, abs=1e-6)


def test_codes_as_likely_as_the_k_th_stay():
    tied = torch.tensor([[0.1, 0.3, 0.3, 0.3]]).log()
    assert probabilities(tied, Sampling(top_k=2))[0].tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])


@pytest.mark.parametrize("name", ["llamagen_gpt", "var"])
def test_filters_keep_what_the_originals_keep(parity, name):
    logits = parity(name)[1]["filter_logits"]
    filters = {"topk5": Sampling(top_k=5), "topp0p8": Sampling(top_p=0.8)}
    filters["topk10_topp0p5"] = Sampling(top_k=10, top_p=0.5)
    for tag, config in filters.items():
        kept = probabilities(logits.flatten(0, -2), config) > 0
        assert torch.equal(kept, parity(name)[1][f"filter_{tag}"].flatten(0, -2))


class Pyramid:
    """Blocks of 1, 4 and 9 tokens of five codes; logits depend on label, place and the sum of the latest block."""

    codebook_size, tokens_per_image, null_class, device, blocks = 5, 14, 2, torch.device("cpu"), (1, 4, 9)

    def predictor(self, labels: Tensor):
        read = [0]

        def predict(tokens: Tensor | None) -> Tensor:
            read[0] += 0 if tokens is None else tokens.shape[1]
            size, latest = {0: (1, 0), 1: (4, 1), 5: (9, 4)}[read[0]]
            before = labels if tokens is None else tokens[:, -latest:].sum(dim=1)
            place = torch.arange(size) * torch.arange(1, 6).unsqueeze(1)
            return torch.sin(before.view(-1, 1, 1) + place.T + labels.view(-1, 1, 1))

        return predict

    def fingerprint(self) -> str:
        return "pyramid"


def test_a_block_is_drawn_at_once_from_the_one_before():
    labels, config = torch.tensor([0, 1, 1]), Sampling(guidance=3.0, schedule="ramp")
    generator, numbers = Pyramid(), uniforms(7, range(3), 14)
    tokens = sample_tokens(generator, labels, config, seed=7, batch_size=2)
    with_label, without = generator.predictor(labels), generator.predictor(torch.full((3,), 2))
    latest = None
    for block, scale in ((slice(0, 1), 1.0), (slice(1, 5), 2.0), (slice(5, 14), 3.0)):
        logits = guide(with_label(latest).flatten(0, 1), without(latest).flatten(0, 1), scale)
        latest = draw(logits.softmax(1), numbers[:, block].flatten()).view(3, -1)
        assert torch.equal(tokens[:, block], latest)
    keep = torch.zeros(3, 14, dtype=torch.bool)
    keep[:, 2] = True
    given = torch.full((3, 14), 4)
    mixed = sample_tokens(generator, labels, config, seed=7, keep=keep, tokens=given)
    assert (mixed[:, 2] == 4).all()
    assert torch.equal(mixed[:, [0, 1, 3, 4]], tokens[:, [0, 1, 3, 4]])  # of its own block, nothing else changes


def test_draw_inverts_the_cumulative_distribution():
    p = torch.tensor([0.0, 0.25, 0.0, 0.25, 0.5, 0.0])
    uniform = torch.tensor([0, 0.2499, 0.25, 0.4999, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert draw(p.expand(6, 6), uniform).tolist() == [1, 1, 3, 3, 4, 4]
    grid = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    assert draw(p.expand(1000, 6), grid).bincount(minlength=6).tolist() == [0, 250, 0, 250, 500, 0]


def test_uniforms_are_philox_streams_of_seed_and_sample():
    table = uniforms(3, range(5), 4)
    assert table.dtype == torch.float64
    for sample in range(5):
        stream = np.random.Generator(np.random.Philox(key=np.array([3, sample], dtype=np.uint64)))
        assert table[sample].tolist() == stream.random(4).tolist()
    assert torch.equal(uniforms(3, [4, 2], 4), table[[4, 2]])
    assert len(torch.cat([table, uniforms(2**64 - 1, range(5), 4)]).unique()) == 40


@pytest.mark.parametrize("config", [Sampling(), Sampling(guidance=3.0, schedule="linear", top_k=5, temperature=1.1)])
def test_a_sample_depends_on_seed_and_number_alone(transformer, config):
    labels = torch.arange(8) % 3
    all_at_once = sample_tokens(transformer, labels, config, seed=1, batch_size=8)
    for batch_size in (2, 5):
        assert torch.equal(sample_tokens(transformer, labels, config, seed=1, batch_size=batch_size), all_at_once)
    later = sample_tokens(transformer, labels[5:], config, seed=1, first=5)
    assert torch.equal(later, all_at_once[5:])
    assert not torch.equal(sample_tokens(transformer, labels, config, seed=2), all_at_once)


def test_samples_follow_the_chain():
    chain, b = Markov(), 6000
    labels = torch.arange(b) % 2
    tokens = sample_tokens(chain, labels, Sampling(temperature=2.0), seed=0, batch_size=4000)
    for label in (0, 1):
        seen = tokens[labels == label, 0].bincount(minlength=4) / (b / 2)
        assert (seen - (chain.start[label] / 2).softmax(0)).abs().max() < 4 * math.sqrt(0.25 / (b / 2))
    for before in range(4):
        after = tokens[tokens[:, 0] == before, 1]
        wanted = (chain.next[before] / 2).softmax(0)
        assert (after.bincount(minlength=4) / len(after) - wanted).abs().max() < 4 * math.sqrt(0.25 / len(after))


def test_without_guidance_only_the_labelled_branch_runs():
    chain, labels = Markov(), torch.tensor([0, 1])
    for config in (Sampling(), Sampling(schedule="power-cosine", power=1.5)):
        sample_tokens(chain, labels, config, seed=0)
    assert chain.asked == [2] * 6
    sample_tokens(chain, labels, Sampling(guidance=1.5), seed=0)
    assert chain.asked[6:] == [4] * 3


def test_guidance_is_towards_the_label():
    chain = Markov()
    labels = torch.zeros(2000).long()
    first = sample_tokens(chain, labels, Sampling(guidance=2.0), seed=0)[:, 0]
    wanted = (2 * chain.start[0]).softmax(0)  # the unlabelled logits are zero
    assert (first.bincount(minlength=4) / 2000 - wanted).abs().max() < 4 * math.sqrt(0.25 / 2000)


def test_kept_tokens_stay_and_are_context(transformer):
    labels, config = torch.arange(6) % 3, Sampling(guidance=1.5)
    generator = torch.Generator().manual_seed(0)
    real = torch.randint(9, (6, 20), generator=generator)
    keep = torch.rand(6, 20, generator=generator) < 0.4
    free = sample_tokens(transformer, labels, config, seed=3)
    mixed = sample_tokens(transformer, labels, config, seed=3, keep=keep, tokens=real, batch_size=4)
    assert torch.equal(mixed[keep], real[keep])
    # until a kept token differs from what would have been drawn, nothing changes; after it, a lot does
    same = (mixed == free).int().cumprod(dim=1).bool() | keep
    first_kept = (keep & (real != free)).int().argmax(dim=1)
    for row, place in enumerate(first_kept):
        assert same[row, :place].all()
    later = torch.arange(20) > first_kept.unsqueeze(1)
    assert (mixed != free)[later & ~keep].float().mean() > 0.2
    everything = torch.ones(6, 20, dtype=torch.bool)
    assert torch.equal(sample_tokens(transformer, labels, config, seed=3, keep=everything, tokens=real), real)
    assert torch.equal(sample_tokens(transformer, labels, config, seed=3, keep=~everything, tokens=real), free)


SMALL = {"width": 16, "depth": 2, "heads": 1}


def build(kind: str) -> Any:
    """A small generator whose tokens depend on each other, of nine codes and 16 tokens; of VAR, 14."""
    torch.manual_seed(0)
    if kind == "var":
        model = VAR(VARConfig(codes=Codes(scales=(1, 2, 3), codebook_size=9, width=4), classes=3, **SMALL, hidden=32))
    elif kind == "llama":
        model = LlamaModel(Llama(codebook_size=9, tokens=16, classes=3, **SMALL, hidden=32))
    else:
        small = SMALL | {"modulated": kind == "modulated"}
        model = AutoregressiveModel(Autoregressive(codebook_size=9, tokens=16, classes=3, **small))
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return model.eval()


def one_block_at_a_time(model: Any, labels: Tensor, config: Sampling, keep: Tensor, given: Tensor, seed: int) -> Tensor:
    """Tokens as they are defined: every block is predicted, whether it is kept or not, with both halves throughout."""
    predict = model.predictor(torch.cat([labels, torch.full_like(labels, model.null_class)]))
    numbers, latest, blocks = uniforms(seed, range(len(labels)), model.tokens_per_image), None, []
    parts = (x.split(model.blocks, dim=1) for x in (keep, given, numbers))
    for scale, kept, own, uniform in zip(guidance_scales(config, len(model.blocks)), *parts, strict=True):
        logits = guide(*predict(latest).flatten(0, 1).chunk(2), scale)
        drawn = draw(probabilities(logits, config), uniform.flatten()).view(own.shape)
        blocks.append(torch.where(kept, own, drawn))
        latest = blocks[-1].repeat(2, 1)
    return torch.cat(blocks, dim=1)


GUIDED = {
    "constant": Sampling(guidance=3.0),
    "power-cosine": Sampling(guidance=3.0, schedule="power-cosine", power=1.5),
    "ends": Sampling(guidance=3.0, guided_steps=2),
}


@pytest.mark.parametrize("kind", ["plain", "modulated", "llama", "var"])
@pytest.mark.parametrize("name", GUIDED)
def test_blocks_that_are_kept_are_read_in_one_go(kind, name, monkeypatch):
    model, labels, config = build(kind), torch.arange(5) % 3, GUIDED[name]
    n, predictor, asked = model.tokens_per_image, model.predictor, []

    def counted(labels: Tensor) -> Any:
        predict = predictor(labels)
        return lambda tokens: (asked.append(len(labels)), predict(tokens))[1]

    random = torch.Generator().manual_seed(3)
    given, shared = torch.randint(9, (5, n), generator=random), torch.rand(n, generator=random) < 0.6
    shared[5:] |= kind == "var"  # whole scales
    for keep in (torch.zeros(5, n).bool(), shared.expand(5, n), torch.rand(5, n, generator=random) < 0.5):
        wanted = one_block_at_a_time(model, labels, config, keep, given, 7)
        with monkeypatch.context() as patch:
            patch.setattr(model, "predictor", counted)
            asked.clear()
            assert torch.equal(sample_tokens(model, labels, config, seed=7, keep=keep, tokens=given), wanted)
        drawn = [not bool(part.all()) for part in keep.split(model.blocks, dim=1)]
        scales = guidance_scales(config, len(drawn))
        assert asked == [5 if scale == 1 else 10 for scale, here in zip(scales, drawn, strict=True) if here]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["modulated", "llama", "var"])
def test_weights_are_packed_once_a_batch_and_draw_what_plain_ones_draw(kind, dtype, monkeypatch):
    model, labels, config, packings = build(kind), torch.arange(5) % 3, Sampling(guidance=3.0), []
    real, half = sampling.packed, dtype == torch.bfloat16
    together = 5 if half else 3  # in half precision a product may round otherwise with another number of rows
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=half)
    if half:  # cast alone: oneDNN may round to half precision elsewhere than torch does
        monkeypatch.setattr(inference, "_can_pack", lambda dtype: False)
    with monkeypatch.context() as patch, autocast:
        patch.setattr(sampling, "packed", lambda *how: nullcontext())
        wanted = sample_tokens(model, labels, config, seed=7)
    monkeypatch.setattr(sampling, "packed", lambda *how: (packings.append(how), real(*how))[1])
    for frozen in (False, True):
        with autocast:
            drawn = sample_tokens(model.requires_grad_(not frozen), labels, config, seed=7, batch_size=together)
        assert torch.equal(drawn, wanted)
    assert len(packings) == (2 if half else 4)
    assert all(weight.dtype == torch.float32 for weight in model.parameters())


def test_progress_counts_images(transformer):
    heard: list[int] = []
    sample_tokens(transformer, torch.zeros(5).long(), Sampling(), seed=0, batch_size=2, progress=heard.append)
    assert heard == [2, 4, 5]
    assert sample_tokens(transformer, torch.zeros(0).long(), Sampling(), seed=0).shape == (0, 20)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0, which must be above 0; for argmax use top_k=1"),
        ({"top_k": -1}, "top_k is -1; choose a number of codes, or 0 for all"),
        ({"top_p": 0.0}, "top_p is 0.0; it is a probability above 0, or 1 for all codes"),
        ({"guidance": -1.0}, "guidance is -1.0; choose 1 for none, more for stronger"),
        ({"power": -1.0}, "power is -1.0, which must be 0 or more"),
        ({"guided_steps": -1}, "guided_steps is -1; choose a number of predictions, or 0 for all"),
    ],
)
def test_a_wrong_config_says_so(fields, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**fields)


def test_an_unknown_schedule_says_so():
    fields = {**asdict(Sampling()), "schedule": "cosine"}  # the annotations, checked in tests, would object first
    with pytest.raises(ValueError, match="'cosine'; choose from 'constant', 'linear', 'ramp', 'power-cosine'"):
        check(Sampling, fields)


def test_wrong_arguments_say_so():
    labels, tokens = torch.tensor([0, 1]), torch.zeros(2, 4).long()
    for wrong in (torch.tensor([0, 3]), torch.tensor([-1])):
        with pytest.raises(ValueError, match="labels go from 0 to 1; not (3|-1)"):
            sample_tokens(Markov(), wrong, Sampling(), seed=0)
        with pytest.raises(ValueError, match="labels go from 0 to 1, and 2 is for no label; not (3|-1)"):
            sample_tokens(Markov(), wrong, Sampling(), seed=0, null_class=True)
    with pytest.raises(ValueError, match="keep and tokens go together; give both or neither"):
        sample_tokens(Markov(), labels, Sampling(), seed=0, tokens=tokens)
    with pytest.raises(ValueError, match=r"tokens are \(2, 4\), but 2 labels of 3 tokens were asked for"):
        sample_tokens(Markov(), labels, Sampling(), seed=0, tokens=tokens, keep=tokens.bool())


@pytest.mark.parametrize("count", [0, 1, 3, 10, 25, 1000, 1500, 2000])
@pytest.mark.parametrize("classes", [1, 10, 1000])
def test_labels_are_balanced_and_of_few_spread_over_all_classes(count, classes):
    labels = balanced_labels(count, classes)
    often = labels.bincount(minlength=classes)
    assert (len(labels), len(often)) == (count, classes)
    assert often.max() - often.min() <= 1
    more = (often > often.min()).nonzero()[:, 0]  # those that come once more lie evenly
    assert len(more) < 2 or more.diff().max() <= -(-classes // len(more))


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int32])
def test_tokens_are_whole_whatever_type_the_labels_have(kind, unchecked):
    """In 8 bits token 700 would be 188."""
    labels = torch.tensor([0, 2, 1])
    shape = {"codebook_size": 1024, "tokens": 9, "classes": 3, "width": 32, "depth": 1, "heads": 1}
    torch.manual_seed(0)
    for model in (AutoregressiveModel(Autoregressive(**shape)), MaskedModel(Masked(**shape))):
        how = plain_sampling(model)
        wanted = sampled(model.eval(), labels, how, seed=0)
        assert wanted.max() > 255
        found = sampled(model, labels.to(kind), how, seed=0)
        assert found.dtype == torch.int64
        assert torch.equal(found, wanted)
        keep, tokens = torch.rand(3, 9, generator=torch.Generator().manual_seed(1)) < 0.5, wanted.flip(0)
        kept = [sampled(model, labels, how, seed=0, keep=keep, start=t) for t in (tokens, tokens.int())]
        assert torch.equal(*kept)
