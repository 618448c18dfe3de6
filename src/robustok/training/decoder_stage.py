"""Stage 3 itself: the decoder alone is trained on pairs (paper, sec. 4.3); `post_training.py` makes what it needs.

A pair is a real image and its own tokens, of which the generator has sampled anew all but a share sigma. Encoder and
codebook stay as they are, so the generator's tokens keep their meaning and inference costs what it did.

Post-training can hurt. So before it begins and while it runs, tokens that the generator sampled freely are decoded
and compared with held-out images; the decoder with the lowest distance is kept, which may be the original. If it gains
in the space that decides and loses in another one, one between both may gain in the first and lose nothing.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from robustok.data.images import ImageSet
from robustok.data.order import batch_indices
from robustok.data.pairs import PairMode, Pairs, check_pair_mode
from robustok.generators.fit import fingerprints
from robustok.generators.generate import AnySampling
from robustok.generators.sampling import Sampling
from robustok.layers import check_float32
from robustok.runtime.configs import check_least, check_shares
from robustok.runtime.distributed import from_main
from robustok.runtime.locking import alone_in_its
from robustok.runtime.seeding import derive
from robustok.shapes import Images
from robustok.tokenizer.protocol import TokenizerLike, as_module, codes_of
from robustok.training.held_out import HeldOut
from robustok.training.loop import Loop, run
from robustok.training.micro_batch import micro_batches_here, micro_batches_of, own_rows, split
from robustok.training.objective import ImageLoss, Objective
from robustok.training.optim import EMA, Accumulation, Optim, Optimizer, Precision, autocast
from robustok.training.performance import Performance, without_performance
from robustok.training.undisturbed import undisturbed

AnyOne = TypeVar("AnyOne", bound=TokenizerLike)
Weights = dict[str, Tensor]

BETWEEN = (0.75, 0.5, 0.25)  # shares of the way to the best decoder, where that is worse in another space


@dataclass(frozen=True, kw_only=True)
class PostTraining:
    """Post-training of a decoder for one generator: its pairs, the training itself, and what decides what is kept."""

    loop: Loop  # how long, and how often to log, save and preview
    sampling: AnySampling = field(default_factory=Sampling)  # of the generator: pairs, held-out samples
    sampling_precision: Precision = "auto"  # in which the generator computes these; bf16 where the hardware has it
    # share of a pair that stays real: of its tokens, or 1 - the noise level of SDEdit; two numbers: equally many pairs
    # of several shares from the first to the second; auto: the best of some shares, by short tries on held-out images
    sigma: float | tuple[float, float] | Literal["auto"] = 0.7
    pair_mode: PairMode = "sdedit"  # of latents: sampled from the noised ones on; one-pass: their conditional mean
    pairs: int = 20_000  # real images that the generator makes pairs of, or as many as there are
    free_samples: int = 0  # of the generator, which adversarial and Frechet term judge; 0: they judge the pairs
    held_out: int = 2_000  # images that decide which decoder is kept
    features: str | None = None  # space in which they decide; None: lite0 at the images' own size, 64 to 224 pixels
    witnesses: tuple[str, ...] = ()  # other spaces; a decoder that is worse in one of them, beyond noise, is not kept
    validate_every: int = 500  # steps between validations on held-out images
    patience: int = 0  # validations without a better decoder, in a row, after which training ends; 0: after all steps
    objective: Objective = field(default_factory=Objective)  # what is asked of decoded images
    fresh_discriminator: bool = False  # begin with a new discriminator even where main training left its own
    warm_up: float = 0.25  # share of training in which a discriminator that is not given learns before it charges
    optim: Optim = field(default_factory=lambda: Optim(lr=1.2e-4))  # of the decoder: half of main training's lr
    ema_decay: float = 0.999  # of the weights' moving average, which is what is kept
    precision: Precision = "auto"  # of training; bf16 where the hardware multiplies it
    performance: Performance = field(default_factory=Performance)  # how it is computed

    def __post_init__(self) -> None:
        match self.sigma:
            case float() | int():
                known = 0 <= self.sigma <= 1
            case (float() | int() as low, float() | int() as high):
                known = 0 <= low <= high <= 1
            case other:
                known = other == "auto"
        if not known:
            raise ValueError(
                f"sigma is {self.sigma}; it is a share between 0 and 1, or two of them, the first not above the "
                "second, or auto"
            )
        check_shares(self, "warm_up")
        check_least(self, 0, "patience")
        check_least(self, 1, "pairs", "validate_every")
        check_least(self, 2, "held_out")
        check_pair_mode(self.pair_mode, self.sampling)
        if self.free_samples and self.free_samples < self.loop.batch_size:
            raise ValueError(
                f"free_samples is {self.free_samples}; give 0, or at least the {self.loop.batch_size} of a batch, "
                "better some thousands"
            )
        if self.free_samples and not (self.objective.adversarial or self.objective.frechet):
            raise ValueError(
                "free_samples are for the adversarial and the Frechet term, and the objective has neither; give one of "
                "them a weight, or leave free_samples at 0"
            )


class DecoderStage(Generic[AnyOne]):
    """A decoder, its losses, their optimizers, its weight average and the best decoder so far.

    The tokenizer is a `nn.Module` of any kind; the only weights that change are those of its `decoder`.
    """

    def __init__(self, config: PostTraining, tokenizer: AnyOne, device: str | torch.device = "cpu"):
        self.config, self.device = config, torch.device(device)
        check_float32(tokenizer)
        self.tokenizer = copy.deepcopy(tokenizer)
        as_module(self.tokenizer).to(self.device).eval().requires_grad_(False)
        self.decoder = self.tokenizer.decoder.requires_grad_(True)
        self.optimizer = Optimizer(self.decoder, config.optim, config.loop.steps)
        self.ema = EMA(self.decoder, config.ema_decay)
        config.performance.apply([self.decoder])
        self.image_loss = ImageLoss(
            config.objective, config.loop.steps, config.loop.seed, self.device, config.precision
        )
        self.first_distance = self.best_distance = self.last_distance = float("inf")
        self.best_step, self.validations_since = 0, 0
        # Until the learning rate and the discriminator are there, looks that find nothing better say nothing.
        charges = config.objective.adversary.gan_start if config.objective.adversarial else 0.0
        self.settled = max(config.optim.warmup, charges * config.loop.steps)
        self.best = copy.deepcopy(self.ema.module.state_dict())

    def step(self, batch: tuple[Tensor, Images] | tuple[Tensor, Images, Tensor], step: int) -> dict[str, Tensor]:
        """One step on (tokens (b n) or latents (b n d) that the generator made, the real images (b 3 h w)).

        A third part are as many tokens or latents that it sampled freely.
        """
        config, accumulation = self.config, Accumulation(self.optimizer)
        micro_batches = micro_batches_here(len(batch[1]), config.loop.batch_size, config.optim.micro_batches)
        for (generated, images, *others), micro in split(batch, micro_batches):
            images = images.to(self.device, memory_format=torch.channels_last, non_blocking=True)
            free = bool(others)
            decoded = torch.cat([generated, *others] if self.config.objective.of_pairs or not free else others)
            codes = codes_of(self.tokenizer, decoded)
            with autocast(self.device, config.precision):
                output = self.tokenizer.decode(codes).float()
            loss, terms = self.image_loss.loss(images, output, self.tokenizer.last_layer, step, micro, free=free)
            accumulation.backward(loss, terms, micro)
            accumulation.add(self.image_loss.discriminator_backward(images, output, step, micro, free=free), micro)
        return accumulation.step(
            step, self.ema, self.decoder, discriminator_step=lambda: self.image_loss.discriminator_step(step)
        )

    def evaluate(self, distance: Callable[[nn.Module], float], done: int) -> dict[str, float]:
        """Measure the averaged decoder on held-out images and keep it if it is the best so far."""
        now = distance(self.ema.module)
        self.last_distance = now
        self.validations_since += done > self.settled
        if now < self.best_distance:
            self.best_distance, self.best_step, self.validations_since = now, done, 0
            self.best = {name: weight.clone() for name, weight in self.ema.module.state_dict().items()}
        return {"heldout_fd": now, "best_heldout_fd": self.best_distance}

    def state_dict(self) -> dict[str, Any]:
        return {
            "decoder": self.decoder.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            "image_loss": self.image_loss.state_dict(),
            "best": {
                "first": self.first_distance,
                "distance": self.best_distance,
                "last": self.last_distance,
                "step": self.best_step,
                "validations_since": self.validations_since,
                "decoder": self.best,
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.decoder.load_state_dict(state["decoder"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        self.image_loss.load_state_dict(state["image_loss"])
        best = state["best"]
        self.first_distance, self.best_distance = best["first"], best["distance"]
        self.best_step = best["step"]
        self.best = {name: weight.to(self.device) for name, weight in best["decoder"].items()}
        self.last_distance, self.validations_since = best.get("last", math.inf), best.get("validations_since", 0)


@dataclass(frozen=True)
class TrainedDecoder(Generic[AnyOne]):
    """A tokenizer with the decoder that was kept, and by how much it was better."""

    tokenizer: AnyOne  # with the decoder that was best on held-out images
    step: int  # at which it was best; 0: the original was kept
    before: float  # held-out distance of the original decoder
    after: float  # held-out distance of the decoder that was kept
    last: float  # held-out distance of the decoder of the last step, kept or not
    worse_in: dict[str, str] = field(default_factory=dict)  # spaces for whose sake the best was not kept, and why
    by_chance: str = ""  # by how much the best was better, where it was not kept since other images could undo it
    share: float = 1.0  # of the way from the original's weights to the best's, where those between were kept

    def in_words(self) -> str:
        """Which decoder was kept, and why."""
        why = "; ".join(f"{space}: {words}" for space, words in self.worse_in.items())
        if why and self.step == 0:
            between = f"; one between the two may be better by chance: {self.by_chance}" if self.by_chance else ""
            return f"the best decoder is worse in another space, so the original is kept ({why}{between})"
        if self.by_chance:
            return f"the best decoder may be so by chance, so the original is kept ({self.by_chance})"
        gained = f"held-out distance {self.before:.4g} -> {self.after:.4g}"
        if why:
            return (
                f"{gained}, the decoder {self.share:.0%} of the way from the original to that of step {self.step} kept,"
                f" as that one is worse in another space ({why})"
            )
        if self.step == 0:
            return (
                f"no decoder was better on held-out images than the original ({self.before:.4g}), which is kept; try a "
                "larger sigma, a lower learning rate, or fewer steps"
            )
        return f"{gained}, decoder of step {self.step} kept"


@alone_in_its("folder")
@undisturbed
def train_decoder(
    config: PostTraining,
    tokenizer: AnyOne,
    pairs: Pairs,
    images: ImageSet,
    folder: str | Path,
    *,
    held_out: HeldOut,
    free: Tensor | None = None,
    discriminator: str | Path | None = None,
    device: str | torch.device = "cpu",
    name: str = "post-training",
    quiet: bool = False,
) -> TrainedDecoder[AnyOne]:
    """Train a tokenizer's decoder on pairs of generated tokens or latents and the `images` they came from.

    `free` are `config.free_samples` tokens or latents that the generator sampled freely. `discriminator` is the folder
    of one to begin with; without it a fresh one learns before it charges. The tokenizer with the best decoder goes to
    `folder`: that of the lowest held-out distance. Where that is worse in a space that bears witness, it is the one
    farthest on the way to it that is not (`BETWEEN`); the original stays where there is none, or where the best is no
    better than other images could undo. A run that was stopped goes on. Raises ValueError for pairs of another
    tokenizer or of other images.
    """
    if config.free_samples != (0 if free is None else len(free)):
        raise ValueError(f"free_samples is {config.free_samples}; give as many tokens or latents as `free`")
    if pairs.fingerprint not in fingerprints(tokenizer):
        raise ValueError(
            f"the pairs were made with tokenizer {pairs.fingerprint}, not with {tokenizer.fingerprint()}; "
            "make them again with this one"
        )
    pairs.check_images(images)
    of_pairs: dict[str, Any] = {"sigma": pairs.sigma}
    of_pairs |= {} if pairs.precision is None else {"pairs_sampled_in": pairs.precision}
    of_pairs |= {} if pairs.mode == "sdedit" else {"pair_mode": pairs.mode}
    space = held_out.extract.describe()  # of two spaces distances do not compare
    about = of_pairs | ({} if space.get("features") == "lite0" else {"decided_in": space})
    loop = config.loop
    rows = own_rows(micro_batches_of(loop.batch_size, config.optim.micro_batches)).own
    stage = DecoderStage(config, tokenizer, device)
    stage.image_loss.set_reference(images)

    def first() -> dict[str, float]:
        """What the original decoder is worth."""
        if discriminator is not None and stage.image_loss.discriminator is not None:
            stage.image_loss.discriminator.begin_with(discriminator)
        look = stage.evaluate(held_out, 0)
        stage.first_distance = stage.best_distance
        return look

    def batches(step: int) -> tuple[Tensor, Images] | tuple[Tensor, Images, Tensor]:
        chosen = batch_indices(len(pairs), loop.batch_size, loop.seed, step)
        pair = pairs.batch(chosen[rows])
        if free is None:
            return pair.generated, images.images(pair.images)
        others = batch_indices(len(free), loop.batch_size, derive(loop.seed, "free samples"), step)
        return pair.generated, images.images(pair.images), free[others[rows]].to(pair.generated.dtype)

    def enough(done: int) -> bool:
        return 0 < config.patience <= stage.validations_since

    with config.performance.tf32_matmul():
        run(
            stage,
            batches,
            loop,
            Path(folder),
            name=name,
            describe={"stage": without_performance(config), **about, "discriminator": discriminator is not None},
            preview=lambda done: {"before_and_after": held_out.picture(stage.ema.module)},
            validate=lambda done: stage.evaluate(held_out, done),
            validate_every=config.validate_every,
            first=first,
            enough=enough,
            quiet=quiet,
        )
    return _kept(stage, tokenizer, Path(folder), held_out, about)


def _kept(
    stage: DecoderStage[AnyOne], tokenizer: AnyOne, folder: Path, held_out: HeldOut, about: dict[str, Any]
) -> TrainedDecoder[AnyOne]:
    """The decoder that is kept, see `train_decoder`; saved, with what led to it."""
    tuned = copy.deepcopy(tokenizer)
    as_module(tuned).to(stage.device).eval().requires_grad_(False)
    original, first = copy.deepcopy(tuned.decoder.state_dict()), stage.first_distance
    tuned.decoder.load_state_dict(stage.best)
    step, share, after = stage.best_step, 1.0, stage.best_distance
    refused = worse = held_out.worse_in(tuned.decoder) if step else {}
    for share in BETWEEN if worse else ():
        tuned.decoder.load_state_dict(weights_between(original, stage.best, share))
        after = held_out(tuned.decoder)
        worse = held_out.worse_in(tuned.decoder) if after < first else refused
        if not worse:
            break
    comparable = step and not worse and math.isfinite(first)
    chance = held_out.by_chance(tuned.decoder) if comparable else ""
    if worse or chance:
        tuned.decoder.load_state_dict(original)
        step, share, after = 0, 1.0, first
    about |= {
        "step": step,
        "before": first if math.isfinite(first) else None,  # all images were alike
        "after": after if math.isfinite(after) else None,
    }
    about |= {"worse_in": refused, "refused_step": stage.best_step} if refused else {}
    about |= {"by_chance": chance, "refused_step": stage.best_step} if chance else {}
    about |= {"share": share} if share < 1 else {}
    from_main(lambda: tuned.save_pretrained(folder, post_training=about))
    return TrainedDecoder(tuned, step, first, after, stage.last_distance, refused, chance, share)


def weights_between(original: Weights, best: Weights, share: float) -> Weights:
    """Weights that share of the way from one decoder to another that began with it (Wortsman et al. 2022, WiSE-FT)."""
    return {
        name: torch.lerp(original[name], weight, share) if weight.is_floating_point() else weight
        for name, weight in best.items()
    }
