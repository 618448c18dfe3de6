"""Which demo is run by what was typed: of a masked generator, of a frozen encoder."""

from pathlib import Path
from typing import Any

import pytest

from robustok import presets
from robustok.cli import main
from robustok.generators.masked import Masked
from robustok.generators.unmasking import MaskedSampling
from robustok.tokenizer.autoencoder import AutoencoderConfig
from robustok.tokenizer.encoder import Conv
from robustok.tokenizer.frozen_encoder import FrozenLite0


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    seen: list[Any] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("robustok.demo.run.run_demo", lambda config, out, **how: seen.append((config, out)))
    return seen


@pytest.mark.parametrize(
    ("words", "wanted", "out"),
    [
        ("--generator masked", presets.masked, "runs/masked"),
        ("--generator masked --preset smoke", presets.masked_smoke, "runs/masked"),
        ("--generator autoregressive", presets.demo, "runs/demo"),
        ("--latent rae --preset short", presets.rae_short, "runs/rae"),
        ("--latent rae --preset smoke", presets.rae_smoke, "runs/rae"),
    ],
)
def test_a_demo_of_a_name(words: str, wanted: Any, out: str, ran: list[Any]):
    assert main(["demo", *words.split()]) == 0
    assert ran == [(wanted(), Path(out))]


def test_settings_of_a_masked_generator(ran: list[Any]):
    words = "--generator masked --generator.generator.depth 2 --post.sampling.steps 5 --images fluent"
    assert main(["demo", *words.split()]) == 0
    config, out = ran[0]
    assert isinstance(config.generator.generator, Masked)
    assert (config.generator.generator.depth, config.generator.generator.classes) == (2, 8)
    assert isinstance(config.post.sampling, MaskedSampling)
    assert (config.post.sampling.steps, out) == (5, Path("runs/masked-fluent"))


def test_in_color_a_frozen_encoder_stays(ran: list[Any]):
    assert main(["demo", "--latent", "rae", "--images", "fluent"]) == 0
    tokenizer = ran[0][0].main.tokenizer
    assert isinstance(tokenizer, AutoencoderConfig)
    assert (tokenizer.encoder, tokenizer.image_size) == (FrozenLite0(side=64, stages=3), 64)
    assert isinstance(tokenizer.decoder, Conv)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--generator masked --latent continuous", "a masked generator fills in tokens; leave out --generator masked"),
        ("--generator masked --corners", "--corners is of the presets demo and continuous; leave out --generator"),
        ("--latent rae --corners", "--corners is of the presets demo and continuous; leave out --generator and --lat"),
        ("--generator diffusion", "argument --generator: invalid choice: 'diffusion'"),
    ],
)
def test_what_does_not_go_together_is_refused(words: str, message: str, ran: list[Any], capsys: Any):
    assert main(["demo", *words.split()]) == 2
    assert message in capsys.readouterr().err
    assert not ran
