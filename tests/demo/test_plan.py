"""The plan of a demo: what is timed, how often each is counted, and what is said of it."""

import json
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import pytest
import torch
from tests.demo.mini import CONTINUOUS, MINI

from robustok.demo import plan, run_state
from robustok.demo.config import DemoImages
from robustok.demo.run_state import RunState
from robustok.demo.scores import SPACES
from robustok.presets.scales import varied
from robustok.training import calibration
from robustok.training.calibration import Calibrated
from robustok.training.pilot import train_pilot as train

ONES = dict.fromkeys(("tokenizer", "generator", "post", "sample", "encode", "decode", "lite0", "lite2", "vgg-hed"), 1.0)


@pytest.mark.parametrize("config", [MINI, CONTINUOUS])
def test_every_kind_of_work_is_timed_by_the_clock(config, monkeypatch):
    ticks = count()
    monkeypatch.setattr(plan, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    state = torch.get_rng_state()
    taken = plan.timed(config, DemoImages.of(config))
    assert taken == {name: 1.0 if name in ("tokenizer", "generator", "post") else 1 / plan.FEW for name in ONES}
    assert next(ticks) == 2 * 10  # the tokenizer's step early and late
    torch.set_rng_state(state)


def test_a_pilot_is_not_what_is_timed(monkeypatch):
    """It takes one step; and what is timed is enough images for it to be calibrated on."""
    taken = list[int]()
    monkeypatch.setattr(
        calibration, "train_pilot", lambda how, *rest, **more: taken.append(how.steps) or train(how, *rest, **more)
    )
    pilot = Calibrated(freeze_from=0.5, width=32, depth=1)
    plan.timed(replace(MINI, main=replace(MINI.main, perturbation=pilot)), DemoImages.of(MINI))
    assert taken == [1]


def test_a_demo_that_trains_in_every_space_has_a_plan():
    everywhere = varied(MINI, post={"objective": {"frechet_spaces": SPACES}})
    of_eye = 40 * (2 + 3 * 2)
    scored = plan._in_stages(everywhere, ONES, True)["generation_scores"]
    assert scored == plan._in_stages(MINI, ONES, True)["generation_scores"] - of_eye


def test_random_numbers_go_on_as_if_nothing_had_been_timed(monkeypatch):
    monkeypatch.setattr(plan, "timed", lambda *_: torch.rand(3) is None or ONES)
    torch.manual_seed(0)
    wanted = torch.rand(2)
    torch.manual_seed(0)
    plan.planned(MINI, DemoImages.of(MINI))
    assert torch.equal(torch.rand(2), wanted)


def test_each_is_counted_as_often_as_the_demo_takes_it():
    """Steps, images and looks of the small demo, one by one."""
    steps, post = MINI.main.loop.steps, MINI.post
    looks = 1 + -(-post.loop.steps // post.validate_every)
    tuning = post.loop.steps + looks * 40 * 2  # decoded, and seen in one space
    stages = {
        "tokenizer": steps,
        "tokenizer_scores": 60 + 40 + 40 * 3 + 15 * 8 * 2,
        "generator": MINI.generator.loop.steps + 128,
        "sampling": 40,
        "post_training": 40 + 32 + 40 + tuning,  # held-out samples, pairs, held-out images
        "control": tuning,
        "generation_scores": 3 * 40 * 4 + 60 * 2 + 40 * (2 + 3 * 2),  # the last: effects, with real images too
    }
    assert plan._in_stages(MINI, ONES, True) == stages
    assert list(plan.NAMES) == list(stages)
    alone = plan._in_stages(MINI, ONES, False)
    assert "control" not in alone
    assert alone["generation_scores"] == 2 * 40 * 4 + 60 * 2 + 40 * (2 + 2 * 2)
    mirrored = plan._in_stages(MINI, ONES, True, views=2)
    assert mirrored == stages | {"generator": stages["generator"] + 128}
    seen_by_one_more = plan._in_stages(varied(MINI, post={"witnesses": ("lite2",)}), ONES, True)
    assert seen_by_one_more["control"] == stages["control"] + 2 * 40 * 2  # the best decoder and the original, once
    assert seen_by_one_more["post_training"] == stages["post_training"] + 40 + 2 * 40 * 2
    for name, where in (("tokenizer", "tokenizer"), ("generator", "generator"), ("post", "control")):
        assert plan._in_stages(MINI, ONES | {name: 2.0}, True)[where] > stages[where]


def test_the_plan_in_words():
    words = plan.plan_in_words({"tokenizer": 245.0, "tokenizer_scores": 10.0, "control": 60.0})
    assert words == "tokenizer 4:05 min, its scores 10 s, control 1:00 min: about 5:15 min in all"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (None, "wanted settings, seconds, scores, peak_rss_gib; restore it"),
        ({"scores": []}, "wanted settings"),
        ({"seconds": {"tokenizer": "1"}}, "its seconds are no numbers"),
        ({"scores": {"floor": {}}}, "its scores of floor are no list"),
        ({"scores": {"floor": [{"metric": "fd"}]}}, "floor: record 0, .* it has no value"),
    ],
)
def test_a_damaged_diary_is_refused(changed, said, tmp_path):
    whole = {"settings": {}, "seconds": {"tokenizer": 1.0}, "scores": {}, "peak_rss_gib": 0.5}
    diary = tmp_path / "diary.json"
    diary.write_text(json.dumps(whole))
    assert RunState(tmp_path, {}).content == whole
    diary.write_text(json.dumps({} if changed is None else whole | changed))
    with pytest.raises(ValueError, match=rf"diary.json.* {said}"):
        RunState(tmp_path, {})


def test_after_each_stage_what_is_to_go_follows_the_latest_pace(tmp_path, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(run_state, "time", SimpleNamespace(monotonic=lambda: now[0]))
    state = RunState(tmp_path, {})
    state.plan = {"tokenizer": 100.0, "generator": 50.0, "sampling": 10.0}
    for name, taken, told in (
        ("floor", 5, "floor: 5 s"),  # not in the plan
        ("tokenizer", 300, "tokenizer: 5:00 min, about 2:00 min to go"),  # three times as long: twice is assumed
        ("generator", 200, "generator: 3:20 min, about 30 s to go"),
        ("sampling", 10, "sampling: 10 s"),
    ):
        with state.stage(name, name):
            now[0] += taken
        assert capsys.readouterr().out.splitlines()[-1] == told
