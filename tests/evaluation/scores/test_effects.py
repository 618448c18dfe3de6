"""Effects of sets of images whose statistics are drawn from known distributions."""

import math

import pytest
import torch
from torch import Tensor

from robustok.evaluation.scores.effects import NUMBERS, ImageStatistics, compare, image_statistics


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def drawn(count: int, seed: int, shift: float = 0.0, light: float = 0.0, power: float = 1.0) -> ImageStatistics:
    spectra = power * (1 + 0.1 * normal(count, 16, seed=seed).double())
    return ImageStatistics(normal(count, 4, seed=seed) + shift, normal(count, 6, seed=seed).double() + light, spectra)


def test_effects_are_found_and_nothing_where_there_is_nothing():
    made = {("same", "original"): drawn(400, 2)}
    made["worse", "original"] = drawn(400, 3, shift=2.0, light=3.0, power=0.5)
    real, same, worse = compare(drawn(400, 0), drawn(400, 1), made).effects
    assert (real.images, real.values["distance"]) == ("real", 1)
    for name in set(NUMBERS) - {"distance"}:  # of which the real one is 1 by definition
        (low, high), (bottom, top) = same.intervals[name], real.intervals[name]
        assert max(low, bottom) <= min(high, top), name
    assert worse.values["outside"] > 0.5 > 0.2 > real.values["outside"]
    assert worse.values["distance"] > 1.5
    assert worse.values["color"] == pytest.approx(3 * math.sqrt(3), abs=0.3)
    assert worse.shifts == pytest.approx([3] * 6, abs=0.3)
    for name in ("coarse_db", "middle_db", "fine_db"):
        assert worse.values[name] == pytest.approx(-3.01, abs=0.1)
    assert worse.values["detail"] == pytest.approx(3.01, abs=0.1)
    with pytest.raises(ValueError, match="399 fewer images stand beside sets of 400"):
        compare(drawn(400, 0), drawn(400, 1), {("fewer", "original"): drawn(399, 4)})


def test_changes_are_paired():
    """The tuned decoder's images are the original one's with 0.02 more light: far less than images differ."""
    made = {("generated", by): drawn(400, 2, light=light) for by, light in (("original", 0.5), ("tuned", 0.52))}
    made["reconstructed", "original"] = drawn(400, 3)  # by one decoder only: no change to tell
    effects, (change,) = compare(drawn(400, 0), drawn(400, 1), made)
    assert change.images == "generated"
    assert change.values["color"] == pytest.approx(0.02 * math.sqrt(3), abs=0.01)
    low, high = change.intervals["color"]
    assert 0 < low < high
    assert change.values["outside"] == 0
    alone = effects[1].intervals["color"]
    assert high - low < 0.2 * (alone[1] - alone[0])


def test_statistics_do_not_depend_on_batches():
    pixels = torch.randint(256, (70, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)

    class Means:
        name = "means"

        def __call__(self, part: Tensor) -> Tensor:
            return part.float().mean(dim=(2, 3))

        def describe(self) -> dict:
            return {"features": "means"}

    one, many = image_statistics([pixels], Means()), image_statistics(pixels.split(13), Means())
    for a, b in zip(one, many, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
