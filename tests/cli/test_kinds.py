"""Settings of sampling that are typed go to the kind of generator that has them."""

from pathlib import Path

import pytest
import torch
from tests.training.tiny import MASKED, generator, tokenizer

from robustok.cli import scoring
from robustok.cli.evaluate import Evaluate
from robustok.cli.sample import Sample
from robustok.evaluation.scores import generator_scores
from robustok.generators.diffusion_transformer import DiffusionTransformer, DiffusionTransformerModel
from robustok.generators.flow import FlowSampling
from robustok.generators.unmasking import MaskedSampling
from robustok.training import shared_sampling
from robustok.training.generator_training import build_generator

FLOW = DiffusionTransformer(tokens=4, channels=2, classes=2, width=16, depth=1, heads=1)


def typed(**settings: str) -> Sample:
    return Sample(generator=Path("g"), tokenizer=Path("t"), out=Path("o"), typed=tuple(settings.items()))


def test_each_kind_takes_its_own():
    torch.manual_seed(0)
    masked, flow = build_generator(MASKED.generator), DiffusionTransformerModel(FLOW)
    assert typed(steps="5", guidance="2").sampling(masked) == MaskedSampling(steps=5, guidance=2.0)
    assert typed(latent_noise="0.1").sampling(flow) == FlowSampling(latent_noise=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"latent_noise": "0.1"},
            "--latent_noise is of FlowSampling, and a AutoregressiveModel is sampled as",
        ),
        ({"steps": "9"}, "--steps is of MaskedSampling and FlowSampling, and a AutoregressiveModel is sampled as"),
        ({"latent_nose": "0.1"}, "there is no option or setting --latent_nose"),
    ],
)
def test_settings_of_another_kind_are_refused(settings: dict[str, str], message: str):
    with pytest.raises(ValueError, match=message):
        typed(**settings).sampling(generator())


@pytest.mark.parametrize("compile", [False, True])
def test_verbs_that_sample_compile_what_can_be(compile, monkeypatch, tmp_path):
    told: list[str | None] = []
    models = [generator(), build_generator(MASKED.generator)]
    for verb in (Sample, Evaluate):
        monkeypatch.setattr(verb, "opened", lambda self: (torch.device("cpu"), tokenizer(), models[0]))
    names = {"generator": Path("g"), "tokenizer": Path("t")}

    drawn = torch.zeros(2, models[0].tokens_per_image).long()
    with monkeypatch.context() as patch:
        patch.setattr(shared_sampling, "sample_together", lambda *_, compile: (told.append(compile), drawn)[1])
        Sample(**names, out=tmp_path, count=2, compile=compile, quiet=True).run()

    monkeypatch.setattr(scoring, "extractors_of", lambda *_, **how: (told.append(how["compiled"]), [])[1])
    monkeypatch.setattr(scoring, "references_of", lambda *_, **how: [])
    scored = lambda *_, **how: (told.append(how.get("compile")), [])[1]  # noqa: E731
    monkeypatch.setattr(generator_scores, "score_generator", scored)
    evaluate = Evaluate(**names, reference="r", compile=compile)
    evaluate._scores()
    backend = "inductor" if compile else None
    assert told == [backend, compile, backend]

    del models[0]  # a masked one is left, which is sampled as it is written
    told.clear()
    evaluate._scores()
    assert told == [compile, None]
    if compile:
        with pytest.raises(ValueError, match="a MaskedModel cannot be compiled for sampling: .* without compile"):
            Sample(**names, out=tmp_path / "new", count=2, compile=True, quiet=True).run()
