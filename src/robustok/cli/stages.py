"""`robustok train-tokenizer`, `train-generator` and `post-train`."""

from dataclasses import replace

from robustok import presets
from robustok.api import load_generator, load_tokenizer
from robustok.cli.images import EMBEDDED, device_of, images_of
from robustok.cli.options import Command
from robustok.data.images import ImageSet
from robustok.demo.config import Demo
from robustok.generators.autoregressive import Autoregressive
from robustok.runtime.logging import Progress
from robustok.training import generator_training, main_training
from robustok.training.generator_training import GeneratorTraining
from robustok.training.main_training import MainTraining
from robustok.training.tuning import DecoderTuning, encode, tune_decoder

SHARE_HELD_OUT = 10  # of a small set of images, one in so many is held out


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
    with Progress("encoding", len(images), quiet=command.quiet) as progress:
        cache = encode(tokenizer, images, command.out, progress.update)
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
    config = command.over(replace(preset, held_out=held_out))
    discriminator = command.tokenizer / "discriminator"
    tuned = tune_decoder(
        config,
        tokenizer,
        generator,
        images,
        command.out,
        discriminator=discriminator if discriminator.is_dir() else None,
        control=command.control,
        quiet=command.quiet,
    )
    for folder, result in ((command.out, tuned.touched), (command.out / "control", tuned.control)):
        if result is not None:
            kept = f"of step {result.step}" if result.step else "the original one, for none was better"
            _say(
                command, f"{folder}: held-out distance {result.before:.4g} -> {result.after:.4g}, decoder kept: {kept}"
            )


def _images(command: Command, size: int) -> ImageSet:
    return images_of(command.images, size, upscale=command.upscale, flip=not command.no_flip)


def _say(command: Command, text: str) -> None:
    if not command.quiet:
        print(text)
