"""Packed linear maps: the same numbers, nothing that outlives the context, plain ones where packing cannot be."""

import copy
import io

import pytest
import torch
from torch import nn

from robustok import inference
from robustok.inference import packed
from robustok.layers import Block


def block() -> Block:
    torch.manual_seed(0)
    return Block(32, 2)


def without_ops(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(inference, "_can_pack", lambda dtype: False)


@pytest.mark.parametrize("can", [True, False])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("rows", [1, 5, 200])
def test_packed_maps_compute_what_plain_ones_do(can, half, rows, monkeypatch):
    model, x = block(), torch.randn(2, rows, 32, generator=torch.Generator().manual_seed(1))
    if not can:
        without_ops(monkeypatch)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        wanted = model(x)
        with packed(model):
            assert "forward" in vars(model.mlp.fc1)
            assert model(x).dtype == wanted.dtype
            tolerance = 2**-5 if half else 1e-5
            torch.testing.assert_close(model(x), wanted, atol=tolerance, rtol=tolerance)
            one, alone = model.mlp.fc1(x[0, 0]), nn.Linear.forward(model.mlp.fc1, x[0, 0])
            torch.testing.assert_close(one, alone, atol=tolerance, rtol=tolerance)


def test_autocasts_numbers_are_the_same_to_the_last_bit_where_only_the_cast_is_spared(monkeypatch):
    without_ops(monkeypatch)
    model, x = block(), torch.randn(2, 5, 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        wanted = model(x)
        with packed(model):
            assert torch.equal(model(x), wanted)


def test_weights_are_cast_once(monkeypatch):
    without_ops(monkeypatch)
    casts, cast = [], torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda x, *how: (casts.append(x.shape), cast(x, *how))[1])
    layer, x = nn.Linear(8, 4), torch.randn(2, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), packed(layer):
        for _ in range(3):
            layer(x)
    assert casts.count(layer.weight.shape) == 1


def test_weights_that_change_are_seen_by_the_next_context():
    layer, x = nn.Linear(8, 4), torch.randn(2, 8)
    with torch.no_grad():
        with packed(layer):
            before = layer(x)
        layer.weight.mul_(2)
        layer.bias.mul_(2)
        with packed(layer):
            torch.testing.assert_close(layer(x), 2 * before)


def test_a_context_leaves_the_model_as_it_was_after_an_error_too():
    model = block()
    before, weights = dict(vars(model.mlp.fc1)), dict(model.named_parameters())
    with pytest.raises(KeyError), torch.no_grad(), packed(model):
        raise KeyError
    assert vars(model.mlp.fc1).keys() == before.keys()
    assert all(weight is weights[name] for name, weight in model.named_parameters())
    x = torch.randn(2, 5, 32)
    torch.save(model, file := io.BytesIO())
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False), copy.deepcopy(model).double()):
        with torch.no_grad(), packed(other):
            other(x.to(next(other.parameters()).dtype))
    model(x).sum().backward()  # gradients flow as ever
    assert model.mlp.fc1.weight.grad is not None


def test_within_another_context_the_outer_one_stays():
    layer, x = nn.Linear(8, 4), torch.randn(2, 8)
    with torch.no_grad(), packed(layer):
        outer = vars(layer)["forward"]
        with packed(layer):
            assert vars(layer)["forward"] is outer
        assert vars(layer)["forward"] is outer
        torch.testing.assert_close(layer(x), nn.Linear.forward(layer, x))


class Doubled(nn.Linear):
    """A map of its own kind."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


def test_what_is_not_a_plain_linear_map_is_left_alone():
    class Shared(torch.Tensor):
        """Such as a weight that is cut over processes."""

    shared = nn.Linear(4, 4)
    shared.weight = nn.Parameter(torch.randn(4, 4).as_subclass(Shared))
    model = nn.ModuleDict({"doubled": Doubled(4, 4), "shared": shared, "plain": nn.Linear(4, 4, bias=False)})
    with torch.no_grad(), packed(model):
        assert [name for name, part in model.items() if "forward" in vars(part)] == ["plain"]
    with packed(model):  # gradients are wanted
        assert not any("forward" in vars(part) for part in model.values())
    with torch.no_grad(), packed(object()):
        pass


def test_inputs_of_another_number_format_are_multiplied_as_without_packing():
    layer, x = nn.Linear(8, 4), torch.randn(2, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), packed(layer):
        with torch.autocast("cpu", enabled=False):
            assert torch.equal(layer(x), nn.Linear.forward(layer, x))
        assert layer(x).dtype == torch.bfloat16
