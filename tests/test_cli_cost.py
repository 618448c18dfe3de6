"""`robustok cost`: its table, its JSON, what it refuses."""

import json
import re

import pytest

from robustok.cli import cost as command
from robustok.cli import main
from robustok.cli.verbs import DECODERS, GENERATORS, TOKENIZERS
from robustok.presets import recipes

SMOKE = ["cost", "rar_l-smoke", "--gpu", "h100", "--gpus", "1,8"]


@pytest.fixture(autouse=True)
def counted_once(monkeypatch, kept={}):  # noqa: B006
    """A run is counted for the first test that asks for it."""
    count = command.count_run

    def once(stage, tokenizer):
        if repr(stage) not in kept:
            kept[repr(stage)] = count(stage, tokenizer)
        return kept[repr(stage)]

    monkeypatch.setattr(command, "count_run", once)


def cells(page):
    """The rows of the table in a page, by their first cell."""
    lines = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("|")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in lines}


def test_the_page_says_what_it_is_and_has_a_column_for_each_number_of_gpus(capsys):
    assert main(SMOKE) == 0
    page = capsys.readouterr().out
    table = cells(page)
    assert page.startswith("rar_l-smoke on h100 (989.4 TFLOP/s in bf16, 80 GB), an estimate\n")
    assert "nothing of it was measured on a GPU" in page
    assert "products take 40% of the\npeak" in page
    assert table["GPUs"] == ["1", "8"]
    assert [row.split(" x ")[0] for row in table["images at once on a GPU x optim.accumulate"]] == ["16", "2"]
    assert table["GB that a GPU sends in a step"][0] == "0.00"
    assert "GB/s of JPEG to read" not in table  # it reads tokens


def test_json_has_every_number(capsys):
    assert main([*SMOKE, "--json", "--share", "0.2", "--loop.steps", "20"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["is"] == "an estimate"
    assert told["assumed"]["share_of_peak"] == 0.2
    assert [run["gpus"] for run in told["runs"]] == [1, 8]
    one = told["runs"][0]
    assert one["hours"] * 3600 == pytest.approx(20 * 16 / one["images_per_second"])
    assert told["storage"]["tokens of 10 crops of each"] == 1_281_167 * 10 * 16 * 2


def test_half_the_share_takes_twice_the_time(capsys):
    hours = []
    for share in ("0.4", "0.2"):
        main([*SMOKE, "--json", "--share", share, "--gpus", "1"])
        hours.append(json.loads(capsys.readouterr().out)["runs"][0]["hours"])
    assert hours[1] == pytest.approx(2 * hours[0])


def test_a_gpu_that_nobody_knows_can_be_described(capsys):
    assert main([*SMOKE, "--json", "--gpu", "MI300X", "--peak-tflops", "1307", "--memory-gb", "192"]) == 0
    gpu = json.loads(capsys.readouterr().out)["gpu"]
    assert (gpu["name"], gpu["bf16"], gpu["memory"]) == ("MI300X", 1307, 192)
    assert main([*SMOKE, "--json", "--memory-gb", "94"]) == 0
    gpu = json.loads(capsys.readouterr().out)["gpu"]
    assert (gpu["bf16"], gpu["memory"]) == (989.4, 94)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("--gpu GTX", "no data of a GPU 'GTX'; choose from H100, .* or describe yours with --peak-tflops"),
        ("--gpus 0", "0 GPUs; a run needs at least 1"),
        ("--gpus 32", "32 GPUs cannot share a batch of 16 images; take 16 at most"),
        ("--share 2", "the share of the peak is 2.0; it is above 0 and at most 1"),
        ("--loop.step 3", "step"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(words, error, capsys):
    assert main([*SMOKE, *words.split()]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert re.search(error, said)


def test_every_recipe_can_be_asked_for():
    everything = {**recipes.TOKENIZERS, **recipes.GENERATORS, **recipes.DECODERS}
    assert set(everything) == {*TOKENIZERS, *GENERATORS, *DECODERS}
    for name in everything:
        assert command.preset(name) == recipes.recipe(name, everything)
