"""What a prediction may depend on, both ways of computing it, the loss and its draws, and that it learns."""

import math
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from tests.unchecked import check
from torch import Generator, Tensor
from torch.utils.flop_counter import FlopCounterMode

from robustok.generators.autoregressive import Autoregressive, AutoregressiveModel, random_order_fraction
from robustok.generators.llama import Llama, LlamaModel
from robustok.generators.sampling import Sampling, sample_tokens

RASTER = Autoregressive(codebook_size=7, tokens=6, classes=3, width=16, depth=2, heads=2, order="raster")
RAR = replace(RASTER, order="random", modulated=True)
BOTH = pytest.mark.parametrize("config", [RASTER, RAR], ids=["raster", "rar"])


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def build(config: Autoregressive) -> AutoregressiveModel:
    """With weights of no special kind: a new model's adaLN is zero and would hide mistakes."""
    model = AutoregressiveModel(config)
    for i, parameter in enumerate(model.parameters()):
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=seeded(i))
    return model


def some_tokens(count: int, seed: int = 0) -> Tensor:
    return torch.randint(7, (count, 6), generator=seeded(seed))


@BOTH
def test_a_prediction_depends_on_the_label_and_the_tokens_before_it(config):
    model, labels = build(config), torch.tensor([0, 2])
    tokens, order = some_tokens(2), torch.tensor([[4, 0, 2, 5, 1, 3]] * 2)
    for orders in [None] if config is RASTER else [None, order]:
        logits = model(tokens, labels, orders)
        places = range(6) if orders is None else orders[0].tolist()
        for i, place in enumerate(places):
            changed = tokens.clone()
            changed[:, place] = (changed[:, place] + 1) % 7
            differs = (model(changed, labels, orders) - logits).abs().amax(dim=(0, 2)) > 1e-6
            assert differs.tolist() == [j > i for j in range(6)]
        assert ((model(tokens, labels + 1, orders) - logits).abs().amax(dim=(0, 2)) > 1e-6).all()


def test_a_target_aware_prediction_depends_on_where_its_target_is():
    model, labels, tokens = build(RAR), torch.tensor([1]), some_tokens(1)
    one, other = torch.tensor([[0, 1, 2, 3, 4, 5]]), torch.tensor([[0, 1, 3, 2, 4, 5]])
    differs = (model(tokens, labels, one) - model(tokens, labels, other)).abs().amax(dim=(0, 2)) > 1e-6
    assert differs.tolist() == [False, False, True, True, True, True]
    assert torch.equal(model(tokens, labels, one), model(tokens, labels))


@BOTH
@pytest.mark.parametrize("images", [2, 5])  # fewer and more than there are labels: adaLN is shared between images
def test_predicting_step_by_step_is_the_same(config, images):
    model, labels, tokens = build(config), torch.arange(images) % 4, some_tokens(images)
    predict = model.predictor(labels)
    logits = [predict(None), *(predict(tokens[:, i : i + 1]) for i in range(5))]
    torch.testing.assert_close(torch.cat(logits, dim=1), model(tokens, labels), rtol=1e-4, atol=1e-5)


def test_an_ignorant_model_loses_log_k():
    model = build(RAR)
    model.head.weight.data.zero_()
    model.head.bias.data.zero_()
    loss = model.loss(
        some_tokens(4), torch.zeros(4).long(), model.draw(4, random_order_fraction=0.5, generator=seeded(0))
    )
    assert loss.item() == pytest.approx(math.log(7))


def test_loss_is_the_mean_cross_entropy_of_all_tokens():
    model, tokens, labels = build(replace(RAR, label_dropout=0.0)), some_tokens(3), torch.tensor([0, 1, 2])
    chances = model(tokens, labels).softmax(-1).gather(2, tokens.unsqueeze(2))
    torch.testing.assert_close(
        model.loss(tokens, labels, model.draw(len(labels), generator=seeded(0))), -chances.log().mean()
    )


class Witness(AutoregressiveModel):
    """Remembers what it was asked."""

    def forward(self, tokens, labels, orders=None):
        self.labels, self.orders = labels, orders
        return super().forward(tokens, labels, orders)


