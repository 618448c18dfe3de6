"""Residual VQ and VAR's multi-scale VQ: one axis of tokens, sums of codes, levels, how codes are placed and perturbed.

`test_peer.py` holds residual VQ to another implementation, tests/adapters/test_var_vq.py multi-scale VQ to VAR's own.
"""

import pytest
import torch
from torch import Tensor

from robustok.tokenizer.encoder import Conv, ViT
from robustok.tokenizer.perturbation import neighbors, perturb
from robustok.tokenizer.quantizer import MultiScaleVQ, ResidualVQ, build_quantizer, nearest_code
from robustok.tokenizer.tokenizer import Tokenizer, TokenizerConfig

SIZES = {"codebook_size": 24, "width": 4}
KINDS = {
    "shared": ResidualVQ(**SIZES, levels=3),
    "own": ResidualVQ(**SIZES, levels=3, shared=False),
    "averaged": ResidualVQ(**SIZES, levels=2, decay=0.9),
    "scales": MultiScaleVQ(**SIZES, scales=(1, 2, 4)),
}
kinds = pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def made(config, seed: int = 0):
    torch.manual_seed(seed)
    return build_quantizer(config)


@kinds
def test_tokens_are_all_levels_one_after_another_and_codes_their_sum(config):
    quantizer, latents = made(config), random(2, 16, 4)
    quantized = quantizer(latents)
    blocks = config.tokens_per_level(16)
    assert quantized.tokens.shape == (2, sum(blocks))
    assert quantized.codes.shape == latents.shape
    torch.testing.assert_close(quantizer.lookup(quantized.tokens), quantized.codes)
    if isinstance(config, ResidualVQ):
        levels = quantizer.codebook[quantized.tokens].unflatten(1, (config.levels, 16))
        torch.testing.assert_close(quantized.codes, levels.sum(dim=1))


@kinds
def test_each_token_is_the_nearest_code_of_what_is_left(config):
    quantizer, latents = made(config), random(2, 16, 4)
    tokens, points = quantizer(latents).tokens, quantizer.points(latents)
    books = quantizer.codebook.detach().chunk(quantizer.books)
    for level, part in enumerate(quantizer.split(torch.arange(tokens.shape[1])[None])):
        codes = books[level % quantizer.books]
        own = tokens[:, part[0]] - level % quantizer.books * len(codes)
        assert torch.equal(own, nearest_code(points[:, part[0]], codes))
    first = quantizer.sequence(quantizer.shrink(quantizer.whole(latents), 0))
    torch.testing.assert_close(points[:, : first.shape[1]], first)


@kinds
def test_the_gradient_goes_straight_to_the_latents_once(config):
    quantizer, latents, weights = made(config), random(2, 16, 4).requires_grad_(), random(2, 16, 4, seed=1)
    (quantizer(latents).codes * weights).sum().backward()
    torch.testing.assert_close(latents.grad, weights)
    other = quantizer.lookup(torch.zeros(2, sum(config.tokens_per_level(16)), dtype=torch.int64)).detach()
    passed = quantizer.straight_through(quantizer.project(latents), other)
    torch.testing.assert_close(passed, other)


@kinds
def test_the_loss_is_the_mean_over_levels_of_both_sides_of_each_sum(config):
    quantizer, latents = made(config), random(2, 16, 4)
    quantized = quantizer(latents)
    errors = [(quantizer.sequence(x) - latents).square().mean() for x in quantizer.sums(quantized.tokens)]
    sides = 0.25 if quantizer.averages is not None else 1.25
    torch.testing.assert_close(quantized.loss, sides * torch.stack(errors).mean())


def test_one_level_is_plain_vector_quantization():
    quantizer, latents = made(ResidualVQ(**SIZES, levels=1)), random(2, 16, 4)
    quantized = quantizer(latents)
    assert torch.equal(quantized.tokens, nearest_code(latents, quantizer.codebook.detach()))
    torch.testing.assert_close(quantized.codes, quantizer.codebook[quantized.tokens])


