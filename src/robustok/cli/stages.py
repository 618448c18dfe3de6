"""`robustok train-tokenizer`, `train-generator` and `post-train`."""

from dataclasses import dataclass, replace
from pathlib import Path

from robustok import presets
from robustok.api import load_generator, load_tokenizer
from robustok.cli.images import EMBEDDED, device_of, images_of
from robustok.cli.options import Command
from robustok.data.images import ImageSet, hold_out
from robustok.data.pairs import make_pairs
from robustok.data.tokens import TokenCache, encode_tokens
from robustok.demo.config import Demo
from robustok.evaluation.features import extractor
from robustok.evaluation.reference import Reference
from robustok.generators.autoregressive import Autoregressive
from robustok.generators.sampling import Sampling, sample_tokens
from robustok.runtime.logging import Progress
from robustok.runtime.seeding import derive
from robustok.tokenizer.tokenizer import Tokenizer
from robustok.training import generator_training, main_training
from robustok.training.generator_training import GeneratorTraining
from robustok.training.main_training import MainTraining
from robustok.training.post_training import HeldOut, PostTraining, post_train_decoder

HELD_OUT, SHARE_HELD_OUT = 2000, 10  # held-out images: so many, or one in so many of a small set


@dataclass(frozen=True, kw_only=True)
class DecoderTuning:
    """Post-training and what goes before it; names as in the demo's settings."""

    post: PostTraining  # of the decoder
    sampling: Sampling  # how the generator is sampled
    sigma: float = 0.7  # share of a pair's tokens that stay those of the real image
    pairs: int = 20_000  # real images whose tokens the generator touches
    held_out: int = HELD_OUT  # images that decide which decoder is kept


def stages_of(name: str) -> Demo:
    """The settings of all stages by the name of a preset."""
    return {"demo": presets.demo, "smoke": presets.smoke}[name]()


def tokenizer_preset(name: str | None = None) -> MainTraining:
    """Main training as a preset has it."""
    return stages_of(name or "demo").main


def generator_preset(name: str | None = None) -> GeneratorTraining:
    """Generator training as a preset has it."""
    return stages_of(name or "demo").generator


def decoder_preset(name: str | None = None) -> DecoderTuning:
    """Post-training as a preset has it."""
    run = stages_of(name or "demo")
    return DecoderTuning(post=run.post, sampling=run.sampling, sigma=run.sigma, pairs=run.pairs, held_out=run.held_out)


def train_tokenizer(command: Command) -> None:
    """Main training on the images."""
    device = device_of(command.device)
    preset = tokenizer_preset(command.preset)
    assert preset.tokenizer is not None
    if command.images != EMBEDDED:
        preset = replace(preset, tokenizer=replace(preset.tokenizer, channels=3))
    config = command.over(preset)
    assert config.tokenizer is not None
    images = _images(command, config.tokenizer.image_size)
    main_training.train_tokenizer(config, images, command.out, device=device, quiet=command.quiet)
    _say(command, f"tokenizer: {command.out}")


def train_generator(command: Command) -> None:
    """Tokens of the images, then a generator of them."""
    device = device_of(command.device)
    preset = generator_preset(command.preset)
    command.over(preset)  # a misspelt setting is found before any image is read
    tokenizer = load_tokenizer(command.tokenizer).to(device)
    images = _images(command, tokenizer.image_size)
    assert isinstance(preset.generator, Autoregressive)
    follows = replace(
        preset.generator,
        codebook_size=len(tokenizer.codebook),
        tokens=tokenizer.tokens_per_image,
        classes=len(images.classes),
    )
    config = command.over(replace(preset, generator=follows))
    cache = _tokens(command, tokenizer, images)
    generator_training.train_generator(config, cache, command.out, device=device, quiet=command.quiet)
    _say(command, f"generator: {command.out}")


def post_train(command: Command) -> None:
    """Pairs, then a decoder tuned on them; and the control on clean latents, if asked for."""
    device = device_of(command.device)
    preset = decoder_preset(command.preset)
    command.over(preset)
    tokenizer, generator = load_tokenizer(command.tokenizer).to(device), load_generator(command.generator).to(device)
    images = _images(command, tokenizer.image_size)
    held_out = min(preset.held_out, len(images) // SHARE_HELD_OUT)
    preset = replace(preset, held_out=held_out, pairs=min(preset.pairs, len(images) - held_out))
    config = command.over(preset)
    train, held = hold_out(images, config.held_out)
    cache = _tokens(command, tokenizer, train)
    seed, extract = config.post.loop.seed, extractor("lite0", device)
    with Progress("held-out samples", len(held), quiet=command.quiet) as progress:
        fresh = sample_tokens(
            generator, held.labels, config.sampling, seed=derive(seed, "held-out samples"), progress=progress.update
        )
    check = HeldOut(tokenizer, fresh, Reference.of(held, extract).stats, extract)
    discriminator = command.tokenizer / "discriminator"
    arms = [(config.sigma, command.out)] + ([(1.0, command.out / "control")] if command.control else [])
    for sigma, folder in arms:
        with Progress(f"pairs at sigma {sigma:g}", config.pairs, quiet=command.quiet) as progress:
            pairs = make_pairs(
                generator,
                cache,
                folder / "pairs",
                sigma=sigma,
                sampling=config.sampling,
                count=config.pairs,
                seed=seed,
                progress=progress.update,
            )
        result = post_train_decoder(
            config.post,
            tokenizer,
            pairs,
            train,
            folder,
            held_out=check,
            discriminator=discriminator if discriminator.is_dir() else None,
            device=device,
            quiet=command.quiet,
        )
        kept = f"of step {result.step}" if result.step else "the original one, for none was better"
        _say(command, f"{folder}: held-out distance {result.before:.4g} -> {result.after:.4g}, decoder kept: {kept}")


def _images(command: Command, size: int) -> ImageSet:
    return images_of(command.images, size, upscale=command.upscale, flip=not command.no_flip)


def _tokens(command: Command, tokenizer: Tokenizer, images: ImageSet) -> TokenCache:
    """The images' tokens, in OUT/tokens."""
    folder: Path = command.out / "tokens"
    with Progress("tokens", len(images), quiet=command.quiet) as progress:
        return encode_tokens(tokenizer, images, folder, progress=progress.update)


def _say(command: Command, text: str) -> None:
    if not command.quiet:
        print(text)
