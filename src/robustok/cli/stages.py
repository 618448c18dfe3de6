"""`robustok train-tokenizer`, `train-generator` and `post-train`."""

from collections.abc import Callable
from dataclasses import replace
from math import isqrt
from pathlib import Path
from typing import Any, Literal

import torch

from robustok import presets
from robustok.adapters.published import default_sampling
from robustok.cli import watching
from robustok.cli.encode import cache_at
from robustok.cli.images import EMBEDDED, device_of, images_of, view_of
from robustok.cli.models import generator_of, tokenizer_of
from robustok.cli.options import Command
from robustok.cli.settings import seeded
from robustok.data.images import ImageSet
from robustok.data.latents import LatentCache
from robustok.data.tokens import TokenCache
from robustok.demo.config import Demo
from robustok.generators.autoregressive import Autoregressive, AutoregressiveModel
from robustok.generators.diffusion_transformer import DiffusionTransformer, DiffusionTransformerModel
from robustok.generators.flow import FlowSampling
from robustok.generators.llama import Llama
from robustok.generators.sampling import Sampling
from robustok.presets import recipes
from robustok.runtime.locking import alone_in
from robustok.runtime.logging import Progress
from robustok.tokenizer.autoencoder import Autoencoder
from robustok.tokenizer.tokenizer import AnyTokenizer, ContinuousTokenizer, Tokenizer
from robustok.training import autoencoder_training, generator_training, main_training
from robustok.training.autoencoder_training import AutoencoderTraining
from robustok.training.generator_training import GeneratorTraining
from robustok.training.main_training import MainTraining
from robustok.training.tuning import DecoderTuning, encode, tune_decoder

OTHERS_SIGMA = 0.9  # for decoders that were trained without perturbation (arXiv 2509.12474, sec. 4.3)
EMBEDDED_PRESETS = {
    "demo": presets.demo,
    "smoke": presets.smoke,
    "continuous": presets.continuous,
    "continuous-smoke": presets.continuous_smoke,
}
SHARE_HELD_OUT = 10  # of a small set of images, one in so many is held out


def stages_of(name: str) -> Demo:
    """The settings of all stages by the name of a preset."""
    return EMBEDDED_PRESETS[name]()


def tokenizer_preset(name: str | None = None) -> MainTraining | AutoencoderTraining:
    """Main training as a preset has it."""
    if name in recipes.names(recipes.TOKENIZERS):
        return recipes.recipe(name, recipes.TOKENIZERS)
    return stages_of(name or "demo").main


def generator_preset(name: str | None = None) -> GeneratorTraining:
    """Generator training as a preset has it."""
    if name in recipes.names(recipes.GENERATORS):
        return recipes.recipe(name, recipes.GENERATORS)
    return stages_of(name or "demo").generator


def decoder_preset(name: str | None = None) -> DecoderTuning:
    """Post-training as a preset has it."""
    if name in recipes.names(recipes.DECODERS):
        return recipes.recipe(name, recipes.DECODERS)
    run = stages_of(name or "demo")
    return DecoderTuning(post=run.post, sampling=run.sampling, sigma=run.sigma, pairs=run.pairs, held_out=run.held_out)


def train_tokenizer(command: Command) -> None:
    """Main training on the images, of a new tokenizer or of one that is given."""
    _check_apart(command)
    device = device_of(command.device)
    preset = tokenizer_preset(command.preset)
    assert preset.tokenizer is not None
    if command.tokenizer is not None:
        given = tokenizer_of(command.tokenizer, device, command.fields)
        if isinstance(preset, MainTraining) != isinstance(given, AnyTokenizer):
            kinds = ("has a codebook", "demo or smoke"), ("has no codebook", "continuous or continuous-smoke")
            kind, names = kinds[not isinstance(given, AnyTokenizer)]
            raise ValueError(f"{command.tokenizer} {kind}; take the preset {names} to train it further")
        without: Any = replace(preset, tokenizer=None)
        config, size = _settings(command, without), given.image_size
    else:
        given = None
        if command.images != EMBEDDED:
            in_color: Any = replace(preset.tokenizer, channels=3)
            preset = replace(preset, tokenizer=in_color)
        config = _settings(command, preset)
        size = config.tokenizer.image_size
    images = _images(command, size)
    train = (
        main_training.train_tokenizer if isinstance(config, MainTraining) else autoencoder_training.train_autoencoder
    )
    looks = watching.of_tokenizer(command, size, config.loop.steps)
    train(config, images, command.out, tokenizer=given, device=device, quiet=command.quiet, **looks)
    _say(command, f"tokenizer: {command.out}")


def train_generator(command: Command) -> None:
    """Tokens or latents of the images, then a generator of them."""
    _check_apart(command)
    device = device_of(command.device)
    preset = generator_preset(command.preset)
    tokenizer = tokenizer_of(command.tokenizer, device, command.fields)
    make_cache, classes = _to_train_on(command, tokenizer)
    fitting = replace(preset, generator=_fitting(preset, tokenizer, classes))
    config = _settings(command, fitting)
    sampling = stages_of(command.preset).sampling if command.preset in EMBEDDED_PRESETS else None
    looks = watching.of_generator(command, tokenizer, sampling, config.loop.steps)
    with alone_in(command.out):
        cache = make_cache()
        generator_training.train_generator(config, cache, command.out, device=device, quiet=command.quiet, **looks)
    _say(command, f"generator: {command.out}")


