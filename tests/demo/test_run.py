"""The whole main job in miniature: every score, every file, and going on where it stopped."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.demo.mini import MINI
from tests.training.tiny import POST

from robustok import presets
from robustok.backbones.vgg import VGGHED
from robustok.demo import run
from robustok.demo.ablation import run_ablation
from robustok.demo.config import DemoImages
from robustok.demo.plan import NAMES
from robustok.demo.run import run_demo
from robustok.demo.run_state import RunState
from robustok.demo.scores import SPACES, trained_in
from robustok.report.run import read_run
from robustok.runtime.configs import to_plain
from robustok.training import loop
from robustok.training.optim import is_bf16

WANTED = {"rfid", "rfid_pfid_images", "pfid", "gfid_before", "gfid_control", "gfid_after", "fd_floor"}
WANTED |= {"codebook_use", "authpct", "authpct_held_out", "seconds_total", "peak_rss_gib"}


def test_the_page_is_there_while_the_tokenizer_trains_and_after_every_stage(mini):
    first, last = mini.pages[0], mini.pages[-1]
    assert first[1] == set()  # no stage is over
    assert "Reconstructed" in first[0]
    assert "Generated, before" not in first[0]
    stages = [
        sum(stages == {*before} for _, stages in mini.pages) for before in (("tokenizer",), ("tokenizer", "generator"))
    ]
    assert min(stages) >= 2  # after training and scores; after training and sampling
    assert "rFID" in next(page for page, stages in mini.pages if stages == {"tokenizer", "generator"})
    assert "Generated, after" in last[0]
    assert last[0] == (mini.folder / "report.html").read_text()


def records(out: Path) -> list[dict]:
    return json.loads((out / "scores.json").read_text())


def test_every_score_is_there_with_its_protocol(finished):
    found = {record["metric"]: record for record in reversed(records(finished))}  # the first of a name counts
    assert set(found) >= WANTED
    assert sum(record["metric"] == "pfid_cell" for record in records(finished)) == 15
    for name in ("rfid", "pfid", "gfid_before", "gfid_after"):
        assert found[name]["protocol"]["features"] == "lite0"
        assert found[name]["protocol"]["reference"]["split"] == "validation"
    assert found["gfid_before"]["seeds"] == [0]
    assert found["rfid_pfid_images"]["images"] == found["pfid"]["images"] == 8
    sampled = "bfloat16" if is_bf16("cpu", "auto") else "float32"  # as `autocast` decides
    for name, record in found.items():
        if name.endswith(("_before", "_control", "_after", "_difference")):
            assert record["protocol"]["precision"] == {"sampled": sampled, "decoded": "float32"}, name
    assert 0 < found["codebook_use"]["value"] <= 1
    assert found["seconds_total"]["value"] > 0


def test_differences_between_decoders_are_paired(finished):
    found = {(r["protocol"].get("features"), r["metric"]): r["value"] for r in records(finished)}
    change = {
        (r["protocol"]["features"], r["protocol"]["from"], r["protocol"]["to"]): r
        for r in records(finished)
        if r["metric"] == "gfid_difference"
    }
    pairs = (("before", "after"), ("before", "control"), ("control", "after"))
    assert set(change) == {(space, *pair) for space in SPACES for pair in pairs}
    for (space, one, other), record in change.items():
        assert record["value"] == pytest.approx(found[space, f"gfid_{other}"] - found[space, f"gfid_{one}"])
        assert record["interval"]


def test_scores_tell_which_spaces_were_held_out(finished):
    of_images = [r for r in records(finished) if r["metric"].endswith(("_before", "_control", "_after"))]
    held_out = {r["protocol"]["features"]: bool(r["protocol"].get("held_out")) for r in of_images}
    assert held_out == {"lite0": False, "lite2": True, "vgg-hed": True}
    names = {"gfid", "precision", "recall"}
    wanted = {(space, f"{name}_{arm}") for space in SPACES for name in names for arm in ("before", "control", "after")}
    assert wanted <= {(r["protocol"]["features"], r["metric"]) for r in of_images}
    page = (finished / "report.html").read_text()
    assert page.count("held out: nothing was trained in it") == 2
    networks = replace(
        MINI, post=replace(POST, objective=replace(POST.objective, network=VGGHED(), perceptual_stages=3))
    )
    assert trained_in(MINI) == {"lite0"}
    assert trained_in(networks) == {"lite0", "vgg-hed"}
    spaces = replace(POST.objective, frechet=1.0, frechet_spaces=("lite0", "lite2"))
    assert trained_in(replace(MINI, post=replace(POST, objective=spaces))) == {"lite0", "lite2"}


def test_the_folder_of_a_demo_scored_in_one_space_gets_the_others(finished, tmp_path):
    """As a version before the held-out spaces left it."""
    shutil.copytree(finished, tmp_path / "older")
    older = tmp_path / "older"
    diary = json.loads((older / "diary.json").read_text())
    kept = [r for r in diary["scores"]["generation"] if r["protocol"]["features"] == "lite0"]
    diary["scores"]["generation"] = kept
    for later in ("effects", "copies"):  # nor did such a version measure what an eye sees, and what is copied
        del diary["scores"][later]
    (older / "diary.json").write_text(json.dumps(diary))
    for space in ("lite2", "vgg-hed"):
        (older / f"reference_{space}.safetensors").unlink()
    run_demo(MINI, older, quiet=True)
    costs = ("seconds", "seconds_total", "peak_rss_gib")
    assert [r for r in records(older) if r["metric"] not in costs] == [
        r for r in records(finished) if r["metric"] not in costs
    ]


def test_the_folder_holds_what_the_report_shows(finished):
    for name in ("tokenizer", "generator", "post_training", "control"):
        assert (finished / name / "metrics.jsonl").is_file()
        assert (finished / name / "model.safetensors").is_file()
    grids = json.loads((finished / "images" / "images.json").read_text())["grids"]
    kept = read_run(finished).kept("post_training")  # then no picture of what it changed is made
    assert {grid["group"] for grid in grids} == {"overview", "pairs", "nearest"} | ({"changed"} if not kept else set())
    assert all((finished / "images" / grid["file"]).is_file() for grid in grids)
    page = (finished / "report.html").read_text()
    assert "gFID" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


def test_a_finished_demo_is_only_read_again(finished, monkeypatch):
    before = [r for r in records(finished) if r["metric"] not in ("seconds", "seconds_total", "peak_rss_gib")]
    monkeypatch.setattr(loop, "prefetched", lambda *_: iter(()))  # no stage may train a step
    run_demo(MINI, finished, quiet=True)
    after = [r for r in records(finished) if r["metric"] not in ("seconds", "seconds_total", "peak_rss_gib")]
    assert before == after


def test_the_terminal_ends_with_what_one_would_quote(finished, monkeypatch, capsys):
    monkeypatch.setattr(run, "planned", lambda *_: pytest.fail("nothing is left to do"))
    run_demo(MINI, finished)
    told = capsys.readouterr().out
    assert "At their pace" not in told
    found = {(r["protocol"].get("features"), r["metric"]): r["value"] for r in records(finished)}
    before, after, *held_out, picture, scores, page = told.splitlines()[-7:]
    assert before.startswith(
        f"before: gFID {found['lite0', 'gfid_before']:.4g} with the original decoder, in lite0, of 40"
    )
    for line, space in zip((after, *held_out), SPACES, strict=True):
        first, last = (found[space, f"gfid_{name}"] for name in ("before", "after"))
        assert f": {first:.4g} to {last:.4g} (" in line
        assert "95 % interval of the difference over images, pair by pair" in line
        assert line.startswith("after: " if space == "lite0" else f"held out, in {space}, where nothing was trained: ")
    assert Path(picture.removeprefix("picture: ")).is_file()
    assert (scores, page) == (f"scores: {finished / 'scores.json'}", f"report: {finished / 'report.html'}")


def test_the_plan_is_of_what_is_not_over(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "planned", lambda *_: dict.fromkeys(NAMES, 60.0))
    shutil.copytree(finished, tmp_path / "half")
    for gone in ("post_training", "control"):
        (tmp_path / "half" / gone / "model.safetensors").unlink()
    (tmp_path / "half" / "generator" / "model.safetensors").unlink()
    (tmp_path / "half" / "generator" / "metrics.jsonl").write_text('{"step": 2}\n')
    state = RunState(tmp_path / "half", {"demo": to_plain(MINI), "control": True})
    run.tell_plan(state, MINI, DemoImages.of(MINI), tmp_path / "half", True)
    assert state.plan == {"generator": 60 * (1 - 2 / MINI.generator.loop.steps), "post_training": 60, "control": 60}
    told = capsys.readouterr().out
    assert "At their pace" in told
    assert "post-training 1:00 min, control 1:00 min: about" in told


def test_a_stopped_demo_goes_on(finished, tmp_path, monkeypatch):
    """Stopped in its last training stage, it ends with the scores of a demo that was not stopped."""
    from robustok.demo import run as demo_run

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_run, "generation_scores", stop)
    with pytest.raises(KeyboardInterrupt):
        run_demo(MINI, tmp_path, quiet=True)
    monkeypatch.undo()
    run_demo(MINI, tmp_path, quiet=True)
    pick = {r["metric"]: r["value"] for r in reversed(records(tmp_path)) if r["metric"] in WANTED}
    whole = {r["metric"]: r["value"] for r in reversed(records(finished)) if r["metric"] in WANTED}
    for name in ("rfid", "pfid", "gfid_before", "gfid_control", "gfid_after"):
        assert pick[name] == pytest.approx(whole[name], rel=1e-6)


def test_another_demo_in_the_same_folder_is_refused(finished):
    with pytest.raises(
        ValueError, match="with other settings or of an older version; choose another folder with --out"
    ):
        run_demo(replace(MINI, post=replace(MINI.post, sigma=0.7)), finished, quiet=True)


def test_no_image_serves_two_purposes():
    images = DemoImages.of(MINI)
    parts = [images.train.describe(), images.held_out.describe(), images.reference.describe()]
    assert len({json.dumps(part) for part in parts}) == 3
    with pytest.raises(ValueError, match="59980 images to train on and 40 held out are more than the 60000"):
        DemoImages.of(replace(MINI, train_images=59_980))


def test_the_ablation_compares_both_arms_at_every_share(finished):
    found = run_ablation(MINI, finished, seeds=(0, 1), quiet=True)
    arms = {
        (r.protocol["arm"], r.protocol["seed"], r.protocol["generator_share"])
        for r in found
        if r.metric == "gfid_before"
    }
    assert arms == {(a, s, g) for a in ("perturbed", "unperturbed") for s in (0, 1) for g in (0.25, 0.5, 1.0)}
    assert {r.protocol["arm"] for r in found if r.metric == "pfid"} == {"perturbed", "unperturbed"}
    assert "Without perturbation" in (finished / "report.html").read_text()


@pytest.mark.parametrize("gray", [presets.demo, presets.continuous_smoke])
def test_the_demo_in_color_is_of_scenes_and_as_many_tokens(gray):
    config = presets.in_color(gray())
    tokenizer, generator = config.main.tokenizer, config.generator.generator
    images = DemoImages.of(config)
    assert {part.describe()["name"] for part in images} == {"fluent"}
    assert [part.describe()["split"] for part in images] == ["train", "train", "validation", "validation"]
    assert generator.classes == len(images.train.classes)
    assert tokenizer.encoder.tokens(tokenizer.image_size) == generator.tokens
    assert images.train.images(torch.tensor([0])).shape == (1, 3, tokenizer.image_size, tokenizer.image_size)


@pytest.mark.parametrize(("codes", "tokens"), [(32, 16), (64, 21)])
def test_the_generator_is_made_for_the_tokens_of_whatever_quantizer(unchecked, monkeypatch, tmp_path, codes, tokens):
    asked = []
    monkeypatch.setattr(run, "train_generator", lambda training, *_, **__: asked.append(training))
    cache = SimpleNamespace(codebook_size=codes, tokens_per_image=tokens)
    run.train_demo_generator(MINI, None, cache, tmp_path, quiet=True)
    assert (asked[0].generator.codebook_size, asked[0].generator.tokens) == (codes, tokens)
    assert (asked[0] == MINI.generator) == (codes == 32)  # nothing changes for the preset's own tokenizer


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": 20_000}, "reference is 20000; choose 2 to 10000"),
        ({"scored": 61}, "scored is 61; choose 2 to 60"),
        ({"scored": -1}, "scored is -1; choose 2 to 60"),
        (
            {"scored": 5},
            "scored is 5, and so many validation images are of 4 of the 10 classes, each of which is shown",
        ),
        ({"pfid_images": 1}, "pfid_images is 1; choose 2 or more"),
        ({"train_images": 15}, "train_images is 15; choose 16 or more"),
    ],
)
def test_numbers_of_images_are_looked_at_before_anything_is_trained(changes, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        DemoImages.of(replace(MINI, **changes))
