"""Post-training from two finished models and images: held-out samples, pairs, the decoder, and its control."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic

from torch import Tensor

from robustok.data.images import ImageSet, hold_out
from robustok.data.latents import LatentCache, encode_latents
from robustok.data.pairs import Touch, check_touch, make_pairs
from robustok.data.tokens import TokenCache, encode_tokens
from robustok.evaluation.features.registry import FeatureSpace, deciding_space, extractor
from robustok.evaluation.scores.reference import Reference
from robustok.generators.flow import FlowSampling, LatentGenerator, sample_latents
from robustok.generators.sampling import Sampling, TokenGenerator, sample_tokens
from robustok.generators.trained_on import check_classes, check_trained_on
from robustok.runtime.distributed import gather, rank, world_size
from robustok.runtime.locking import alone_in_its
from robustok.runtime.logging import Progress
from robustok.runtime.seeding import derive
from robustok.shapes import Labels
from robustok.tokenizer.tokenizer import AnyTokenizer, ContinuousTokenizer
from robustok.training.objective import Objective
from robustok.training.post_training import AnyOne, HeldOut, PostTrained, PostTraining, post_train_decoder


@dataclass(frozen=True, kw_only=True)
class DecoderTuning:
    """Post-training and what goes before it."""

    post: PostTraining  # of the decoder
    sampling: Sampling | FlowSampling  # how the generator is sampled, for pairs and held-out samples
    sigma: float = 0.7  # share of a pair that stays real; 0.9 or so for decoders that never saw perturbed latents
    touch: Touch = "sdedit"  # of latents: sampled from the noised ones on; one-pass: their conditional mean, cheaper
    pairs: int = 20_000  # real images whose tokens or latents the generator touches
    held_out: int = 2_000  # images that decide which decoder is kept
    features: str | None = None  # space in which they decide; None: lite0 at the images' own size, 64 to 224 pixels
    fresh_discriminator: bool = False  # begin with a new discriminator even where main training left its own
    warm_up: float = 0.25  # share of training in which a discriminator that is not given learns before it charges

    def __post_init__(self) -> None:
        for name in ("sigma", "warm_up"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is a share, choose one between 0 and 1")
        check_touch(self.touch, self.sampling)
        if self.pairs < 1:
            raise ValueError(f"pairs is {self.pairs}; post-training needs at least 1, better some thousands")
        if self.held_out < 2:
            raise ValueError(f"held_out is {self.held_out}; a distance needs at least 2 images, better some thousands")


@dataclass(frozen=True)
class Tuned(Generic[AnyOne]):
    """The tokenizer with the tuned decoder, and with one tuned as long on clean latents if that was asked for."""

    touched: PostTrained[AnyOne]
    control: PostTrained[AnyOne] | None = None


@alone_in_its("folder")
def tune_decoder(
    config: DecoderTuning,
    tokenizer: AnyOne,
    generator: TokenGenerator | LatentGenerator,
    images: ImageSet,
    folder: str | Path,
    *,
    discriminator: str | Path | None = None,
    control: bool = False,
    features: FeatureSpace | None = None,
    quiet: bool = False,
) -> Tuned[AnyOne]:
    """The tokenizer with its decoder tuned for the generator, or with the original one if none was better.

    `config.held_out` of the images, a share of every class, are left out of post-training and decide which decoder is
    kept (the tokenizer and the generator may have been trained on them), in the space that `features`, else
    `config.features`, names; that looks at the images whole unless told. `discriminator` is the folder of one to begin
    with, as main training leaves it. Everything goes to `folder`, the control's to `folder/control`; called again after
    it was stopped, it goes on. Both models should be on the same device. Raises ValueError for a generator that was
    trained on another tokenizer or knows fewer classes than the images have.
    """
    check_trained_on(generator, tokenizer)
    check_classes(generator, images.labels, images.classes)
    folder, device, seed = Path(folder), tokenizer.device, config.post.loop.seed
    extract = extractor(features or config.features or deciding_space(tokenizer.image_size), device)
    discriminator = None if config.fresh_discriminator else discriminator
    train, held = hold_out(images, config.held_out)
    with Progress("encoding", len(train), quiet=quiet) as progress:
        cache = encode(tokenizer, train, folder, progress.update)
    with Progress("held-out samples", len(held), quiet=quiet) as progress:
        drawn = sample(generator, held.labels, config.sampling, derive(seed, "held-out samples"), progress.update)
    check = HeldOut(tokenizer, drawn, Reference.of(held, extract).stats, extract)
    post = config.post if discriminator is not None else _warmed_up(config)

    def arm(sigma: float, where: Path) -> PostTrained[AnyOne]:
        count = min(config.pairs, len(train))
        with Progress(f"pairs at sigma {sigma:g}", count, quiet=quiet) as progress:
            pairs = make_pairs(
                generator,
                cache,
                where / "pairs",
                sigma=sigma,
                sampling=config.sampling,
                count=count,
                seed=seed,
                touch=config.touch,
                progress=progress.update,
            )
        return post_train_decoder(
            post,
            tokenizer,
            pairs,
            train,
            where,
            held_out=check,
            discriminator=discriminator,
            device=device,
            quiet=quiet,
        )

    return Tuned(arm(config.sigma, folder), arm(1.0, folder / "control") if control else None)


def encode(
    tokenizer: ContinuousTokenizer, images: ImageSet, folder: Path, progress: Callable[[int], None] | None = None
) -> TokenCache | LatentCache:
    """The images' tokens in `folder/tokens`, or their latents in `folder/latents` if there is no codebook."""
    if isinstance(tokenizer, AnyTokenizer):
        return encode_tokens(tokenizer, images, folder / "tokens", progress=progress)
    return encode_latents(tokenizer, images, folder / "latents", progress=progress)


def sample(
    generator: TokenGenerator | LatentGenerator,
    labels: Labels,
    sampling: Sampling | FlowSampling,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Tokens or latents of one image per label; several processes share the work where there is enough of it.

    Raises ValueError for settings of the other kind of generator.
    """
    shares = labels.tensor_split(world_size()) if len(labels) >= world_size() else None
    own, counts = labels, [len(share) for share in shares or ()]
    if shares is not None:
        own = shares[rank()]
    how: dict[str, Any] = {"seed": seed, "first": sum(counts[: rank()]), "progress": progress}
    match generator, sampling:
        case TokenGenerator(), Sampling():
            drawn = sample_tokens(generator, own, sampling, **how)
        case LatentGenerator(), FlowSampling():
            drawn = sample_latents(generator, own, sampling, **how)
        case _:
            raise ValueError(
                f"a {type(generator).__name__} is not sampled as a {type(sampling).__name__} says; "
                "generators of tokens take Sampling, those of latents FlowSampling"
            )
    return drawn if shares is None else gather(drawn, counts)


def _warmed_up(config: DecoderTuning) -> PostTraining:
    """The same with a discriminator that learns before it charges, for a fresh one would only disturb."""
    objective: Objective = config.post.objective
    adversary = objective.adversary
    charges = max(adversary.charges_from, min(1.0, adversary.learns_from + config.warm_up))
    return replace(config.post, objective=replace(objective, adversary=replace(adversary, charges_from=charges)))