def test_scales_of_one_size_without_smoothing_are_residual_levels():
    """As residual VQ with a shared codebook is: only that scales grow tells the two apart."""
    multi = made(MultiScaleVQ(**SIZES, scales=(4,), smoothing=0.0))
    levels = made(ResidualVQ(**SIZES, levels=1))
    levels.load_state_dict({"embedding": multi.embedding})
    latents = random(2, 16, 4)
    for ours, theirs in zip(multi(latents), levels(latents), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_with_averages_no_gradient_reaches_the_codes():
    quantizer, latents = made(KINDS["averaged"]), random(2, 16, 4).requires_grad_()
    quantizer(latents).loss.backward()
    assert quantizer.embedding.grad is None
    assert latents.grad.abs().sum() > 0


def test_a_shared_codebook_s_averages_are_of_all_levels():
    """Closed form: decay 1/2 and all counts 1 before, so that a code is the mean of itself and what chose it."""
    quantizer = made(ResidualVQ(**SIZES, levels=2, decay=0.5))
    latents = random(2, 16, 4)
    before, tokens, points = quantizer.embedding.detach().clone(), quantizer(latents).tokens, quantizer.points(latents)
    parts = [quantizer.clusters(tokens[i : i + 1], latents[i : i + 1]) for i in range(2)]
    quantizer.follow(*(sum(part) for part in zip(*parts, strict=True)))  # parts of a batch add up
    for code in range(24):
        chose = points[tokens == code]
        expected = (before[code] + chose.sum(dim=0)) / (1 + len(chose))
        torch.testing.assert_close(quantizer.embedding[code].detach(), expected, atol=1e-4, rtol=1e-4)  # smoothing


@kinds
def test_k_means_places_the_levels_one_after_another(config):
    quantizer, latents = made(config), random(64, 16, 4)
    before = quantizer(latents).loss
    quantizer.init_kmeans(latents, generator=seeded(1), per_code=16)
    quantized = quantizer(latents)
    assert quantized.loss < before
    assert len(quantized.tokens.unique()) > 0.8 * len(quantizer.codebook)
    if isinstance(config, ResidualVQ):
        errors = [float((x - latents).detach().square().mean()) for x in quantizer.sums(quantized.tokens)]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < 0.5 * errors[0]
    if quantizer.averages is not None:
        assert torch.equal(quantizer.averages.sums, quantizer.embedding.detach())


@kinds
def test_dead_codes_move_onto_what_their_level_has_left(config):
    quantizer, latents = made(config), random(2, 16, 4)
    points, before = quantizer.points(latents), quantizer.embedding.detach().clone()
    dead = torch.arange(len(before)) % 3 == 0
    moved = quantizer.reset_dead_codes(dead, latents, generator=seeded(2))
    assert torch.equal(moved, dead.nonzero().flatten())
    assert torch.equal(quantizer.embedding[~dead].detach(), before[~dead])
    own = points.chunk(quantizer.books, dim=1)
    for code in moved:
        of_level = own[int(code) * quantizer.books // len(before)].flatten(0, 1)
        assert (of_level == quantizer.embedding[code]).all(dim=1).any()


def test_perturbation_leaves_alone_what_it_did_not_draw():
    quantizer, latents = made(KINDS["shared"]), random(4, 16, 4)
    tokens, near = quantizer(latents).tokens, neighbors(quantizer.codebook, 3)
    assert torch.equal(perturb(tokens, near, 0.0, 1.0, generator=seeded(3)), tokens)
    noisy = perturb(tokens, near, 0.5, 1.0, generator=seeded(3))
    changed = noisy != tokens
    assert changed.sum(dim=1).tolist() == [24] * 4  # half of 48
    assert changed.unflatten(1, (3, 16)).any(dim=2).all()  # of every level some
    moved = (quantizer.lookup(noisy) - quantizer.lookup(tokens)).abs().amax(dim=2) > 1e-6
    assert torch.equal(moved, changed.unflatten(1, (3, 16)).any(dim=1))  # where a token of any level errs, only there


PART = Conv(channels=(8, 16), blocks=1, stem=4, attention=False)


@kinds
def test_a_tokenizer_of_each_kind_is_saved_and_loaded(config, tmp_path):
    torch.manual_seed(0)
    made = TokenizerConfig(image_size=32, encoder=PART, decoder=PART, quantizer=config)
    model = Tokenizer(made).eval()
    model.save_pretrained(tmp_path)
    again = Tokenizer.from_pretrained(tmp_path)
    assert (again.config, again.fingerprint()) == (model.config, model.fingerprint())
    images = random(2, 3, 32, 32)
    tokens = model.quantize(model.encode(images)).tokens
    assert tokens.shape == (2, model.tokens_per_image) == (2, sum(config.tokens_per_level(16)))
    torch.testing.assert_close(again(images), model.decode(model.lookup(tokens)), atol=1e-5, rtol=1e-5)


def test_the_fingerprint_tells_apart_what_weights_do_not():
    prints = set()
    for config in (
        ResidualVQ(**SIZES, levels=2),
        ResidualVQ(**SIZES, levels=3),
        MultiScaleVQ(**SIZES, scales=(2, 4)),
        MultiScaleVQ(**SIZES, scales=(1, 4)),
        MultiScaleVQ(**SIZES, scales=(1, 4), smoothing=0.25),
    ):
        torch.manual_seed(0)
        made = TokenizerConfig(image_size=32, encoder=PART, decoder=PART, quantizer=config)
        prints.add(Tokenizer(made).fingerprint())
    assert len(prints) == 5
    averaged = Tokenizer(TokenizerConfig(image_size=32, encoder=PART, decoder=PART, quantizer=KINDS["averaged"]))
    before = averaged.fingerprint()
    averaged.quantizer.averages.counts += 1  # which decides no token
    assert averaged.fingerprint() == before


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResidualVQ(levels=0), "levels is 0 and decay 0.0; give 1 level or more"),
        (lambda: ResidualVQ(decay=1.0), "a decay of 0 to below 1"),
        (lambda: ResidualVQ(codebook_size=1), "codebook_size is 1; it must be at least 2"),
        (lambda: MultiScaleVQ(scales=()), r"scales are \(\); give the sides"),
        (lambda: MultiScaleVQ(smoothers=0), "smoothers is 0 .*give 1 convolution or more"),
        (lambda: MultiScaleVQ(smoothing=1.5), "a fraction from 0 to 1"),
        (lambda: MultiScaleVQ(commitment=-1.0), "at least 0"),
        (
            lambda: TokenizerConfig(image_size=32, encoder=PART, decoder=PART, quantizer=MultiScaleVQ()),
            r"the finest .* is a map of 16 x 16, and the encoder makes 16 latents; give scales that end with the side",
        ),
        (
            lambda: made(ResidualVQ(**SIZES, levels=3)).lookup(torch.zeros(1, 7, dtype=torch.int64)),
            "7 tokens are not those of 3 levels of equal size; pass the tokens of all levels",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_latents_without_a_map_have_residual_levels():
    part = ViT(patch=8, latents=5, width=32, depth=1, heads=1)
    config = TokenizerConfig(image_size=32, encoder=part, decoder=part, quantizer=ResidualVQ(**SIZES, levels=2))
    assert Tokenizer(config)(random(1, 3, 32, 32)).shape == (1, 3, 32, 32)
    with pytest.raises(ValueError, match="the encoder makes 5 latents"):
        TokenizerConfig(image_size=32, encoder=part, decoder=part, quantizer=MultiScaleVQ(scales=(1, 2)))