def _to_train_on(
    command: Command, tokenizer: ContinuousTokenizer
) -> tuple[Callable[[], TokenCache | LatentCache], int]:
    """What gives the cache, be it given or made of images, and the number of classes."""
    if (command.images is None) == (command.cache is None):
        raise ValueError("a generator is trained on images, or on a cache of them; give either --images or --cache")
    if command.cache is not None:
        cache = cache_at(command.cache, tokenizer)
        return lambda: cache, int(cache.labels.max()) + 1
    images = _images(command, tokenizer.image_size)

    def make() -> TokenCache | LatentCache:
        with Progress("encoding", len(images), quiet=command.quiet) as progress:
            return encode(tokenizer, images, command.out, progress.update)

    return make, len(images.classes)


def _fitting(
    preset: GeneratorTraining, tokenizer: ContinuousTokenizer, classes: int
) -> Autoregressive | Llama | DiffusionTransformer:
    """The preset's generator for what this tokenizer makes; a diffusion transformer of its size for latents."""
    generator, n = preset.generator, tokenizer.tokens_per_image
    assert generator is not None
    if isinstance(tokenizer, AnyTokenizer):
        if isinstance(generator, DiffusionTransformer):
            raise ValueError("this preset's generator is of continuous latents; take demo or smoke for tokens")
        return replace(generator, codebook_size=len(tokenizer.codebook), tokens=n, classes=classes)
    with torch.no_grad():
        channels = tokenizer.encode(torch.zeros(1, 3, tokenizer.image_size, tokenizer.image_size).to(tokenizer.device))
    if isinstance(generator, DiffusionTransformer):
        return replace(generator, tokens=n, channels=channels.shape[2], classes=classes)
    size = {name: getattr(generator, name) for name in ("width", "depth", "heads", "label_dropout")}
    layout: Literal["grid", "sequence"] = "grid" if isqrt(n) ** 2 == n else "sequence"
    return DiffusionTransformer(tokens=n, channels=channels.shape[2], classes=classes, layout=layout, **size)


def post_train(command: Command) -> None:
    """Pairs, then a decoder tuned on them; and the control on clean latents, if asked for."""
    _check_apart(command)
    device = device_of(command.device)
    preset = decoder_preset(command.preset)
    tokenizer = tokenizer_of(command.tokenizer, device, command.fields)
    generator = generator_of(command.generator, device, tokenizer)
    own = {Sampling: AutoregressiveModel, FlowSampling: DiffusionTransformerModel}
    if type(generator) is not own[type(preset.sampling)]:  # one of another family may derive from it
        preset = replace(preset, sampling=default_sampling(generator))
    if not isinstance(tokenizer, Tokenizer | Autoencoder) and command.preset in EMBEDDED_PRESETS:
        preset = replace(preset, sigma=OTHERS_SIGMA)
    if command.preset in EMBEDDED_PRESETS:
        preset = replace(preset, post=presets.looking_at(tokenizer.image_size, preset.post))
    images = _images(command, tokenizer.image_size)
    held_out = min(preset.held_out, max(2, len(images) // SHARE_HELD_OUT))
    config = _settings(command, replace(preset, held_out=held_out))
    discriminator = command.tokenizer / "discriminator"
    tuned = tune_decoder(
        config,
        tokenizer,
        generator,
        images,
        command.out,
        discriminator=discriminator if discriminator.is_dir() else None,
        control=command.control,
        features=command.features,
        quiet=command.quiet,
    )
    for folder, result in ((command.out, tuned.touched), (command.out / "control", tuned.control)):
        if result is not None:
            kept = f"of step {result.step}" if result.step else "the original one, for none was better"
            change = f"{result.before:.4g} -> {result.after:.4g}"
            _say(command, f"{folder}: held-out distance {change}, decoder kept: {kept}")


def _settings(command: Command, preset: Any) -> Any:
    """The preset of a stage under all that was typed: settings, their files, --seed and --tracker."""
    return watching.tracked(command, seeded(command.over(preset), command.seed, command.typed))


def _check_apart(command: Command) -> None:
    """Raises ValueError where --out is a folder of what is read, whose files the run would replace or add to."""
    for name in ("images", "validation", "tokenizer", "generator"):
        given = getattr(command.options, name, None)
        if given is not None and Path(given).is_dir() and Path(given).resolve() == command.out.resolve():
            raise ValueError(f"--out and --{name} are the same folder, {given}; give another --out")


def _images(command: Command, size: int) -> ImageSet:
    return images_of(command.images, size, **view_of(command))


def _say(command: Command, text: str) -> None:
    if not command.quiet:
        print(text)
