"""Where things lie on the user's machine."""

import pwd
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.evaluation.scored import InMemory

from robustok.data.npz import NpzImages
from robustok.data.sources import ImageFolder, open_images
from robustok.data.user_cache import data_folder
from robustok.evaluation.scores.reference import Reference, read_reference
from robustok.generators.autoregressive import Autoregressive, AutoregressiveModel
from robustok.models import load_generator
from robustok.runtime.locking import alone_in_its
from robustok.runtime.weights import cache_folder


def nobody(uid: int) -> None:
    raise KeyError(uid)


def test_without_a_home_the_system_has_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """As in a container that runs as a number nobody knows, where looking into any folder of images failed."""
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("ROBUSTOK_DATA")
    monkeypatch.delenv("ROBUSTOK_WEIGHTS", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert cache_folder() == tmp_path / "robustok-cache"
    assert data_folder() == tmp_path / "robustok-cache" / "data"


def test_a_tilde_is_the_users_folder_wherever_a_path_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """What was written to ~/x went into a folder called ~ where the program ran."""
    own, here = tmp_path / "home", tmp_path / "here"
    for folder in (own, here):
        folder.mkdir()
    monkeypatch.setenv("HOME", str(own))
    monkeypatch.chdir(here)
    picture = np.zeros((8, 8, 3), np.uint8)
    Image.fromarray(picture).save(own / "a.png")
    np.savez(own / "a.npz", np.stack([picture, picture]))
    assert len(ImageFolder("~", 8)) == len(open_images("~", 8)) == 1
    assert len(NpzImages("~/a.npz")) == 2
    pixels = torch.randint(256, (20, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    reference = Reference.of(InMemory(pixels), _colors)
    reference.save("~/stats.safetensors")
    for read in (Reference.load, lambda path: read_reference(path, _colors)):
        assert torch.equal(read("~/stats.safetensors").stats.mean, reference.stats.mean)
    model = AutoregressiveModel(Autoregressive(classes=2, codebook_size=3, tokens=4, width=16, depth=1, heads=1))
    model.save_pretrained("~/model")
    assert load_generator("~/model").fingerprint() == model.fingerprint()
    assert AutoregressiveModel.from_pretrained(Path("~/model")).fingerprint() == model.fingerprint()
    assert _train(7, "~/run") == own / "run"
    assert not list(here.iterdir())


def _colors(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.float().mean(dim=(2, 3))


@alone_in_its("folder")
def _train(steps: int, folder: str) -> str:
    return folder
