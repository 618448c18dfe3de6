"""Codes as moving averages of their latents: closed forms; `test_peer.py` has the numbers of another."""

import pytest
import torch

from robustok.tokenizer.quantizer import EMAVQ, VQ, build_quantizer
from robustok.tokenizer.quantizers.moving_average import ClusterAverages, smoothed


def test_smoothed_counts_keep_their_sum_in_each_book_and_none_is_zero():
    counts = torch.tensor([[0.0, 2.0, 6.0], [0.0, 0.0, 1.0]])
    after = smoothed(counts)
    torch.testing.assert_close(after.sum(dim=1), counts.sum(dim=1))
    assert (after > 0).all()
    torch.testing.assert_close(after[0, 1], torch.tensor((2 + 1e-5) / (8 + 3e-5) * 8))


def test_the_averages_of_constant_clusters_converge_to_their_mean():
    start, target = torch.zeros(2, 1), torch.tensor([[4.0], [7.0]])
    averages, counts = ClusterAverages(start, 1, 0.5), torch.tensor([3.0, 5.0])
    for step in range(1, 30):
        codes = averages.update(counts, counts[:, None] * target)
        expected = counts + (1 - counts) * 0.5**step  # from the one that each began with
        torch.testing.assert_close(averages.counts, expected)
    torch.testing.assert_close(codes, target, atol=1e-4, rtol=1e-4)


def test_a_code_that_nothing_chooses_keeps_its_place():
    quantizer = build_quantizer(EMAVQ(codebook_size=4, width=2, normalized=False, decay=0.9))
    before = quantizer.codebook.detach().clone()
    latents = before[:2].repeat(1, 20, 1) + 0.01
    for _ in range(5):
        quantizer.follow(*quantizer.clusters(torch.arange(40)[None] % 2, latents))
    torch.testing.assert_close(quantizer.codebook[2:].detach(), before[2:], atol=1e-2, rtol=1e-2)
    assert (quantizer.codebook[:2] - before[:2]).abs().min() > 5e-3


def test_a_code_that_is_placed_anew_begins_as_one_latent():
    torch.manual_seed(0)
    quantizer, latents = build_quantizer(EMAVQ(codebook_size=6, width=3)), torch.randn(1, 8, 3)
    for _ in range(3):
        quantizer.follow(*quantizer.clusters(quantizer(latents).tokens, latents))
    moved = quantizer.reset_dead_codes(torch.arange(6) >= 4, latents, generator=torch.Generator())
    assert moved.tolist() == [4, 5]
    assert quantizer.averages.counts[4:].tolist() == [1, 1]
    assert torch.equal(quantizer.averages.sums[4:], quantizer.embedding[4:].detach())
    points = quantizer.project(latents)[0]
    assert all((points == quantizer.embedding[code]).all(dim=1).any() for code in (4, 5))


@pytest.mark.parametrize("normalized", [False, True])
def test_averages_are_aligned_to_codes_that_were_put_elsewhere(normalized):
    torch.manual_seed(0)
    quantizer, latents = build_quantizer(EMAVQ(codebook_size=6, width=3, normalized=normalized)), torch.randn(1, 8, 3)
    quantizer.follow(*quantizer.clusters(quantizer(latents).tokens, latents))
    counts, codes = quantizer.averages.counts.clone(), quantizer.project(torch.randn(6, 3))
    quantizer.embedding.data.copy_(codes)
    quantizer.align()
    nothing = torch.zeros(6)
    quantizer.follow(nothing, nothing[:, None].expand(6, 3))  # a step without latents
    torch.testing.assert_close(quantizer.embedding.detach(), codes, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(quantizer.averages.counts, 0.99 * counts)


def test_it_is_vq_but_for_the_codebook_loss():
    torch.manual_seed(0)
    plain, averaged = (build_quantizer(kind(codebook_size=6, width=3)) for kind in (VQ, EMAVQ))
    averaged.embedding.data.copy_(plain.embedding.data)
    latents = torch.randn(2, 8, 3)
    ours, theirs = averaged(latents), plain(latents)
    assert torch.equal(ours.tokens, theirs.tokens)
    torch.testing.assert_close(ours.codes, theirs.codes)
    torch.testing.assert_close(5 * ours.loss, theirs.loss)  # 0.25 of 1.25
    assert ours.loss.grad_fn is None  # of latents without gradients: the codes get none


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5])
def test_a_senseless_decay_is_refused(decay):
    with pytest.raises(ValueError, match="it is between 0 and 1, for example 0.99; for none take VQ"):
        EMAVQ(decay=decay)
