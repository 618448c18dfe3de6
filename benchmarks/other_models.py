"""Decoders of other people's models, tuned here for their generators: does gFID fall?

    python benchmarks/other_models.py llamagen OUT
    python benchmarks/other_models.py diffusers OUT

The published weights are not at hand, so small models of the same classes are trained on Fashion-MNIST first: a
LlamaGen VQ tokenizer and GPT, or diffusers' AutoencoderKL and a diffusion transformer. From there on it is what a user
of finished models does: pairs, post-training from bare weights (a fresh discriminator that learns first), a control on
clean latents, the same samples decoded before, by the control and after. What is finished is not done again.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustok.adapters.llamagen_gpt import LlamaGenGPT
from robustok.adapters.llamagen_vq import LlamaGenVQ, LlamaGenVQConfig
from robustok.adapters.vqgan import VQGAN
from robustok.data.images import FashionMNIST, ImageSet, Subset
from robustok.data.latent_cache import encode_images
from robustok.data.order import batch_indices
from robustok.evaluation.features.registry import extractor
from robustok.evaluation.metrics.fid import FeatureStats, frechet_distance
from robustok.evaluation.scores.difference import paired_difference
from robustok.evaluation.scores.feature_stream import FeatureStream, feature_stream
from robustok.evaluation.scores.reference import Reference
from robustok.generators.diffusion_transformer import DiffusionTransformer
from robustok.generators.flow import FlowSampling
from robustok.generators.flow_matching import TrainingTimes
from robustok.generators.llama import Llama
from robustok.generators.sampling import Sampling
from robustok.presets import demo
from robustok.runtime.checkpoint import write_json
from robustok.runtime.seeding import stream
from robustok.shapes import Images, to_pixels
from robustok.tokenizer.protocol import codes_of
from robustok.training.generator_training import train_generator
from robustok.training.loop import Loop, run
from robustok.training.objective import ImageLoss
from robustok.training.optim import EMA, Optim, Optimizer, autocast
from robustok.training.post_training import post_train
from robustok.training.shared_sampling import sampled
from robustok.training.tokenizer_training import train_tokenizer

SIZE, SCORED, REFERENCE, HELD_OUT, PAIRS = 32, 2000, 10_000, 1000, 2000
SEED = 0
LOG = {"log_every": 20, "save_every": 200, "preview_every": 200}


def images() -> tuple[ImageSet, ImageSet, ImageSet]:
    """To train on, held out to choose by, and validation images to score against."""
    train, validation = FashionMNIST("train", SIZE), FashionMNIST("validation", SIZE)
    cut = len(train) - HELD_OUT
    return (
        train.subset(torch.arange(20_000)),
        train.subset(torch.arange(cut, len(train))),
        validation.subset(torch.arange(REFERENCE)),
    )


def llamagen(out: Path) -> tuple[Any, Any, Sampling]:
    """A LlamaGen VQ tokenizer (64 tokens of 512 codes) with perturbation, and a GPT on its tokens."""
    train, preset = images()[0], demo()
    torch.manual_seed(SEED)
    network = VQGAN(channels=(32, 32, 64), blocks=1, latent=32, stem=32)
    fresh = LlamaGenVQ(
        LlamaGenVQConfig(image_size=SIZE, network=network, codebook_size=512, code_width=8, remembered=1)
    )
    start_codebook(fresh, train)
    main = replace(preset.main, tokenizer=None, loop=Loop(steps=600, batch_size=16, **LOG))
    tokenizer = train_tokenizer(main, train, out / "tokenizer", tokenizer=fresh)
    cache = encode_images(tokenizer, train, out / "tokens")
    torch.manual_seed(SEED)
    gpt = LlamaGenGPT(Llama(codebook_size=512, tokens=64, classes=10, width=192, depth=4, heads=3, hidden=512))
    training = replace(preset.generator, generator=None, loop=Loop(steps=500, batch_size=64, **LOG))
    return tokenizer, train_generator(training, cache, out / "generator", generator=gpt), Sampling(guidance=2.0)


class AutoencoderStage:
    """An AutoencoderKL learns to reconstruct: pixels, perceptual and Frechet terms, and a little KL divergence."""

    def __init__(self, tokenizer: Any, train: ImageSet, steps: int):
        self.model, preset = tokenizer.train(), demo()
        objective = replace(preset.main.objective, adversarial=0.0)
        self.image_loss = ImageLoss(objective, steps, SEED, torch.device("cpu"))
        self.image_loss.set_reference(train)
        self.optimizer = Optimizer(self.model, Optim(lr=2e-3, warmup=50, final_lr_fraction=0.05), steps)
        self.ema = EMA(self.model, 0.995)

    def step(self, batch: Images, step: int) -> dict[str, Tensor]:
        vae = self.model.vae
        with autocast("cpu"):
            posterior = vae.encode(batch).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=stream(SEED, "posterior", step))
            latents = (posterior.mean + posterior.std * noise).float()
            output = vae.decode(latents).sample.float()
        loss, terms = self.image_loss.loss(batch, output, self.model.last_layer, step)
        terms["kl"] = posterior.kl().float().mean() / latents[0].numel()
        self.optimizer.backward(loss + 1e-2 * terms["kl"])
        terms = {name: term.detach() for name, term in terms.items()} | self.optimizer.step(step)
        self.ema.update(self.model)
        return terms

    def state_dict(self) -> dict[str, Any]:
        parts = {"model": self.model, "optimizer": self.optimizer, "ema": self.ema, "image_loss": self.image_loss}
        return {name: part.state_dict() for name, part in parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in (
            ("model", self.model),
            ("optimizer", self.optimizer),
            ("ema", self.ema),
            ("image_loss", self.image_loss),
        ):
            part.load_state_dict(state[name])


def diffusers(out: Path) -> tuple[Any, Any, FlowSampling]:
    """An AutoencoderKL of diffusers (64 latents of 8 numbers) and a diffusion transformer on them."""
    import diffusers

    from robustok.adapters.diffusers import load_tokenizer
    from robustok.adapters.diffusers_autoencoders import DiffusersAutoencoder

    train, steps = images()[0], 900
    if not (out / "tokenizer" / "robustok.json").exists():
        torch.manual_seed(SEED)
        vae = diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(16, 32, 64),
            latent_channels=8,
            norm_num_groups=1,
            sample_size=SIZE,
        ).to(memory_format=torch.channels_last)
        stage = AutoencoderStage(DiffusersAutoencoder(vae), train, steps)

        def batches(step: int) -> Images:
            return train.images(batch_indices(len(train), 32, SEED, step))

        run(
            stage,
            batches,
            Loop(steps=steps, batch_size=32, **LOG),
            out / "tokenizer",
            name="AutoencoderKL",
            describe={},
        )
        trained: Any = stage.ema.module
        with torch.no_grad():  # scaled as Stable Diffusion's was: by the spread of latents
            spread = trained.encode(train.images(torch.arange(500))).std() / trained.vae.config.scaling_factor
        trained.vae.register_to_config(scaling_factor=float(1 / spread))
        DiffusersAutoencoder(trained.vae).save_pretrained(out / "tokenizer")
    tokenizer = load_tokenizer(out / "tokenizer")
    cache = encode_images(tokenizer, train, out / "latents")
    n, d = cache.latent_shape
    config = DiffusionTransformer(tokens=n, channels=d, classes=10, width=128, depth=3, heads=2)
    training = replace(
        demo().generator,
        generator=config,
        loop=Loop(steps=800, batch_size=64, **LOG),
        times=TrainingTimes(distribution="logit-normal"),
        ema_decay=0.99,
    )
    return tokenizer, train_generator(training, cache, out / "generator"), FlowSampling(steps=20, guidance=1.0)


@torch.no_grad()
def start_codebook(tokenizer: LlamaGenVQ, train: ImageSet) -> None:
    """The codes of an untrained tokenizer, put on latents of real images."""
    latents = torch.cat([tokenizer.encode(train.images(rows)) for rows in torch.arange(256).split(64)])
    tokenizer.quantizer.init_kmeans(latents, generator=stream(SEED, "codes"))


@torch.no_grad()
def pixels(tokenizer: Any, samples: Tensor) -> Iterator[Tensor]:
    """What a tokenizer's decoder makes of samples."""
    for part in samples.split(125):
        yield to_pixels(tokenizer.decode(codes_of(tokenizer, part)))


