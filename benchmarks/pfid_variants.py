"""What might predict gFID better than pFID does, fixed before any gFID of the study was known.

pFID replaces codes by one of the delta nearest, delta being the same share of every codebook. That is a small step in
one codebook and a large one in another. The variants below make the steps equal in some other sense, without a
parameter to choose: where a strength has to be chosen, it is the median, over the tokenizers compared, of what the
published cells happen to do. It is then looked up on the surface, where delta goes from 1 to half of the codes at one
alpha. No variant sees a gFID. They are compared with the published pFID in `pfid_report.py`:
each by its correlation with gFID, with an interval over tokenizers, and together by leave-one-out, so that having
tried many is paid for.
"""

import math
from collections.abc import Callable, Sequence
from statistics import fmean, median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Measured = dict[str, Any]  # measured.json of one tokenizer
Cells = list[dict[str, float]]


class Row(NamedTuple):
    """A published tokenizer: arXiv 2509.12474, with guidance, generator LlamaGen-L."""

    codebook_size: int
    name: str
    rfid: float
    pfid: float
    gfid: float


PUBLISHED = (
    Row(16384, "VQGAN", 4.50, 18.18, 6.23),
    Row(16384, "LlamaGen", 2.19, 13.12, 4.40),
    Row(16384, "IBQ", 1.41, 16.35, 5.53),
    Row(16384, "VQGAN-LC", 3.27, 16.78, 5.50),
    Row(8192, "IBQ", 1.87, 19.62, 5.41),
    Row(8192, "TiTok", 1.03, 3.55, 4.47),
    Row(8192, "XQGAN", 0.81, 7.91, 4.48),
    Row(4096, "XQGAN", 0.91, 6.98, 4.13),
    Row(4096, "RobusTok", 1.02, 2.28, 3.51),
    Row(1024, "MaskGIT", 2.28, 4.20, 3.60),
    Row(1024, "IBQ", 2.24, 6.37, 5.53),
)

FROM_SCORES: dict[str, Callable[[float, float, int], float]] = {  # of rFID, pFID and K: for the published rows, too
    "pFID": lambda rfid, pfid, k: pfid,
    "rFID": lambda rfid, pfid, k: rfid,
    "rFID + pFID": lambda rfid, pfid, k: rfid + pfid,
    "pFID - rFID": lambda rfid, pfid, k: pfid - rfid,
    "pFID / rFID": lambda rfid, pfid, k: pfid / rfid,
    "pFID / log2 K": lambda rfid, pfid, k: pfid / math.log2(k),
}

STRENGTHS: dict[str, Callable[[dict[str, float], Measured], float]] = {  # what is made equal, of one cell
    "equal delta": lambda cell, m: math.log(cell["delta"]),
    "equal log delta / log K": lambda cell, m: math.log(cell["delta"]) / math.log(m["codebook_size"]),
    "equal code distance / spread": lambda cell, m: cell["code_distance"] / m["reconstruction"]["code_spread"],
    "equal code distance / error": lambda cell, m: cell["code_distance"] / m["reconstruction"]["quantization_error"],
    "equal image change": lambda cell, m: math.log(cell["image_change"]),
    "equal feature change": lambda cell, m: math.log(cell["feature_change"]),
}
OVERALL = "mean over the surface"  # deltas at equal ratios from 1 to K / 2
EXCESS = "(pFID - rFID) / feature change"


def pfid(m: Measured) -> float:
    """The published definition: the mean of the 15 cells."""
    return fmean(cell["fd"] for cell in m["pfid"])


def variants(measured: Sequence[Measured]) -> dict[str, list[float]]:
    """Every variant of every tokenizer, the published pFID first; rFID in all of them is that of pFID's images."""
    scores = {
        name: [of(m["rfid_pfid_images"], pfid(m), m["codebook_size"]) for m in measured]
        for name, of in FROM_SCORES.items()
    }
    for name, strength in STRENGTHS.items():
        wanted = median(fmean(strength(cell, m) for cell in m["pfid"]) for m in measured)
        scores[name] = [at_strength(m["surface"], lambda cell, m=m, s=strength: s(cell, m), wanted) for m in measured]
    scores[OVERALL] = [fmean(cell["fd"] for cell in m["surface"]) for m in measured]
    scores[EXCESS] = [
        (pfid(m) - m["rfid_pfid_images"]) / fmean(cell["feature_change"] for cell in m["pfid"]) for m in measured
    ]
    return scores


def at_strength(surface: Cells, strength: Callable[[dict[str, float]], float], wanted: float) -> float:
    """The Frechet distance at a strength, interpolated between cells; beyond the outermost it is theirs."""
    strengths, distances = zip(*sorted((strength(cell), cell["fd"]) for cell in surface), strict=True)
    return float(np.interp(wanted, strengths, distances))


def left_out_error(candidates: Sequence[Sequence[float]], target: Sequence[float]) -> float:
    """Root mean square error of predicting each tokenizer's gFID from the others.

    On the others the candidate that correlates best with gFID is chosen and a line fitted, so that a choice among
    many has to prove itself on a tokenizer that it was not made on.
    """
    lines, y = [np.asarray(candidate, dtype=np.float64) for candidate in candidates], np.asarray(target)

    def predicted(out: int, rest: NDArray[np.bool_]) -> float:
        best = max(lines, key=lambda x: np.corrcoef(x[rest], y[rest])[0, 1])
        return _fitted([best], y, out, rest)

    return _left_out(predicted, y)


def joint_left_out_error(columns: Sequence[Sequence[float]], target: Sequence[float]) -> float:
    """The same for a linear fit to several numbers at once; to none, for the mean of the others."""
    x, y = [np.asarray(column, dtype=np.float64) for column in columns], np.asarray(target)
    return _left_out(lambda out, rest: _fitted(x, y, out, rest), y)


def _left_out(predicted: Callable[[int, NDArray[np.bool_]], float], y: NDArray[np.float64]) -> float:
    places = np.arange(len(y))
    return math.sqrt(fmean((predicted(out, places != out) - y[out]) ** 2 for out in range(len(y))))


def _fitted(x: list[NDArray[np.float64]], y: NDArray[np.float64], out: int, rest: NDArray[np.bool_]) -> float:
    """What a least squares fit to `rest` says of tokenizer `out`."""
    design = np.stack([np.ones(len(y)), *x], axis=1)
    weights, *_ = np.linalg.lstsq(design[rest], y[rest], rcond=None)
    return float(design[out] @ weights)
