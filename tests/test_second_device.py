"""Every stage, resume, score and sampler on a second device that mixes with the CPU as little as CUDA does."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustok
from robustok.adapters.diffusers_autoencoders import DiffusersAutoencoder
from robustok.adapters.diffusion_transformers import LightningDiT, MAETokSiT, SiT
from robustok.adapters.var import VAR
from robustok.analysis import imitation, latents
from robustok.analysis.latents import analyze_latents
from robustok.analysis.tokens import analyze
from robustok.backbones.dino import DINO, DINOv2
from robustok.backbones.vgg import LPIPSVGG
from robustok.data.latent_cache import encode_images
from robustok.data.pairs import make_pairs
from robustok.evaluation.features.extractor import NetworkExtractor, Outputs
from robustok.evaluation.features.registry import extractor
from robustok.evaluation.metrics.latent_pfid import NoiseCell
from robustok.evaluation.scores.generator_scores import score_generator
from robustok.evaluation.scores.image_scores import score_image_set
from robustok.evaluation.scores.reference import Reference
from robustok.evaluation.scores.tokenizer_scores import score_tokenizer
from robustok.generators.diffusion_transformer import DiffusionTransformer, DiffusionTransformerModel
from robustok.generators.flow import FlowSampling, sample_latents
from robustok.generators.generate import sample
from robustok.generators.llama import Llama
from robustok.generators.sampling import Sampling
from robustok.generators.unmasking import MaskedSampling
from robustok.losses.augmentation import Augmentation
from robustok.losses.discriminator import DinoDiscriminator, FeatureDiscriminator
from robustok.runtime.checkpoint import load_resume, save_resume
from robustok.runtime.writing import snapshot
from robustok.tokenizer.bottleneck import Plain, VarianceExpansion
from robustok.tokenizer.encoder import ViT
from robustok.tokenizer.frozen_encoder import FrozenLite0
from robustok.tokenizer.latent_perturbation import AddedNoise, LatentMixing
from robustok.tokenizer.perturbation import ReleasedPerturbation
from robustok.tokenizer.quantizer import BSQ, EMAVQ, FSQ, LFQ, VQ, MultiScaleVQ, ResidualVQ, SimVQ
from robustok.training import loop
from robustok.training.decoder_stage import DecoderStage, weights_between
from robustok.training.generator_training import GeneratorTraining, build_generator, train_generator
from robustok.training.objective import Objective
from robustok.training.post_training import post_train
from robustok.training.tokenizer_training import TokenizerTraining, train_tokenizer
from robustok.training.validation import generator_validation, sample_preview, tokenizer_validation
from tests.adapters.test_every_family import MAKE, made
from tests.standin import OnStandin, needed, setup
from tests.training.continuous import Patches
from tests.training.tiny import AUTOENCODER, GENERATOR, LOOP, MAIN, MASKED, POST, generator, images, tokenizer

pytestmark = needed
SHORT = replace(LOOP, steps=3, batch_size=8, log_every=1, save_every=2, preview_every=3)
FLOW = DiffusionTransformer(tokens=16, channels=12, classes=10, width=32, depth=1, heads=1, patch=2)
LLAMA = Llama(codebook_size=32, tokens=16, classes=10, width=64, depth=1, heads=1, hidden=64)
VITS = {"weights": "random", "width": 64, "depth": 1, "side": 32}
ON_SHOW = Augmentation(probability=1.0)
JUDGE = replace(MAIN.objective.adversary, disc_start=0, gan_start=0, augmentation=ON_SHOW)
ASKED = replace(MAIN.objective, frechet=0.1, adversary=JUDGE)
MAINS: dict[str, TokenizerTraining] = {
    "perturbed": replace(MAIN, objective=ASKED),
    "as released": replace(MAIN, perturbation=ReleasedPerturbation(beta=0.5, delta=4)),
    "of published networks": replace(
        MAIN,
        teacher=DINOv2(**VITS),
        objective=replace(
            ASKED,
            network=LPIPSVGG(weights="random", lin_layers="random", width=4),
            adversary=replace(JUDGE, discriminator=DinoDiscriminator(network=DINO(**VITS), after=(0, 1))),
        ),
    ),
    "judged by features": replace(
        MAIN, objective=replace(ASKED, adversary=replace(JUDGE, discriminator=FeatureDiscriminator(width=16)))
    ),
}
QUANTIZERS = {
    "rotation": VQ(codebook_size=32, width=8, revive_after=1, gradient="rotation", normalized=False),
    "fsq": FSQ(levels=(5, 3, 3)),
    "lfq": LFQ(bits=5, group=5),
    "bsq": BSQ(bits=5),
    "averages": EMAVQ(codebook_size=32, width=8, revive_after=1),
    "linear map": SimVQ(codebook_size=32, width=8),
    "residual": ResidualVQ(codebook_size=16, width=8, levels=2, shared=False, revive_after=1, decay=0.9),
    "scales": MultiScaleVQ(scales=(1, 2, 4), codebook_size=32, width=8, revive_after=1),
}
PLAIN = Objective(perceptual=0.0, adversarial=0.0)
VIT = ViT(patch=8, width=32, depth=1, heads=1)
for name, quantizer in QUANTIZERS.items():
    MAINS[name] = replace(MAIN, tokenizer=replace(MAIN.tokenizer, quantizer=quantizer), semantic=0.0, objective=PLAIN)
MAINS["vit"] = replace(MAIN, tokenizer=replace(MAIN.tokenizer, encoder=VIT, decoder=VIT), semantic=0.0, objective=PLAIN)


class Colors(nn.Module):
    """A feature space with all there is, which has weights and so a device."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.linspace(-1, 1, 48 * 8).view(48, 8))

    def forward(self, pixels: Tensor) -> Outputs:
        coarse = nn.functional.adaptive_avg_pool2d(pixels.float(), 4).flatten(1) / 255
        return Outputs(coarse @ self.weight + coarse[:, :8], logits=coarse[:, :5], spatial=coarse[:, 5:11])


