"""What `robustok evaluate` makes of several spaces, and of the images that a generator was trained on."""

import warnings

import numpy as np
import pytest
from PIL import Image
from tests.cli.evaluated import QUICK, SAMPLED, SIDE, quarters, smooth, values
from tests.evaluation.scored import Noise

from robustok.cli import images, main, scoring
from robustok.cli.arguments import View
from robustok.data import ImageFolder
from robustok.evaluation.features.extractor import CustomExtractor
from robustok.evaluation.scores.fdr6 import IMAGENET_256
from robustok.evaluation.scores.reference import Reference
from robustok.runtime.weights import HubModel

pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture
def six(monkeypatch):
    """Every space is there: each gives the colors of the quarters, in units of its own."""
    units = dict(zip(("lite0", *IMAGENET_256), range(1, 8), strict=True))
    spaces = {name: CustomExtractor(lambda x, unit=unit: quarters(x) / unit, name) for name, unit in units.items()}
    monkeypatch.setattr(scoring, "extractor", lambda name, *a, **k: spaces[name])
    return units


def test_one_flag_gives_fdr6_and_mind_in_all_six_spaces(scores, six, place):
    words = ["--generated", "ours", "--reference", "real"]
    records = scores(*words, "--fdr")
    found = {(r["metric"], r["protocol"].get("features")): r["value"] for r in records}
    assert [space for metric, space in found if metric == "mind"] == list(IMAGENET_256)
    (fdr6,) = (record for record in records if record["metric"] == "fdr6")
    wanted = [found["fid", space] / normalizer for space, normalizer in IMAGENET_256.items()]
    assert fdr6["value"] == pytest.approx(sum(wanted) / 6)
    assert found["fid", "clip"] == pytest.approx(found["fid", "inception"] * (six["inception"] / six["clip"]) ** 2)
    assert fdr6["protocol"]["spaces"].keys() == IMAGENET_256.keys()
    named = scores(*words, "--fdr", "--features", "lite0,clip,mae")
    assert [r["metric"] for r in named if r["metric"].startswith("fdr")] == ["fdr2"], "lite0 is no space of FDr6"
    for name in IMAGENET_256:
        Reference.of(ImageFolder(place / "real", SIDE), scoring.extractor(name)).save(place / f"of-{name}.safetensors")
    files = scores("--generated", "ours", "--reference", "of-{features}.safetensors", "--fdr")
    assert values(files) == pytest.approx(values(records))


def test_fdr_is_of_the_spaces_it_is_defined_for(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    words = ["evaluate", "--generated", "ours", "--reference", "real", "--fdr", *QUICK]
    assert main([*words, "--features", "lite0"]) == 2
    assert "--features names none of these; leave out --features" in capsys.readouterr().err

    tried = []

    def missing(name, *_, **__):
        tried.append(name)
        if name in ("clip", "mae"):
            raise ValueError(f"{name} could not be downloaded")
        return CustomExtractor(quarters, name)

    monkeypatch.setattr(scoring, "extractor", missing)
    monkeypatch.setattr(HubModel, "located", lambda hub: None if "mae" in hub.repository else place)
    assert main(words) == 2
    told = capsys.readouterr().err
    assert (
        "2 of the six spaces of FDr6 cannot be had: clip: clip could not be downloaded; mae: MAE ViT-L/16 is not h"
        in told
    )
    assert "mae" not in tried, "one download that failed is enough"
    assert "or score in those that are here: --features inception,dinov2,siglip2,convnextv2" in told


# Copies


def test_does_the_generator_copy(scores, place, tmp_path, capsys):
    """Of copies AuthPct is 0 and C_T far below 0; the picture shows each above itself."""
    for name, count, seed in (("held-out", 120, 5), ("trained-on", 150, 6), ("fresh", 90, 7)):
        np.savez(place / f"{name}.npz", smooth(count, seed))
    np.savez(place / "copies.npz", smooth(150, 6)[:90])
    against = ["--reference", "held-out.npz", "--train", "trained-on.npz"]
    fresh = values(scores("--generated", "fresh.npz", *against))
    picture = tmp_path / "nearest.png"
    records = scores("--generated", "copies.npz", *against, "--nearest", str(picture))
    copies = values(records)
    assert fresh.keys() == {"fid", "authpct", "authpct_held_out", "c_t"} | SAMPLED
    assert copies["authpct"] == 0 < 20 < min(fresh["authpct"], fresh["authpct_held_out"])
    assert copies["c_t"] < -5 < fresh["c_t"]
    (told,) = (record["protocol"]["train"] for record in records if record["metric"] == "c_t")
    assert (told["name"], told["count"]) == ("trained-on.npz", 150)
    with Image.open(picture) as image:
        rows = np.asarray(image).reshape(4, SIDE, 10 * SIDE, 3)
    assert (rows[0] == rows[1]).all()
    assert (rows[2] == rows[3]).all()
    assert main(["evaluate", "--generated", "copies.npz", *against, "--nearest", str(picture), *QUICK]) == 2
    assert "nearest.png is there already; remove it, or give another --nearest" in capsys.readouterr().err
    whole, some = str(tmp_path / "whole.safetensors"), str(tmp_path / "some.safetensors")
    for out, more in ((whole, ["--sample-size", "150"]), (some, ["--sample-size", "149"])):
        assert main(["reference", "--images", str(place / "trained-on.npz"), "--out", out, *more, *QUICK]) == 0
    assert values(scores("--generated", "fresh.npz", *against[:2], "--train", whole)) == pytest.approx(fresh)
    capsys.readouterr()
    assert main(["evaluate", "--generated", "fresh.npz", *against[:2], "--train", some, *QUICK]) == 2
    assert "training images are 150, and features of 149 are kept" in capsys.readouterr().err


def test_the_nearest_images_of_a_generators_samples(scores, place, tmp_path):
    models = ["--generator", "generator", "--tokenizer", "tokenizer", "--reference", "real", "--train", "ours"]
    picture = tmp_path / "nearest.png"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of 20 samples C_T has too few in a cell
        assert "authpct" in values(scores(*models, "--count", "24", "--nearest", str(picture)))
    with Image.open(picture) as image:
        assert image.size == (10 * SIDE, 4 * SIDE)
        rows = np.asarray(image).reshape(4, SIDE, 10, SIDE, 3).swapaxes(1, 2).reshape(40, SIDE, SIDE, 3)
    known = {bytes(np.asarray(Image.open(file)).tobytes()) for file in (place / "ours").iterdir()}
    assert {row.tobytes() for row in (*rows[10:20], *rows[30:])} <= known


def test_what_was_trained_on_is_the_training_part_of_an_embedded_set(monkeypatch):
    parts = []

    def opened(name, size, view, *, split="validation"):
        parts.append((name, split))
        return Noise(8)

    monkeypatch.setattr(scoring, "scored_images", opened)
    spaces = [CustomExtractor(quarters, "lite0")]
    references = scoring.references_of("fluent", spaces, 32, View())
    (reference,) = scoring.with_train("fluent", references, spaces, 32, View(), quiet=True)
    assert parts == [("fluent", "validation"), ("fluent", "train")]
    assert reference.train is not None
    sets = [images.scored_images("fashion-mnist", 32, View(), split=split) for split in ("train", "validation")]
    assert [one.describe()["split"] for one in sets] == ["train", "validation"]