def tune(out: Path, tokenizer: Any, generator: Any, sampling: Any, sigma: float) -> dict[str, Any]:
    """gFID of the same samples under the original decoder, one tuned on clean latents and one on generated ones."""
    train, held, validation = images()
    extract, labels = extractor("lite0"), torch.arange(SCORED) % 10
    samples = sampled(
        out / "samples.safetensors", generator, labels, sampling, SEED, purpose="scored", precision="fp32"
    )
    post = replace(
        demo().post,
        loop=Loop(steps=200, batch_size=32, **LOG),
        sampling=sampling,
        sampling_precision="fp32",
        sigma=sigma,
        pairs=PAIRS,
    )
    result = post_train(post, tokenizer, generator, train, out / "after", held_out=held, control=True, features=extract)
    reference = Reference.of(validation, extract)
    real = validation.images(torch.arange(SCORED))
    coded = [tokenizer.encode(part) for part in real.split(125)]
    if isinstance(sampling, Sampling):
        coded = [tokenizer.quantize(part).codes for part in coded]
    rebuilt = FeatureStats.of(torch.cat([extract(to_pixels(tokenizer.decode(part).detach())) for part in coded]))
    streams: dict[str, FeatureStream] = {"before": feature_stream(pixels(tokenizer, samples), extract)}
    kept = {}
    for name, trained in (("control", result.control), ("after", result.tuned)):
        assert trained is not None
        streams[name] = feature_stream(pixels(trained.tokenizer, samples), extract)
        kept[name] = trained.step
        changed = {
            key
            for key, tensor in trained.tokenizer.state_dict().items()
            if not torch.equal(tensor, tokenizer.state_dict()[key])
        }
        assert all("decoder." in key for key in changed), changed
    scores = {name: frechet_distance(reference.stats, part.stats) for name, part in streams.items()}
    pairs_of = (("before", "after"), ("before", "control"), ("control", "after"))
    return {
        "rfid": frechet_distance(rebuilt, Reference.of(Subset(validation, torch.arange(SCORED)), extract).stats),
        "gfid": scores,
        "kept": kept,
        "differences": {
            f"{a} -> {b}": paired_difference(streams[a], streams[b], reference).in_words() for a, b in pairs_of
        },
        "sigma": sigma,
        "scored": SCORED,
    }


def main() -> None:
    family, out = sys.argv[1], Path(sys.argv[2])
    tokenizer, generator, sampling = {"llamagen": llamagen, "diffusers": diffusers}[family](out)
    tokenizer.eval().requires_grad_(False)
    result = tune(out, tokenizer, generator.eval(), sampling, sigma=0.7 if family == "llamagen" else 0.8)
    write_json(out / "scores.json", result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
