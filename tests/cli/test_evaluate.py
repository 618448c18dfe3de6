"""`robustok evaluate` and `robustok reference` as they are typed, on folders, npz files and tiny models."""

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.cli.evaluated import QUICK, SAMPLED, SIDE, values

from robustok.cli import main, validation
from robustok.cli.demo import Demo
from robustok.cli.evaluate import Evaluate
from robustok.cli.options import options_of
from robustok.cli.verbs import VERBS
from robustok.evaluation.scores.reference import Reference
from robustok.evaluation.scores.score import Score
from robustok.tokenizer.autoencoder import Autoencoder, AutoencoderConfig
from robustok.tokenizer.bottleneck import Plain
from robustok.tokenizer.encoder import Conv
from robustok.training import pilot_distance

pytestmark = pytest.mark.usefixtures("no_network")


# Images


def test_folders_npz_files_and_references_of_the_same_images_score_alike(scores):
    expected = values(scores("--generated", "ours", "--reference", "real"))
    assert expected.keys() == {"fid"} | SAMPLED
    for generated, reference in (("ours.npz", "real.npz"), ("ours", "real.safetensors")):
        assert values(scores("--generated", generated, "--reference", reference)) == pytest.approx(expected)
    records = scores("--generated", "ours.npz", "--reference", "real.safetensors", "--name", "mine")
    assert {record["system"]["name"] for record in records} == {"mine"}
    assert records[0]["protocol"]["generated"]["name"] == "ours.npz"
    assert records[0]["protocol"]["reference"]["name"] == "real"


def test_images_against_themselves_are_at_no_distance(scores):
    found = values(scores("--generated", "real.npz", "--reference", "real"))
    assert found["fid"] == pytest.approx(0, abs=1e-6)
    assert (found["precision"], found["recall"], found["coverage"]) == (1, 1, 1)


def test_statistics_alone_give_the_distance_alone(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    stats = Reference.load("real.safetensors").stats
    np.savez("published.npz", mu=stats.mean.numpy(), sigma=stats.covariance.numpy())
    words = ["--generated", "ours", "--reference", "published.npz", "--features", "lite0", "--json", *QUICK]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["evaluate", *words]) == 0
    told = capsys.readouterr()
    assert [record["metric"] for record in json.loads(told.out)] == ["fid", "vendi"]
    assert told.err.startswith("robustok: the reference has statistics only, so precision")
    assert told.err.count("\n") == 1


def test_a_sample_of_another_size(scores):
    records = scores("--generated", "ours", "--reference", "real", "--sample-size", "15")
    assert (records[1]["protocol"]["generated_sample"], records[1]["protocol"]["reference_sample"]) == (15, 15)


@pytest.fixture
def unlabelled(place) -> Path:
    """The real images in a folder with an empty class, and in a parquet file of a test split, one of them broken."""
    pyarrow, parquet = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    folder = place / "unlabelled"
    if not folder.exists():
        files = sorted((place / "real").iterdir())
        (folder / "photos" / "empty").mkdir(parents=True)
        shutil.copytree(place / "real", folder / "photos" / "full")
        whole = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
        for name, images in (("test", whole), ("broken", [*whole, {"bytes": b"no image", "path": "z.png"}])):
            table = pyarrow.table({"image": images, "label": [-1] * len(images)})
            parquet.write_table(table, folder / f"{name}.parquet")
    return folder


@pytest.mark.parametrize("name", ["photos", "test.parquet"])
def test_scores_need_no_classes(name, unlabelled, scores, place, capsys):
    images = str(unlabelled / name)
    for words in (["--generated", "ours", "--reference", images], ["--generated", images, "--reference", "real"]):
        assert values(scores(*words))["fid"] == pytest.approx(
            values(scores(*[word.replace(images, "real") for word in words]))["fid"]
        )
    assert "rfid" in values(scores("--tokenizer", "tokenizer", "--images", images, "--pfid-images", "8"))
    out = str(unlabelled / f"{name}.safetensors")
    assert main(["reference", "--images", images, "--size", "16", "--out", out, *QUICK]) == 0
    assert Reference.load(out).stats.count == 30


def test_a_remedy_is_one_that_the_verb_has(unlabelled, scores, capsys):
    words = ["--generated", "ours", "--reference", str(unlabelled / "broken.parquet")]
    assert main(["evaluate", *words, *QUICK]) == 2
    assert "add --broken skip or --broken replace" in capsys.readouterr().err
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert values(scores(*words, "--broken", "skip")) == pytest.approx(
            values(scores("--generated", "ours", "--reference", str(unlabelled / "test.parquet")))
        )


