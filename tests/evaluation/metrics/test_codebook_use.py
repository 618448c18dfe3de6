import pytest
import torch

from robustok.evaluation.metrics.codebook_use import code_counts, dead_codes, perplexity, used_fraction


def test_counts():
    tokens = torch.tensor([[0, 0, 3], [1, 0, 3]])
    counts = code_counts(tokens, 5)
    assert counts.tolist() == [3, 1, 0, 2, 0]
    assert torch.equal(code_counts(tokens[:1], 5) + code_counts(tokens[1:], 5), counts)
    assert used_fraction(counts) == pytest.approx(3 / 5)
    assert dead_codes(counts) == 2


@pytest.mark.parametrize("used", [1, 7, 32])
def test_perplexity_counts_equally_frequent_codes(used):
    tokens = torch.arange(used).repeat(3)[None]
    assert perplexity(code_counts(tokens, 32)) == pytest.approx(used, rel=1e-12)


def test_refuses_tokens_of_another_codebook():
    with pytest.raises(ValueError, match="run from 2 to 9, outside a codebook of 8 codes"):
        code_counts(torch.tensor([[2, 9]]), 8)
    with pytest.raises(ValueError, match="run from -1 to 2"):
        code_counts(torch.tensor([[2, -1]]), 8)
