"""Decoders of other people's models, tuned here for their generators: does gFID fall, also where nothing was trained?

    python benchmarks/other_models.py run runs/other_models docs/studies/other_models --seed 0
    python benchmarks/other_models.py run runs/other_models docs/studies/other_models --model llamagen --seed 1
    python benchmarks/other_models.py page docs/studies/other_models

The published weights are not at hand, so small models of the same classes are trained on Fashion-MNIST first: a
LlamaGen VQ tokenizer and GPT, or diffusers' AutoencoderKL and a diffusion transformer. From there on it is what a user
of finished models does: post-training as the library has it for models of other families, from bare weights (a fresh
discriminator that learns first), beside a control on clean latents; the same samples decoded by the original, by the
control and after. One JSON file for each model, arm and seed; what is finished is not done again.
"""

import argparse
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import post_training_page
import torch
from post_training_arms import CLEAN, ORIGINAL, Size
from post_training_bakeoff import Judge, Models, Trained, once, work_off
from torch import Tensor

from robustok import load_generator, load_tokenizer
from robustok.adapters.llamagen_gpt import LlamaGenGPT
from robustok.adapters.llamagen_vq import LlamaGenVQ, LlamaGenVQConfig
from robustok.adapters.vqgan import VQGAN
from robustok.data.images import ImageSet
from robustok.data.latent_cache import encode_images
from robustok.data.order import batch_indices
from robustok.generators.diffusion_transformer import DiffusionTransformer
from robustok.generators.flow import FlowSampling
from robustok.generators.flow_matching import TrainingTimes
from robustok.generators.generate import AnySampling
from robustok.generators.llama import Llama
from robustok.generators.sampling import Sampling
from robustok.presets import demo
from robustok.presets.defaults import post_training_for
from robustok.runtime.seeding import stream
from robustok.shapes import Images
from robustok.training.generator_training import train_generator
from robustok.training.loop import Loop, run
from robustok.training.objective import ImageLoss
from robustok.training.optim import EMA, Optim, Optimizer, autocast
from robustok.training.post_training import PostTraining, clean
from robustok.training.tokenizer_training import train_tokenizer

SIDE, TUNED = 32, "post-trained"
SIZE = Size(train=20_000)
LOG = {"log_every": 20, "save_every": 200, "preview_every": 0}


def llamagen(train: ImageSet, seed: int, out: Path) -> Trained:
    """A LlamaGen VQ tokenizer (64 tokens of 512 codes) with perturbation, and a GPT on its tokens."""
    preset = demo().with_seed(seed)
    torch.manual_seed(seed)
    network = VQGAN(channels=(32, 32, 64), blocks=1, latent=32, stem=32)
    fresh = LlamaGenVQ(
        LlamaGenVQConfig(image_size=SIDE, network=network, codebook_size=512, code_width=8, remembered=1)
    )
    start_codebook(fresh, train, seed)
    main = replace(preset.main, tokenizer=None, loop=Loop(steps=600, batch_size=16, seed=seed, **LOG))
    tokenizer = once(load_tokenizer, train_tokenizer, main, train, where=out / "tokenizer", tokenizer=fresh)
    cache = encode_images(tokenizer, train, out / "tokens")
    torch.manual_seed(seed)
    gpt = LlamaGenGPT(Llama(codebook_size=512, tokens=64, classes=10, width=192, depth=4, heads=3, hidden=512))
    training = replace(preset.generator, generator=None, loop=Loop(steps=500, batch_size=64, seed=seed, **LOG))
    generator = once(load_generator, train_generator, training, cache, where=out / "generator", generator=gpt)
    return finished(tokenizer, generator, cache, Sampling(guidance=2.0), len(train), seed)


class AutoencoderStage:
    """An AutoencoderKL learns to reconstruct: pixels, perceptual and Frechet terms, and a little KL divergence."""

    def __init__(self, tokenizer: Any, train: ImageSet, steps: int, seed: int):
        self.model, self.seed, preset = tokenizer.train(), seed, demo()
        objective = replace(preset.main.objective, adversarial=0.0)
        self.image_loss = ImageLoss(objective, steps, seed, torch.device("cpu"))
        self.image_loss.set_reference(train)
        self.optimizer = Optimizer(self.model, Optim(lr=2e-3, warmup=50, final_lr_fraction=0.05), steps)
        self.ema = EMA(self.model, 0.995)

    def step(self, batch: Images, step: int) -> dict[str, Tensor]:
        vae = self.model.vae
        with autocast("cpu"):
            posterior = vae.encode(batch).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=stream(self.seed, "posterior", step))
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