@pytest.fixture(autouse=True)
def device() -> torch.device:
    return torch.device(setup())


def colors(device: torch.device) -> NetworkExtractor:
    return NetworkExtractor(Colors(), {"features": "colors"}, batch_size=16, device=device)


def flow() -> DiffusionTransformerModel:
    torch.manual_seed(0)
    return DiffusionTransformerModel(FLOW).eval()


class Stopped(Exception):
    """The end of a run that is resumed."""


def stopped_and_resumed(train: Callable[[], Any], patch: pytest.MonkeyPatch) -> Any:
    """The same run twice: it stops in its last step, then goes on from its save."""
    real = loop.prefetched

    def cut_short(*arguments: Any) -> Any:
        for step, batch in enumerate(real(*arguments)):
            if step == SHORT.steps - 1:
                raise Stopped
            yield batch

    with patch.context() as patched:
        patched.setattr(loop, "prefetched", cut_short)
        with pytest.raises(Stopped):
            train()
    return train()


@pytest.mark.parametrize("kind", MAINS)
def test_main_training_is_looked_at_and_resumed(kind, device, tmp_path, monkeypatch):
    config = replace(MAINS[kind], loop=SHORT)
    looked = (
        tokenizer_validation(images(8), count=6, pfid_images=3, features=colors(device))
        if kind == "perturbed"
        else None
    )

    def train() -> Any:
        return train_tokenizer(config, images(), tmp_path, device=device, validate=looked, validate_every=2, quiet=True)

    trained = stopped_and_resumed(train, monkeypatch)
    assert isinstance(trained.last_layer.data, OnStandin)
    assert robustok.load_tokenizer(tmp_path).fingerprint() == trained.fingerprint()


@pytest.mark.parametrize("name", [name for name in MAKE if name != "maetok"])
def test_a_given_tokenizer_of_every_family_is_trained_on(name, device, tmp_path):
    config = replace(MAIN, tokenizer=None, loop=replace(SHORT, steps=1), semantic=0.0, objective=PLAIN)
    train_tokenizer(config, images(), tmp_path, tokenizer=made(name), device=device, quiet=True)


