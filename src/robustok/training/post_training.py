"""Post-training from two finished models and images: held-out samples, pairs, the decoder, and its control."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic

import torch
from torch import Tensor

from robustok.data.images import ImageSet, hold_out
from robustok.data.latent_cache import LatentCache, encode_images
from robustok.data.order import check_batch
from robustok.data.pairs import Pairs, make_pairs
from robustok.evaluation.features.registry import FeatureSpace, deciding_space, extractor
from robustok.evaluation.scores.reference import Reference
from robustok.generators.fit import check_classes, check_fit
from robustok.generators.protocol import GeneratorLike
from robustok.runtime.locking import alone_in_its
from robustok.runtime.logging import Progress
from robustok.runtime.seeding import derive
from robustok.tokenizer.protocol import kind_of
from robustok.training.choosing_sigma import Try, choose_sigma
from robustok.training.decoder_stage import AnyOne, TrainedDecoder, train_decoder
from robustok.training.decoder_stage import PostTraining as PostTraining
from robustok.training.held_out import HeldOut, Witness
from robustok.training.objective import Objective
from robustok.training.optim import autocast
from robustok.training.shared_sampling import sampled
from robustok.training.undisturbed import undisturbed

SAMPLES = "held_out.safetensors"  # in a run's folder: what decoders are compared by
FREE = "free_samples.safetensors"  # what they are trained on, beside the pairs
SHARES = 5  # that pairs of a range of sigma have, evenly spaced


@dataclass(frozen=True)
class PostTrainingResult(Generic[AnyOne]):
    """The tokenizer with the tuned decoder, and with one tuned alike on clean latents if that was asked for."""

    tuned: TrainedDecoder[AnyOne]
    control: TrainedDecoder[AnyOne] | None
    held_out: HeldOut  # what decided, to be given to another post-training that shall be compared with this one
    tries: list[Try] = field(default_factory=list)  # by which `sigma="auto"` was chosen


@alone_in_its("folder")
@undisturbed
def post_train(
    config: PostTraining,
    tokenizer: AnyOne,
    generator: GeneratorLike,
    images: ImageSet,
    folder: str | Path,
    *,
    held_out: ImageSet | HeldOut | None = None,
    cache: LatentCache | None = None,
    discriminator: str | Path | None = None,
    control: bool = False,
    features: FeatureSpace | None = None,
    quiet: bool = False,
) -> PostTrainingResult[AnyOne]:
    """The tokenizer with its decoder tuned for the generator, or with the original one if none was better.

    This is all of stage 3; the demo, the command line, the library and the benchmarks call it alike.

    held_out       images that decide which decoder is kept, or what another post-training made of them. None:
                   `config.held_out` of the images, a share of every class, which are then left out of training (the
                   tokenizer and the generator may have been trained on them)
    cache          the tokens or latents of the images that are trained on, if they are there already
    discriminator  folder of one to begin with, as main training leaves it; a fresh one learns before it charges
    control        tune another decoder as long on clean latents, into `folder/control`; with patience each of the two
                   ends when it finds nothing better
    features       space in which held-out images decide, before `config.features`; it looks at the images whole
                   unless told

    Everything goes to `folder`; called again after it was stopped, it goes on. Both models should be on the same
    device. Raises ValueError for a generator that was trained on another tokenizer or knows fewer classes than the
    images have.
    """
    check_fit(generator, tokenizer, config.sampling)
    check_classes(generator, images.labels, images.classes)
    config.objective.check_side(tokenizer.image_size)
    folder, device = Path(folder), tokenizer.device
    discriminator = None if config.fresh_discriminator else discriminator
    config = config if discriminator is not None else _warmed_up(config)

    def drawn(name: str, labels: Tensor, purpose: str) -> Tensor:
        how: dict[str, Any] = {"precision": config.sampling_precision, "quiet": quiet, "purpose": purpose}
        return sampled(folder / name, generator, labels, config.sampling, config.loop.seed, **how)

    if isinstance(held_out, HeldOut):
        train, check = images, held_out
    else:
        extract = extractor(features or config.features or deciding_space(tokenizer.image_size), device)
        train, held = hold_out(images, config.held_out) if held_out is None else (images, held_out)
        check_batch(min(config.pairs, len(train)), config.loop.batch_size)
        witnesses = [Witness(x := extractor(name, device), Reference.of(held, x)) for name in config.witnesses]
        generated = drawn(SAMPLES, held.labels, "held-out samples")
        check = HeldOut(tokenizer, generated, Reference.of(held, extract), extract, witnesses)
    if cache is None:
        with Progress("encoding", len(train), quiet=quiet) as progress:
            cache = encode_images(tokenizer, train, folder / kind_of(tokenizer), progress=progress.update)

    def tuned(config: PostTraining, where: Path, check: HeldOut, name: str) -> TrainedDecoder[AnyOne]:
        pairs = _pairs(config, generator, cache, where / "pairs", min(config.pairs, len(train)), quiet)
        free = None
        if config.free_samples:
            rows = torch.arange(config.free_samples) * len(train) // config.free_samples
            free = drawn(FREE, train.labels.sort().values[rows], "free samples")
        return train_decoder(
            config,
            tokenizer,
            pairs,
            train,
            where,
            held_out=check,
            free=free,
            discriminator=discriminator,
            device=device,
            name=name,
            quiet=quiet,
        )

    config, tries = choose_sigma(config, tuned, folder, check) if config.sigma == "auto" else (config, [])
    result = tuned(config, folder, check, "control" if config.sigma == 1 else "post-training")
    other = tuned(clean(config), folder / "control", check, "control") if control else None
    return PostTrainingResult(result, other, held_out=check, tries=tries)


def clean(config: PostTraining) -> PostTraining:
    """As long on images' own tokens or latents, nothing generated: the control, for what the generator's bought."""
    return replace(config, sigma=1.0, free_samples=0)


def _pairs(
    config: PostTraining, generator: GeneratorLike, cache: LatentCache, folder: Path, count: int, quiet: bool
) -> Pairs:
    """The pairs of a config, made in the precision that it says; of a range of sigma, equally many of each share."""

    def made(sigma: float, count: int, folder: Path, seed: int) -> Pairs:
        with (
            Progress(f"pairs at sigma {sigma:g}", count, quiet=quiet) as progress,
            autocast(generator.device, config.sampling_precision),
        ):
            return make_pairs(
                generator,
                cache,
                folder,
                sigma=sigma,
                sampling=config.sampling,
                count=count,
                seed=seed,
                mode=config.pair_mode,
                progress=progress.update,
            )

    match config.sigma:
        case "auto":
            raise ValueError("sigma is auto, which post_train resolves; pairs need a number")
        case low, high if low < high:
            shares = torch.linspace(low, high, SHARES, dtype=torch.float64).tolist()
            counts = [len(part) for part in torch.arange(count).tensor_split(SHARES) if len(part)]
            names = [f"sigma_{share:.4g}" for share in shares]
            names = names if len({*names}) == SHARES else [f"sigma_{share}" for share in shares]
            folders = [folder / name for name in names[: len(counts)]]
            for i, (share, own, where) in enumerate(zip(shares, counts, folders, strict=False)):
                made(share, own, where, derive(config.loop.seed, "pairs of a range", i))
            return Pairs(*folders)
        case (sigma, _) | sigma:
            return made(sigma, count, folder, config.loop.seed)


def _warmed_up(config: PostTraining) -> PostTraining:
    """The same with a discriminator that learns before it charges, for a fresh one would only disturb."""
    objective: Objective = config.objective
    adversary = objective.adversary
    charges = max(adversary.gan_start, min(1.0, adversary.disc_start + config.warm_up))
    return replace(config, objective=replace(objective, adversary=replace(adversary, gan_start=charges)))