def test_shares_of_withheld_labels_and_random_orders():
    model, b = Witness(replace(RAR, label_dropout=0.2)), 1000
    tokens, labels = some_tokens(b), torch.arange(b) % 3
    losses = [
        model.loss(tokens, labels, model.draw(len(labels), random_order_fraction=0.3, generator=seeded(5)))
        for _ in range(2)
    ]
    assert torch.equal(*losses)  # nothing but the generator decides
    withheld = model.labels == model.null_class
    assert torch.equal(model.labels[~withheld], labels[~withheld])
    permuted = (model.orders != torch.arange(6)).any(dim=1)
    assert torch.equal(model.orders.sort(dim=1).values, torch.arange(6).expand(b, 6))
    for chosen, share in ((withheld, 0.2), (permuted, 0.3 * (1 - 1 / math.factorial(6)))):
        assert abs(chosen.float().mean() - share) < 4 * math.sqrt(share * (1 - share) / b)
    first_places = model.orders[permuted, 0].bincount(minlength=6) / permuted.sum()
    assert (first_places - 1 / 6).abs().max() < 4 * math.sqrt(1 / 6 * 5 / 6 / permuted.sum())
    for share in (0.0, 1.0):
        model.loss(tokens, labels, model.draw(len(labels), random_order_fraction=share, generator=seeded(5)))
        assert ((model.orders != torch.arange(6)).any(dim=1).float().mean() > 0.99) == bool(share)


def test_a_raster_model_refuses_other_orders():
    with pytest.raises(
        ValueError, match="random_order_fraction is 0.5, but .* order='raster' cannot learn other orders; set"
    ):
        build(RASTER).draw(2, random_order_fraction=0.5, generator=seeded(0))


def test_random_order_fraction_falls_from_one_to_zero():
    steps = {0: 1, 124: 1, 125: 1, 150: 0.6, 187.5: 0, 250: 0}  # thousands, as RAR counts them
    assert [random_order_fraction(step / 250) for step in steps] == pytest.approx(list(steps.values()))
    assert [random_order_fraction(x, start=0.5, end=0.5) for x in (0.4, 0.5, 0.6)] == [1, 0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": 0}, "tokens is 0; it must be at least 1"),
        ({"order": "spiral"}, "order is 'spiral'; choose from 'raster', 'random'"),
        ({"label_dropout": 1.5}, "label_dropout is 1.5; it is a share, choose one between 0 and 1"),
    ],
)
def test_a_wrong_config_says_so(change, message):
    fields = {**asdict(RASTER), **change}  # the annotations, checked in tests, would object to 'spiral' first
    with pytest.raises(ValueError, match=message):
        check(Autoregressive, fields)


@BOTH
def test_it_comes_back_from_its_folder(config, tmp_path):
    model = build(config)
    model.save_pretrained(tmp_path, trained="not at all")
    loaded = AutoregressiveModel.from_pretrained(tmp_path)
    assert loaded.config == config
    assert not loaded.training
    assert loaded.fingerprint() == model.fingerprint()
    loaded.head.bias.data[0] += 1e-3
    assert loaded.fingerprint() != model.fingerprint()


@BOTH
def test_it_learns_what_each_class_looks_like(config):
    torch.manual_seed(0)
    model = AutoregressiveModel(replace(config, width=32))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    looks, labels = some_tokens(3, seed=1), torch.arange(24) % 3
    for step in range(120):
        share = random_order_fraction(step / 120) if config.order == "random" else 0.0
        loss = model.loss(
            looks[labels], labels, model.draw(len(labels), random_order_fraction=share, generator=seeded(step))
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.equal(sample_tokens(model, torch.arange(3), Sampling(guidance=2.0, top_k=1), seed=0), looks)


@pytest.mark.parametrize("kind", [AutoregressiveModel, LlamaModel])
def test_of_positions_that_are_only_read_the_last_block_takes_keys_and_values_alone(kind):
    """Products with weights, counted: all of every block but the last, of that queries, keys and values; one head."""
    n, width = 16, 8
    if kind is AutoregressiveModel:
        model: Any = kind(Autoregressive(codebook_size=11, tokens=n, classes=3, width=width, depth=3, heads=2))
        mlp = 8 * width**2
    else:
        model = kind(Llama(codebook_size=11, tokens=n, classes=3, width=width, depth=3, heads=2, hidden=24))
        mlp = 3 * 24 * width
    predict = model.eval().predictor(torch.tensor([0, 1]))
    with torch.no_grad():
        predict(None)
        with FlopCounterMode(display=False) as counter:
            predict(torch.zeros(2, 5).long())
    found = sum(flops for kind, flops in counter.get_flop_counts()["Global"].items() if "bmm" not in str(kind))
    qkv, rest = 3 * width**2, width**2 + mlp
    assert found == 2 * 2 * (5 * (2 * (qkv + rest) + qkv) + rest + 11 * width)