def test_every_verb_that_reads_images_has_the_options_of_how():
    for verb in VERBS:
        names = {option.name for option in options_of(verb)}
        of_any = {option.name for option in options_of(verb) if not option.choices}  # not of the embedded sets alone
        if of_any & {"images", "generated", "reference", "validation"}:
            of_training = set() if verb is Demo else {"window", "workers"}  # a demo has an order of its own
            assert names >= {"upscale", "no-flip", "labels", "broken"} | of_training, verb


def test_validation_images_are_read_as_the_others_are(unlabelled, tmp_path, capsys, monkeypatch):
    """A window and labels are of the images that are trained on; broken ones are left out of both."""
    seen = []
    monkeypatch.setattr("robustok.training.tokenizer_training.train_tokenizer", lambda *a, **k: None)
    monkeypatch.setattr(validation, "tokenizer_validation", lambda images, **k: seen.append(len(images)))
    words = ["train-tokenizer", "smoke", "--images", str(unlabelled / "broken.parquet"), "--out", str(tmp_path)]
    words += ["--validation", str(unlabelled / "broken.parquet"), "--upscale", "--window", "1", *QUICK]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main([*words, "--labels", "none", "--broken", "skip"]) == 0
    assert seen == [30]
    capsys.readouterr()
    assert main(words) == 2
    assert "or --labels none" in capsys.readouterr().err


# Models


def test_a_tokenizer(scores):
    records = scores("--tokenizer", "tokenizer", "--images", "real", "--pfid-images", "8", "--batch-size", "7")
    found = values(records)
    assert {"rfid", "pfid", "psnr", "ssim", "codebook_use"} <= found.keys()
    assert records[0]["system"]["name"] == "tokenizer"
    assert (records[0]["system"]["latent"], records[0]["system"]["codebook_size"]) == ("discrete", 16)
    assert found == pytest.approx(
        values(scores("--tokenizer", "tokenizer", "--images", "real.npz", "--pfid-images", "8"))
    )


def test_a_tokenizer_without_a_codebook(scores, place, capsys):
    torch.manual_seed(0)
    part = Conv(stem=4, channels=(8, 8), blocks=1, attention=False)
    config = AutoencoderConfig(image_size=SIDE, encoder=part, decoder=part, bottleneck=Plain(width=4))
    Autoencoder(config).save_pretrained(place / "continuous")
    words = ["--tokenizer", "continuous", "--images", "real", "--pfid-images", "8"]
    found, other = (values(scores(*words, *more)) for more in ((), ("--neighbors-in", "ours.npz")))
    assert found.keys() == {"rfid", "rfid_pfid_images", "pfid", "pfid_cell", "ifid", "psnr", "ssim"}
    assert found["ifid"] != other["ifid"]
    assert found["pfid"] == other["pfid"]
    assert main(["evaluate", *words, *QUICK]) == 0
    assert "pfid_cell, alpha 0.9, strength 0.1" in capsys.readouterr().out
    assert main(["evaluate", "--tokenizer", "tokenizer", "--images", "real", "--neighbors-in", "ours", *QUICK]) == 2
    assert "iFID is of latents, and this tokenizer makes codes" in capsys.readouterr().err


def test_what_a_pilot_foretells_of_an_autoencoder(scores, place, capsys, monkeypatch):
    monkeypatch.setattr(
        pilot_distance, "PILOT", replace(pilot_distance.PILOT, steps=2, batch_size=4, width=32, depth=1)
    )
    torch.manual_seed(0)
    part = Conv(stem=4, channels=(8, 8), blocks=1, attention=False)
    config = AutoencoderConfig(image_size=SIDE, encoder=part, decoder=part, bottleneck=Plain(width=4))
    Autoencoder(config).save_pretrained(place / "continuous")
    words = ["--images", "real", "--predict", "ours.npz", "--pfid-images", "8"]
    found = values(scores("--tokenizer", "continuous", *words))
    assert found["pilot_fd"] > 0
    assert main(["evaluate", "--tokenizer", "continuous", *words, *QUICK]) == 0
    assert "pilot_fd: images whose latents were noised and followed back" in " ".join(capsys.readouterr().out.split())
    assert main(["evaluate", "--tokenizer", "tokenizer", *words, *QUICK]) == 2
    assert "this tokenizer makes codes" in capsys.readouterr().err
    assert main(["evaluate", "--generated", "ours", "--reference", "real", "--predict", "ours", *QUICK]) == 2
    assert "--predict is for a --tokenizer before there is a generator" in capsys.readouterr().err


