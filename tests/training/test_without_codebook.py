"""Main training without a codebook: what the decoder sees, what is hidden, and the statistics of the latents."""

from dataclasses import replace

import pytest
import torch
from tests.training.continuous import Patches
from tests.training.tiny import coarse

from robustok import models
from robustok.data.images import FashionMNIST
from robustok.evaluation.scores.tokenizer_scores import score_tokenizer
from robustok.runtime.checkpoint import read_json
from robustok.runtime.logging import MetricsLog
from robustok.tokenizer.autoencoder import Autoencoder, AutoencoderConfig
from robustok.tokenizer.bottleneck import KL, Plain, VarianceExpansion
from robustok.tokenizer.encoder import Conv, ViT
from robustok.tokenizer.frozen_encoder import FrozenLite0
from robustok.tokenizer.latent_perturbation import AddedNoise, LatentMixing, LatentNoise
from robustok.training.loop import Loop
from robustok.training.objective import Objective
from robustok.training.optim import Optim
from robustok.training.tokenizer_training import TokenizerStage, TokenizerTraining, train_tokenizer
from robustok.training.without_codebook import latent_statistics

CONV = Conv(stem=4, channels=(16, 32), blocks=1, attention=False)
VIT = ViT(patch=8, latents=4, width=64, depth=2, heads=1)
TINY = TokenizerTraining(
    tokenizer=AutoencoderConfig(image_size=32, encoder=CONV, decoder=CONV, bottleneck=Plain(width=8)),
    loop=Loop(steps=8, batch_size=16, log_every=1, save_every=0),
    perturbation=LatentNoise(beta=0.5, alpha=0.5),
    objective=Objective(perceptual=0.0, adversarial=0.0),
    optim=Optim(lr=2e-3),
    ema_decay=0.5,
    statistics_images=64,
    precision="fp32",
)


@pytest.fixture(scope="module")
def images():
    return FashionMNIST("train").subset(torch.arange(64))


def batch(images, b: int = 16) -> torch.Tensor:
    return images.images(torch.arange(b))


def with_bottleneck(bottleneck: Plain | KL | VarianceExpansion, part: Conv | ViT = CONV) -> TokenizerTraining:
    config = AutoencoderConfig(image_size=32, encoder=part, decoder=part, bottleneck=bottleneck)
    return replace(TINY, tokenizer=config)


@pytest.mark.parametrize("perturbation", [LatentNoise(beta=0.5, alpha=0.5), LatentMixing(beta=0.5, alpha=0.5)])
def test_the_decoder_sees_the_drawn_share_of_latents_disturbed(images, perturbation):
    stage, x = TokenizerStage(replace(TINY, perturbation=perturbation)), batch(images)
    clean = stage.model.encode(x).detach()
    seen = []
    stage.model.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    stage.step(x, 0)
    changed = ((seen[0] - clean).abs().amax(dim=2) > 1e-6).sum(dim=1)
    assert sorted(changed.tolist()) == [0] * 8 + [8] * 8  # half of the images, half of the 16 tokens


def test_accumulating_disturbs_the_same_latents_of_the_whole_batch(images):
    x, seen = batch(images), {}
    for parts in (1, 4):
        stage = TokenizerStage(replace(TINY, optim=Optim(lr=2e-3, micro_batches=parts)))
        inputs: list[torch.Tensor] = []
        clean = stage.model.encode(x).detach()
        stage.model.decoder.register_forward_pre_hook(lambda _, args, inputs=inputs: inputs.append(args[0].detach()))
        stage.step(x, 0)
        seen[parts] = (torch.cat(inputs) - clean).abs().amax(dim=2) > 1e-6
    assert torch.equal(seen[1], seen[4])


def test_without_perturbation_the_decoder_sees_the_mean_of_a_plain_latent(images):
    stage, x = TokenizerStage(replace(TINY, perturbation=LatentNoise(beta=0.0))), batch(images)
    clean, seen = stage.model.encode(x).detach(), []
    stage.model.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    stage.step(x, 0)
    assert torch.equal(seen[0], clean)


@pytest.mark.parametrize("bottleneck", [KL(width=8, weight=1.0), VarianceExpansion(width=8, weight=1.0)])
def test_a_posterior_is_drawn_from_and_charged_for(images, bottleneck):
    stage, x = TokenizerStage(replace(with_bottleneck(bottleneck), perturbation=LatentNoise(beta=0.0))), batch(images)
    posterior, seen = stage.model.posterior(x), []
    stage.model.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    terms = stage.step(x, 0)
    noise = (seen[0] - posterior.mean) / (0.5 * posterior.log_variance).exp()
    assert float(noise.detach().std()) == pytest.approx(1, abs=0.1)
    assert terms["bottleneck"] > 0
    again = TokenizerStage(replace(with_bottleneck(bottleneck), perturbation=LatentNoise(beta=0.0)))
    assert torch.equal(again.step(x, 0)["bottleneck"], terms["bottleneck"])  # drawn from seed and step


@pytest.mark.parametrize("part", [CONV, VIT])
def test_patches_are_hidden_from_the_encoder_by_a_share_drawn_for_each_step(images, part):
    config = replace(with_bottleneck(Plain(width=8), part), mask_ratio_min=0.4, mask_ratio_max=0.6)
    stage = TokenizerStage(config)
    patches = 16  # both cut the images into squares of 8, or latents of the same stride
    shares = [stage.latents.draw(16, step)["hidden"].float().mean(dim=1) for step in range(20)]
    assert all((share == share[0]).all() for share in shares)  # as many of each image
    counts = torch.stack([share[0] for share in shares]) * patches
    assert counts.min() >= round(0.4 * patches)
    assert counts.max() <= round(0.6 * patches)
    assert counts.unique().numel() > 1
    assert stage.step(batch(images), 0)["skipped"] == 0


