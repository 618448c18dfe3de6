"""`robustok compare` as it is typed."""

import json
from pathlib import Path

import pytest

from robustok.cli import main
from robustok.cli.compare import source
from robustok.evaluation.scores.score import Score


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Two systems of three seeds each, in ours-0.json and so on, and one of another protocol."""
    monkeypatch.chdir(tmp_path)

    def write(name, value, seed, **protocol):
        score = Score(
            metric="gfid", value=value, interval=(value - 1, value + 1), images=50, seeds=(seed,), protocol=protocol
        )
        (tmp_path / name).write_text(json.dumps([score.to_plain()]))

    for seed, (one, other) in enumerate([(10, 9), (12, 10.9), (11, 10.1)]):
        write(f"theirs-{seed}.json", one, seed, features="lite0")
        write(f"ours-{seed}.json", other, seed, features="lite0")
    write("other.json", 3.0, 0, features="lite0", resize="none")
    return [f"{name}={name}-{seed}.json" for name in ("theirs", "ours") for seed in range(3)]


def test_a_table_on_the_screen(files, capsys):
    assert main(["compare", *files]) == 0
    output = capsys.readouterr().out
    assert "| ours   |     3 | **10.00** ± 2.37 |" in output
    assert "ours against theirs:\n\n- gFID 11 to 10 (-9.1%): lower and so better, beyond the noise" in output


def test_a_table_in_a_file_and_the_gaps_on_the_screen(files, capsys, tmp_path):
    assert main(["compare", *files[:3], "--out", "table.csv", *files[3:], "--baseline", "ours"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("theirs against ours: gFID 10 to 11 (+10.0%): higher and so worse")
    assert told[-1] == "table: table.csv"
    assert (tmp_path / "table.csv").read_text().startswith("system,seeds,gfid,")
    assert main(["compare", *files, "--out", "table.txt", "--format", "latex", "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert "\\toprule" in (tmp_path / "table.txt").read_text()


def test_other_protocols_are_refused_unless_forced(files, capsys):
    assert main(["compare", "theirs-0.json", "other.json"]) == 2
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert "gFID has resize None for theirs-0 and 'none' for other; compute both alike, or add --force" in told.err
    assert main(["compare", "theirs-0.json", "other.json", "--force"]) == 0
    assert "Not computed alike: gFID has resize" in capsys.readouterr().out


@pytest.mark.parametrize("format", ["markdown", "latex", "csv", "html"])
def test_an_earlier_table_is_replaced_and_nothing_else(format, files, capsys, tmp_path):
    out = tmp_path / "table"
    words = ["compare", *files, "--format", format, "--out", str(out), "--quiet"]
    assert main(words) == 0
    table = out.read_bytes()
    assert main([*words, "--metrics", "gfid"]) == 0
    assert out.read_bytes() == table
    for text in ("# my notes\n\n| System | is a word |\n", "<!DOCTYPE html>\n<title>robustok · demo</title>\n"):
        out.write_text(text)
        assert main(words) == 2
        assert f"table is there already and holds no table of systems in {format}" in capsys.readouterr().err
        assert out.read_text() == text


def test_nothing_is_written_into_a_run_that_is_compared(files, capsys, tmp_path):
    (tmp_path / "run").mkdir()
    scores = tmp_path / "run" / "scores.json"
    (tmp_path / "ours-0.json").rename(scores)
    kept = scores.read_bytes()
    for place in ("run/scores.json", "run/new/table.csv"):
        assert main(["compare", "run", "theirs-0.json", "--format", "csv", "--out", place]) == 2
        assert f"{place} lies in run, which is compared; give an --out outside of it" in capsys.readouterr().err
    assert scores.read_bytes() == kept


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: scores"),
        (["none.json"], "there is no file none.json"),
        (["ours-0.json", "--out", "table.pdf"], "table.pdf does not say its format; end it in .md, .tex, .csv, .html"),
        (["ours-0.json", "--metrics", "gifd"], "there is no score of gifd in ours-0.json"),
        (["ours-0.json", "--metrics", "gfid,rfid"], "no system has a score 'rfid'; there is gfid"),
        (["ours-0.json", "--baseline", "x"], "there is no system 'x' to compare against; choose one of ours-0"),
        (["ours-0.json", "--base", "x"], "there is no option --base; did you mean --baseline?"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(words, message, files, capsys):
    assert main(["compare", *words]) == 2
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert message in told.err


def test_a_file_whose_name_has_an_equals_sign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=1.json").write_text("[]")
    assert source("lr=1.json")[0] == ""
    assert source("ours=lr=1.json")[0] == "ours"
    assert source("ours=~/scores.json") == ("ours", Path.home() / "scores.json")
