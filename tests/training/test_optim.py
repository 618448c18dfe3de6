import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustok.training.micro_batch import micro_batches_of, split
from robustok.training.optim import EMA, Optim, Optimizer, autocast, learning_rate

PLAIN = Optim(lr=0.01, clip=0.0)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    convolution = nn.Conv2d(3, 8, 3)
    convolution.weight.data = convolution.weight.data.to(memory_format=torch.channels_last)
    return nn.Sequential(convolution, nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(32, 4))


def loss_of(model: nn.Module, images: Tensor) -> Tensor:
    output: Tensor = model(images)
    return output.square().mean()


def images(step: int, b: int = 6) -> Tensor:
    images = torch.randn(b, 3, 4, 4, generator=torch.Generator().manual_seed(step))
    return images.to(memory_format=torch.channels_last)


def train(model: nn.Module, update: Optimizer, steps: range) -> None:
    for step in steps:
        update.backward(loss_of(model, images(step)))
        update.step(step)


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(one, other) for one, other in zip(a.parameters(), b.parameters(), strict=True))


# learning rate


def test_learning_rate_rises_linearly_then_follows_half_a_cosine():
    config, steps = Optim(lr=0.4, warmup=10, final_lr_fraction=0.1), 110
    rates = [learning_rate(config, step, steps) for step in range(steps)]
    assert rates[:10] == pytest.approx([0.04 * taken for taken in range(1, 11)])
    assert rates[59] == pytest.approx(0.4 * (0.1 + 0.9 / 2))  # half way: 50 of 100 steps after the warm-up
    assert rates[34] == pytest.approx(0.4 * (0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2))  # a quarter of the way
    assert rates[109] == pytest.approx(0.04)
    assert all(a > b for a, b in pairwise(rates[9:]))


def test_learning_rate_without_warm_up_and_past_the_end():
    assert learning_rate(PLAIN, 0, 1) == 0.0
    assert learning_rate(PLAIN, 0, 2) == pytest.approx(0.005)
    assert learning_rate(PLAIN, 99, 2) == 0.0
    assert learning_rate(Optim(lr=1.0, final_lr_fraction=1.0), 5, 10) == 1.0
    assert learning_rate(Optim(lr=1.0, warmup=4), 3, 3) == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.0}, "lr is 0.0; it must be positive"),
        ({"betas": (0.9, 1.0)}, r"betas are \(0.9, 1.0\); each must be at least 0 and below 1"),
        ({"final_lr_fraction": 2.0}, "final_lr_fraction is 2.0; it is a share, choose one between 0 and 1"),
        ({"warmup": -1}, "warmup is -1; it must be at least 0"),
        ({"clip": -1.0}, "clip is -1.0; it must be at least 0"),
        ({"micro_batches": 0}, "micro_batches is 0; it must be at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Optim(**({"lr": 0.1} | change))


# Optimizer


def test_accumulating_equals_the_big_batch():
    big, parts = network().double(), network().double()
    for model, pieces in ((big, 1), (parts, 4)):
        update = Optimizer(model, Optim(lr=0.01, weight_decay=0.1), 3)
        for step in range(3):
            for piece, part in split(images(step, b=7).double(), micro_batches_of(7, pieces)):
                update.backward(loss_of(model, piece), part.fraction)
            update.step(step)
    for one, other in zip(big.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)  # AdamW divides rounding by tiny gradients


def test_the_fused_step_is_adamw():
    """Three steps against Loshchilov & Hutter 2019, algorithm 2, written out in float64."""
    model, plain = network().double(), network().double()
    config = Optim(lr=0.02, betas=(0.8, 0.9), weight_decay=0.3, warmup=2, clip=0.0)
    update = Optimizer(model, config, 3)
    moments = [(torch.zeros_like(w), torch.zeros_like(w)) for w in plain.parameters()]
    for step in range(3):
        update.backward(loss_of(model, images(step).double()))
        lr = float(update.step(step)["lr"])
        gradients = torch.autograd.grad(loss_of(plain, images(step).double()), list(plain.parameters()))
        with torch.no_grad():
            for weight, gradient, (m, v) in zip(plain.parameters(), gradients, moments, strict=True):
                if weight.ndim > 1:
                    weight.mul_(1 - lr * 0.3)
                m.mul_(0.8).add_(0.2 * gradient)
                v.mul_(0.9).add_(0.1 * gradient.square())
                root = (v / (1 - 0.9 ** (step + 1))).sqrt()
                weight.sub_(lr * (m / (1 - 0.8 ** (step + 1))) / (root + 1e-8))
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-7)  # lr is reported in float32


def test_norms_and_biases_do_not_decay():
    model = network()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    update = Optimizer(model, Optim(lr=0.5, weight_decay=0.1, final_lr_fraction=1.0), 1)
    update.backward(torch.stack([weight.sum() * 0 for weight in model.parameters()]).sum())
    update.step(0)
    for name, weight in model.named_parameters():
        wanted = before[name] * (1 - 0.5 * 0.1) if name in ("0.weight", "3.weight") else before[name]
        torch.testing.assert_close(weight.detach(), wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("clip", "factor"), [(0.0, 1.0), (2.5, 0.5), (10.0, 1.0)])
def test_clipping_scales_the_whole_gradient_to_the_norm(clip: float, factor: float):
    weights = {name: nn.Parameter(torch.zeros(1)) for name in "ab"}
    update = Optimizer(weights.items(), Optim(lr=1.0, clip=clip), 1)
    seen: list[Tensor] = []

    def look(*_: Any) -> None:
        seen.extend(weight.grad.clone() for weight in weights.values() if weight.grad is not None)

    update.adamw.register_step_pre_hook(look)
    update.backward((3 * weights["a"] + 4 * weights["b"]).sum())
    assert float(update.step(0)["gradient_norm"]) == 5.0  # before clipping
    assert torch.cat(seen).tolist() == pytest.approx([3 * factor, 4 * factor], rel=1e-6)


