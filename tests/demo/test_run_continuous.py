"""The main job without a codebook, in miniature, and the table of the four corners."""

import json
import shutil
from pathlib import Path

import pytest
from tests.demo.mini import CONTINUOUS, MINI, Finished
from tests.training.tiny import AUTOENCODER

from robustok import presets
from robustok.demo.ablation import factorial_table, run_factorial
from robustok.demo.run import run_demo
from robustok.evaluation.scores.score import Score
from robustok.report.text import BLANK, MINUS
from robustok.training import loop


@pytest.fixture(scope="module")
def corners(mini: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three of them are run; the fourth has been run already, and is only read."""
    out = tmp_path_factory.mktemp("corners")
    shutil.copytree(mini.folder, out / "discrete_perturbed_0")
    run_factorial({"discrete": MINI, "continuous": CONTINUOUS}, out, seeds=(0,), quiet=True)
    return out


def test_what_was_run_before_is_a_corner_as_it_is(corners, mini):
    """The log of a stage has the time of every step: none was taken again."""
    for name in ("tokenizer", "generator", "post_training", "control"):
        for file in ("model.safetensors", "metrics.jsonl"):
            there, here = (folder / name / file for folder in (corners / "discrete_perturbed_0", mini.folder))
            assert there.read_bytes() == here.read_bytes()


def test_the_same_scores_as_with_a_codebook(corners):
    records = json.loads((corners / "continuous_perturbed_0" / "scores.json").read_text())
    found = {record["metric"] for record in records}
    assert found >= {"rfid", "pfid", "ifid", "psnr", "gfid_before", "gfid_control", "gfid_after", "gfid_difference"}
    assert sum(record["metric"] == "pfid_cell" for record in records) == 15
    page = (corners / "continuous_perturbed_0" / "report.html").read_text()
    assert "latents" in page
    assert "Codebook use" not in page


def test_a_finished_one_is_only_read_again_and_another_is_refused(corners, monkeypatch):
    folder = corners / "continuous_perturbed_0"
    weights = (folder / "post_training" / "model.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(loop, "prefetched", lambda *_: iter(()))  # no stage may train a step
        run_demo(CONTINUOUS, folder, quiet=True)
    assert (folder / "post_training" / "model.safetensors").read_bytes() == weights
    with pytest.raises(ValueError, match="holds a demo with other settings"):
        run_demo(MINI, folder, quiet=True)


def test_every_corner_is_a_row_whose_cells_are_its_scores(corners):
    records = [Score.from_plain(plain) for plain in json.loads((corners / "corners.json").read_text())]
    lines = (corners / "corners.md").read_text().splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    assert [tuple(row[:2]) for row in rows] == [
        (kind, f"{arm} perturbation") for kind in ("discrete", "continuous") for arm in ("without", "with")
    ]
    for row in rows:
        arm = "perturbed" if row[1].startswith("with ") else "unperturbed"
        value = {r.metric: r.value for r in records if (r.protocol["kind"], r.protocol["arm"]) == (row[0], arm)}
        names = ("rfid", "rfid_pfid_images", "pfid", "gfid_before", "gfid_control", "gfid_after")
        assert row[2:8] == [f"{value[m]:.1f}" for m in names]
        change = 100 * (value["gfid_after"] / value["gfid_before"] - 1)
        assert float(row[8].removesuffix(" %").replace(MINUS, "-")) == pytest.approx(change, abs=0.051)


def test_only_perturbation_is_between_the_arms(corners):
    with_it, without = (
        json.loads((corners / f"continuous_{arm}_0" / "config.json").read_text())
        for arm in ("perturbed", "unperturbed")
    )
    assert without["main"]["perturbation"].pop("beta") == 0
    assert with_it["main"]["perturbation"].pop("beta") == AUTOENCODER.perturbation.beta
    assert with_it == without


def test_seeds_give_intervals():
    def record(metric: str, seed: int, value: float) -> Score:
        return Score(
            metric=metric, value=value, images=1, protocol={"kind": "discrete", "arm": "perturbed", "seed": seed}
        )

    records = [record("gfid_before", seed, value) for seed, value in enumerate((100.0, 110.0, 120.0))]
    records += [record("gfid_after", seed, value) for seed, value in enumerate((90.0, 88.0, 96.0))]
    row = " ".join(factorial_table(records).splitlines()[2].split())
    # Student's t with 2 degrees of freedom: 4.303 standard errors, here of 10 / sqrt(3)
    assert "| 110.0 (85.2 to 134.8) |" in row
    assert "| -16.7 % (-31.0 to -2.3) |" in row.replace(MINUS, "-")  # of -10, -20 and -20 %
    assert row.endswith(f"| {BLANK} | 3 |")


def test_the_presets_differ_in_what_they_say():
    full, small = presets.continuous(), presets.continuous_short()
    assert not full.main.has_codebook
    assert presets.demo().main.has_codebook
    assert small.main.tokenizer == full.main.tokenizer
    assert small.main.loop.steps == presets.short().main.loop.steps < full.main.loop.steps
    assert presets.continuous_smoke().post.sampling.steps < full.post.sampling.steps
    assert full.without_perturbation().main.perturbation.beta == 0
