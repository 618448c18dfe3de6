"""Quantizers with implicit codebooks: tokens and back, nearest codes, closed forms, gradients, neighbors."""

import math
from itertools import product

import pytest
import torch

from robustok.tokenizer.encoder import Conv
from robustok.tokenizer.perturbation import NeighborTable, neighbors, perturb
from robustok.tokenizer.quantizer import BSQ, FSQ, LFQ, Quantizer, build_quantizer, nearest_code
from robustok.tokenizer.quantizers.binary import entropies, entropy
from robustok.tokenizer.tokenizer import Tokenizer, TokenizerConfig

KINDS = [FSQ(levels=(7, 4, 5)), FSQ(levels=(3,)), FSQ(levels=(8, 8, 6, 5)), LFQ(bits=6), LFQ(bits=1), BSQ(bits=6)]
kinds = pytest.mark.parametrize("config", KINDS, ids=str)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed))


@kinds
def test_tokens_become_codes_and_tokens_again(config):
    quantizer = build_quantizer(config)
    assert isinstance(quantizer, Quantizer)
    k = config.codebook_size
    tokens = torch.arange(k)[None]
    codes = quantizer.lookup(tokens)
    assert codes.shape == (1, k, config.width)
    assert torch.equal(codes[0], quantizer.codebook)
    assert len(codes[0].unique(dim=0)) == k
    if isinstance(config, FSQ):  # its latents are bounded by a tanh that no code is the fixed point of
        placed = ((codes * quantizer.half_width).round().long() + quantizer.half_width) * quantizer.basis
        assert torch.equal(placed.sum(dim=-1), tokens)
    else:
        assert torch.equal(quantizer(1.3 * codes).tokens, tokens)


@kinds
def test_the_chosen_code_is_the_nearest_of_the_codebook(config):
    quantizer = build_quantizer(config)
    latents = 2 * random(3, 50, config.width)
    quantized = quantizer(latents)
    assert torch.equal(quantized.tokens, nearest_code(quantizer.project(latents), quantizer.codebook))
    torch.testing.assert_close(quantized.codes, quantizer.lookup(quantized.tokens))
    assert quantized.loss.shape == ()


@kinds
def test_gradients_pass_straight_to_the_latents_where_they_are_placed(config):
    quantizer = build_quantizer(config)
    latents, weights = random(2, 5, config.width).requires_grad_(), random(2, 5, config.width, seed=1)
    (quantizer(latents).codes * weights).sum().backward()
    through = latents.grad.clone()
    latents.grad = None
    (quantizer.project(latents) * weights).sum().backward()
    torch.testing.assert_close(through, latents.grad)
    other = quantizer.lookup(torch.zeros(2, 5, dtype=torch.int64))  # as perturbation does: codes of other tokens
    passed = quantizer.straight_through(quantizer.project(latents), other)
    torch.testing.assert_close(passed, other)
    latents.grad = None
    (passed * weights).sum().backward()
    torch.testing.assert_close(latents.grad, through)


def test_fsq_levels_are_those_of_the_paper():
    """Appendix A.1: 5 levels are -1, -0.5, 0, 0.5, 1; 4 levels have no upper end; the first channel is fastest."""
    codebook = build_quantizer(FSQ(levels=(5, 4))).codebook
    expected = [(x, y) for y, x in product((-1, -0.5, 0, 0.5), (-1, -0.5, 0, 0.5, 1))]
    torch.testing.assert_close(codebook, torch.tensor(expected))


@pytest.mark.parametrize("level", [3, 4, 5, 6, 7, 8, 15, 16])
def test_fsq_reaches_every_level_and_no_other_and_zero_stays_zero(level):
    quantizer = build_quantizer(FSQ(levels=(level,)))
    latents = torch.cat([torch.linspace(-9, 9, 4001), torch.tensor([-1e4, 1e4])])[None, :, None]
    tokens = quantizer(latents).tokens
    assert tokens.unique().tolist() == list(range(level))
    assert (tokens[0, :-2].diff() >= 0).all()  # rising
    assert tokens[0, -2:].tolist() == [0, level - 1]
    torch.testing.assert_close(quantizer.project(torch.zeros(1, 1, 1)), torch.zeros(1, 1, 1), atol=1e-6, rtol=0)
    assert quantizer(torch.zeros(1, 1, 1)).loss == 0


