"""What a masked generator's prediction may depend on, its masks and its loss, and that it learns a distribution."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Generator, Tensor

from robustok.generators.masked import Masked, MaskedDraw, MaskedModel, masked_counts
from robustok.generators.unmasking import MaskedSampling, sample_masked
from robustok.models import load_generator

SMALL = Masked(codebook_size=7, tokens=6, classes=3, width=16, depth=2, heads=2)
MASK = 7


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def build(config: Masked = SMALL) -> MaskedModel:
    """With large weights, so that nothing hides behind small ones."""
    model = MaskedModel(config)
    for i, parameter in enumerate(model.parameters()):
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=seeded(i))
    return model


def some_tokens(count: int) -> Tensor:
    return torch.randint(7, (count, 6), generator=seeded(0))


def drawn(masked: Tensor) -> MaskedDraw:
    weight = (1 / masked.double().sum(dim=1).mean()).expand(len(masked))
    return MaskedDraw(torch.zeros(len(masked), dtype=torch.bool), masked, weight)


def test_a_prediction_depends_on_every_token_and_the_label():
    model, tokens, labels = build(), some_tokens(2), torch.tensor([0, 2])
    logits = model.predict_masked(tokens, labels)
    assert logits.shape == (2, 6, 7)
    for place in range(6):
        changed = tokens.clone()
        changed[:, place] = MASK
        assert ((model.predict_masked(changed, labels) - logits).abs().amax(dim=(0, 2)) > 1e-6).all()
    assert ((model.predict_masked(tokens, labels + 1) - logits).abs().amax(dim=(0, 2)) > 1e-6).all()


def test_the_loss_never_sees_what_is_masked():
    model, labels, masked = build(), torch.tensor([0, 1]), torch.zeros(2, 6, dtype=torch.bool)
    masked[0, :4] = masked[1, 2] = True
    tokens, seen = some_tokens(2), []
    model.predict_masked = lambda given, labels: seen.append(given) or torch.zeros(2, 6, 7)
    model.loss(tokens, labels, drawn(masked))
    assert torch.equal(seen[0], torch.where(masked, MASK, tokens))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_mean_cross_entropy_of_the_masked_tokens(smoothing: float):
    """Of all masked tokens of a batch alike, however they are spread over images; smoothed, codes share some of it."""
    model, tokens, labels = build(replace(SMALL, label_smoothing=smoothing)), some_tokens(3), torch.tensor([0, 1, 2])
    masked = torch.rand(3, 6, generator=seeded(1)).argsort(1) < torch.tensor([[1], [6], [3]])
    log_p = model.predict_masked(tokens.masked_fill(masked, MASK), labels).log_softmax(-1)[masked]
    own = log_p.gather(1, tokens[masked][:, None])[:, 0]
    wanted = -((1 - smoothing) * own + smoothing * log_p.mean(dim=1)).mean()
    torch.testing.assert_close(model.loss(tokens, labels, drawn(masked)), wanted)


def test_masks_follow_the_cosine():
    uniform = torch.tensor([0.0, 1 / 3, 1 / 2, 2 / 3, 0.999, 1 - 2**-24])
    assert masked_counts(uniform, 100).tolist() == [100, 87, 71, 50, 1, 1]  # cos of 0, 30, 45, 60, 89.9 degrees
    b, n = 4000, 6
    draw = build(replace(SMALL, label_dropout=0.2)).draw(b, generator=seeded(3))
    counts = draw.masked.sum(dim=1)
    edges = torch.arange(1, n + 1) / n
    # P(ceil(n cos(pi u / 2)) <= m) = 1 - 2 / pi arccos(m / n)
    wanted = torch.diff(1 - 2 / math.pi * edges.arccos(), prepend=torch.zeros(1))
    assert ((counts.bincount(minlength=n + 1)[1:] / b - wanted).abs() < 4 * (wanted / b).sqrt()).all()
    places = draw.masked.double().mean(dim=0)
    assert (places - places.mean()).abs().max() < 4 * 0.5 / math.sqrt(b)  # every place alike
    assert abs(draw.withheld.double().mean() - 0.2) < 4 * math.sqrt(0.16 / b)
    assert torch.equal(draw.weight, (1 / counts.double().mean()).expand(b))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": 0}, "tokens is 0; it must be at least 1"),
        ({"label_smoothing": 1.5}, "label_smoothing is 1.5; it is a share, choose one between 0 and 1"),
        ({"label_dropout": -0.5}, "label_dropout is -0.5; it is a share, choose one between 0 and 1"),
    ],
)
def test_a_wrong_config_says_so(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_it_comes_back_from_its_folder(tmp_path):
    model = build()
    model.trained_on, model.class_names = "abc", ("a", "b", "c")
    model.save_pretrained(tmp_path)
    loaded = load_generator(tmp_path)
    assert (type(loaded), loaded.config, loaded.training) == (MaskedModel, SMALL, False)
    assert (loaded.trained_on, loaded.class_names) == ("abc", ("a", "b", "c"))
    assert loaded.fingerprint() == model.fingerprint()


def test_a_distribution_of_two_tokens_is_learned_and_drawn():
    """Two tokens that are equal with probability 0.9; the first is 0 with probability 0.7 in one class, 0.2 in another.

    Asked for one token at a time, at random places, the sampler draws from the joint distribution.
    """
    torch.manual_seed(0)
    config = Masked(codebook_size=2, tokens=2, classes=2, width=32, depth=2, heads=1, label_smoothing=0.0)
    model, random = MaskedModel(config), seeded(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    chances, b = torch.tensor([0.3, 0.8]), 512
    for _ in range(200):
        labels = torch.randint(2, (b,), generator=random)
        one = (torch.rand(b, generator=random) < chances[labels]).long()
        other = torch.where(torch.rand(b, generator=random) < 0.9, one, 1 - one)
        loss = model.loss(torch.stack([one, other], dim=1), labels, model.draw(b, generator=random))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    labels = torch.arange(4000) % 2
    sampling = MaskedSampling(steps=2, choice_temperature=1000.0)  # noise alone says which token comes first
    tokens = sample_masked(model.eval(), labels, sampling, seed=0, batch_size=4000)
    for label, p in enumerate(chances.tolist()):
        one, other = tokens[labels == label].double().unbind(1)
        assert abs(one.mean() - p) < 0.06  # four standard errors are 0.04; what was learned is off by some, too
        assert abs((one == other).double().mean() - 0.9) < 0.05
