"""The post-training bake-off: a tiny one runs to its end, goes on, and its page says what it can and cannot prove."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import post_training_arms as arms
import post_training_bakeoff as bakeoff
import post_training_page
import pytest
import torch
import torch.nn.functional as F
from tests.training.tiny import GENERATOR, MAIN, POST

from robustok.demo.config import Demo
from robustok.evaluation.features.extractor import CustomExtractor

TINY = arms.Size(steps=4, pairs=32, free_samples=32, held_out=50, scored=60, train=200, reference=60)
WITNESS = "limited, sigma 0.5, a witness"
SOME = (WITNESS, arms.ORIGINAL, arms.CLEAN, "paired, sigma 0.5 to 0.9", "free, discriminator", "paired and free both")


def coarse(pixels: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(pixels[:, :1].float(), 8).flatten(1)


def tiny() -> Demo:
    return Demo(main=MAIN, generator=GENERATOR, post=POST)


def result(folder: Path, arm: str) -> dict[str, Any]:
    return json.loads((folder / f"{arms.file_name('tokens', arm, 0)}.json").read_text())


def test_a_tiny_bakeoff_measures_every_arm_once_on_the_same_samples(tmp_path, monkeypatch):
    runs, results = tmp_path / "runs", tmp_path / "results"
    space = {name: CustomExtractor(coarse, name) for name in ("lite0", "vgg-hed")}
    work = [("tokens", arm, 0) for arm in SOME]
    bakeoff.run(runs, results, TINY, work, space, {"tokens": tiny})
    original = result(results, arms.ORIGINAL)
    assert original["scores"]["lite0"]["change"] == 0
    for arm in SOME:
        found = result(results, arm)
        scores = found["scores"]["lite0"]
        assert scores["gfid"] - scores["change"] == pytest.approx(original["scores"]["lite0"]["gfid"])
        assert (scores["change"] == 0) == (found["step"] == 0)
        assert arm == arms.ORIGINAL or found["seconds"]["cpu"] > 0
        assert found["circumstances"][0]["torch"] == torch.__version__
    assert result(results, arms.CLEAN)["settings"]["sigma"] == 1.0
    witness = result(results, WITNESS)
    assert witness["settings"]["witnesses"] == ["vgg-hed"]
    assert ("share" in witness) == ("worse_in" in witness)
    assert witness["before"] == result(results, arms.CLEAN)["before"]
    monkeypatch.setattr(bakeoff, "run_arm", lambda *_: pytest.fail("a finished arm is not computed again"))
    bakeoff.run(runs, results, TINY, work, space, {"tokens": tiny})
    post_training_page.write(results)
    page = (results / "README.md").read_text()
    assert "One seed, 0: intervals are over images, and one seed proves nothing about the next one." in page
    assert all(f"| {arm} | 1 | " in page for arm in SOME if arm != arms.ORIGINAL)


@pytest.mark.parametrize("corner", arms.CORNERS)
def test_every_arm_is_a_setting_of_every_corner_it_is_run_in(corner):
    preset, seen = arms.CORNERS[corner](), {}
    for _, arm, _ in arms.queue(corner, 0):
        config = arms.configured(arm, preset, arms.Size(), 0)
        assert config.loop.steps == arms.Size().steps
        if arm != arms.ORIGINAL:
            assert config not in seen.values(), f"{arm} is another arm once more"
            seen[arm] = config
    assert replace(seen["paired"], sigma=0.5) == seen["paired, sigma 0.5"]
    gar = seen["limited, Gram and consistency"]
    assert (gar.objective.gram, gar.objective.consistency, gar.free_samples) == (10.0, 4.0, 0)
    for arm in ("free, Frechet in two spaces", "paired and free Frechet in two spaces"):
        assert seen[arm].objective.frechet_spaces == ("lite0", "lite2")
        assert seen[arm].free_samples > 0
    assert ("paired, one pass" in seen) == corner.startswith("latents")


def invented(arm: str, seed: int, change: float) -> dict[str, Any]:
    scores = {"gfid": 100 + change, "change": change, "interval": [change - 1, change + 1]}
    scores |= {"precision": 0.75, "recall": 0.5, "density": 1.0, "coverage": 0.25}
    return {
        "corner": "tokens",
        "arm": arm,
        "seed": seed,
        "step": 4,
        "scores": {"lite0": scores, "lite2": scores, "vgg-hed": scores},
        "to_the_eye": {"color": 1.5, "detail": [0.0, 0.0, -2.5]},
        "seconds": {"cpu": 60.0},
        "circumstances": [{"commit": "0123", "cpu": "a CPU", "threads": 1}],
        "tries": [{"sigma": 0.7, "steps": 5, "distance": 12.34, "seconds": 6.0}] if "auto" in arm else [],
    }


def test_the_page_gives_means_and_intervals_over_seeds(tmp_path):
    for arm, changes in {"original": (0, 0), "paired": (-20, -30), "paired, sigma auto": (-10, -10)}.items():
        for seed, change in enumerate(changes):
            (tmp_path / f"{arms.file_name(arm, seed)}.json").write_text(json.dumps(invented(arm, seed, change)))
    control = arms.file_name("clean control", 1)  # of one seed only, with which the other's is not compared
    (tmp_path / f"{control}.json").write_text(json.dumps(invented("clean control", 1, -12.5)))
    for arm, change in {"limited, sigma 0.5": -40, "limited, clean control": -20}.items():  # a control of its own
        (tmp_path / f"{arms.file_name(arm, 1)}.json").write_text(json.dumps(invented(arm, 1, change)))
    part_way = "limited, sigma 0.5, a witness"
    for seed, share in enumerate(({"share": 0.5, "worse_in": {"vgg-hed": "..."}}, {})):
        told = invented(part_way, seed, -10) | share
        (tmp_path / f"{arms.file_name(part_way, seed)}.json").write_text(json.dumps(told))
    post_training_page.write(tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "| limited, sigma 0.5 | limited, clean control | -25.0%; lower in 1 of 1 |" in page  # 60 against 80
    assert "| paired | clean control | -20.0%; lower in 1 of 1 |" in page  # 70 against 87.5
    assert "| paired, sigma auto | clean control | +2.9%; lower in 0 of 1 |" in page
    assert "Seeds 0, 1: mean, and its 95 % interval over seeds (Student's t) in brackets." in page
    assert "| paired | 2 | -25.0% [-88.5%, +38.5%]; worst -20.0% |" in page  # 12.706 * 7.07 / sqrt(2)
    assert "| paired | 25.0% [25.0%, 25.0%] | 1.50 [1.50, 1.50] | -2.50 [-2.50, -2.50] |" in page
    assert "| 0.7 | 5 | 12.3 | 6 |" in page
    assert "| 4 (50% of the way), 4 |" in page
    assert page.count("a CPU, threads 1") == 1
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match="broken"):
        post_training_page.write(tmp_path)


def test_a_page_without_results_says_so(tmp_path):
    post_training_page.write(tmp_path)
    assert "No arm is finished yet." in (tmp_path / "README.md").read_text()


def test_an_arm_that_a_corner_lacks_is_refused():
    with pytest.raises(ValueError, match="'tokens' has no arm 'paired, one pass'"):
        bakeoff._asked("tokens", 0, ["paired", "paired, one pass"])
    assert bakeoff._asked("latents", 1, ["paired, one pass"]) == [("latents", "paired, one pass", 1)]
    assert len(bakeoff._asked("tokens", 0, None)) > 20
