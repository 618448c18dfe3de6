"""From names to images: the sets that are in the package are known by theirs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustok.cli import main
from robustok.cli.arguments import View
from robustok.cli.images import SIZES, images_of, own_size, scored_images
from robustok.data.fluent import EMBEDDED


@pytest.mark.parametrize(("name", "size"), [("fashion-mnist", 32), ("fluent", 64)])
def test_embedded_sets_have_their_own_size_and_parts(name: str, size: int):
    assert own_size(name) == SIZES[name] == size
    trained, scored = images_of(name, size), scored_images(name, None, View())
    assert isinstance(trained, EMBEDDED[name])
    assert (trained.describe()["name"], trained.describe()["split"]) == (name, "train")
    assert (scored.describe()["name"], scored.describe()["split"]) == (name, "validation")
    assert scored.size == size


def test_every_embedded_set_is_among_the_cases():
    assert set(EMBEDDED) == {"fashion-mnist", "fluent"}


READ = [
    "train-tokenizer smoke --out o --images fashion-mnist",
    "train-tokenizer smoke --out o --images fluent --validation fluent",
    "train-generator smoke --tokenizer t --out o --images fluent",
    "train-generator smoke --tokenizer t --out o --cache c",
    "train-generator smoke --tokenizer t --out o --cache c --reference real.safetensors",
    "post-train --tokenizer t --generator g --out o --images fashion-mnist",
    "encode --tokenizer t --out o --images fashion-mnist",
    "analyze --tokenizer t --generator g --out o --images fashion-mnist",
    "reference --out o.safetensors --images fluent",
    "reference --out o.safetensors --images a.npz",
    "evaluate --generated a.npz --reference real-{features}.safetensors --train fashion-mnist",
    "demo",
]


@pytest.mark.parametrize("words", READ)
def test_ways_to_read_images_are_refused_where_none_are_read(words: str, tmp_path: Path, capsys: Any, monkeypatch: Any):
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", np.zeros((4, 8, 8, 3), np.uint8))
    ways = ["--labels foo.csv", "--no-flip", "--upscale", "--broken skip", *["--window 2"] * ("demo" not in words)]
    for way in ways:
        assert main([*words.split(), *way.split(), "--quiet"]) == 2
        assert f"taken without {way.split()[0]}; leave that out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "way"),
    [
        ("train-tokenizer smoke --out o --images photos --validation fluent", "--labels foo.csv --no-flip --upscale"),
        ("train-generator smoke --tokenizer t --out o --cache c --reference photos", "--upscale --broken skip"),
        ("evaluate --generated a.npz --reference photos", "--labels foo.csv --upscale"),
    ],
)
def test_one_set_that_is_read_is_enough(words: str, way: str, tmp_path: Path, capsys: Any, monkeypatch: Any):
    """Then something else is what is missing."""
    monkeypatch.chdir(tmp_path)
    assert main([*words.split(), *way.split(), "--quiet"]) == 2
    assert "taken without" not in capsys.readouterr().err
