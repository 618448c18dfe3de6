"""`sigma="auto"`: short tries judged by held-out images, recorded, and not repeated."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.training.tiny import POST, generator, held_out, images, tokenizer

from robustok.data.pairs import Pairs
from robustok.report.curves import held_out as held_out_chart
from robustok.report.run import Run
from robustok.runtime.checkpoint import load_resume
from robustok.training.choosing_sigma import SIGMAS, Try, choose_sigma, chosen
from robustok.training.decoder_stage import TrainedDecoder
from robustok.training.post_training import post_train

AUTO = replace(POST, loop=replace(POST.loop, steps=400), sigma="auto", pairs=10_000)


class Tuner:
    """Decoders whose held-out distance is a function of sigma."""

    def __init__(self, **distances: float):
        self.distances, self.asked = {float(k[1:]) / 10: v for k, v in distances.items()}, []

    def __call__(self, config: Any, folder: Path, check: Any, name: str) -> TrainedDecoder[Any]:
        self.asked.append((config.sigma, name))
        self.config, self.looked_at = config, len(check.generated)
        last = self.distances[config.sigma]
        return TrainedDecoder(tokenizer(), config.loop.steps, 9.0, min(9.0, last), last)


def test_the_best_of_the_tries_is_chosen(tmp_path):
    tune = Tuner(s5=3.0, s7=2.0, s9=5.0)
    config, tries = choose_sigma(AUTO, tune, tmp_path, held_out())
    assert SIGMAS == (0.5, 0.7, 0.9)
    assert tune.asked == [(sigma, f"try at sigma {sigma}") for sigma in SIGMAS]
    assert config == replace(AUTO, sigma=0.7)
    assert [(one.sigma, one.steps, one.before, one.distance) for one in tries] == [
        (0.5, 33, 9.0, 3.0),
        (0.7, 33, 9.0, 2.0),
        (0.9, 33, 9.0, 5.0),
    ]
    assert sum(one.steps for one in tries) <= AUTO.loop.steps / 4
    assert (tune.config.pairs, tune.config.validate_every, tune.config.patience) == (16 * 16, 33, 0)


@pytest.mark.parametrize(
    ("distances", "taken"),
    [
        ((342.3, 339.9, 343.2), 0.5),  # 371.7 before: as far apart as by chance (docs/studies/post_training/tried.md)
        ((342.3, 335.0, 343.2), 0.7),
        ((400.0, 390.0, 388.0), 0.7),
        ((400.0, 371.7, 371.7), 0.7),
        ((math.inf, 350.0, 349.0), 0.7),
        ((math.inf, math.inf, math.inf), 0.5),
    ],
)
def test_of_shares_that_tries_cannot_tell_apart_the_smallest_is_taken(distances, taken):
    tries = [
        Try(sigma=sigma, steps=20, distance=distance, before=371.7, seconds=1.0)
        for sigma, distance in zip(SIGMAS, distances, strict=True)
    ]
    assert chosen(tries).sigma == chosen(tries[::-1]).sigma == taken


@pytest.mark.parametrize(
    ("distances", "tried", "taken"),
    [
        ({"s5": 2.0, "s7": 3.0}, (0.5, 0.7), 0.5),
        ({"s5": 3.0, "s7": 3.0, "s9": 2.0}, SIGMAS, 0.9),
        ({"s5": 3.0, "s7": 3.0, "s9": 3.0}, SIGMAS, 0.5),
        ({"s5": 3.0, "s7": math.inf}, (0.5, 0.7), 0.5),
        ({"s5": math.inf, "s7": math.inf, "s9": 2.0}, SIGMAS, 0.9),
    ],
)
def test_no_larger_share_is_tried_once_one_was_worse(distances, tried, taken, tmp_path):
    tune = Tuner(**distances)
    for _ in range(2):  # the second time as they were recorded
        config, tries = choose_sigma(AUTO, tune, tmp_path, held_out())
        assert (config.sigma, tuple(one.sigma for one in tries)) == (taken, tried)
    assert tuple(sigma for sigma, _ in tune.asked) == tried


@pytest.mark.parametrize(("decay", "taken"), [(0.999, 1 - 5 / 33), (0.2, 0.2)])
def test_a_try_is_a_slow_run_of_its_own(decay, taken, tmp_path):
    """A run's own learning rate throws a decoder off at first, and its average would hold mostly the original."""
    tune = Tuner(s5=3.0, s7=2.0, s9=5.0)
    given = replace(AUTO, ema_decay=decay, optim=replace(AUTO.optim, warmup=100))
    found, _ = choose_sigma(given, tune, tmp_path, held_out())
    assert tune.config.optim == replace(given.optim, lr=0.2 * given.optim.lr, warmup=3)
    assert tune.config.loop.steps == 33
    assert tune.config.ema_decay == pytest.approx(taken)
    assert (found.optim, found.ema_decay, found.loop) == (given.optim, given.ema_decay, given.loop)


