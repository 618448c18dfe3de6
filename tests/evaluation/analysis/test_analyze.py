"""The whole analysis of a generator that errs in a known way, its page, and the verb."""

import json

import pytest
import torch
from robustok_erring import Erring, Patches, Templates
from torch import Tensor

from robustok.cli import analyze as verb
from robustok.cli import main
from robustok.evaluation.analysis.analyze import analyze, two_sets
from robustok.report.analysis import page
from robustok.report.findings import findings


def colors(pixels: Tensor) -> Tensor:
    """Features: the colors of the patches."""
    return torch.nn.functional.avg_pool2d(pixels.float(), 4).flatten(1) / 255


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
    assert found.code_usage.js_floor == 0 < found.code_usage.js
    target = found.imitation.target("generated", "joint")
    assert target.gain_interval[0] > 0
    assert target.alphas[0] <= 0.7 <= target.alphas[1]
    assert target.deltas[0] <= 10 <= target.deltas[1]
    assert found.protocol["perturbed as departing"].alpha == found.forced.sampled.alpha


def test_the_effects_are_found(result):
    by_name = {(effect.images, effect.decoder): effect.values for effect in result.analysis.effects}
    assert len(by_name) == 1 + 4 * 2
    exact = by_name["reconstructed", "original"]
    assert (exact["outside"], exact["color"], exact["detail"]) == pytest.approx((0, 0, 0), abs=1e-6)
    assert by_name["generated", "original"]["outside"] > 0.9
    assert by_name["reconstructed", "tuned"]["fine_db"] == pytest.approx(-1.94, abs=0.1)  # 20 log10 0.8
    change = next(change for change in result.analysis.changes if change.images == "reconstructed")
    assert change.values["fine_db"] == pytest.approx(-1.94, abs=0.1)
    assert change.intervals["fine_db"][1] < 0


def test_the_numbers_are_json_and_depend_on_no_batch(result):
    plain = json.loads(json.dumps(result.analysis.to_plain()))
    assert set(plain) >= {"protocol", "forced", "free", "other_real", "code_usage", "imitation", "plane", "effects"}
    assert len(plain["plane"]["points"]["generated"]) == 120
    tokenizer, generator, images = parts()
    again = analyze(
        tokenizer, generator, images, tuned=Patches(contrast=0.8), count=120, features=colors, batch_size=17
    ).analysis
    assert again.forced == result.analysis.forced
    assert again.free == result.analysis.free
    assert again.imitation == result.analysis.imitation
    for one, other in zip(result.analysis.effects, again.effects, strict=True):
        assert list(one.values.values()) == pytest.approx(list(other.values.values()), rel=1e-9, abs=1e-12)


def test_the_page_says_what_was_found(result):
    html = page(result, verb.grids(result))
    for name in ("images", "tokens", "codes", "latents", "plane", "effects", "changes", "protocol"):
        assert f'id="{name}"' in html
    assert all(text.replace("<", "&lt;") in html for text in findings(result.analysis))
    assert "http" not in html.replace("http-equiv", "")
    assert html.count("<img") == len(result.examples) == 1 + 4 * 2
    assert "nan" not in html.lower().replace("finance", "")
    alone = result._replace(analysis=type(result.analysis)(**vars(result.analysis) | {"changes": ()}))
    assert 'id="changes"' not in page(alone, [])


def test_what_is_found_reads_as_it_is(result):
    tokens, _, nearest, *_, after = findings(result.analysis)
    assert "nearest of 128 codes" in tokens
    assert "nearer than no perturbation" in nearest
    assert "detail worse" in after  # a decoder that loses contrast
    tokenizer, generator, images = parts(alpha=0.001)
    faithful = analyze(tokenizer, generator, images, count=120, features=colors).analysis
    assert "No perturbation is nearer" in findings(faithful)[2]


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
    generator.codebook_size = 64
    with pytest.raises(ValueError, match="draws from 64 codes and the tokenizer has 128"):
        analyze(tokenizer, generator, images, features=colors)


def test_the_verb_writes_both_files_and_prints_what_it_found(monkeypatch, tmp_path, capsys, unchecked):
    tokenizer, generator, images = parts()
    models = {"t": tokenizer, "g": generator, "u": Patches(contrast=0.8)}

    class Placed:
        def __init__(self, model):
            self.model = model

        def to(self, device):
            return self.model

    monkeypatch.setattr(verb, "load_tokenizer", lambda folder: Placed(models[str(folder)]))
    monkeypatch.setattr(verb, "load_generator", lambda folder: Placed(models[str(folder)]))
    monkeypatch.setattr(verb, "images_of", lambda name, size, **view: images)
    monkeypatch.setattr(verb, "extractor", lambda name, device: colors)
    monkeypatch.setattr(verb, "AnyTokenizer", Patches)
    typed = ["analyze", "--tokenizer", "t", "--generator", "g", "--tuned", "u", "--images", "x", "--out", str(tmp_path)]
    assert main([*typed, "--count", "60", "--temperature", "1.0"]) == 0
    told = capsys.readouterr().out
    assert "Teacher forcing" in told
    assert "Found" in told
    assert json.loads((tmp_path / "analysis.json").read_text())["protocol"]["count"] == 60
    assert (tmp_path / "analysis.html").read_text().startswith("<!DOCTYPE html>")
    monkeypatch.setattr(verb, "AnyTokenizer", int)
    assert main(typed) == 2
    assert "needs a tokenizer with a codebook" in capsys.readouterr().err
