"""What a page says of a run comes from where the run has it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.report.test_page import NB, read, rows

from robustok.report.page import write_report
from robustok.report.run import read_run
from robustok.runtime.pictures import write_png


@pytest.mark.parametrize(
    ("why", "said"),
    [
        ({"worse_in": {"lite2": "..."}}, "The best step was worse in another feature space, beyond the noise, so"),
        ({"by_chance": "..."}, "The best step may have been so by chance, so"),
    ],
)
def test_a_decoder_that_was_refused_is_told_with_the_reason(run_copy: Path, why: dict[str, Any], said: str):
    about = {"kind": "tokenizer", "post_training": {"sigma": 0.5, "step": 0, "refused_step": 250, **why}}
    (run_copy / "post_training" / "config.json").write_text(json.dumps(about))
    assert f"{said} the original decoder was kept" in read(run_copy).text


def test_a_decoder_on_the_way_to_the_best_is_told(run_copy: Path):
    told = {"sigma": 0.5, "step": 250, "refused_step": 250, "worse_in": {"vgg-hed": "..."}, "share": 0.5}
    about = {"kind": "tokenizer", "post_training": told}
    (run_copy / "post_training" / "config.json").write_text(json.dumps(about))
    said = read(run_copy).text.replace(NB, " ")
    assert "beyond the noise, so the decoder 50 % of the way to it was kept" in said
    assert "the original decoder was kept" not in said


def test_codes_and_tokens_are_those_of_the_tokenizer_and_not_of_a_preset(run_copy: Path):
    """A quantizer may have another number of codes than a demo's generator is said to know before it is told."""
    config = json.loads((run_copy / "config.json").read_text())
    config["main"]["tokenizer"]["quantizer"] = {"type": "FSQ", "levels": [8, 5, 5, 5]}
    config["generator"]["generator"] |= {"codebook_size": 1024, "tokens": 64}
    (run_copy / "config.json").write_text(json.dumps(config))
    told = {"loop": {}, "stage": {"generator": {"codebook_size": 1000, "tokens": 256}}}
    (run_copy / "generator" / "run.json").write_text(json.dumps(told))
    page = read(run_copy)
    assert "A tokenizer with 1,000 codes and 256 tokens an image was trained" in page.text
    assert "of at most 1,000" in page.text
    (run_copy / "generator" / "run.json").write_text("{}")
    assert "A tokenizer was trained for 1,500 steps" in read(run_copy).text, "not known yet"


def test_settings_of_a_pilot_are_not_taken_for_those_of_the_run(run_copy: Path):
    config = json.loads((run_copy / "config.json").read_text())
    pilot = {"beta": 1.0, "freeze_from": 0.75, "steps": 300, "train_images": 20_000, "sigma": 0.6}
    config["main"]["perturbation"] = {"type": "Rehearsed", **pilot}
    config = {name: value for name, value in config.items() if name != "sigma"} | {"post": {"sigma": 0.7}}
    (run_copy / "config.json").write_text(json.dumps(config))
    said = read(run_copy).text.replace(NB, " ")
    assert "for 1,500 steps on 55,000 images; in the last 25 % of the steps, in which only the decoder still" in said
    assert "a pilot generator drew 40 % of the tokens anew in 100 % of the images of a batch" in said
    assert "had resampled 30 %" in said
    config["main"]["perturbation"] = {"type": "RehearsedLatents", **pilot}
    (run_copy / "config.json").write_text(json.dumps(config))
    said = read(run_copy).text.replace(NB, " ")
    assert "a pilot generator followed latents back from noise of up to 40 % in 100 % of the images of a batch" in said
    config["main"]["perturbation"] = {"type": "Calibrated", **pilot}
    (run_copy / "config.json").write_text(json.dumps(config))
    said = read(run_copy).text
    assert "as many tokens were replaced by as near codes as a pilot generator was seen to err in" in said


STAGES = {
    "tokenizer": ("TokenizerTraining", "A tokenizer", "A tokenizer with 1,024 codes"),
    "generator": ("GeneratorTraining", "A generator", "A generator learned a tokenizer's tokens in"),
    "post_training": ("PostTraining", "A decoder post-trained for its generator", "The decoder alone learned for"),
}


def test_the_page_of_post_training_alone_says_that_the_original_decoder_was_kept(run_copy: Path):
    folder = run_copy / "post_training"
    (folder / "run.json").write_text(json.dumps({"loop": {}, "stage": {"type": "PostTraining"}}))
    told = {"kind": "tokenizer", "config": {}, "post_training": {"step": 0, "by_chance": "0.3 standard errors"}}
    (folder / "config.json").write_text(json.dumps(told))
    said = read(folder).text
    assert "The decoder that post-training kept" in said
    assert "The best step may have been so by chance, so the original decoder was kept." in said


@pytest.mark.parametrize("stage", STAGES)
def test_a_folder_of_one_stage_has_a_page_with_its_last_pictures(stage: str, run_copy: Path):
    kind, title, said = STAGES[stage]
    folder = run_copy / stage
    (folder / "run.json").write_text(json.dumps({"loop": {}, "stage": {"type": kind}}))
    (folder / "config.json").write_text(
        json.dumps({"kind": "tokenizer", "config": {"quantizer": {"codebook_size": 1024}}})
    )
    if stage == "post_training":
        shutil.copytree(run_copy / "control", folder / "control")
    for step, side in ((9, 8), (10, 16)):
        write_png(folder / "previews" / f"samples_{step:07d}.png", Image.new("RGB", (side, side)))
    found = read_run(folder)
    assert (found.only, found.missing) == (stage, [])
    assert [(grid.title, grid.caption, grid.size) for grid in found.grids] == [("Samples", "Step 10.", (16, 16))]
    page = read(folder)
    assert title in page.text
    assert said in page.text
    assert "not complete" not in page.text
    assert ("control" in found.metrics) == (stage == "post_training")


@pytest.mark.parametrize(("step", "said"), [(0, "nothing"), (250, "within the noise")])
def test_what_changed_nothing_to_the_eye_is_a_kept_decoder_or_chance(step: int, said: str, run_copy: Path):
    about = {"kind": "tokenizer", "post_training": {"sigma": 0.5, "step": step}}
    (run_copy / "post_training" / "config.json").write_text(json.dumps(about))
    records = json.loads((run_copy / "scores.json").read_text())
    changed = [
        r | {"value": 0.0, "interval": [0.0, 0.0]} if r["metric"].endswith("_difference") else r for r in records
    ]
    (run_copy / "scores.json").write_text(json.dumps(changed))
    write_report(run_copy)
    table = rows((run_copy / "report.html").read_text(), "What an eye would say")
    assert all(row[-1].startswith(said) for row in table[1:])
