"""Settings of sampling that are typed go to the kind of generator that has them."""

from pathlib import Path

import pytest
import torch
from tests.training.tiny import MASKED, generator

from robustok.cli.sample import Sample
from robustok.generators.diffusion_transformer import DiffusionTransformer, DiffusionTransformerModel
from robustok.generators.flow import FlowSampling
from robustok.generators.unmasking import MaskedSampling
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