def test_binary_tokens_are_their_bits():
    for config, length in ((LFQ(bits=3), math.sqrt(3)), (BSQ(bits=3), 1.0)):
        quantizer = build_quantizer(config)
        latents = torch.tensor([[[0.2, -0.1, 3.0], [-1.0, -1.0, -1.0], [0.0, 1.0, -0.0]]])
        assert quantizer(latents).tokens.tolist() == [[0b101, 0, 0b010]]  # zero counts as below, LFQ's eq. 2
        torch.testing.assert_close(quantizer.codebook.norm(dim=1), torch.full((8,), length))


def softmax_entropies(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean entropy of the rows, entropy of their mean), from logits over all codes."""
    p = logits.softmax(dim=1)
    return entropy(p).mean(), entropy(p.mean(dim=0))


def test_entropies_by_channel_are_those_over_all_codes():
    latents = random(40, 6, seed=2)
    lfq, bsq = build_quantizer(LFQ(bits=6)).codebook, build_quantizer(BSQ(bits=6)).codebook
    of_lfq = softmax_entropies(-torch.cdist(latents, lfq).square() / 0.7)
    ours = entropies(torch.sigmoid(4 * latents / 0.7), group=6)
    torch.testing.assert_close(torch.stack(ours), torch.stack(of_lfq), atol=1e-5, rtol=1e-5)
    of_bsq = softmax_entropies(latents @ bsq.T / 0.3)
    ours = entropies(torch.sigmoid(2 * latents / 6**0.5 / 0.3), group=6)
    torch.testing.assert_close(torch.stack(ours), torch.stack(of_bsq), atol=1e-5, rtol=1e-5)


def test_smaller_groups_bound_the_joint_entropy_from_above():
    up = torch.sigmoid(3 * random(30, 6, seed=3))
    bounds = [float(entropies(up, group)[1]) for group in (6, 4, 3, 2, 1)]
    assert bounds == sorted(bounds)
    assert bounds[-1] < 6 * math.log(2)
    independent = torch.tensor([list(bits) for bits in product((0.1, 0.9), repeat=4)])
    torch.testing.assert_close(entropies(independent, 1)[1], torch.tensor(4 * math.log(2)))
    torch.testing.assert_close(entropies(independent, 4)[1], torch.tensor(4 * math.log(2)))


def test_losses_in_closed_form():
    """Latents on all corners: no doubt about each, all codes used alike, so the entropy term is -log K."""
    corners = 50 * build_quantizer(LFQ(bits=4)).codebook[None]
    lfq = build_quantizer(LFQ(bits=4, commitment=0.25, entropy=0.1, diversity=2.0))
    assert lfq(corners).loss == pytest.approx(0.25 * 49**2 - 0.1 * 2 * 4 * math.log(2))
    bsq = build_quantizer(BSQ(bits=4, entropy=0.1, diversity=2.0))
    assert bsq(corners).loss == pytest.approx(-0.1 * 2 * 4 * math.log(2))
    undecided = torch.zeros(1, 5, 4)  # half a bit of everything: both entropies are log K
    assert build_quantizer(LFQ(bits=4, commitment=0.0))(undecided).loss == pytest.approx(0, abs=1e-6)
    assert build_quantizer(BSQ(bits=4, entropy=0.0))(undecided).loss == 0


def test_the_entropy_term_spreads_latents_over_the_codes():
    for config in (LFQ(bits=5, commitment=0.0), BSQ(bits=5, temperature=0.3)):
        quantizer = build_quantizer(config)
        latents = (0.4 + 0.2 * random(1, 200, 5, seed=4)).requires_grad_()
        optimizer = torch.optim.Adam([latents], lr=0.1)
        before = len(quantizer(latents).tokens.unique())
        for _ in range(60):
            optimizer.zero_grad()
            quantizer(latents).loss.backward()
            optimizer.step()
        assert before < 8
        assert len(quantizer(latents).tokens.unique()) > 25


@kinds
def test_neighbors_are_the_nearest_codes_and_the_table_is_built_once(config):
    codebook = build_quantizer(config).codebook
    k = len(codebook)
    delta = min(5, k - 1)
    table = NeighborTable()
    near = table(codebook, delta)
    distances = torch.cdist(codebook, codebook).fill_diagonal_(torch.inf)
    torch.testing.assert_close(distances.gather(1, near), distances.sort(dim=1).values[:, :delta])
    for step in range(3):
        table(codebook, max(1, delta - step))
    assert table.rebuilt == 1
    tokens = torch.randint(k, (4, 8), generator=seeded(5))
    noisy = perturb(tokens, near, 0.5, 1.0, generator=seeded(6))
    assert ((noisy != tokens).sum(dim=1) == 4).all()


def test_a_binary_code_s_nearest_neighbors_differ_in_one_bit():
    near = neighbors(build_quantizer(BSQ(bits=7)).codebook, 7)
    flipped = torch.arange(128)[:, None] ^ 1 << torch.arange(7)
    assert torch.equal(near.sort(dim=1).values, flipped.sort(dim=1).values)


def test_neighbors_of_many_codes_are_found_some_at_a_time(monkeypatch):
    codebook = build_quantizer(FSQ(levels=(5, 5, 5))).codebook + 1e-3 * random(125, 3, seed=7)
    whole = neighbors(codebook, 9)
    monkeypatch.setattr("robustok.tokenizer.perturbation.DISTANCES", 8 * 125)
    assert torch.equal(neighbors(codebook, 9), whole)


@pytest.mark.parametrize("config", [FSQ(levels=(4, 3)), LFQ(bits=4), BSQ(bits=4)], ids=str)
def test_a_tokenizer_of_each_kind_is_saved_and_loaded(config, tmp_path):
    part = Conv(channels=(8, 16), blocks=1, stem=2, attention=False)
    torch.manual_seed(0)
    model = Tokenizer(TokenizerConfig(image_size=16, encoder=part, decoder=part, quantizer=config)).eval()
    model.save_pretrained(tmp_path)
    again = Tokenizer.from_pretrained(tmp_path)
    assert again.config == model.config
    assert again.fingerprint() == model.fingerprint()
    images = random(2, 3, 16, 16)
    assert torch.equal(again(images), model(images))
    tokens = model.quantize(model.encode(images)).tokens
    torch.testing.assert_close(model(images), model.decode(model.lookup(tokens)), atol=1e-5, rtol=1e-5)
    assert model.device == torch.device("cpu")


def test_the_fingerprint_tells_implicit_codebooks_apart():
    part = Conv(channels=(8, 16), blocks=1, stem=2, attention=False)
    prints = set()
    for config in (FSQ(levels=(4, 5, 3)), FSQ(levels=(5, 4, 3)), LFQ(bits=3), BSQ(bits=3)):
        torch.manual_seed(0)
        prints.add(
            Tokenizer(TokenizerConfig(image_size=16, encoder=part, decoder=part, quantizer=config)).fingerprint()
        )
    assert len(prints) == 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FSQ(levels=(5, 2)), "3 levels or more, not .*for two of them take LFQ or BSQ"),
        (lambda: FSQ(levels=()), "3 levels or more"),
        (lambda: FSQ(levels=(64, 64, 64, 64)), r"at most 2\^20 codes here, not 16,777,216; take fewer channels"),
        (lambda: LFQ(bits=0), "at least 1 bit"),
        (lambda: LFQ(bits=36), "take at most 20 bits"),
        (lambda: LFQ(temperature=0.0), "temperature above 0"),
        (lambda: LFQ(commitment=-1.0), "commitment is -1.0; it must be at least 0"),
        (lambda: BSQ(bits=21), "take at most 20 bits"),
        (lambda: BSQ(group=0), "entropy groups of at least 1"),
        (lambda: BSQ(diversity=-0.5), "diversity is -0.5; it must be at least 0"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