@pytest.mark.parametrize("kind", ["kl", "plain and mixed", "expansion", "frozen"])
def test_autoencoder_training_is_looked_at_and_resumed(kind, device, tmp_path, monkeypatch):
    config, made = replace(AUTOENCODER, loop=SHORT, objective=PLAIN), AUTOENCODER.tokenizer
    assert made is not None
    if kind == "plain and mixed":
        config = replace(config, tokenizer=replace(made, bottleneck=Plain(width=8)), perturbation=LatentMixing())
    elif kind == "frozen":
        encoder = FrozenLite0(side=32, stages=3)
        made = replace(made, encoder=encoder, bottleneck=Plain(width=encoder.width))
        config = replace(config, tokenizer=made, perturbation=AddedNoise(), mask_ratio_max=0.0)
    elif kind == "expansion":
        config = replace(config, tokenizer=replace(made, bottleneck=VarianceExpansion(width=8)))
    looked = tokenizer_validation(images(8), count=6, pfid_images=3, features=colors(device))

    def train() -> Any:
        return train_tokenizer(config, images(), tmp_path, device=device, validate=looked, validate_every=2, quiet=True)

    trained = stopped_and_resumed(train, monkeypatch)
    assert robustok.load_tokenizer(tmp_path).fingerprint() == trained.fingerprint()


@pytest.mark.parametrize("kind", ["rar", "llama", "masked", "flow"])
def test_generator_training_is_looked_at_and_resumed(kind, device, tmp_path, monkeypatch):
    source: Any = Patches().to(device) if kind == "flow" else tokenizer().to(device)
    cached = encode_images(source, images(), tmp_path / "cache")
    chosen: Any = {"rar": GENERATOR.generator, "llama": LLAMA, "masked": MASKED.generator, "flow": FLOW}[kind]
    sampling: Any = {"flow": FlowSampling(steps=2), "masked": MaskedSampling(steps=3)}.get(kind, Sampling())
    extract = colors(device)
    looked = generator_validation(
        source, Reference.of(images(), extract), sampling=sampling, count=12, features=extract, batch_size=6
    )
    shown = sample_preview(source, sampling=sampling, count=3)

    def train() -> Any:
        return train_generator(
            replace(GENERATOR, generator=chosen, loop=SHORT),
            cached,
            tmp_path / "run",
            device=device,
            validate=looked,
            validate_every=2,
            preview=shown,
            quiet=True,
        )

    trained = stopped_and_resumed(train, monkeypatch)
    assert robustok.load_generator(tmp_path / "run").fingerprint() == trained.fingerprint()


@pytest.mark.parametrize("kind", ["tokens", "latents", "one-pass"])
def test_post_training_is_resumed(kind, device, tmp_path, monkeypatch):
    source: Any = tokenizer().to(device) if kind == "tokens" else Patches().to(device)
    maker: Any = generator() if kind == "tokens" else flow()
    how = replace(
        POST,
        loop=SHORT,
        validate_every=2,
        objective=ASKED if kind == "tokens" else PLAIN,
        sampling=Sampling() if kind == "tokens" else FlowSampling(steps=2),
        pair_mode="one-pass" if kind == "one-pass" else "sdedit",
        pairs=32,
        held_out=16,
    )

    def train() -> Any:
        return post_train(how, source, maker.to(device), images(), tmp_path, features=colors(device), quiet=True)

    tuned = stopped_and_resumed(train, monkeypatch).tuned
    assert tuned.tokenizer.fingerprint() == source.fingerprint() == source.cpu().fingerprint()
    assert isinstance(tuned.tokenizer.last_layer.data, OnStandin)


