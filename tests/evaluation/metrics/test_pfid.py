import pytest
import torch

from robustok.evaluation.metrics.pfid import ALPHAS, grid, perturbed_by_cells
from robustok.tokenizer.perturbation import neighbors


@pytest.mark.parametrize(
    ("codes", "deltas"),
    [
        (16384, (200, 280, 360)),
        (8192, (100, 140, 180)),
        (4096, (50, 70, 90)),
        (1024, (10, 15, 20)),
        (512, (6, 9, 11)),
        (64, (1, 1, 1)),
        (2, (1, 1, 1)),
    ],
)
def test_the_grid(codes, deltas):
    cells = grid(codes)
    assert len(cells) == 15
    assert [(cell.alpha, cell.delta) for cell in cells] == [(a, d) for a in (0.9, 0.8, 0.7, 0.6, 0.5) for d in deltas]


def test_needs_two_codes():
    with pytest.raises(ValueError, match="at least two, not 1"):
        grid(1)


def test_exactly_alpha_of_the_tokens_move_to_near_codes():
    generator = torch.Generator().manual_seed(0)
    codebook = torch.randn(1024, 4, generator=generator)
    tokens = torch.randint(1024, (50, 40), generator=generator)
    near = neighbors(codebook, 20)
    for cell, noisy in perturbed_by_cells(tokens, near, grid(1024), seed=3, block=0):
        moved = noisy != tokens
        assert (moved.sum(dim=1) == round(cell.alpha * 40)).all()
        allowed = neighbors(codebook, cell.delta)[tokens]  # a smaller delta is a prefix of the larger
        assert (allowed == noisy[..., None]).any(dim=-1)[moved].all()


def test_cells_blocks_and_seeds_draw_their_own_numbers():
    tokens = torch.zeros(4, 64, dtype=torch.int64)
    near = neighbors(torch.randn(1024, 4, generator=torch.Generator().manual_seed(0)), 20)

    def all_cells(seed, block):
        return [noisy for _, noisy in perturbed_by_cells(tokens, near, grid(1024), seed=seed, block=block)]

    once = all_cells(0, 0)
    assert all(torch.equal(a, b) for a, b in zip(once, all_cells(0, 0), strict=True))
    different = [*once, *all_cells(1, 0), *all_cells(0, 1)]
    assert len({noisy.numpy().tobytes() for noisy in different}) == 3 * 3 * len(ALPHAS)
