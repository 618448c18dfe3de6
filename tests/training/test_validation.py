"""Scores while training: those of `robustok.evaluation`, on few images, the same on any number of processes."""

import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.tiny import GENERATOR, LOOP, MAIN, extract, generator, images, tokenizer
from tests.training.tiny import cache as tokens_of
from torch.multiprocessing.spawn import start_processes

from robustok import models
from robustok.evaluation.features.extractor import CustomExtractor
from robustok.evaluation.scores.fdr6 import IMAGENET_256
from robustok.evaluation.scores.generator_scores import score_generator
from robustok.evaluation.scores.reference import Reference
from robustok.evaluation.scores.score import Score
from robustok.evaluation.scores.tokenizer_scores import score_tokenizer
from robustok.generators.sampling import Sampling
from robustok.runtime.checkpoint import read_json
from robustok.runtime.logging import MetricsLog
from robustok.runtime.seeding import spread
from robustok.training.generator_training import train_generator
from robustok.training.loop import run
from robustok.training.saving import values_of
from robustok.training.tokenizer_training import train_tokenizer
from robustok.training.validation import (
    OF_TOKENIZER,
    first_at_or_below,
    generator_validation,
    sample_preview,
    steps_to,
    tokenizer_validation,
)

SEEN = {"count": 24, "pfid_images": 6, "features": extract()}


@cache
def reference() -> Reference:
    return Reference.of(images(), extract())


def values(scores: list[Score]) -> dict[str, float]:
    return {score.metric: score.value for score in scores}


def test_a_look_at_a_tokenizer_is_its_scores_on_images_spread_over_the_set():
    found = tokenizer_validation(images(), **SEEN)(tokenizer(), 100)
    some = images().subset(spread(24, 64))
    scores = {s.metric: s for s in score_tokenizer(tokenizer(), some, extract(), pfid_images=6)}
    assert [score.metric for score in found] == ["rfid", "rfid_pfid_images", "pfid", "psnr"]
    assert [score.images for score in found] == [24, 6, 6, 24]
    assert {str(score.protocol["precision"]) for score in found} == {"float32"}
    assert [score.to_plain() for score in found] == [scores[score.metric].to_plain() for score in found]
    assert values(tokenizer_validation(images(), **SEEN)(tokenizer(), 200)) == values(found)


def test_a_small_set_is_looked_at_as_a_whole():
    (rfid, same, pfid, _) = tokenizer_validation(images(8), count=100, pfid_images=50, features=extract())(
        tokenizer(), 1
    )
    assert (rfid.images, same.images, pfid.images) == (8, 8, 8)


def test_a_look_at_a_generator_is_its_scores_for_all_classes_alike():
    how = {"sampling": Sampling(), "count": 20}
    found = generator_validation(tokenizer(), reference(), **how, features=extract(), seed=3)(generator(), 100)
    labels = torch.arange(20) % 10
    scores = score_generator(generator(), tokenizer(), reference(), labels, extract(), sampling=Sampling(), seed=3)
    assert [score.metric for score in found] == ["gfid", "precision", "recall", "mind"]
    assert values(found).items() <= values(scores).items()


def test_a_look_in_several_spaces_is_the_scores_of_each_and_their_mean_over_imagenet():
    spaces = [CustomExtractor(extract(), name) for name in ("lite0", *IMAGENET_256)]
    references = [Reference.of(images(), space) for space in spaces]
    check = generator_validation(tokenizer(), references, sampling=Sampling(), count=20, features=spaces, fdr=True)
    found = check(generator(), 100)
    logged = values_of(found)
    (plain,) = (s for s in generator_validation(
        tokenizer(), references[0], sampling=Sampling(), count=20, features=spaces[0])(generator(), 1)
        if s.metric == "gfid")  # fmt: skip
    assert [name for name in logged if name.startswith(("gfid", "fdr"))] == [
        "gfid",
        *(f"gfid_{name}" for name in IMAGENET_256),
        "fdr6",
    ]
    assert logged["gfid"] == plain.value
    wanted = sum(plain.value / normalizer for normalizer in IMAGENET_256.values()) / 6  # the features are all the same
    assert logged["fdr6"] == pytest.approx(wanted)
    assert {f"mind_{name}" for name in IMAGENET_256} < logged.keys()
    with pytest.raises(ValueError, match="FDr is a mean over inception, .*; name some of these as features"):
        generator_validation(tokenizer(), references[0], sampling=Sampling(), features="lite0", fdr=True)


ROWS = [{"step": 0, "loss": 5.0}, {"step": 30, "gfid": 7.0}, {"step": 10, "gfid": 9.0}, {"step": 20, "gfid": math.nan},
        {"step": 40, "gfid": 2.0}, {"step": 50, "gfid": 3.0}, {"step": 60, "gfid": 1.5}]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(9.0, (10, 9.0, 0)), (8.0, (30, 7.0, 20)), (2.0, (40, 2.0, 30)), (1.9, (60, 1.5, 50)), (1.4, None)],
)
def test_the_first_look_at_or_below_a_value(value: float, wanted: tuple[int, float, int] | None):
    """By steps and not by lines, without interpolation; whether it rises again does not matter."""
    assert first_at_or_below(ROWS, value) == wanted


