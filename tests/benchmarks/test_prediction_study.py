"""The prediction study: a tiny one runs to its end, and what its candidates replace is what they say."""

import json
import math
from types import SimpleNamespace

import main_training_arms as arms
import main_training_scores as scores
import prediction_scores
import prediction_study as study
import pytest
import torch
import torch.nn.functional as F

from robustok.evaluation.features.extractor import CustomExtractor
from robustok.tokenizer.encoder import Conv
from robustok.tokenizer.quantizer import VQ

TINY = arms.Size(
    train=100,
    validation=100,
    held_out=200,
    tokenizer_steps=2,
    generator_steps=8,
    classifier_steps=4,
    looked_at=20,
    perturbed=20,
    tuned_by=20,
    along=20,
    generated=30,
    compared=20,
)


def coarse(pixels: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(pixels[:, :1].float(), 7).flatten(1)


def test_a_tiny_study_trains_and_measures_once(monkeypatch, tmp_path):
    monkeypatch.setattr(scores, "spaces", lambda *_: {"lite0": CustomExtractor(coarse)})
    monkeypatch.setattr(arms, "Conv", lambda **sizes: Conv(**sizes | {"channels": (16, 32, 32)}))  # 16 tokens, not 64
    runs, results = tmp_path / "runs", tmp_path / "results"
    kinds = {"FSQ 1000": study.KINDS["FSQ 1000"]}
    study.run(runs, results, TINY, kinds)
    result = json.loads((results / "FSQ_1000_0.json").read_text())
    assert result["settings"]["tokenizer"]["quantizer"]["levels"] == [8, 5, 5, 5]
    assert result["generator"]["settings"]["generator"]["codebook_size"] == 1000
    assert result["gfid"]["lite0"] > 0
    monkeypatch.setattr(study, "finish_arm", lambda *_: pytest.fail("a finished tokenizer is not computed again"))
    study.run(runs, results, TINY, kinds)

    prediction_scores.score(runs, results, (), TINY, [])
    path = results / "candidates" / "FSQ_1000_0.json"
    first = json.loads(path.read_text())
    assert len(first["fd"]) == 3 + 1 + 2 * 4
    assert first["probe"] > 0
    assert result["tokens_of"] == first["tokens_of"]
    monkeypatch.setattr(
        prediction_scores, "extractor", lambda name: CustomExtractor(lambda pixels: coarse(pixels)[:, :4], name)
    )
    monkeypatch.setattr(prediction_scores, "sample_tokens", lambda *_, **__: pytest.fail("sampled twice"))
    prediction_scores.score(runs, results, (), TINY, ["corner"])
    both = json.loads(path.read_text())
    assert set(both["pfid"]) == {"corner"}  # of the study's own spaces the study has it
    for name, values in both["fd"].items():
        assert set(values) == {"lite0", "corner"}
        assert values["lite0"] == first["fd"][name]["lite0"]


def test_the_study_varies_what_it_says():
    kinds = study.KINDS
    assert {kind.quantizer.codebook_size for kind in kinds.values()} == {256, 1000, 1024, 4096, 4375}
    assert len({type(kind.quantizer) for kind in kinds.values()}) == 3
    for name, kind in kinds.items():
        config = study.training(kind, arms.Size())
        assert str(config.tokenizer.quantizer.codebook_size) in name or "BSQ" in name
        assert config.loop.steps == (500 if "short" in name else 2000)
        assert (config.perturbation.beta > 0) == ("paper" in name or "two phases" in name)
    assert (
        study.training(kinds["VQ 1024 wide"], arms.Size()).objective
        == arms.main_training(arms.ARMS["none"], arms.Size(), 0).objective
    )


def test_codes_on_a_line_are_as_far_apart_as_their_numbers():
    codebook, counts = torch.arange(5.0)[:, None], torch.tensor([1, 0, 2, 0, 1])
    assert prediction_scores.spread(codebook, counts) == pytest.approx(math.sqrt(2))
    found = prediction_scores.mean_distances(codebook, counts)
    ends, middle = [1, 1.5, 2, 2.5], [1, 1, 4 / 3, 1.5]
    assert found.tolist() == pytest.approx([(a + b) / 2 for a, b in zip(ends, middle, strict=True)])
    deltas, distances = prediction_scores.equal_distance_deltas(codebook, counts)
    assert deltas == [1, 1, 2]
    assert distances == pytest.approx([1 / math.sqrt(2)] * 2 + [1.25 / math.sqrt(2)])


def some(images: int = 40) -> prediction_scores.Tokenized:
    tokens = torch.randint(16, (images, 20), generator=torch.Generator().manual_seed(0))
    counts = torch.tensor([3, 1] + [0] * 14)
    tokenizer = SimpleNamespace(codebook=torch.arange(16.0)[:, None])
    return prediction_scores.Tokenized(tokenizer, tokens, torch.arange(images) % 10, counts)


def test_replacements_are_as_many_and_as_far_as_they_should_be():
    one = some()
    noisy = prediction_scores.at_equal_distance(one, 1)
    assert ((noisy != one.tokens).sum(dim=1) == 18).all()
    assert (noisy - one.tokens).abs().max() == 1
    fixed = prediction_scores.fixed_replacement(some(400))
    changed = fixed[fixed != some(400).tokens]
    assert set(changed.tolist()) == {0, 1}  # the only codes in use
    kept = (fixed == some(400).tokens).double().mean()
    assert 0.7 <= kept < 0.75


def test_the_probe_has_the_generator_s_training_but_two_percent_of_it():
    tokenizer = SimpleNamespace(tokens_per_image=64, codebook=torch.zeros(1024, 2))
    probe = prediction_scores.probe_training(tokenizer, arms.Size(), 0)
    whole = arms.generator_training(64, arms.Size(), 0)
    assert (probe.loop.steps, probe.optim.warmup) == (32, 1)
    assert (probe.generator, probe.optim.lr, probe.ema_decay) == (whole.generator, whole.optim.lr, whole.ema_decay)
    assert isinstance(arms.main_training(arms.ARMS["none"], arms.Size(), 0).tokenizer.quantizer, VQ)