def test_a_generator_and_two_decoders_of_its_tokens(scores, place, capsys):
    models = ["--generator", "generator", "--tokenizer", "better", "--reference", "real.safetensors", "--count", "30"]
    single = values(scores(*models, "--guidance", "1.5"))
    assert single.keys() == {"gfid"} | SAMPLED
    both = scores(*models, "--guidance", "1.5", "--against", "tokenizer", "--out", "both.json")
    found = values(both)
    assert found["gfid_after"] == single["gfid"]
    assert found["gfid_difference"] == pytest.approx(found["gfid_after"] - found["gfid_before"])
    assert both[0]["system"]["parameters"].keys() == {"tokenizer", "generator"}
    assert both[0]["protocol"]["sampling"]["guidance"] == 1.5
    assert main(["compare", "demo=both.json", "--metrics", "gfid"]) == 0
    table = capsys.readouterr().out
    assert "demo:after against demo:before:" in table
    assert "over images, pair by pair" in table


def test_decoders_of_other_tokens_are_refused(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    words = ["--generator", "generator", "--tokenizer", "tokenizer", "--reference", "real.safetensors", "--count", "10"]
    assert main(["evaluate", *words, "--against", "stranger", *QUICK]) == 2
    assert "the tokenizers before, after have other tokens" in capsys.readouterr().err


# What is seen


def test_a_table_with_its_protocol(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    assert main(["evaluate", "--generated", "ours", "--reference", "real.safetensors", "--device", "cpu"]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines()[0].split()[0] == "fid"
    assert "features lite0" in told.out.splitlines()[-1]
    assert "against real, ADM center crop to 16, 30 images, hash" in told.out.splitlines()[-1]
    assert "scoring: 20/20" in told.err, "progress does not mix with results"


def test_only_the_main_process_prints_and_writes(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr("robustok.runtime.distributed.is_main", lambda: False)
    words = ["--generated", "ours", "--reference", "real.safetensors", "--out", "nothing.json", "--device", "cpu"]
    assert main(["evaluate", *words]) == 0
    assert capsys.readouterr() == ("", "")
    assert not (place / "nothing.json").exists()


def test_two_decoders_are_compared_in_words(place, capsys, monkeypatch):
    difference = Score(metric="gfid_difference", value=-1.0, images=5, protocol={"in_words": "10 to 9: lower"})
    monkeypatch.setattr(Evaluate, "_scores", lambda command: [difference])
    assert main(["evaluate", *QUICK]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "gfid_difference: 10 to 9: lower"


# References


def test_a_reference_says_what_it_is_and_is_never_lost(place, capsys, tmp_path):
    out = tmp_path / "made.safetensors"
    words = ["reference", "--size", "16", "--out", str(out), "--device", "cpu"]
    assert main([*words, "--images", str(place / "real")]) == 0
    told = capsys.readouterr().out
    assert "30 images, for precision" in told
    assert "name real, view ADM center crop to 16, count 30, hash" in " ".join(told.split())
    content = out.read_bytes()
    assert main([*words, "--images", str(place / "real")]) == 0
    assert "as it was" in capsys.readouterr().out
    for more in (["--images", str(place / "ours")], ["--images", str(place / "real"), "--sample-size", "20"]):
        assert main([*words, *more]) == 2
        told = capsys.readouterr().err
        assert "made.safetensors is there already and holds another reference" in told
        assert "--overwrite" in told
    assert out.read_bytes() == content
    assert main([*words, "--images", str(place / "ours"), "--overwrite"]) == 0
    assert Reference.load(out).images["name"] == "ours"


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_a_reference_replaces_nothing_but_a_reference(more, place, capsys, tmp_path):
    out = tmp_path / "made.safetensors"
    words = ["reference", "--images", str(place / "ours"), "--size", "16", "--out", str(out), *more, *QUICK]
    for content in (b"my thesis", (place / "tokenizer" / "model.safetensors").read_bytes()):
        out.write_bytes(content)
        assert main(words) == 2
        assert "is there already and is no reference; choose another file" in capsys.readouterr().err
        assert out.read_bytes() == content


def test_a_reference_has_the_suffix_that_it_is_known_by(place, capsys, tmp_path):
    assert main(["reference", "--images", str(place / "real"), "--out", str(tmp_path / "real.json"), *QUICK]) == 2
    assert "real.json does not end in .safetensors" in capsys.readouterr().err


# Errors


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--tokenizer tokenizer", "evaluate takes --tokenizer and --images; or --generator, --tokenizer and"),
        ("--images ours --reference real", "or --generated and --reference"),
        (
            "--generated ours --reference real --guidance 2",
            "--guidance says how a --generator is sampled, and there is",
        ),
        (
            "--tokenizer tokenizer --images ours --latent_noise 0.1",
            "--latent_noise says how a --generator is sampled, and there is",
        ),
        ("--generated ours --refrence real", "there is no option or setting --refrence; did you mean --reference?"),
        ("--generated none --reference real", "none is not a folder; wanted a folder of images"),
        ("--generated none.npz --reference real", "none.npz cannot be read as an npz file"),
        ("--generated ours --reference none.safetensors", "none.safetensors cannot be read"),
        ("--generated ours --reference real --features incption", "there is no feature space 'incption'; choose lite0"),
        ("--generated ours --reference real.safetensors --features lite0,none", "there is no feature space 'none'"),
        ("--generated ours.npz --reference real --size 8", "ours.npz are 16 pixels and not 8"),
        ("--generated ours --reference real --size 32", "are smaller than the crop of 32 pixels"),
        ("--generated ours --reference real --against better", "--against compares two tokenizers on the tokens of"),
        ("--tokenizer real --images real", "real holds no model"),
        ("--tokenizer tokenizer --images real --train real", "--train is for generated images: give --generator or"),
        ("--tokenizer tokenizer --images real --fdr", "--fdr is for generated images: give --generator or"),
        ("--generated ours --reference real --nearest n.png", "--nearest FILE.png shows images of --train, so give"),
        (
            "--generated ours --reference real --train real.safetensors --nearest n.png",
            "--nearest FILE.png shows images",
        ),
        (
            "--generated ours --reference real --train ours --nearest n.jpg",
            "--nearest is a PNG, and n.jpg does not end in .png; give another name",
        ),
        ("--generated ours --reference {features}", "{features} names no files of statistics; {features} is for such"),
        ("--generated ours --reference real --dtype int8", "argument --dtype: invalid choice: 'int8'"),
        (
            "--generated ours --reference real --dtype bfloat16",
            "lite0 computes as it is made; dtype and compile are for",
        ),
        ("--generated ours --reference real --count 8", "--count goes with --generator, and here are --generated and"),
        ("--generated ours --reference real --lpips", "--lpips goes with --images, and here are --generated and"),
        ("--generator g --tokenizer t --reference r --pfid-images 8", "--pfid-images goes with --images, and here are"),
        ("--generator g --tokenizer t --reference r --neighbors-in r", "; leave --neighbors-in out"),
        ("--tokenizer tokenizer --images real --sample-size 8", "--sample-size goes with --reference, and here are"),
        ("--tokenizer tokenizer --images real --size 8", "images are 16 pixels, and so are all; leave out --size 8"),
        ("--generated ours --reference real --out real.npz", "real.npz is there already and holds no records"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(words, message, place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    assert main(["evaluate", *words.split(), *QUICK]) == 2
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1), told.err
    assert message in told.err


def test_folders_may_be_called_as_files_are(tmp_path, capsys):
    """What is there goes before what a suffix could mean."""
    for name in ("real.npz", "fake.pt"):
        (tmp_path / name).mkdir()
        for number in range(8):
            noise = torch.randint(
                0, 256, (16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(number)
            )
            Image.fromarray(noise.numpy()).save(tmp_path / name / f"{number}.png")
    words = ["evaluate", "--generated", str(tmp_path / "fake.pt"), "--reference", str(tmp_path / "real.npz")]
    assert main([*words, "--json", "--quiet"]) == 0
    fid = json.loads(capsys.readouterr().out)[0]
    assert (fid["metric"], fid["value"]) == ("fid", pytest.approx(0, abs=1e-6))  # but for rounding


# Records that are there


def test_records_are_replaced_by_those_of_the_same_system_alone(place, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    out, ours = tmp_path / "scores.json", ["--generated", "ours", "--reference", "real.safetensors"]
    models = ["--generator", "generator", "--tokenizer", "better", "--reference", "real.safetensors", "--count", "10"]
    by_both = [*models, "--against", "tokenizer"]
    tokenizer = ["--tokenizer", "better", "--images", "real", "--pfid-images", "8"]

    def evaluate(words):
        capsys.readouterr()
        return main(["evaluate", *words, "--out", str(out), *QUICK])

    for words, others in ((ours, tokenizer), (models, by_both), (by_both, models), (tokenizer, ours)):
        out.unlink(missing_ok=True)
        assert evaluate(words) == 0
        assert evaluate([*words, "--seed", "1"]) == 0, "the same again"
        kept = out.read_bytes()
        for other in (others, [*words, "--name", "another"]):
            assert evaluate(other) == 2
            assert "scores.json is there already and holds other scores" in capsys.readouterr().err
        assert out.read_bytes() == kept
    out.write_text(json.dumps([{**record, "system": {}} for record in json.loads(kept)]))
    assert evaluate(tokenizer) == 0, "as of the best tokenizer of a run, whose scores have no name"
    demo = [Score(metric=name, value=1.0, images=8, protocol={}).to_plain() for name in ("rfid", "gfid_before")]
    out.write_text(json.dumps(demo))
    assert evaluate(tokenizer) == 2
    assert "holds other scores (gfid_before, rfid)" in capsys.readouterr().err
    out.write_text('["my notes"]')
    assert evaluate(tokenizer) == 2
    assert "holds no records of scores" in capsys.readouterr().err
