import json

import pytest
import torch
from torch import nn

from robustok.evaluation.scores.score import Score, of_system, scores_in


class Discrete(nn.Module):
    tokens_per_image = 16

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.register_buffer("codebook", torch.zeros(64, 2))


class Continuous(nn.Linear):
    tokens_per_image = 9


def described(**system: object) -> object:
    (score,) = of_system([Score(metric="rfid", value=1.0, images=2, protocol={})], **system)
    return score.system


def test_what_is_known_of_a_system():
    assert described() == {}
    assert described(name="photos") == {"name": "photos"}
    assert described(name="ours", tokenizer=Discrete(), generator=nn.Linear(2, 2)) == {
        "name": "ours",
        "latent": "discrete",
        "tokens": 16,
        "codebook_size": 64,
        "parameters": {"tokenizer": 16, "generator": 6},
    }
    assert described(tokenizer=Continuous(2, 2)) == {
        "latent": "continuous",
        "tokens": 9,
        "parameters": {"tokenizer": 6},
    }


def test_a_record_keeps_its_system_and_one_without_is_as_before():
    plain = Score(metric="rfid", value=1.0, images=50, protocol={"features": "lite0"})
    assert "system" not in plain.to_plain()
    (score,) = of_system([plain], name="ours", tokenizer=Discrete())
    assert Score.from_plain(json.loads(json.dumps(score.to_plain()))) == score
    assert Score.from_plain(plain.to_plain()) == plain


COMPLETE = Score(metric="rfid", value=1.0, images=50, protocol={}).to_plain()


BIG = 10**400
WRONG = {
    "value": (True, "12", float("nan"), None, BIG, [1.0]),
    "interval": ([float("nan")] * 2, [2.0, 1.0], [1.0, 2.0, 3.0], [1.0], [], "12", [True, 2], [0, BIG], {"low": 1}),
    "images": (24.7, "24", None, True, -1, BIG),
    "seeds": ([None], [0.5], "01", None, {}, [True]),
    "protocol": ([], None, "lite0"),
    "system": ([], None),
    "metric": (None, 3),
}


@pytest.mark.parametrize(("field", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_field_that_is_wrong_is_named(field, value, tmp_path):
    with pytest.raises(ValueError, match=rf"is no record of a score: its {field} is .*; wanted "):
        Score.from_plain(COMPLETE | {field: value})
    (tmp_path / "scores.json").write_text(json.dumps([COMPLETE, COMPLETE | {field: value}]))
    with pytest.raises(ValueError, match=rf"scores.json: record 1, .* is no record of a score: its {field} is"):
        scores_in(tmp_path / "scores.json")


@pytest.mark.parametrize("record", [{}, {"metric": "rfid"}, 3, None])
def test_what_is_no_record_is_refused(record):
    with pytest.raises(ValueError, match="is no record of a score: it .*; wanted metric, value, interval"):
        Score.from_plain(record)


def test_whole_numbers_may_be_written_as_floats():
    assert Score.from_plain(COMPLETE | {"value": 1, "images": 50.0}) == Score.from_plain(COMPLETE)
