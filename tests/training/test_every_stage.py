"""What holds for all four stages: a skipped step, a batch in parts, images that are alike, a folder in use."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training import tiny
from tests.training.tiny import AUTOENCODER, GENERATOR, MAIN, MASKED, OBJECTIVE, POST, STAGES, images, tokenizer
from torch import Tensor

from robustok.data.images import FashionMNIST, Subset
from robustok.runtime.locking import TRAINING, alone_in, claim
from robustok.training.decoder_stage import DecoderStage
from robustok.training.generator_training import GeneratorStage
from robustok.training.optim import Optimizer
from robustok.training.tokenizer_training import TokenizerStage

BUILD: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "main": (MAIN, TokenizerStage),
    "autoencoder": (AUTOENCODER, TokenizerStage),
    "generator": (GENERATOR, GeneratorStage),
    "masked": (MASKED, GeneratorStage),
    "post": (POST, lambda config: DecoderStage(config, tokenizer())),
}
OF_IMAGES = [name for name in BUILD if name not in ("generator", "masked")]


def batch(name: str) -> Any:
    random, rows = torch.Generator().manual_seed(0), torch.arange(16)
    tokens = torch.randint(32, (16, 16), generator=random)
    match name:
        case "generator" | "masked":
            return tokens, torch.randint(10, (16,), generator=random)
        case "post":
            return tokens, images().images(rows)
    return images().images(rows)


def built(name: str, **changes: Any) -> Any:
    config, build = BUILD[name]
    stage = build(replace(config, precision="fp32", **changes))
    if name in OF_IMAGES:
        stage.image_loss.set_reference(images())
    return stage


@pytest.mark.parametrize("name", BUILD)
def test_a_skipped_step_leaves_the_average_alone(name: str):
    stage = built(name)
    stage.step(batch(name), 0)
    before = [weight.clone() for weight in stage.ema.module.parameters()]
    backward = stage.optimizer.backward
    stage.optimizer.backward = lambda loss, share, **how: backward(loss * math.nan, share, **how)
    assert stage.step(batch(name), 1)["skipped"] == 1
    assert stage.ema.updates == 1
    assert all(map(torch.equal, before, stage.ema.module.parameters()))


@pytest.mark.parametrize("name", OF_IMAGES)
def test_a_batch_in_micro_batches_moves_averages_once_and_logs_the_loss_of_all(name: str):
    config = BUILD[name][0]
    adversary = replace(OBJECTIVE.adversary, disc_start=0.0, gan_start=0.0)
    changes: dict[str, Any] = {"objective": replace(OBJECTIVE, adversary=adversary, perceptual=0.0, frechet=0.1)}
    if name != "post":
        changes["perturbation"] = replace(config.perturbation, beta=0.0)
    one, four = (built(name, optim=replace(config.optim, micro_batches=count), **changes) for count in (1, 4))
    charged: list[tuple[Tensor, float]] = []
    backward = four.optimizer.backward
    four.optimizer.backward = lambda loss, share, **how: (
        charged.append((loss.detach(), share)) or backward(loss, share, **how)
    )
    whole, parts = one.step(batch(name), 0), four.step(batch(name), 0)
    assert [share for _, share in charged] == [0.25] * 4
    assert parts["loss"] == sum(share * loss for loss, share in charged)
    assert whole["l2"].item() == pytest.approx(parts["l2"].item(), rel=1e-4)
    moments = [stage.image_loss.frechet.spaces["frechet"].loss for stage in (one, four)]
    for kept in ("mean", "second_moment", "updates"):
        torch.testing.assert_close(getattr(moments[1], kept), getattr(moments[0], kept), msg=kept)
    averages = [stage.image_loss.discriminator.averages for stage in (one, four)]
    assert averages[0].updates == averages[1].updates == 1
    assert averages[0].fake != 0


@pytest.mark.parametrize("name", OF_IMAGES)
def test_images_that_are_all_alike_are_refused_before_the_first_step(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    alike = images().subset(torch.zeros(16, dtype=torch.long))
    config = replace(BUILD[name][0], objective=replace(OBJECTIVE, frechet=0.1))
    if name == "post":
        with pytest.raises(ValueError, match=r"needs images that differ, .* set objective.frechet to 0"):
            built("post").image_loss.set_reference(alike)
        return
    monkeypatch.setattr(tiny, name.upper(), config)
    monkeypatch.setattr(tiny, "images", lambda: alike)
    with pytest.raises(ValueError, match=r"needs images that differ, .* set objective.frechet to 0"):
        STAGES[name](tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", STAGES)
def test_a_folder_in_which_another_process_trains_is_refused_at_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Optimizer, "__init__", None)  # no stage is even made
    with claim(tmp_path / "run" / TRAINING) as mine:
        assert mine
        with pytest.raises(ValueError, match=rf"another process trains in {tmp_path / 'run'}; wait until it has ended"):
            STAGES[name](tmp_path)
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize("name", STAGES)
def test_a_run_within_what_holds_its_folder_goes_on(name: str, tmp_path: Path):
    with alone_in(tmp_path / "run"):
        STAGES[name](tmp_path)
    assert (tmp_path / "run" / "resume.safetensors").exists()
    assert not list((tmp_path / "run").glob("*.claim"))


@pytest.mark.parametrize("name", STAGES)
def test_a_run_of_which_every_step_was_skipped_does_not_end_well(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """8 steps, fewer than the 10 in a row that stop a run; run again, it fails again."""
    backward = Optimizer.backward
    monkeypatch.setattr(
        Optimizer, "backward", lambda self, loss, share=1.0, **how: backward(self, loss * math.nan, share, **how)
    )
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"stopped at step 8: every step was skipped, .* no learning rate helps"):
            STAGES[name](tmp_path)
    assert not (tmp_path / "run" / "model.safetensors").exists()


@dataclass
class Pictures(Subset):
    """A set of images that is no key of a dictionary."""

    def __init__(self, count: int):
        whole = FashionMNIST("train")
        super().__init__(whole, torch.arange(count))


def test_a_set_of_images_may_be_a_dataclass():
    """What real images look like is then taken anew each time."""
    with pytest.raises(TypeError, match="unhashable"):
        hash(Pictures(64))
    losses = [built("post").image_loss.frechet for _ in range(2)]
    for term, some in zip(losses, (Pictures(64), images()), strict=True):
        term.set_reference(some, built("post").image_loss.perceptual)
    states = [term.spaces["frechet"].loss.state_dict() for term in losses]
    for name, known in states[0].items():
        assert torch.equal(known, states[1][name])
