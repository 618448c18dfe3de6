"""The study of second phases: a tiny one trains only decoders, on one latent space, and goes on."""

import json
from dataclasses import replace

import pytest
import second_phases
import torch
import torch.nn.functional as F
from post_training_arms import CLEAN, ORIGINAL, Size
from tests.benchmarks.tiny_latents import PILOT, tiny_continuous

from robustok.evaluation.features.extractor import CustomExtractor

TINY = Size(steps=4, held_out=50, scored=60, train=200, reference=60)


def coarse(pixels: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(pixels[:, :1].float(), 8).flatten(1)


def test_a_tiny_study_measures_every_arm_once(tmp_path, monkeypatch):
    demo = tiny_continuous()
    monkeypatch.setitem(second_phases.ARMS, "rehearsed", PILOT)
    how = {"spaces": {"lite0": CustomExtractor(coarse, "lite0")}, "preset": demo}
    runs, results = tmp_path / "runs", tmp_path / "results"
    second_phases.run(runs, results, TINY, 3, **how)
    files = {arm: f"second_{arm.replace(' ', '_')}_3" for arm in (ORIGINAL, CLEAN, "noise", "rehearsed")}
    for arm, name in [*files.items()]:
        files[f"{arm}, post-trained"] = f"latents_unperturbed_{name[len('second_') : -2]}_post-trained_3"
    found = {arm: json.loads((results / f"{name}.json").read_text()) for arm, name in files.items()}
    before = found[ORIGINAL]["scores"]["lite0"]
    assert before["change"] == 0
    distances = {run["scores"]["lite0"]["gfid"] for run in found.values()}
    kept = [arm for arm, run in found.items() if arm.endswith("post-trained") and not run["step"]]
    for arm in kept:  # held-out images may find none that is better than what it began with
        assert found[arm]["scores"]["lite0"]["gfid"] == found[arm.split(",")[0]]["scores"]["lite0"]["gfid"]
    assert len(distances) == 8 - len(kept)  # every other arm's decoder is another one
    for run in found.values():
        assert run["scores"]["lite0"]["gfid"] - run["scores"]["lite0"]["change"] == pytest.approx(before["gfid"])
    assert found["rehearsed"]["settings"]["perturbation"]["type"] == "RehearsedLatents"
    assert all(run["rfid"]["lite0"] > 0 and run["psnr"] > 0 for run in found.values())
    assert len({run["psnr"] for run in found.values()}) == 8 - len(kept)
    assert found["rehearsed, post-trained"]["before"] != found["original, post-trained"]["before"]
    monkeypatch.setattr(second_phases, "post_train_arm", lambda *_: pytest.fail("nothing is left to do"))
    monkeypatch.setattr(second_phases, "train_tokenizer", lambda *_, **__: pytest.fail("nothing is left to do"))
    second_phases.run(runs, results, TINY, 3, **how)
    monkeypatch.undo()
    longer = replace(demo.generator.loop, steps=10, log_every=1)
    how["preset"] = replace(demo, generator=replace(demo.generator, loop=longer))
    second_phases.run_longer(runs, results, TINY, 3, 10, **how)
    of_longer = {
        arm: json.loads((results / f"latents_unperturbed_generator_of_10_steps_{arm}_3.json").read_text())
        for arm in (ORIGINAL, "noise", "rehearsed")
    }
    for arm, run in of_longer.items():  # the same decoders, other samples
        assert run["step"] == found[arm]["step"]
        assert run["scores"]["lite0"]["gfid"] != found[arm]["scores"]["lite0"]["gfid"]
    losses = [row["loss"] for row in map(json.loads, (
        runs / "latents_unperturbed_generator_of_10_steps_3" / "generator" / "metrics.jsonl"
    ).read_text().splitlines())]  # fmt: skip
    gained = 1 - (losses[-2] + losses[-1]) / (losses[-4] + losses[-3])
    assert of_longer["noise"]["gains"]["10"] == pytest.approx(gained)
    second_phases.write_page(results)
    written = (results / "README.md").read_text()
    assert written.startswith("# A second phase on perturbed latents")
    assert "| rehearsed | 1 | " in written
    assert "| rehearsed | clean control | " in written
    assert "| rehearsed, post-trained | clean control, post-trained | " in written
    assert "| clean control, post-trained | original, post-trained | " in written
    assert "| original, post-trained | original" not in written
    assert "## Latents, unperturbed, generator of 10 steps" in written
    assert f"| noise | 1 | {found['noise']['rfid']['lite0']:.1f} | {found['noise']['psnr']:.2f} |" in written
    assert f"in the one before: seed 3: {gained:.1%} with 10 steps." in written
