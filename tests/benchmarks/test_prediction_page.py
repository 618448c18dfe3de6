"""The page of the prediction study, from invented results, and the scores that it combines."""

import json
import math
from itertools import islice
from pathlib import Path
from typing import Any

import prediction_verdict
import pytest
from correlation import Estimate
from main_training_arms import QUEUE
from prediction_page import JUDGED_IN, SPACES, area, candidates, lettered, measured, page, read, write
from prediction_verdict import ENOUGH, Row, apart, apart_in, judged, winner

SIGMAS = (0, 0.25, 0.5, 0.75)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(prediction_verdict, "ROUNDS", 60)


def invented(folder: Path, number: int, *, arm: str = "", tokens: str = "", measured: bool = True) -> None:
    """A tokenizer whose gFID is 100 log pFID's excess + 50 log probe, and whose rFID says nothing."""
    arm, tokens = arm or f"VQ {number}", tokens or f"tokens {number}"
    rfid, excess, probe = 10.0 + number % 3, 2.0 + math.sin(number), 3.0 + math.cos(2 * number)
    settings = {"generator": {"codebook_size": 256}}
    per_space = dict.fromkeys(SPACES, rfid)
    study = {
        "arm": arm,
        "seed": 0,
        "tokens_of": tokens,
        "guidance": 1.5,
        "generator": {"nats": probe - 0.5, "settings": settings},
        "reconstruction": {"rfid": per_space, "pfid": dict.fromkeys(JUDGED_IN, rfid + excess), "perplexity": 100.0},
        "spaces": {space: {"accuracy": 0.89 if number % 4 else 0.9} if space != "lite0" else {} for space in JUDGED_IN},
        "gfid": {space: 100 * math.log(excess) + 50 * math.log(probe) + 500 for space in SPACES},
    }
    names = [f"equal code distance {d:g}" for d in (0.2, 0.4, 0.8)] + ["fixed replacement"]
    names += [f"resampled by {by} {sigma:g}" for by in ("probe", "generator") for sigma in SIGMAS]
    scores = {
        "counted": {"H": 4.0 + number % 5},
        "probe": probe,
        "fd": {name: dict.fromkeys(SPACES, 20.0 + number * (i + 1) % 7) for i, name in enumerate(names)},
        "pfid": dict.fromkeys(("lite2", "vgg-hed"), rfid + excess),
    }
    (folder / "candidates").mkdir(parents=True, exist_ok=True)
    (folder / f"{number}.json").write_text(json.dumps(study))
    if measured:
        (folder / "candidates" / f"{number}.json").write_text(json.dumps(scores))


def test_a_combination_that_holds_is_found_and_too_few_tokenizers_are_called_nothing(tmp_path):
    for number in range(ENOUGH):
        invented(tmp_path, number, tokens="the same" if number < 2 else "")
    invented(tmp_path, 98, measured=False)
    invented(tmp_path, 99)
    (tmp_path / "candidates" / "99.json").write_text('{"probe": 3.0}')  # is being measured
    write(tmp_path, tmp_path / "none", [f"VQ {number}" for number in range(20)], seed=0)
    text = (tmp_path / "README.md").read_text()
    assert f"Not finished: 16 of {20 + len(QUEUE)} tokenizers** (16 of 20 new ones, 0 of {len(QUEUE)}" in text
    assert "with 15 different sets of tokens" in text
    assert "One tokenizer of each latent space: 15, fewer than the 16" in text
    line = next(line for line in text.splitlines() if line.startswith("- All tokenizers (16)"))
    assert "*(fitted) log(pFID - rFID), log probe*, whose error is 0.00 (0.00 to 0.00) in lite0" in line
    assert line.endswith("a prediction.")
    assert "New ones to come: VQ 16, VQ 17, VQ 18, VQ 19." in text
    assert "processors round differently: 89.00% right (12), 90.00% right (4); a tokenizer's" in text


def test_sets_of_tokens_have_letters_of_their_own_also_beyond_z():
    assert list(islice(lettered(), 54))[::25] == ["a", "z", "ay"]
    assert len(set(islice(lettered(), 900))) == 900


