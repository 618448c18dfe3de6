"""Training is what its settings say, whatever torch was told before; and they say which images are mirrored."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.tiny import GENERATOR, LOOP, MAIN, POST, cache, extract, generator, images, tokenizer

from robustok.data.latent_cache import LatentCache
from robustok.generators.autoregressive import AutoregressiveModel
from robustok.runtime.checkpoint import load_model
from robustok.tokenizer.tokenizer import Tokenizer
from robustok.training.generator_training import train_generator
from robustok.training.post_training import post_train
from robustok.training.saving import Saves
from robustok.training.tokenizer_training import train_tokenizer

SHORT = replace(LOOP, steps=2, preview_every=0)
TOLD: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@contextmanager
def doubles() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def main(folder: Path, source: Tokenizer, maker: AutoregressiveModel) -> None:
    train_tokenizer(replace(MAIN, loop=SHORT, precision="fp32"), images(), folder, quiet=True)


def generators(folder: Path, source: Tokenizer, maker: AutoregressiveModel) -> None:
    tokens = LatentCache(folder.parent.parent / "tokens", source)
    train_generator(replace(GENERATOR, loop=SHORT, precision="fp32"), tokens, folder, quiet=True)


def post(folder: Path, source: Tokenizer, maker: AutoregressiveModel) -> None:
    config = replace(POST, loop=SHORT, pairs=16, held_out=16, precision="fp32", sampling_precision="fp32")
    post_train(config, source, maker, images(), folder, features=extract(), quiet=True)


@pytest.mark.parametrize("train", [main, generators, post])
def test_what_the_caller_told_torch_changes_nothing(train, tmp_path: Path):
    weights = []
    cache(tmp_path)
    told = TOLD | {"doubles": doubles}
    for name in ("plainly", *told):
        folder, given = tmp_path / name / "run", (tokenizer(), generator())
        with ExitStack() as stack:
            if name in told:
                stack.enter_context(told[name]())
            train(folder, *given)
            assert name not in ("no_grad", "inference_mode") or not torch.is_grad_enabled()
            assert torch.is_autocast_enabled("cpu") == (name == "autocast")
        weights.append(load_model(folder)[0])
    for others in weights[1:]:
        assert all(torch.equal(weight, others[name]) for name, weight in weights[0].items())


def test_images_that_are_mirrored_no_more_are_another_run(tmp_path: Path):
    """Of what a run of an older version does not tell nothing differs."""
    config = replace(MAIN, loop=SHORT)
    train_tokenizer(config, images(), tmp_path, quiet=True)
    plain = images()
    plain.flip = not plain.flip
    with pytest.raises(ValueError, match=r"other settings \(flip: (True|False) in the folder, (True|False) now\)"):
        train_tokenizer(config, plain, tmp_path, quiet=True)
    assert not Saves(tmp_path, {"loop": 1, "flip": False})._changes({"loop": 1})
    assert Saves(tmp_path, {"loop": 1, "flip": False})._changes({"loop": 1, "flip": True})
