"""Vector quantization: the nearest code, both gradients, k-means start, revival."""

import pytest
import torch
import torch.nn.functional as F

from robustok.tokenizer.quantizer import VQ, VectorQuantizer, code_use, nearest_code, rotation_trick, straight_through


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed))


@pytest.mark.parametrize("normalized", [True, False])
def test_the_chosen_code_is_the_nearest(normalized):
    quantizer = VectorQuantizer(VQ(codebook_size=20, width=5, normalized=normalized))
    latents = random(3, 7, 5)
    placed = quantizer.project(latents)
    distances = torch.cdist(placed, quantizer.codebook.detach().expand(3, -1, -1))
    quantized = quantizer(latents)
    assert torch.equal(quantized.tokens, distances.argmin(dim=-1))
    torch.testing.assert_close(quantized.codes, quantizer.lookup(quantized.tokens))


def test_codes_come_back_as_themselves():
    quantizer = VectorQuantizer(VQ(codebook_size=20, width=5))
    tokens = torch.arange(20).view(4, 5)
    quantized = quantizer(3.7 * quantizer.lookup(tokens))
    assert torch.equal(quantized.tokens, tokens)
    assert quantized.loss < 1e-12


def test_loss_is_codebook_loss_plus_commitment():
    quantizer = VectorQuantizer(VQ(codebook_size=4, width=2, commitment=0.25, normalized=False))
    latents = random(1, 3, 2, seed=1).requires_grad_()
    quantized = quantizer(latents)
    codes = quantizer.embedding[quantized.tokens]
    mean_square = (codes - latents).square().mean()
    torch.testing.assert_close(quantized.loss, 1.25 * mean_square)
    quantized.loss.backward()
    # each half moves only its own side: 2 (z - e) / count, times the commitment for the latents
    torch.testing.assert_close(latents.grad, 0.25 * 2 * (latents - codes).detach() / latents.numel())
    moved = torch.zeros(4, 2).index_add_(0, quantized.tokens.flatten(), (codes - latents).detach().flatten(0, 1))
    torch.testing.assert_close(quantizer.embedding.grad, 2 * moved / latents.numel())


def test_straight_through_copies_the_gradient():
    latents = random(2, 3, 4).requires_grad_()
    codes, weights = random(2, 3, 4, seed=1), random(2, 3, 4, seed=2)
    passed = straight_through(latents, codes)
    (passed * weights).sum().backward()
    torch.testing.assert_close(passed, codes)
    assert torch.equal(latents.grad, weights)


def test_rotation_turns_and_scales_the_gradient_as_it_does_the_latent():
    latents = random(2, 3, 4).requires_grad_()
    codes = 2 * random(2, 3, 4, seed=1)
    passed = rotation_trick(latents, codes)
    torch.testing.assert_close(passed, codes)
    passed.backward(codes / codes.norm(dim=-1, keepdim=True))
    # a rotation's transpose takes the code's direction back to the latent's; the scale is |codes| / |latents|
    expected = latents / latents.norm(dim=-1, keepdim=True) ** 2 * codes.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(latents.grad, expected)


def test_k_means_finds_separate_clusters():
    centres = F.normalize(torch.eye(6), dim=1)
    points = centres.repeat(50, 1) + 0.01 * random(300, 6, seed=3)
    quantizer = VectorQuantizer(VQ(codebook_size=6, width=6))
    quantizer.init_kmeans(points[None], generator=seeded(4), rounds=20)
    assert len(nearest_code(centres, quantizer.codebook.detach()).unique()) >= 5
    # no code is left on nothing
    assert code_use(nearest_code(quantizer.project(points), quantizer.codebook.detach()), 6)["codebook_use"] == 1


def test_k_means_refuses_fewer_latents_than_codes():
    with pytest.raises(ValueError, match="k-means places 6 codes on at least as many latents, not 5"):
        VectorQuantizer(VQ(codebook_size=6, width=3)).init_kmeans(random(1, 5, 3), generator=seeded(0))


def test_dead_codes_move_onto_latents_of_the_step():
    quantizer = VectorQuantizer(VQ(codebook_size=8, width=3))
    before = quantizer.embedding.clone()
    dead, latents = torch.arange(8) >= 4, random(1, 4, 3, seed=5)
    assert quantizer.reset_dead_codes(dead, latents, generator=seeded(6)).tolist() == [4, 5, 6, 7]
    assert torch.equal(quantizer.embedding[:4], before[:4])
    assert all((quantizer.project(latents) == quantizer.embedding[i]).all(dim=-1).any() for i in range(4, 8))
    few = quantizer.reset_dead_codes(dead, latents[:, :3], generator=seeded(6))
    assert few.tolist() == [4, 5, 6]  # as many as there are latents


def test_code_use_and_perplexity_in_closed_form():
    uniform = code_use(torch.arange(4).repeat(3), 8)
    assert uniform["codebook_use"] == 0.5
    assert uniform["codebook_perplexity"] == pytest.approx(4.0)
    assert code_use(torch.zeros(9, dtype=torch.long), 8)["codebook_perplexity"] == pytest.approx(1.0)


@pytest.mark.parametrize("wrong", [{"codebook_size": 1}, {"width": 0}, {"commitment": -1.0}, {"revive_after": -1}])
def test_a_senseless_codebook_is_refused(wrong):
    with pytest.raises(ValueError, match=r"at least"):
        VQ(**wrong)
