"""SimVQ: codes that move together, saved and told apart; `test_peer.py` holds it to another implementation."""

import pytest
import torch

from robustok.tokenizer.encoder import Conv
from robustok.tokenizer.perturbation import NeighborTable, neighbors
from robustok.tokenizer.quantizer import Quantizer, SimVQ, build_quantizer, nearest_code
from robustok.tokenizer.tokenizer import Tokenizer, TokenizerConfig

PART = Conv(channels=(8, 16), blocks=1, stem=4, attention=False)


def tokenizer() -> Tokenizer:
    torch.manual_seed(0)
    config = TokenizerConfig(image_size=32, encoder=PART, decoder=PART, quantizer=SimVQ(codebook_size=20, width=4))
    return Tokenizer(config)


def test_the_chosen_code_is_the_nearest_mapped_one():
    torch.manual_seed(0)
    quantizer, latents = build_quantizer(SimVQ(codebook_size=20, width=4)), torch.randn(3, 7, 4)
    assert isinstance(quantizer, Quantizer)
    quantized = quantizer(latents)
    mapped = quantizer.frozen @ quantizer.map.weight.T
    assert torch.equal(quantized.tokens, nearest_code(latents, mapped.detach()))
    torch.testing.assert_close(quantized.codes, mapped[quantized.tokens])
    torch.testing.assert_close(quantizer.lookup(quantized.tokens), quantized.codes)


def test_one_step_moves_every_code_and_the_neighbors_are_of_the_moved_ones():
    torch.manual_seed(0)
    quantizer, table = build_quantizer(SimVQ(codebook_size=20, width=4)), NeighborTable()
    before, frozen, near = quantizer.codebook.detach().clone(), quantizer.frozen.clone(), table(quantizer.codebook, 3)
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.5)
    quantizer(torch.randn(1, 2, 4)).loss.backward()  # two latents, two codes at most
    optimizer.step()
    assert (quantizer.codebook - before).abs().amax(dim=1).min() > 0
    assert torch.equal(quantizer.frozen, frozen)
    after = table(quantizer.codebook, 3)
    assert torch.equal(after, neighbors(quantizer.codebook, 3))
    assert not torch.equal(after, near)


def test_it_is_saved_with_its_frozen_codes_and_told_apart(tmp_path):
    model = tokenizer().eval()
    model.save_pretrained(tmp_path)
    again = Tokenizer.from_pretrained(tmp_path)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(images), model(images))
    before = model.fingerprint()
    assert again.fingerprint() == before
    with torch.no_grad():
        again.quantizer.map.weight[0, 0] += 1e-3
    assert again.fingerprint() != before
    model.quantizer.frozen[0, 0] += 1e-3
    assert model.fingerprint() != before
    assert tokenizer().earlier_fingerprints() == ()


@pytest.mark.parametrize("wrong", [{"codebook_size": 1}, {"width": 0}, {"commitment": -1.0}])
def test_a_senseless_codebook_is_refused(wrong):
    with pytest.raises(ValueError, match="at least"):
        SimVQ(**wrong)