def test_shares_below_zero_hide_nothing(images):
    stage = TokenizerStage(replace(TINY, mask_ratio_min=-0.9, mask_ratio_max=0.1))
    hidden = torch.tensor([stage.latents.draw(16, step)["hidden"].any() for step in range(20)])
    assert 0 < hidden.sum() < 20


FROZEN = replace(
    TINY,
    tokenizer=AutoencoderConfig(
        image_size=32, encoder=FrozenLite0(side=32, stages=3), bottleneck=Plain(width=40), decoder=CONV
    ),
    perturbation=AddedNoise(strength=0.2),
)


def test_of_a_frozen_encoder_only_the_decoder_is_trained_averaged_and_saved(images, tmp_path):
    stage = TokenizerStage(FROZEN)
    x, before = batch(images), {name: w.clone() for name, w in stage.model.encoder.weights().items()}
    clean, seen = stage.model.encode(x), []
    stage.model.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    stage.step(x, 0)
    stage.step(x, 1)
    assert (seen[0] - clean).flatten(1).abs().amax(dim=1).min() > 0  # every image has noise
    torch.testing.assert_close(stage.model.encode(x), clean)
    assert all(torch.equal(w, before[name]) for name, w in stage.model.encoder.weights().items())
    assert {name.split(".")[0] for name in stage.optimizer.parameters} == {"decoder"}
    for saved in (stage.state_dict()["model"], stage.state_dict()["ema"]["module"]):
        assert not any("encoder" in name for name in saved)
    with pytest.raises(ValueError, match="patches cannot be masked for a frozen encoder; set mask_ratio_max to 0"):
        TokenizerStage(replace(FROZEN, mask_ratio_max=0.5))
    train_tokenizer(FROZEN, images, tmp_path, quiet=True)
    assert "frozen_encoder" in read_json(tmp_path / "run.json")


@pytest.mark.parametrize(
    "config",
    [
        FROZEN,
        TINY,
        with_bottleneck(KL(width=8)),
        replace(with_bottleneck(VarianceExpansion(width=8), VIT), mask_ratio_max=0.5),
    ],
    ids=["frozen", "plain", "kl", "variance expansion, hidden patches, ViT"],
)
def test_a_tiny_run_learns_and_leaves_standard_latents(images, tmp_path, config):
    loop = replace(config.loop, steps=60)
    trained = train_tokenizer(replace(config, loop=loop), images, tmp_path, quiet=True)
    rows = MetricsLog(tmp_path).rows()
    assert rows[-1]["l2"] < 0.5 * rows[0]["l2"]
    latents = trained.encode(images.images(torch.arange(64)))
    assert latents.mean(dim=(0, 1)).abs().max() < 1e-3
    assert latents.std(dim=(0, 1), correction=0).sub(1).abs().max() < 1e-3
    loaded = models.load_tokenizer(tmp_path)
    assert isinstance(loaded, Autoencoder)
    assert loaded.fingerprint() == trained.fingerprint()
    x = batch(images)
    assert torch.equal(loaded(x), trained.eval()(x))


def test_statistics_are_those_of_all_latents(images):
    torch.manual_seed(0)
    model = Autoencoder(TINY.tokenizer).eval()
    mean, scale = latent_statistics(model, images, 64, batch_size=10)
    latents = model.encode(images.images(torch.arange(64))).double().flatten(0, 1)
    torch.testing.assert_close(mean.double(), latents.mean(dim=0), rtol=0, atol=1e-6)
    torch.testing.assert_close(scale.double(), latents.std(dim=0, correction=0), rtol=1e-5, atol=1e-6)


def test_a_trained_one_is_trained_further_from_where_it_was(images, tmp_path):
    train_tokenizer(TINY, images, tmp_path / "first", quiet=True)
    trained = models.load_tokenizer(tmp_path / "first")
    stage = TokenizerStage(replace(TINY, tokenizer=None), tokenizer=trained)
    x = batch(images)
    torch.testing.assert_close(
        stage.model(x).detach(), trained(x).detach(), rtol=1e-4, atol=1e-5
    )  # latents as they are, no statistics
    assert trained.latent_scale.ne(1).any()
    more = train_tokenizer(replace(TINY, tokenizer=None), images, tmp_path / "more", tokenizer=trained, quiet=True)
    assert more.encode(x).std() == pytest.approx(1, abs=0.2)


def test_another_familys_tokenizer_is_trained_as_it_is(images, tmp_path):
    given = Patches()
    config = replace(TINY, tokenizer=None, loop=replace(TINY.loop, steps=40))
    trained = train_tokenizer(config, images, tmp_path, tokenizer=given, quiet=True)
    before, after = (
        {score.metric: score.value for score in score_tokenizer(model, images, coarse)} for model in (given, trained)
    )
    assert after["psnr"] > before["psnr"] + 1.5
    with pytest.raises(ValueError, match="patches cannot be masked for the encoder of a Patches; set mask_ratio_max"):
        TokenizerStage(replace(config, mask_ratio_max=0.5), tokenizer=given)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mask_ratio_min": 0.5, "mask_ratio_max": 0.2}, "the first not above the second; not 0.5 and 0.2"),
        ({"mask_ratio_max": 1.0}, "fractions of patches below 1"),
        ({"statistics_images": 0}, "statistics_images is 0; it must be at least 1"),
    ],
)
def test_settings_that_make_no_sense_say_so(fields, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **fields)
    with pytest.raises(ValueError, match="give one of the two"):
        TokenizerStage(replace(TINY, tokenizer=None))
