"""Functions within functions are checked every time, by checks that are prepared once."""

import importlib
import sys
import threading
from pathlib import Path
from types import ModuleType

import jaxtyping
import pytest
import torch
from jaxtyping import TypeCheckError, install_import_hook

from tests import checking

SOURCE = """
from jaxtyping import Float
from torch import Tensor

def scaled(factor, kind=int):
    def times(x: Float[Tensor, "a b"], y: Float[Tensor, "b"]) -> Float[Tensor, "a"]:
        return (x * factor) @ y if factor else y[:0]
    def own(x: int, f: float = factor) -> float:
        return x * f
    def of_a_kind(x: kind) -> "Float[Tensor, 'b']":
        return factor
    def down(n: int) -> list:
        return [] if n == 0 else [n, *down(n - 1)]
    return times, own, of_a_kind, down
"""


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that the hook decorated."""
    (tmp_path / "within_another.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(checking, "KNOWN", {})
    with install_import_hook("within_another", "beartype.beartype"):
        module = importlib.import_module("within_another")
    monkeypatch.delitem(sys.modules, "within_another")
    return module


X, Y = torch.ones(2, 3), torch.ones(3)


def test_robustok_is_decorated_so():
    assert jaxtyping.jaxtyped is checking.jaxtyped


def test_each_time_it_is_defined_it_is_checked_and_is_its_own(made):
    for factor in (1.0, 2.0, 3.0):
        times = made.scaled(factor)[0]
        assert times(X, Y).tolist() == [3 * factor, 3 * factor]
        with pytest.raises(TypeCheckError, match="parameters of within_another.scaled"):
            times(X, torch.ones(2))
        with pytest.raises(TypeCheckError, match="parameters"):
            times(X, "three")
    with pytest.raises(TypeCheckError, match="return value"):
        made.scaled(0)[0](X, Y)
    assert "times" in times.__qualname__


def test_checks_are_prepared_once(made, monkeypatch):
    counted = []
    real = checking.plain
    monkeypatch.setattr(checking, "plain", lambda **how: counted.append(1) or real(**how))
    for factor in range(1, 50):
        times, _, _, down = made.scaled(float(factor))
        assert times(X, Y)[0] == 3 * factor
        assert down(3) == [3, 2, 1]
    assert len(counted) == 3 + 49  # and anew each time where there is a default


def test_defaults_and_annotations_are_those_of_each(made):
    assert [made.scaled(factor)[1](2) for factor in (1.0, 5.0)] == [2, 10]
    with pytest.raises(TypeCheckError):
        made.scaled("no number")[1](2)
    assert made.scaled(Y)[2](1) is Y
    assert made.scaled(Y, str)[2]("one") is Y
    with pytest.raises(TypeCheckError, match="parameters"):
        made.scaled(Y, str)[2](1)
    with pytest.raises(TypeCheckError, match="return value"):
        made.scaled(X)[2](1)


def test_threads_do_not_take_each_others(made):
    wrong = []

    def work(factor: float) -> None:
        times = made.scaled(factor)[0]
        wrong.extend(factor for _ in range(100) if times(X, Y)[0] != 3 * factor)

    threads = [threading.Thread(target=work, args=(float(factor),)) for factor in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_unchecked_it_is_left_as_it_is(made, unchecked):
    assert made.scaled(1.0)[0].__code__.co_name == "times"