@pytest.mark.parametrize(("gan_start", "taken"), [(0.0, 0.0), (0.25, 1.0)])
def test_a_fresh_discriminator_does_not_charge_in_a_try(gan_start, taken, tmp_path):
    tune = Tuner(s5=3.0, s7=2.0, s9=5.0)
    adversary = replace(AUTO.objective.adversary, disc_start=0.0, gan_start=gan_start)
    given = replace(AUTO, objective=replace(AUTO.objective, adversary=adversary))
    found, _ = choose_sigma(given, tune, tmp_path, held_out())
    assert tune.config.objective.adversary == replace(adversary, gan_start=taken)
    assert found.objective == given.objective


def test_finished_tries_are_read_back_and_others_go_on(tmp_path):
    whole = choose_sigma(AUTO, Tuner(s5=3.0, s7=2.0, s9=5.0), tmp_path, held_out())
    again = Tuner()
    assert choose_sigma(AUTO, again, tmp_path, held_out()) == whole
    assert not again.asked
    path = tmp_path / "tries" / "tries.json"
    path.write_text(json.dumps(json.loads(path.read_text())[:2]))
    rest = Tuner(s9=5.0)
    assert choose_sigma(AUTO, rest, tmp_path, held_out())[0] == whole[0]
    assert [sigma for sigma, _ in rest.asked] == [0.9]


def test_a_real_run_tries_and_then_trains_with_what_it_chose(tmp_path, capsys):
    config = replace(POST, loop=replace(POST.loop, steps=8), sigma="auto", pairs=16, held_out=16)
    config = replace(config, features="lite0@32")
    result = post_train(config, tokenizer(), generator(), images(), tmp_path, control=True)
    told = capsys.readouterr()
    tried = [one.sigma for one in result.tries]
    assert tuple(tried) == SIGMAS[: len(tried)]
    assert all(f"try at sigma {sigma}: at step 1" in told.out + told.err for sigma in tried)
    assert "post-training: at step 8" in told.out + told.err
    saved = json.loads((tmp_path / "config.json").read_text())["post_training"]
    taken = chosen(result.tries)
    assert saved["sigma"] == Pairs(tmp_path / "pairs").sigma == taken.sigma
    assert json.loads((tmp_path / "tries" / "tries.json").read_text()) == [vars(one) for one in result.tries]
    counts = load_resume(tmp_path / "tries" / f"sigma_{taken.sigma:g}" / "resume.safetensors")["counts"]
    assert counts["done"] == 1
    again = post_train(config, tokenizer(), generator(), images(), tmp_path, quiet=True)
    assert again.tries == result.tries
    assert again.tuned.after == result.tuned.after
    (tmp_path / "resume.safetensors").unlink()  # as if it had been stopped after the tries
    other = replace(config, optim=replace(config.optim, lr=2e-3))
    with pytest.raises(ValueError, match="tries holds tries of sigma with other settings; delete that folder to try"):
        post_train(other, tokenizer(), generator(), images(), tmp_path, quiet=True)


def test_a_decoder_that_collapsed_in_a_try_is_recorded_and_not_chosen(tmp_path):
    """Images that are all alike have an infinite distance, which JSON lacks."""
    whole = choose_sigma(AUTO, Tuner(s5=math.inf, s7=4.0, s9=math.inf), tmp_path, held_out())
    assert whole[0].sigma == 0.7
    recorded = json.loads((tmp_path / "tries" / "tries.json").read_text())
    assert [one["distance"] for one in recorded] == [None, 4.0, None]
    assert choose_sigma(AUTO, Tuner(), tmp_path, held_out()) == whole
    run = Run(name="", metrics={"post_training": [{"step": 0.0, "heldout_fd": 9.0}]}, tries=recorded)
    assert "\N{EN DASH}" in str(held_out_chart(run))
