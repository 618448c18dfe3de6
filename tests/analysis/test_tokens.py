"""The whole analysis of a generator that errs in a known way, its page, and the verb."""

import json
import re
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch
from markupsafe import escape
from PIL import Image
from tests.analysis.erring import Erring, Patches, Templates
from torch import Tensor

from robustok.analysis import imitation
from robustok.analysis.findings import findings
from robustok.analysis.image_sets import two_sets
from robustok.analysis.page import page
from robustok.analysis.tokens import Result, analyze
from robustok.cli import main
from robustok.generators.autoregressive import Autoregressive, AutoregressiveModel
from robustok.tokenizer.encoder import Conv
from robustok.tokenizer.quantizer import VQ
from robustok.tokenizer.tokenizer import Tokenizer, TokenizerConfig


def colors(pixels: Tensor) -> Tensor:
    """Features: one pixel of each patch."""
    return pixels[:, :, ::4, ::4].float().flatten(1) / 255


def parts(alpha: float = 0.7, delta: int = 10) -> tuple[Patches, Erring, Templates]:
    tokenizer = Patches()
    images = Templates(tokenizer)
    return tokenizer, Erring(images.tokens, tokenizer.codebook, alpha, delta), images


@pytest.fixture(scope="module")
def result():
    tokenizer, generator, images = parts()
    return analyze(tokenizer, generator, images, tuned=Patches(contrast=0.8), count=120, features=colors)


def test_the_error_is_found(result):
    found = result.analysis
    assert found.forced.sampled.alpha == pytest.approx(0.7, abs=0.05)
    assert abs(found.forced.sampled.delta - 10) <= 2
    assert [d.first for d in found.free] == [0, 4, 8, 12]
    assert all(d.alpha == pytest.approx(0.7, abs=0.06) for d in found.free)
    assert found.other_real.alpha == 0  # images of a class are equal here
    assert found.code_usage["other real images"].js == 0 < found.code_usage["generated"].js
    target = found.imitation.target("generated", "joint")
    assert target.gain_interval[0] > 0
    assert target.ranges[0][0] <= 0.7 <= target.ranges[0][1]
    assert target.ranges[1][0] <= 10 <= target.ranges[1][1]
    assert found.protocol["perturbed as departing"].alpha == found.forced.sampled.alpha


def test_the_effects_are_found(result):
    by_name = {(effect.images, effect.decoder): effect.values for effect in result.analysis.effects}
    assert len(by_name) == 1 + 4 * 2
    exact = by_name["reconstructed", "original"]
    assert (exact["color"], exact["detail"], exact["fine_db"]) == pytest.approx((0, 0, 0), abs=0.1)
    assert by_name["real", ""]["outside"] < 0.5
    assert by_name["generated", "original"]["outside"] > 0.9
    assert by_name["reconstructed", "tuned"]["fine_db"] == pytest.approx(-1.94, abs=0.1)  # 20 log10 0.8
    change = next(change for change in result.analysis.changes if change.images == "reconstructed")
    assert change.values["fine_db"] == pytest.approx(-1.94, abs=0.1)
    assert change.intervals["fine_db"][1] < 0


@pytest.fixture
def one_alpha(monkeypatch):
    """A grid of one row, to save time."""
    monkeypatch.setattr(imitation, "ALPHAS", (0.7,))


def test_the_numbers_are_json_and_depend_on_no_batch(result, one_alpha):
    plain = json.loads(json.dumps(asdict(result.analysis)))
    assert set(plain) >= {"protocol", "forced", "free", "other_real", "code_usage", "imitation", "plane", "effects"}
    assert len(plain["plane"]["points"]["generated"]) == 120
    tokenizer, generator, images = parts()
    again = analyze(
        tokenizer, generator, images, tuned=Patches(contrast=0.8), count=120, features=colors, batch_size=17
    ).analysis
    assert again.forced == result.analysis.forced
    assert again.free == result.analysis.free
    assert again.code_usage == result.analysis.code_usage
    for one, other in zip(result.analysis.effects, again.effects, strict=True):
        assert list(one.values.values()) == pytest.approx(list(other.values.values()), rel=1e-9, abs=1e-12)


def test_the_page_says_what_was_found(result):
    html = page(result)
    for name in ("images", "tokens", "codes", "latents", "plane", "effects", "changes", "protocol"):
        assert f'id="{name}"' in html
    assert all(escape(text) in html for text in findings(result.analysis))
    assert "http" not in html.replace("http-equiv", "")
    assert html.count("<img") == len(result.examples) == 1 + 4 * 2
    assert not re.search(r"\bnan\b|not finite", html)
    alone = replace(result.analysis, changes=())
    assert 'id="changes"' not in page(Result(alone, {}))


