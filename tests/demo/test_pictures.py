"""The grids of a demo's page."""

from pathlib import Path

import torch
from tests.training.tiny import cache, images, tokenizer

from robustok.demo.pictures import most_alike
from robustok.shapes import to_pixels


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
