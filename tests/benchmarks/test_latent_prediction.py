"""The prediction study of latents: a tiny one measures every candidate once, and its page tells them apart."""

import json
import math

import latent_prediction as study
import prediction_verdict
import pytest
import torch
import torch.nn.functional as F
from post_training_arms import SPACES
from post_training_bakeoff import train_demo
from tests.benchmarks.tiny_latents import PILOT, tiny_continuous

from robustok.data.images import FashionMNIST
from robustok.evaluation.features.extractor import CustomExtractor

SIZE = study.Size(looked_at=40, spread=60)


def coarse(pixels: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(pixels[:, :1].float(), 8).flatten(1)


def result(folder, name: str, seed: int, gfid: float) -> None:
    folder.mkdir(exist_ok=True)
    scores = {space: {"gfid": gfid} for space in SPACES}
    (folder / f"{name}_{seed}.json").write_text(json.dumps({"seed": seed, "scores": scores}))


def test_a_tiny_study_measures_every_candidate_once(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "extractor", lambda name: CustomExtractor(coarse, name))
    monkeypatch.setattr(study, "PILOT", PILOT)
    runs, results, second, bakeoff = (tmp_path / name for name in ("runs", "results", "second", "bakeoff"))
    demo = tiny_continuous()
    images = FashionMNIST("train", demo.main.tokenizer.image_size).subset(torch.arange(200))
    train_demo(demo, images, runs / "latents_unperturbed_3")
    for seed in (2, 3):  # of the first the models are gone
        result(second, "second_original", seed, 300.0 + seed)
    result(bakeoff, "latents_original", 4, 200.0)
    result(second, "second_original_post-trained", 3, 1.0)  # not one of these
    study.score(runs, results, second, bakeoff, SIZE, demo)
    (path,) = results.glob("*.json")
    found = json.loads(path.read_text())
    assert (found["name"], found["latents"]) == ("unperturbed, original, 3", "latents, unperturbed, 3")
    assert 0 < found["viv"] <= math.pi / 2
    assert {*found["scores"]} == {"rfid", "pfid", "ifid"}
    followed = [
        found[fd][f"followed by the {by}, {level:g}"]
        for fd, by in (("fd by pilot", "pilot"), ("fd", "generator"))
        for level in study.LEVELS
    ]
    distances = [of["lite0"] for of in (*followed, found["fd"]["generation-aware rFID"], *found["scores"].values())]
    assert all(distance > 0 for distance in distances)
    assert len({*distances}) == 10, "each candidate is another number"
    numbers = study.candidates(found, "vgg-hed")
    rfid, pfid = (found["scores"][name]["vgg-hed"] for name in ("rfid", "pfid"))
    assert numbers["pFID - rFID"] == (pytest.approx(pfid - rfid),)
    fitted = numbers["(fitted) log(pFID - rFID), log VIV"]
    assert fitted[1] == pytest.approx(math.log(found["viv"]))

    monkeypatch.setattr(study, "measure", lambda *_: pytest.fail("nothing is left to do"))
    study.score(runs, results, second, bakeoff, SIZE, demo)
    study.write(results, second, bakeoff)
    text = (results / "README.md").read_text()
    assert "their models being gone: unperturbed, original, 2; latents, 4." in text
    assert "| unperturbed, original, 3 | " in text
    assert text.count("303 / 303 / 303") == 1
    assert "All tokenizers: 1, fewer than the 16 that are wanted" in text


def test_the_page_tells_what_predicts_from_what_does_not(tmp_path, monkeypatch):
    """gFID is what pFID adds to rFID; VIV says nothing; two decoders on each of eight latent spaces."""
    monkeypatch.setattr(prediction_verdict, "ROUNDS", 60)
    results, second, bakeoff = (tmp_path / name for name in ("results", "second", "bakeoff"))
    results.mkdir()
    for seed in range(8):
        for number, arm in enumerate(("original", "noise")):
            excess = 50.0 + 20 * math.sin(seed) + 9 * number
            result(second, f"second_{arm}", seed, 100 + excess)
            rfid = dict.fromkeys(SPACES, 30.0 + (seed * 7 + number * 3) % 5)
            pfid = {space: value + excess for space, value in rfid.items()}
            by_pilot, by_generator = (
                [f"followed by the {by}, {level:g}" for level in study.LEVELS] for by in ("pilot", "generator")
            )
            values = {
                "viv": 0.9 + (seed * 3) % 4 / 10,
                "scores": {"rfid": rfid, "pfid": pfid, "ifid": rfid},
                "fd by pilot": dict.fromkeys(by_pilot, pfid),
                "fd": dict.fromkeys([*by_generator, "generation-aware rFID"], pfid),
                "size": vars(study.Size()),
            }
            name = study.file_name(f"unperturbed, {arm}, {seed}")
            (results / f"{name}.json").write_text(json.dumps(values))
    study.write(results, second, bakeoff)
    text = (results / "README.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("- All tokenizers (16)"))
    assert "the best is *pFID - rFID*, whose error is 0.00" in line
    assert line.endswith("a prediction.")
    assert "| VIV | - | " in text, "the same for decoders that share latents"
    assert "generation-aware rFID *(diagnosis)*" in text
    assert "One tokenizer of each latent space: 8, fewer than the 16" in text
