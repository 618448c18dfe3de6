"""`robustok encode` and `train-generator --cache`: what is written, shared and refused."""

import os
import socket

import numpy as np
import pytest
import torch
from PIL import Image
from torch.multiprocessing.spawn import start_processes

from robustok.cli import main
from robustok.cli.images import cache_at
from robustok.data.shards import Shards
from robustok.tokenizer.tokenizer import Tokenizer
from robustok.training.tokenizer_training import TokenizerTraining

SIDE = 32


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tokenizer with random weights, and tall photographs in two classes."""
    from robustok import presets

    root = tmp_path_factory.mktemp("encode")
    main_training: TokenizerTraining = presets.smoke().main
    torch.manual_seed(0)
    Tokenizer(main_training.tokenizer).save_pretrained(root / "tokenizer")
    noise = np.random.default_rng(0).integers(0, 256, (12, 48, 40, 3), dtype=np.uint8)
    for number, image in enumerate(noise):
        file = root / "photos" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return root


def words(place, out, *more):
    return [
        "encode", "--tokenizer", str(place / "tokenizer"), "--images", str(place / "photos"), "--out", str(out), *more
    ]  # fmt: skip


def test_a_cache_is_made_and_a_generator_trained_on_it(place, tmp_path, capsys):
    assert main(words(place, tmp_path / "cache", "--batch-size", "5")) == 0
    told = capsys.readouterr().out
    assert "12 images, " in told
    assert "GB of tokens to" in told
    assert "12 images in 2 views" in told
    tokenizer = Tokenizer.from_pretrained(place / "tokenizer")
    cache = cache_at(tmp_path / "cache", tokenizer)
    assert cache.labels.tolist() == [0] * 6 + [1] * 6
    train = ["train-generator", "smoke", "--tokenizer", str(place / "tokenizer"), "--quiet", "--loop.steps", "2"]
    train += ["--loop.batch_size", "4", "--out", str(tmp_path / "generator")]
    assert main([*train, "--cache", str(tmp_path / "cache")]) == 0
    assert (tmp_path / "generator" / "model.safetensors").is_file()
    for more, problem in (
        ((), "give either --images or --cache"),
        (("--cache", "x", "--images", "fashion-mnist"), "give either --images or --cache"),
        (("--cache", str(place)), "there is no cache of tokens in"),
    ):
        assert main([*train, *more]) == 2
        assert problem in capsys.readouterr().err


def test_ten_crops(place, tmp_path):
    assert main(words(place, tmp_path, "--ten-crop", "--quiet", "--workers", "2")) == 0
    assert Shards(tmp_path, "tokens").manifest["views"] == 10


def as_torchrun_starts_it(rank, argv, port):
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "ROBUSTOK_TIMEOUT": "60"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    assert main(argv) == 0


def test_processes_of_torchrun_share_one_cache(place, tmp_path):
    assert main(words(place, tmp_path / "alone", "--quiet")) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    argv = words(place, tmp_path / "together", "--quiet")
    start_processes(as_torchrun_starts_it, (argv, port), nprocs=2, start_method="forkserver")
    alone, together = (Shards(tmp_path / name, "tokens") for name in ("alone", "together"))
    assert together.manifest == alone.manifest
    assert torch.equal(together.column("tokens").int(), alone.column("tokens").int())
