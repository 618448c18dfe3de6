"""The continuous tokenizer: round trips, standardized latents, hidden patches, files."""

import pytest
import torch

from robustok.runtime.checkpoint import save_model
from robustok.tokenizer.autoencoder import Autoencoder, AutoencoderConfig
from robustok.tokenizer.bottleneck import KL, Plain, VarianceExpansion
from robustok.tokenizer.encoder import Conv, ViT, patch_side, random_patch_mask
from robustok.tokenizer.protocol import as_module, codebook_of

CONV = Conv(channels=(8, 16), blocks=1, stem=2)
SHARED = ViT(patch=4, latents=16, width=32, depth=2, heads=2)  # as many latents as patches
FEWER = ViT(patch=4, latents=5, width=32, depth=2, heads=2, layer_scale=None)
PARTS = [CONV, SHARED, FEWER]


def autoencoder(part: Conv | ViT = CONV, bottleneck: Plain | KL | VarianceExpansion | None = None) -> Autoencoder:
    torch.manual_seed(0)
    config = AutoencoderConfig(image_size=16, encoder=part, decoder=part, bottleneck=bottleneck or Plain(width=6))
    return Autoencoder(config).eval()


def images(b: int = 8) -> torch.Tensor:
    return torch.randn(b, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("bottleneck", [Plain(width=6), KL(width=6), VarianceExpansion(width=6)])
@pytest.mark.parametrize(("part", "n"), [(CONV, 16), (SHARED, 16), (FEWER, 5)])
def test_images_become_latents_and_images_again(part, n, bottleneck):
    model = autoencoder(part, bottleneck)
    latents = model.encode(images(2))
    assert latents.shape == (2, n, 6) == (2, *model.latent_shape)
    assert model.tokens_per_image == n
    assert torch.equal(model(images(2)), model.decode(latents))
    assert model.decode(latents).shape == (2, 3, 16, 16)
    model(images(2)).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_it_is_a_tokenizer_without_a_codebook():
    assert codebook_of(as_module(autoencoder())) is None


def test_what_is_encoded_is_the_posteriors_mean():
    model = autoencoder(bottleneck=KL(width=6))
    assert torch.equal(model.encode(images()), model.posterior(images()).mean)


@pytest.mark.parametrize("part", PARTS)
def test_standardized_latents_have_mean_0_and_deviation_1_and_decode_alike(part):
    model = autoencoder(part)
    before, output = model.encode(images()), model(images())
    flat = before.flatten(0, 1)
    model.standardize(flat.mean(dim=0), flat.std(dim=0, correction=0))
    after = model.encode(images()).flatten(0, 1)
    torch.testing.assert_close(after.mean(dim=0), torch.zeros(6), rtol=0, atol=1e-5)
    torch.testing.assert_close(after.std(dim=0, correction=0), torch.ones(6), rtol=1e-5, atol=0)
    torch.testing.assert_close(model(images()), output, rtol=1e-4, atol=1e-4)


def test_standardizing_twice_is_standardizing_once_by_both():
    once, twice = autoencoder(), autoencoder()
    mean, scale = torch.arange(6.0), torch.linspace(0.5, 3, 6)
    twice.standardize(torch.full((6,), 2.0), torch.full((6,), 4.0))
    twice.standardize((mean - 2) / 4, scale / 4)
    once.standardize(mean, scale)
    torch.testing.assert_close(twice.encode(images()), once.encode(images()), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(twice.latent_mean, mean)
    torch.testing.assert_close(twice.latent_scale, scale)


@pytest.mark.parametrize(
    ("mean", "scale"), [(torch.zeros(6), torch.zeros(6)), (torch.full((6,), torch.nan), torch.ones(6))]
)
def test_statistics_that_are_none_are_refused(mean, scale):
    model = autoencoder()
    with pytest.raises(ValueError, match="mean and scale must be finite, the scale above 0, not .*take fewer channels"):
        model.standardize(mean, scale)
    assert torch.equal(model.latent_scale, torch.ones(6))


def test_fingerprint_follows_encoder_and_statistics_not_decoder():
    a, b = autoencoder(), autoencoder()
    assert a.fingerprint() == b.fingerprint()
    with torch.no_grad():
        b.decoder.out.bias += 1
    assert a.fingerprint() == b.fingerprint()
    with torch.no_grad():
        b.encoder.out.bias[0] += 1e-3
    assert a.fingerprint() != b.fingerprint()
    for mean, scale in ((torch.full((6,), 0.1), torch.ones(6)), (torch.zeros(6), torch.full((6,), 2.0))):
        standardized = autoencoder()
        standardized.standardize(mean, scale)
        assert a.fingerprint() != standardized.fingerprint()


def test_a_saved_autoencoder_comes_back(tmp_path):
    model = autoencoder(FEWER, KL(width=6, weight=0.5))
    model.standardize(torch.arange(6.0), torch.linspace(0.5, 3, 6))
    model.save_pretrained(tmp_path, note="kept")
    again = Autoencoder.from_pretrained(tmp_path)
    assert again.config == model.config
    assert again.fingerprint() == model.fingerprint()
    assert torch.equal(again.encode(images()), model.encode(images()))
    assert torch.equal(again(images()), model(images()))
    assert not again.training


def test_another_kind_of_model_is_refused(tmp_path):
    save_model(tmp_path, autoencoder().state_dict(), {"kind": "tokenizer", "config": {}})
    with pytest.raises(ValueError, match="holds a tokenizer, not an? autoencoder"):
        Autoencoder.from_pretrained(tmp_path)


def test_exactly_a_share_of_the_patches_is_hidden():
    for share, wanted in ((0.0, 0), (0.4, 6), (0.5, 8), (0.99, 15), (1.0, 15)):  # never all
        hidden = random_patch_mask(5, 16, share, generator=torch.Generator().manual_seed(0))
        assert (hidden.sum(dim=1) == wanted).all()
    drawn = sum(
        random_patch_mask(100, 16, 0.5, generator=torch.Generator().manual_seed(s)).float().sum(0) for s in range(9)
    )
    assert (drawn / 900 - 0.5).abs().max() < 5 * 0.5 / 900**0.5  # each patch as often


@pytest.mark.parametrize("part", PARTS)
def test_hidden_pixels_have_no_influence(part):
    model = autoencoder(part)
    side = patch_side(part)
    count = 16 // side
    hidden = random_patch_mask(3, count**2, 0.5, generator=torch.Generator().manual_seed(2))
    pixels = hidden.view(3, 1, count, count).repeat_interleave(side, 2).repeat_interleave(side, 3).expand(3, 3, 16, 16)
    one = images(3)
    other, seen = one.clone(), one.clone()
    other[pixels] = 9.0
    seen[~pixels] += 0.1
    latents = model.posterior(one, hidden).mean
    assert torch.equal(model.posterior(other, hidden).mean, latents)
    assert not torch.equal(model.posterior(seen, hidden).mean, latents)
    assert not torch.equal(model.posterior(one).mean, latents)


@pytest.mark.parametrize("part", PARTS)
def test_nothing_hidden_is_the_whole_image(part):
    model = autoencoder(part)
    nothing = torch.zeros(8, (16 // patch_side(part)) ** 2, dtype=torch.bool)
    torch.testing.assert_close(model.posterior(images(), nothing).mean, model.encode(images()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("part", PARTS)
def test_an_image_does_not_see_its_neighbors_in_the_batch(part):
    model = autoencoder(part)
    torch.testing.assert_close(model(images())[1:2], model(images()[1:2]), atol=1e-5, rtol=1e-5)


def test_a_model_for_gray_images_makes_gray_images():
    config = AutoencoderConfig(image_size=16, encoder=CONV, decoder=CONV, bottleneck=Plain(width=6), channels=1)
    red, green, blue = Autoencoder(config)(images(2)).unbind(dim=1)
    assert torch.equal(red, green)
    assert torch.equal(red, blue)


def test_wrong_sizes_are_named():
    with pytest.raises(ValueError, match="takes images of 16 x 16 pixels, not 16 x 24"):
        autoencoder().encode(torch.zeros(1, 3, 16, 24))
    with pytest.raises(ValueError, match="side 18 is not a multiple of the patch size 4; crop to 16"):
        AutoencoderConfig(image_size=18, encoder=CONV, decoder=CONV)
    with pytest.raises(ValueError, match="encoder makes 5 tokens and the decoder reads 16; choose equal numbers"):
        AutoencoderConfig(image_size=16, encoder=FEWER, decoder=SHARED)