def diffusers(train: ImageSet, seed: int, out: Path) -> Trained:
    """An AutoencoderKL of diffusers (64 latents of 8 numbers) and a diffusion transformer on them."""
    import diffusers

    from robustok.adapters.diffusers import load_tokenizer
    from robustok.adapters.diffusers_autoencoders import DiffusersAutoencoder

    steps = 900
    if not (out / "tokenizer" / "robustok.json").exists():
        torch.manual_seed(seed)
        vae = diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(16, 32, 64),
            latent_channels=8,
            norm_num_groups=1,
            sample_size=SIDE,
        ).to(memory_format=torch.channels_last)
        stage = AutoencoderStage(DiffusersAutoencoder(vae), train, steps, seed)

        def batches(step: int) -> Images:
            return train.images(batch_indices(len(train), 32, seed, step))

        run(
            stage,
            batches,
            Loop(steps=steps, batch_size=32, seed=seed, **LOG),
            out / "tokenizer",
            name="AutoencoderKL",
            describe={},
            quiet=True,
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
        loop=Loop(steps=800, batch_size=64, seed=seed, **LOG),
        times=TrainingTimes(distribution="logit-normal"),
        ema_decay=0.99,
    )
    generator = once(load_generator, train_generator, training, cache, where=out / "generator")
    return finished(tokenizer, generator, cache, FlowSampling(steps=20, guidance=1.0), len(train), seed)


@torch.no_grad()
def start_codebook(tokenizer: LlamaGenVQ, train: ImageSet, seed: int) -> None:
    """The codes of an untrained tokenizer, put on latents of real images."""
    latents = torch.cat([tokenizer.encode(train.images(rows)) for rows in torch.arange(256).split(64)])
    tokenizer.quantizer.init_kmeans(latents, generator=stream(seed, "codes"))


def finished(tokenizer: Any, generator: Any, cache: Any, sampling: AnySampling, images: int, seed: int) -> Trained:
    """Models as their user has them, with the library's post-training for models of other families.

    That of the embedded networks, since those of the paper's recipe are not at hand; sigma is chosen by tries.
    """

    def over(config: PostTraining) -> PostTraining:
        loop = replace(config.loop, seed=seed, preview_every=0)
        return replace(config, loop=loop, sampling=sampling, sampling_precision="fp32", sigma="auto")

    tokenizer.eval().requires_grad_(False)
    post = post_training_for(tokenizer, generator, images, name="demo", over=over)
    return Trained(tokenizer, generator.eval(), cache, post)


MODELS: dict[str, Callable[[ImageSet, int, Path], Trained]] = {"llamagen": llamagen, "diffusers": diffusers}
ARMS = (ORIGINAL, CLEAN, TUNED)


def at_size(arm: str, post: PostTraining, size: Size) -> PostTraining:
    """The library's post-training, and its control, at the size of the study."""
    loop = replace(post.loop, steps=size.steps, save_every=max(1, size.steps // 4))
    config = replace(post, loop=loop, pairs=size.pairs, validate_every=max(1, size.steps // 2))
    return clean(config) if arm == CLEAN else config


def run_all(runs: Path, results: Path, size: Size, seed: int, models: list[str], spaces: Any = None) -> None:
    """Train and measure what is left of the models of a seed."""
    judge: list[Judge] = []

    def made(model: str, seed: int, folder: Path) -> Models:
        if not judge:
            judge.append(Judge(size, runs, SIDE, spaces))
        return Models(MODELS[model](judge[0].train, seed, folder), seed, judge[0], folder)

    runs.mkdir(parents=True, exist_ok=True)
    work = [(model, arm, seed) for model in models for arm in ARMS]
    work_off(runs, results, work, made, lambda _, arm, found: at_size(arm, found.trained.post, size))


HEAD = """# Decoders of other families, tuned for their generators

*Written by `benchmarks/other_models.py page` from the JSON files beside it; do not edit.*

Small models of the classes of LlamaGen (VQ tokenizer with perturbation, GPT) and of diffusers (AutoencoderKL without
perturbation, diffusion transformer), trained on Fashion-MNIST, since no published weights were at hand. Then the
library's post-training for models of other families: sigma by tries (of an earlier version where four shares and two
rounds are listed: too short to tell shares of tokens apart), a fresh discriminator, lite0 trained in and deciding,
vgg-hed as a witness (a decoder that is worse there beyond the noise would not be kept), lite2 nowhere. The clean
control is tuned as long on images' own tokens or latents. All decoders of a seed decode the same 2,000 samples, 10,000
validation images score them, which chose nothing.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    running = verbs.add_parser("run", help="train and measure what is left")
    running.add_argument("runs", type=Path, help="folder of models and samples, which stays out of the repository")
    running.add_argument("results", type=Path, help="folder of one JSON file for each model, arm and seed")
    running.add_argument("--model", choices=list(MODELS), action="append", help="only this one; may be given again")
    running.add_argument("--seed", type=int, default=0)
    running.set_defaults(do=lambda a: run_all(a.runs, a.results, SIZE, a.seed, a.model or list(MODELS)))
    page = verbs.add_parser("page", help="write README.md beside the JSON files")
    page.add_argument("results", type=Path)
    page.set_defaults(do=lambda a: post_training_page.write(a.results, HEAD, tuple(MODELS), ARMS))
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    chosen = parser.parse_args()
    chosen.do(chosen)


if __name__ == "__main__":
    main()