def test_what_is_found_reads_as_it_is(result):
    tokens, _, nearest, *_, after = findings(result.analysis)
    assert "nearest of 128 codes" in tokens
    assert "95 % of random halves" in nearest
    assert "detail worse" in after  # a decoder that loses contrast
    before = result.analysis.imitation
    targets = tuple(replace(target, gain_interval=(-0.1, 0.1)) for target in before.targets)
    none = replace(result.analysis, imitation=replace(before, targets=targets), changes=())
    assert "No perturbation is nearer" in findings(none)[2]
    assert len(findings(none)) == 5
    same = tuple(replace(change, values=dict.fromkeys(change.values, 0.0)) for change in result.analysis.changes)
    kept = findings(replace(result.analysis, changes=same))[-1]
    assert kept == "Post-training kept the original decoder: the images are the same."


def test_two_sets_have_the_same_classes_and_no_image_in_common():
    labels = torch.tensor([0] * 301 + [1] * 99 + [2] * 100)
    one, other = two_sets(labels, 200)
    assert len(set(one.tolist()) | set(other.tolist())) == 400
    assert (labels[one] != labels[other]).sum() <= 2
    assert [len(part) for part in two_sets(labels, 10**6)] == [250, 250]
    with pytest.raises(ValueError, match="too few"):
        two_sets(labels[:99], 1000)


def test_parts_that_do_not_fit_are_refused():
    tokenizer, generator, images = parts()
    with pytest.raises(ValueError, match="another codebook"):
        analyze(tokenizer, generator, images, tuned=Patches(seed=1), features=colors)
    tokenizer.quantizer = SimpleNamespace(books=2)
    with pytest.raises(ValueError, match="has a codebook for each level.*whose levels share theirs"):
        analyze(tokenizer, generator, images, features=colors)
    del tokenizer.quantizer
    images.labels = images.labels + 1
    with pytest.raises(ValueError, match="the generator knows 20 classes, the images have 21"):
        analyze(tokenizer, generator, images, features=colors)
    generator.codebook_size = 64
    with pytest.raises(ValueError, match="makes .* tokens of 64 codes, the tokenizer makes .* tokens of 128 codes"):
        analyze(tokenizer, generator, images, features=colors)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """An untrained tokenizer and generator, as small as they come."""
    torch.manual_seed(0)
    conv = Conv(stem=4, channels=(8,), blocks=1, attention=False)
    config = TokenizerConfig(image_size=32, encoder=conv, decoder=conv, quantizer=VQ(codebook_size=32, width=4))
    tokenizer = Tokenizer(config)
    generator = AutoregressiveModel(
        Autoregressive(codebook_size=32, tokens=tokenizer.tokens_per_image, classes=10, width=16, depth=1, heads=1)
    )
    folder = tmp_path_factory.mktemp("models")
    for name, model in {"tokenizer": tokenizer, "generator": generator}.items():
        model.save_pretrained(folder / name)
    return folder


def test_the_verb_writes_both_files_and_prints_what_it_found(folders, one_alpha, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("robustok.evaluation.features.registry.extractor", lambda name, device: colors)
    tokenizer, generator = str(folders / "tokenizer"), str(folders / "generator")
    typed = ["analyze", "--tokenizer", tokenizer, "--generator", generator, "--images", "fashion-mnist"]
    assert main([*typed, "--tuned", tokenizer, "--count", "50", "--temperature", "1.5", "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "Teacher forcing" in told
    assert "Found" in told
    saved = json.loads((tmp_path / "analysis.json").read_text())
    assert saved["protocol"]["count"] == 50
    assert saved["protocol"]["sampling"]["temperature"] == 1.5
    assert all(value == 0 for change in saved["changes"] for value in change["values"].values())
    assert (tmp_path / "analysis.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.filterwarnings("default:the generator is asked for images of no class")
def test_images_of_no_class_are_asked_for_where_they_tell_none(folders, one_alpha, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("robustok.evaluation.features.registry.extractor", lambda name, device: colors)
    for number, pixels in enumerate(torch.randint(256, (100, 32, 32, 3), dtype=torch.uint8)):
        Image.fromarray(pixels.numpy()).save(tmp_path / f"{number}.png")
    models = ["--tokenizer", str(folders / "tokenizer"), "--generator", str(folders / "generator")]
    words = [*models, "--images", str(tmp_path), "--count", "50", "--out", str(tmp_path / "out")]
    assert main(["analyze", *words]) == 0
    assert "the generator is asked for images of no class: they are of one class" in capsys.readouterr().err
