"""The grids of a demo's page."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.training.tiny import MAIN, cache, images, tokenizer

from robustok.data.images import FashionMNIST
from robustok.demo.pictures import most_alike, pixels, write_pictures
from robustok.shapes import to_pixels
from robustok.tokenizer.tokenizer import Tokenizer


def test_copies_are_found_among_all_training_images(tmp_path: Path):
    """Two of the samples are tokens of training images, one with a token changed; the others are drawn at random."""
    known, train = cache(tmp_path), images()
    drawn = torch.randint(32, (20, known.tokens_per_image), generator=torch.Generator().manual_seed(0))
    drawn[[7, 3]] = known.plain(torch.tensor([40, 11]))
    drawn[3, 0] = (drawn[3, 0] + 1) % 32
    order, shown = most_alike(tokenizer(), drawn, train, known, count=5)
    assert order[:2].tolist() == [7, 3]
    assert (len(order), shown.shape) == (5, (5, 3, 32, 32))
    assert torch.equal(shown[:2], to_pixels(train.images(torch.tensor([40, 11]))))


@pytest.mark.parametrize(("side", "columns"), [(32, 10), (64, 5)])
def test_each_pair_stands_one_above_the_other_in_as_many_rows_as_it_takes_to_see_it(
    tmp_path: Path, side: int, columns: int
):
    before, after = (Tokenizer(replace(MAIN.tokenizer, image_size=side)).eval() for _ in range(2))
    real = FashionMNIST("validation", side).subset(torch.arange(60))
    drawn, labels = torch.randint(32, (20, before.tokens_per_image)), torch.arange(20) % 10
    write_pictures(tmp_path, real=real, before=before, after=after, drawn=drawn, labels=labels, seed=0)
    entries = {grid["file"]: grid for grid in json.loads((tmp_path / "images.json").read_text())["grids"]}
    assert entries["pairs.png"]["columns"] == columns
    assert len(entries["pairs.png"]["labels"]) in (0, columns)
    sheet = torch.from_numpy(np.array(Image.open(tmp_path / "pairs.png")))
    cells = sheet.unflatten(0, (-1, side)).unflatten(2, (-1, side)).permute(0, 2, 4, 1, 3)  # row, column, channels
    of_rows = [pixels(model, drawn[:10]).split(columns) for model in (before, after)]
    wanted = [rows[line] for line in range(10 // columns) for rows in of_rows]
    assert torch.equal(cells, torch.stack(wanted))