def test_a_score_that_is_missing_in_a_space_leaves_the_tokenizer_out_there(tmp_path):
    for number in range(9):
        invented(tmp_path, number)
    path = tmp_path / "candidates" / "3.json"
    scores: dict[str, Any] = json.loads(path.read_text())
    del scores["fd"]["fixed replacement"]["vgg-hed"]
    path.write_text(json.dumps(scores))
    tokenizers = read(tmp_path, tmp_path / "none")
    found = [measured(one) for one in tokenizers]
    assert [judged(found, space)[0] for space in ("lite0", "vgg-hed")] == [9, 8]
    assert judged(found[:7], "lite0") == (7, [])
    rows = judged(found, "lite0")[1]
    assert [row.error.value for row in rows] == sorted(row.error.value for row in rows)
    assert candidates(tokenizers[0], "lite0")["pFID - rFID"] == (pytest.approx(2.0),)


def test_without_any_result_there_is_a_page(tmp_path):
    assert f"Not finished: 0 of {1 + len(QUEUE)} tokenizers" in "\n".join(page(tmp_path, tmp_path, ["VQ 256"], 0))


def test_the_area_is_that_under_the_trapezoids():
    assert area([4.0, 3.0, 2.0, 1.0], 0.0) == pytest.approx(2.0)
    assert area([0.0, 0.0, 0.0, 8.0], 0.0) == pytest.approx(2.0)


def test_a_winner_holds_in_all_three_spaces_and_is_no_diagnosis():
    def row(name: str, error: float, high: float) -> Row:
        return Row(name, *[Estimate(0.5, 0.4, 0.6)] * 3, *[Estimate(error, 0.1, high)] * 3)

    first = [row("nats of the generator", 0.1, 0.2), row("A", 0.2, 0.9), row("B", 0.3, 0.9), row("C", 0.4, 1.2)]
    tables = dict.fromkeys(JUDGED_IN, (16, first))
    assert winner(tables, JUDGED_IN) == "A"
    tables["perceptron"] = (16, [row("A", 0.2, 1.1), row("B", 0.3, 0.9)])
    assert winner(tables, JUDGED_IN) == "B"
    tables["convolutions"] = (16, [row("A", 0.2, 0.9), row("B", 0.3, math.nan)])
    assert winner(tables, JUDGED_IN) is None


def test_numbers_are_split_into_what_decoders_and_what_sets_of_tokens_make_of_them():
    """As in an analysis of variance: 1 and 3 around 2, 4 and 8 around 6, and 7, which shares its tokens with none."""
    split = apart([1.0, 4.0, 3.0, 8.0, 7.0], ["a", "b", "a", "b", "c"])
    assert split.of_decoders == [-1.0, 1.0, -2.0, 2.0]
    assert split.means == [2.0, 6.0, 7.0]
    assert split.share == pytest.approx(10 / (3.6**2 + 0.6**2 + 1.6**2 + 3.4**2 + 2.4**2))
    third = 0.1 + 0.2  # not 0.3 to the last digit: what depends on the tokens alone has no part of decoders
    assert apart([third, 0.3, 1.0], ["a", "a", "b"]).of_decoders == [0.0, 0.0]


def test_a_score_that_sees_decoders_alone_is_told_from_one_that_sees_tokens_alone(tmp_path):
    """Three decoders on each of four sets of tokens: gFID adds a decoder's part, rFID's excess, and one of tokens."""
    for number in range(12):
        invented(tmp_path, number, tokens=f"tokens {number // 3}")
        decoder, tokens = float(number % 3), float(number // 3)
        path = tmp_path / f"{number}.json"
        study = json.loads(path.read_text())
        study["gfid"] = dict.fromkeys(SPACES, 100 + 10 * decoder + 7 * tokens)
        study["reconstruction"]["pfid"] = dict.fromkeys(JUDGED_IN, 50 + decoder)
        path.write_text(json.dumps(study))
        scores = json.loads((tmp_path / "candidates" / f"{number}.json").read_text())
        scores["probe"] = 3.0 + tokens
        (tmp_path / "candidates" / f"{number}.json").write_text(json.dumps(scores))
    share, rows = apart_in([measured(one) for one in read(tmp_path, tmp_path / "none")], "lite0")
    assert rows["pFID"][0].value == pytest.approx(1)
    assert math.isnan(rows["probe, nats a token"][0].value)
    assert rows["probe, nats a token"][1].value == pytest.approx(1)
    assert share == pytest.approx(200 * 4 / (200 * 4 + 3 * 49 * 5))
    write(tmp_path, tmp_path / "none", [], seed=0)
    assert f"| candidate | decoder, lite0 ({share:.0%}) |" in (tmp_path / "README.md").read_text()