@pytest.mark.parametrize("trouble", ["loss", "gradient", "one part"])
def test_a_step_that_is_not_finite_changes_nothing(trouble: str):
    model, twin = network(), network()
    update, other = Optimizer(model, PLAIN, 4), Optimizer(twin, PLAIN, 4)
    train(model, update, range(2))
    train(twin, other, range(2))
    match trouble:
        case "loss":
            update.backward(loss_of(model, images(9)) + float("inf"))  # its gradient is finite
        case "gradient":
            update.backward((next(model.parameters()) * 0).sqrt().sum())  # 0 * infinity
        case "one part":
            update.backward(loss_of(model, images(9) * float("nan")), 0.5)
            update.backward(loss_of(model, images(9)), 0.5)
    assert float(update.step(2)["skipped"]) == 1.0
    assert all(weight.grad is None for weight in model.parameters())
    for one, two in ((model, update), (twin, other)):
        two.backward(loss_of(one, images(3)))
        assert float(two.step(3)["skipped"]) == 0.0
    assert equal(model, twin)


def test_frozen_parameters_are_left_alone():
    model = network()
    model[3].requires_grad_(False)
    before = [weight.clone() for weight in model[3].parameters()]
    update = Optimizer(model, Optim(lr=0.1, weight_decay=0.5), 3)
    train(model, update, range(3))
    assert all(map(torch.equal, before, model[3].parameters()))
    assert sorted(update.state_dict()) == ["0.bias", "0.weight", "1.bias", "1.weight"]
    with pytest.raises(ValueError, match="nothing to train: no parameter requires a gradient; unfreeze some"):
        Optimizer(model.requires_grad_(False), PLAIN, 3)


def test_going_on_from_saved_state_is_bitwise_the_same():
    straight, first, second = network(), network(), network(seed=1)
    config = Optim(lr=0.01, weight_decay=0.1, warmup=2, clip=0.1)
    train(straight, Optimizer(straight, config, 8), range(8))
    update = Optimizer(first, config, 8)
    train(first, update, range(5))
    resumed = Optimizer(second, config, 8)
    second.load_state_dict(first.state_dict())
    contiguous = {
        name: {key: value.contiguous() for key, value in saved.items()} for name, saved in update.state_dict().items()
    }
    resumed.load_state_dict(contiguous)  # files know no memory layout
    train(second, resumed, range(5, 8))
    assert equal(straight, second)
    assert not equal(straight, first)


def test_state_of_another_model_is_refused():
    model = network()
    update = Optimizer(model, PLAIN, 2)
    train(model, update, range(1))
    with pytest.raises(ValueError, match=r"the saved optimizer knows '0.bias', this model does not"):
        Optimizer(nn.ModuleDict({"a": network()}), PLAIN, 2).load_state_dict(update.state_dict())
    wider = nn.Sequential(nn.Conv2d(3, 9, 3))
    with pytest.raises(ValueError, match=r"has 0.weight as \(8, 3, 3, 3\), this model as \(9, 3, 3, 3\)"):
        Optimizer(wider, PLAIN, 2).load_state_dict({"0.weight": update.state_dict()["0.weight"]})


# EMA


def test_the_average_in_closed_form():
    """After n updates: the sum over t of (1 - d_t) w_t times the later decays, d_t = min(d, (1 + t) / (10 + t))."""
    module = nn.Linear(1, 1).double()
    count = torch.zeros((), dtype=torch.int64)
    module.register_buffer("count", count)
    nn.init.constant_(module.weight, 5.0)
    average = EMA(module, 0.3)
    weights = [1.0, -2.0, 4.0, 0.5, 3.0, 2.0]
    for t, weight in enumerate(weights):
        nn.init.constant_(module.weight, weight)
        count.fill_(t)
        average.update(module)
    decays = [0.1, 2 / 11, 3 / 12, 0.3, 0.3, 0.3]
    wanted = 5.0 * math.prod(decays)
    for t, weight in enumerate(weights):
        wanted += weight * (1 - decays[t]) * math.prod(decays[t + 1 :])
    state = average.state_dict()
    assert float(state["module"]["weight"]) == pytest.approx(wanted, rel=1e-12)
    assert int(state["module"]["count"]) == 5
    assert state["updates"] == 6


def test_the_average_is_a_frozen_copy_in_evaluation_mode_that_resumes():
    module = network().train()
    average = EMA(module, 0.9)
    assert not average.module.training
    assert module.training
    assert not any(weight.requires_grad for weight in average.module.parameters())
    average.update(network(seed=1))
    other = EMA(network(seed=2), 0.9)
    other.load_state_dict(average.state_dict())
    for one in (average, other):
        one.update(network(seed=3))
    assert equal(average.module, other.module)
    with pytest.raises(ValueError, match="decay is 1.0; it must be at least 0 and below 1"):
        EMA(module, 1.0)


# precision


def test_autocast_by_precision(monkeypatch: pytest.MonkeyPatch):
    def dtype(precision: str) -> torch.dtype:
        with autocast("cpu", precision):  # type: ignore[arg-type]
            return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype

    assert dtype("fp32") == torch.float32
    assert dtype("bf16") == torch.bfloat16
    for known, wanted in (({"avx512_bf16": True}, torch.bfloat16), ({"avx2": True}, torch.float32)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda known=known: known)
        assert dtype("auto") == wanted