def test_steps_and_epochs_until_a_gfid_are_scores_of_its_protocol():
    about = {"features": "lite0", "sampling": {"guidance": 2.0}, "interval": "95 %"}
    gfid = Score(metric="gfid", value=3.0, images=500, seeds=(4,), protocol=about)
    reached = first_at_or_below(ROWS, 2)
    assert reached is not None
    steps, epochs = steps_to(reached, 2.0, gfid, batch_size=64, images=1280, every=10)
    assert (steps.metric, steps.value, steps.images, steps.seeds) == ("steps_to_gfid", 40, 500, (4,))
    assert (epochs.metric, epochs.value) == ("epochs_to_gfid", 2.0)
    shared = {
        "features": "lite0",
        "sampling": {"guidance": 2.0},
        "of": "gfid",
        "at_or_below": 2.0,
        "validated_every": 10,
    }
    assert epochs.protocol == shared
    assert steps.protocol == shared | {"batch_size": 64}


def test_previews_are_the_same_samples_at_every_look():
    preview = sample_preview(tokenizer(), sampling=Sampling(), count=3)
    first, again = (preview(generator())["samples"] for _ in range(2))
    assert first.shape == (3, 3, 32, 32)
    assert torch.equal(first, again)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: tokenizer_validation(images(), count=10, pfid_images=1),
            "pfid_images is 1 of 10 images; a distance needs 2",
        ),
        (lambda: tokenizer_validation(images(), count=10, pfid_images=11), "pfid_images is 11 of 10 images"),
        (
            lambda: generator_validation(None, reference(), sampling=Sampling(), count=5),
            "count is 5; take 6 samples or more",
        ),
    ],
)
def test_too_few_images_are_refused(make: Any, message: str):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_tokenizer_with_the_lowest_pfid_is_kept_and_can_be_loaded(tmp_path: Path):
    config = replace(MAIN, loop=replace(LOOP, save_every=0))
    looked = tokenizer_validation(images(), **SEEN)
    train_tokenizer(config, images(), tmp_path, validate=looked, validate_every=2, quiet=True)
    rows = {row["step"]: row for row in MetricsLog(tmp_path).rows() if "pfid" in row}
    assert list(rows) == [2, 4, 6, 8]
    best = min(rows, key=lambda step: rows[step]["pfid"])
    kept = models.load_tokenizer(tmp_path / "best")
    about = read_json(tmp_path / "best" / "config.json")["best"]
    assert (about["by"], about["step"], about["value"]) == ("pfid", best, rows[best]["pfid"])
    assert about["scores"] == {name: rows[best][name] for name in OF_TOKENIZER}
    again = looked(kept, best)
    assert values(again) == pytest.approx(about["scores"])  # the averaged weights of that step
    records = [Score.from_plain(plain) for plain in read_json(tmp_path / "best" / "scores.json")]
    assert [record.metric for record in records][:3] == ["rfid", "rfid_pfid_images", "pfid"]
    assert records[1].protocol["reference"]["count"] == 24
    assert all(0 < row["evaluation_share"] < 1 for row in rows.values())


def test_the_generator_with_the_lowest_gfid_is_kept_and_can_be_loaded(tmp_path: Path):
    looked = generator_validation(tokenizer(), reference(), sampling=Sampling(), count=20, features=extract())
    shown = sample_preview(tokenizer(), sampling=Sampling(), count=3)
    config = replace(GENERATOR, loop=replace(LOOP, save_every=0, preview_every=8))
    folder = tmp_path / "run"
    train_generator(config, tokens_of(tmp_path), folder, validate=looked, validate_every=4, preview=shown, quiet=True)
    rows = {row["step"]: row["gfid"] for row in MetricsLog(folder).rows() if "gfid" in row}
    best = min(rows, key=rows.__getitem__)
    assert list(rows) == [4, 8]
    assert read_json(folder / "best" / "config.json")["best"]["step"] == best
    assert values(looked(models.load_generator(folder / "best"), best))["gfid"] == pytest.approx(rows[best])
    assert (folder / "previews" / "samples_0000008.png").is_file()


class Idle:
    """Learns nothing."""

    def step(self, batch: Any, step: int) -> dict[str, torch.Tensor]:
        return {"loss": torch.zeros(())}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def watch(folder: Path) -> None:
    """Two looks at the same tokenizer."""
    model = tokenizer()
    check = tokenizer_validation(images(), **SEEN)
    loop = replace(LOOP, steps=2, log_every=2)
    run(
        Idle(),
        lambda step: step,
        loop,
        folder,
        name="idle",
        validate=lambda done: check(model, done),
        validate_every=1,
        model=lambda: model,
        quiet=True,
    )


def watch_on_two_ranks(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    watch(folder / "two")
    torch.distributed.destroy_process_group()


def test_ranks_look_together_and_one_keeps_the_best(tmp_path: Path):
    start_processes(watch_on_two_ranks, (tmp_path,), nprocs=2, start_method="forkserver")
    watch(tmp_path / "one")
    one, two = ({row["step"]: row["pfid"] for row in MetricsLog(tmp_path / n).rows()} for n in ("one", "two"))
    assert two == pytest.approx(one)
    kept = models.load_tokenizer(tmp_path / "two" / "best")
    assert kept.fingerprint() == tokenizer().fingerprint()
    assert read_json(tmp_path / "two" / "best" / "config.json")["best"]["step"] == 1
