"""The grids of a demo's page."""

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.training.tiny import GENERATOR, MAIN, POST, cache, images, tokenizer

from robustok.data.images import FashionMNIST
from robustok.data.latent_cache import LatentCache
from robustok.demo.compared import Compared
from robustok.demo.config import Demo, DemoImages
from robustok.demo.effects import Seen
from robustok.demo.pictures import Album, add_generated, in_columns, most_alike, pixels, write_pictures
from robustok.tokenizer.tokenizer import Tokenizer


def compared(drawn: torch.Tensor, known: LatentCache, decoders: dict[str, Any], kept: Collection[str] = ()) -> Compared:
    real, train = FashionMNIST("validation", decoders["before"].image_size).subset(torch.arange(60)), images()
    return Compared(
        config=Demo(main=MAIN, generator=GENERATOR, post=POST),
        images=DemoImages(train, train, real, real),
        cache=known,
        decoders=decoders,
        kept=kept,
        drawn=drawn,
        labels=torch.arange(len(drawn)) % 10,
        how={},
    )


def test_copies_are_found_among_all_training_images(tmp_path: Path):
    """Two of the samples are tokens of training images, one with a token changed; the others are drawn at random."""
    known = cache(tmp_path)
    drawn = torch.randint(32, (20, known.tokens_per_image), generator=torch.Generator().manual_seed(0))
    drawn[[7, 3]] = known.plain(torch.tensor([40, 11]))
    drawn[3, 0] = (drawn[3, 0] + 1) % 32
    order, found = most_alike(compared(drawn, known, {"before": tokenizer()}), count=5)
    assert order[:2].tolist() == [7, 3]
    assert (len(order), found[:2].tolist()) == (5, [40, 11])


@pytest.mark.parametrize("kept", [(), ("after",)])
def test_captions_say_which_decoder_made_what_is_shown(tmp_path: Path, kept: Collection[str]):
    known, model = cache(tmp_path / "tokens"), tokenizer()
    drawn, distance = known.plain(torch.arange(20)), torch.rand(20)
    seen = Seen([], distance, distance / 2, torch.arange(20), "vgg-hed")
    write_pictures(tmp_path, compared(drawn, known, {"before": model, "after": model}, kept), seen)
    grids = json.loads((tmp_path / "images.json").read_text())["grids"]
    captions = {grid["file"]: grid["caption"] for grid in grids}
    decoder = "original decoder, which post-training kept" if kept else "post-trained decoder"
    assert captions["generated_before.png"] == "Sampled by class, original decoder."
    assert captions["generated_after.png"] == f"The same tokens, {decoder}."
    assert captions["pairs.png"] == f"Upper row: original decoder. Lower row: {decoder}."
    assert captions["nearest.png"].endswith(f"Upper row: {decoder}. Lower row: the training image.")
    assert any("post-trained" in caption for caption in captions.values()) == (not kept)
    assert ({"nearer.png", "farther.png"} <= captions.keys()) == (not kept)  # none moved


@pytest.mark.parametrize(("side", "columns"), [(32, 10), (64, 5)])
def test_each_pair_stands_one_above_the_other_in_as_many_rows_as_it_takes_to_see_it(
    tmp_path: Path, side: int, columns: int
):
    before, after = (Tokenizer(replace(MAIN.tokenizer, image_size=side)).eval() for _ in range(2))
    drawn = torch.randint(32, (20, before.tokens_per_image))
    both = compared(drawn, cache(tmp_path / "tokens"), {"before": before, "after": after})
    album = Album(tmp_path, both.images.scored.classes)
    add_generated(album, both)
    album.write()
    entries = {grid["file"]: grid for grid in json.loads((tmp_path / "images.json").read_text())["grids"]}
    assert entries["pairs.png"]["columns"] == columns
    assert len(entries["pairs.png"]["labels"]) in (0, columns)
    sheet = torch.from_numpy(np.array(Image.open(tmp_path / "pairs.png")))
    cells = sheet.unflatten(0, (-1, side)).unflatten(2, (-1, side)).permute(0, 2, 4, 1, 3)  # row, column, channels
    of_rows = [pixels(model, drawn[:10]).split(columns) for model in (before, after)]
    wanted = [rows[line] for line in range(10 // columns) for rows in of_rows]
    assert torch.equal(cells, torch.stack(wanted))


@pytest.mark.parametrize(
    ("classes", "shown"),
    [
        (1, ["0"] * 8),
        (3, ["0", "0", "1", "1", "2", "2"]),
        (8, list("01234567")),
        (1000, list(map(str, range(0, 1000, 100)))),
    ],
)
def test_columns_are_classes_some_of_many_and_several_of_one(tmp_path: Path, classes: int, shown: list[str]):
    album = Album(tmp_path, list(map(str, range(classes))))
    assert album.classes == shown


def test_a_grid_shows_an_image_once_and_only_whole_rows():
    labels = torch.tensor([1, 0, 0, 1, 0, 0, 1, 0, 1, 0])
    assert in_columns(labels, [0, 0, 1], 4).tolist() == [1, 2, 0, 4, 5, 3, 7, 9, 6]