def test_the_best_decoder_as_read_back_mixes_with_the_original(device, tmp_path):
    """Where a witness finds it worse, which may first be asked when a stopped run goes on."""
    stage = DecoderStage(replace(POST, objective=ASKED), tokenizer().to(device), device)
    save_resume(tmp_path / "resume.safetensors", snapshot(stage.state_dict()))
    stage.load_state_dict(load_resume(tmp_path / "resume.safetensors"))
    between = weights_between(stage.decoder.state_dict(), stage.best, 0.5)
    assert all(isinstance(weight, OnStandin) for weight in between.values())


@pytest.mark.parametrize("name", MAKE)
def test_a_tokenizer_of_every_family_is_scored(name, device):
    on_cpu = score_tokenizer(made(name), images(12), colors(torch.device("cpu")), pfid_images=6)
    here = score_tokenizer(made(name).to(device), images(12), colors(device), pfid_images=6)
    assert [score.metric for score in here] == [score.metric for score in on_cpu]
    assert [score.value for score in here] == pytest.approx([score.value for score in on_cpu], rel=1e-3, abs=1e-5)


def test_the_embedded_space_is_on_the_device(device):
    pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    here = extractor("lite0@32", device)(pixels)
    assert isinstance(here, OnStandin)
    torch.testing.assert_close(here.cpu(), extractor("lite0@32")(pixels))


def test_a_tokenizer_is_scored_with_lpips_and_among_other_neighbors(device):
    def lpips(real: Tensor, output: Tensor) -> Tensor:
        return (real.to(device) - output.to(device)).square().mean(dim=(1, 2, 3))

    score_tokenizer(tokenizer().to(device), images(6), colors(device), lpips=lpips)
    score_tokenizer(Patches().to(device), images(6), colors(device), neighbors_in=images(20), lpips=lpips)


SAMPLINGS: dict[str, Any] = {
    "plain": Sampling(),
    "top-k, guided": Sampling(top_k=5, guidance=2.0, schedule="linear", temperature=0.9),
    "top-p, guided": Sampling(top_p=0.8, guidance=2.0, schedule="power-cosine", power=2.0),
}
PUBLISHED: dict[str, Any] = {
    "sit": SiT(replace(FLOW, mlp="gelu", norm="layer", rotary=False, qk_norm=False)),
    "lightningdit": LightningDiT(FLOW),
    "maetok-sit": MAETokSiT(replace(FLOW, layout="sequence", patch=1, mlp="gelu", norm="layer", rotary=False)),
}
FLOWS: dict[str, Any] = {
    method: FlowSampling(steps=2, method=method, guidance=1.5, guided_channels=3, interpolant=path)  # type: ignore[arg-type]
    for method, path in (("euler", "linear"), ("heun", "cosine"), ("heun-but-last", "linear"), ("sde", "linear"))
}


def pairs_of(maker: Any, source: Any, sampling: Any, folder: Path) -> None:
    cached = encode_images(source, images(), folder / "cache")
    make_pairs(maker, cached, folder / "pairs", sigma=0.5, sampling=sampling, count=8, seed=0)


@pytest.mark.parametrize(
    ("kind", "how"), [*(("rar", how) for how in SAMPLINGS), ("llama", "top-k, guided"), ("masked", "top-k, guided")]
)
def test_generators_of_tokens_are_sampled_scored_and_paired(kind, how, device, tmp_path):
    sampling, source = SAMPLINGS[how], tokenizer().to(device)
    maker: Any = (
        generator() if kind == "rar" else build_generator(LLAMA if kind == "llama" else MASKED.generator).eval()
    )
    sampling = MaskedSampling(top_k=3, guidance=2.0, steps=3) if kind == "masked" else sampling
    on_cpu = sample(maker, torch.arange(4), sampling, seed=0)
    maker = maker.to(device)
    here = sample(maker, torch.arange(4), sampling, seed=0)
    assert type(here) is Tensor
    assert torch.equal(on_cpu, here)
    extract = colors(device)
    real = Reference.of(images(24), extract)
    found = score_generator(maker, source, real, torch.arange(12) % 10, extract, sampling=sampling, batch_size=6)
    assert {"gfid", "precision", "coverage", "inception_score", "sfid"} <= {score.metric for score in found}
    pairs_of(maker, source, sampling, tmp_path)


@pytest.mark.parametrize("how", FLOWS)
def test_generators_of_latents_are_sampled_scored_and_paired(how, device, tmp_path):
    sampling, source, maker = FLOWS[how], Patches().to(device), flow()
    on_cpu = sample_latents(maker, torch.arange(4), sampling, seed=0)
    maker = maker.to(device)
    torch.testing.assert_close(sample_latents(maker, torch.arange(4), sampling, seed=0), on_cpu)
    extract = colors(device)
    real = Reference.of(images(24), extract)
    score_generator(maker, source, real, torch.arange(12) % 10, extract, sampling=sampling, batch_size=6)
    pairs_of(maker, source, sampling, tmp_path)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_generators_of_latents_are_sampled(name, device):
    maker = copy.deepcopy(PUBLISHED[name]).eval()
    sampling = FlowSampling(steps=2, guidance=2.0)
    on_cpu = sample_latents(maker, torch.arange(2), sampling, seed=0)
    torch.testing.assert_close(sample_latents(maker.to(device), torch.arange(2), sampling, seed=0), on_cpu)


def test_models_of_diffusers_are_sampled_scored_and_tuned(device, tmp_path, monkeypatch):
    monkeypatch.setattr(DiffusersAutoencoder, "save_pretrained", lambda *_, **__: None)  # diffusers asks for addresses
    pytest.importorskip("diffusers", reason="the extra `diffusers` is not installed")
    from tests.adapters.test_diffusers import pipeline, vq_model

    pipe = pipeline(side=32)
    pipe.vae.to(device)
    pipe.transformer.to(device)
    assert robustok.sample(pipe, pipe.vae, [1, 2], steps=2).shape == (2, 3, 32, 32)
    how = {"config": replace(POST, loop=SHORT, objective=PLAIN), "sampling": FlowSampling(steps=2)}
    how |= {"pairs": 24, "held_out": 16, "features": colors(device)}
    robustok.post_train(pipe.vae, pipe, images(), tmp_path, **how)
    for model in (pipe.vae, vq_model(block_out_channels=(32, 32)).to(device)):
        robustok.score_tokenizer(model, images(6), colors(device))


def test_var_is_sampled_and_learns(device, tmp_path):
    source = made("var-vq")
    maker = VAR.beside(source, width=64, depth=2, classes=10).eval()
    sampling = Sampling(guidance=2.0, schedule="ramp", top_k=5, top_p=0.9)
    on_cpu = sample(maker, torch.arange(4), sampling, seed=0)
    source, maker = source.to(device), maker.to(device)
    assert torch.equal(sample(maker, torch.arange(4), sampling, seed=0), on_cpu)
    assert robustok.sample(maker, source, [1, 2]).shape == (2, 3, 32, 32)
    pairs_of(maker, source, sampling, tmp_path)
    config = GeneratorTraining(generator=None, loop=replace(SHORT, steps=1), optim=GENERATOR.optim, ema_decay=0.9)
    cached = encode_images(source, images(), tmp_path / "cache")
    train_generator(config, cached, tmp_path / "run", generator=maker, device=device, quiet=True)


def test_sets_of_images_are_scored(device):
    extract = colors(device)
    score_image_set(images(24), Reference.of(images(), extract), extract)


@pytest.fixture
def few_cells(monkeypatch):
    """Grids of one row, to save time."""
    monkeypatch.setattr(imitation, "ALPHAS", (0.7,))
    monkeypatch.setattr(latents, "GRID", (NoiseCell(0.5, 0.2),))


def test_analysis_of_tokens_and_of_latents(device, few_cells):
    source, few = tokenizer().to(device), images(100)
    analyze(source, generator().to(device), few, tuned=tokenizer().to(device), count=50, features=colors(device))
    analyze_latents(Patches().to(device), flow().to(device), few, sampling=FlowSampling(steps=1), count=50)
