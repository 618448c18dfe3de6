"""Stage 3 itself: the decoder alone is trained on pairs (paper, sec. 4.3); `post_training.py` makes what it needs.

A pair is a real image and its own tokens, of which the generator has sampled anew all but a share sigma. Encoder and
codebook stay as they are, so the generator's tokens keep their meaning and inference costs what it did.

Post-training can hurt. So before it begins and while it runs, tokens that the generator sampled freely are decoded
and compared with held-out images; the decoder with the lowest distance is kept, which may be the original.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from itertools import chain
from operator import add, itemgetter
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from robustok.data.images import ImageSet
from robustok.data.order import batch_indices
from robustok.data.pairs import PairMode, Pairs, check_pair_mode
from robustok.evaluation.features.extractor import Extractor, outputs
from robustok.evaluation.metrics.fid import FeatureStats, frechet_distance
from robustok.generators.fit import fingerprints
from robustok.generators.flow import FlowSampling
from robustok.generators.sampling import Sampling
from robustok.layers import check_float32
from robustok.runtime.distributed import from_main, gather_objects, rank, world_size
from robustok.runtime.locking import alone_in_its
from robustok.shapes import Images, to_pixels
from robustok.tokenizer.protocol import TokenizerLike, as_module, codes_of, decoding_with
from robustok.training.loop import Loop, run
from robustok.training.micro_batch import micro_batches_here, micro_batches_of, own_rows, split
from robustok.training.objective import ImageLoss, Objective
from robustok.training.optim import EMA, Accumulation, Optim, Optimizer, Precision, autocast
from robustok.training.performance import Performance, without_performance

AnyOne = TypeVar("AnyOne", bound=TokenizerLike)


@dataclass(frozen=True, kw_only=True)
class PostTraining:
    """Post-training of a decoder for one generator: its pairs, the training itself, and what decides what is kept."""

    loop: Loop  # how long, and how often to log, save and preview
    sampling: Sampling | FlowSampling = field(default_factory=Sampling)  # of the generator: pairs, held-out samples
    sampling_precision: Precision = "auto"  # in which the generator computes these; bf16 where the hardware has it
    sigma: float = 0.7  # share of a pair that stays real: of its tokens, or 1 - the noise level of SDEdit
    pair_mode: PairMode = "sdedit"  # of latents: sampled from the noised ones on; one-pass: their conditional mean
    pairs: int = 20_000  # real images that the generator makes pairs of, or as many as there are
    held_out: int = 2_000  # images that decide which decoder is kept
    features: str | None = None  # space in which they decide; None: lite0 at the images' own size, 64 to 224 pixels
    validate_every: int = 500  # steps between validations on held-out images
    objective: Objective = field(default_factory=Objective)  # what is asked of decoded images
    fresh_discriminator: bool = False  # begin with a new discriminator even where main training left its own
    warm_up: float = 0.25  # share of training in which a discriminator that is not given learns before it charges
    optim: Optim = field(default_factory=lambda: Optim(lr=1.2e-4))  # of the decoder: half of main training's lr
    ema_decay: float = 0.999  # of the weights' moving average, which is what is kept
    precision: Precision = "auto"  # of training; bf16 where the hardware multiplies it
    performance: Performance = field(default_factory=Performance)  # how it is computed

    def __post_init__(self) -> None:
        for name in ("sigma", "warm_up"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is a share, choose one between 0 and 1")
        check_pair_mode(self.pair_mode, self.sampling)
        if self.pairs < 1:
            raise ValueError(f"pairs is {self.pairs}; post-training needs at least 1, better some thousands")
        if self.held_out < 2:
            raise ValueError(f"held_out is {self.held_out}; a distance needs at least 2 images, better some thousands")
        if self.validate_every < 1:
            raise ValueError(
                f"validate_every is {self.validate_every}; post-training can hurt, so it is "
                "validated at least every some steps"
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
        self.first_distance = self.best_distance = float("inf")
        self.best_step = 0
        self.best = copy.deepcopy(self.ema.module.state_dict())

    def step(self, batch: tuple[Tensor, Images], step: int) -> dict[str, Tensor]:
        """One step on (tokens (b n) or latents (b n d) that the generator made, the real images (b 3 h w))."""
        config, accumulation = self.config, Accumulation(self.optimizer)
        micro_batches = micro_batches_here(len(batch[1]), config.loop.batch_size, config.optim.micro_batches)
        for (generated, images), micro in split(batch, micro_batches):
            images = images.to(self.device, memory_format=torch.channels_last, non_blocking=True)
            codes = codes_of(self.tokenizer, generated)
            with autocast(self.device, config.precision):
                output = self.tokenizer.decode(codes).float()
            loss, terms = self.image_loss.loss(images, output, self.tokenizer.last_layer, step, micro)
            accumulation.backward(loss, terms, micro)
            accumulation.add(self.image_loss.discriminator_backward(images, output, step, micro), micro)
        return accumulation.step(
            step, self.ema, self.decoder, discriminator_step=lambda: self.image_loss.discriminator_step(step)
        )

    def evaluate(self, distance: Callable[[nn.Module], float], done: int) -> dict[str, float]:
        """Measure the averaged decoder on held-out images and keep it if it is the best so far."""
        now = distance(self.ema.module)
        if now < self.best_distance:
            self.best_distance, self.best_step = now, done
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
                "step": self.best_step,
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
        self.best_step, self.best = best["step"], best["decoder"]


class HeldOut:
    """How far a decoder's images of freely sampled tokens or latents are from images that no decoder was trained on."""

    def __init__(self, tokenizer: TokenizerLike, generated: Tensor, reference: FeatureStats, extract: Extractor):
        self.tokenizer, self.generated, self.reference, self.extract = tokenizer, generated, reference, extract

    @torch.no_grad()
    def __call__(self, decoder: nn.Module, batch_size: int = 250) -> float:
        """The Frechet distance of the decoded images to the reference; infinite for a decoder that has collapsed.

        Several processes share the images.
        """
        numbered = list(enumerate(self.generated.split(batch_size)))[rank() :: world_size()]
        with decoding_with(self.tokenizer, decoder):
            own = [(number, self._stats(generated)) for number, generated in numbered]
        parts = [stats for _, stats in sorted(chain(*gather_objects(own)), key=itemgetter(0))]

        def distance() -> float:
            try:
                return frechet_distance(reduce(add, parts), self.reference)
            except ValueError:  # all images alike, or features that are not finite
                return math.inf

        return from_main(distance)

    def _stats(self, generated: Tensor) -> FeatureStats:
        pixels = to_pixels(self.tokenizer.decode(codes_of(self.tokenizer, generated)))
        return FeatureStats.of(outputs(self.extract, pixels).features)

    @torch.no_grad()
    def picture(self, decoder: nn.Module, count: int = 8) -> Images:
        """The first images as the original decoder makes them, above those that `decoder` makes."""
        codes = codes_of(self.tokenizer, self.generated[:count])
        before = self.tokenizer.decode(codes)
        with decoding_with(self.tokenizer, decoder):
            return torch.cat([before, self.tokenizer.decode(codes)]).clamp(-1, 1)


@dataclass(frozen=True)
class TrainedDecoder(Generic[AnyOne]):
    """A tokenizer with the decoder that was kept, and by how much it was better."""

    tokenizer: AnyOne  # with the decoder that was best on held-out images
    step: int  # at which it was best; 0: none was better than the original
    before: float  # held-out distance of the original decoder
    after: float  # held-out distance of the decoder that was kept


@alone_in_its("folder")
def train_decoder(
    config: PostTraining,
    tokenizer: AnyOne,
    pairs: Pairs,
    images: ImageSet,
    folder: str | Path,
    *,
    held_out: HeldOut,
    discriminator: str | Path | None = None,
    device: str | torch.device = "cpu",
    name: str = "post-training",
    quiet: bool = False,
) -> TrainedDecoder[AnyOne]:
    """Train a tokenizer's decoder on pairs of generated tokens or latents and the `images` they came from.

    `discriminator` is the folder of one to begin with; without it a fresh one learns before it charges. The
    tokenizer with the best decoder goes to `folder`. A run that was stopped goes on. Raises ValueError for pairs of
    another tokenizer or of other images.
    """
    if pairs.fingerprint not in fingerprints(tokenizer):
        raise ValueError(
            f"the pairs were made with tokenizer {pairs.fingerprint}, not with {tokenizer.fingerprint()}; "
            "make them again with this one"
        )
    pairs.check_images(images)
    of_pairs: dict[str, Any] = {"sigma": pairs.sigma}
    of_pairs |= {} if pairs.precision is None else {"pairs_sampled_in": pairs.precision}
    of_pairs |= {} if pairs.mode == "sdedit" else {"pair_mode": pairs.mode}
    space = held_out.extract.describe()
    decided = {} if space.get("features") == "lite0" else {"decided_in": space}  # of two spaces they do not compare
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

    def batches(step: int) -> tuple[Tensor, Images]:
        chosen = batch_indices(len(pairs), loop.batch_size, loop.seed, step)
        pair = pairs.batch(chosen[rows])
        return pair.generated, images.images(pair.images)

    with config.performance.tf32_matmul():
        run(
            stage,
            batches,
            loop,
            Path(folder),
            name=name,
            describe={
                "stage": without_performance(config),
                **of_pairs,
                **decided,
                "discriminator": discriminator is not None,
            },
            preview=lambda done: {"before_and_after": held_out.picture(stage.ema.module)},
            validate=lambda done: stage.evaluate(held_out, done),
            validate_every=config.validate_every,
            first=first,
            quiet=quiet,
        )
    tuned = copy.deepcopy(tokenizer)
    as_module(tuned).to(device).eval().requires_grad_(False)
    tuned.decoder.load_state_dict(stage.best)
    about = {
        **of_pairs,
        **decided,
        "step": stage.best_step,
        "before": stage.first_distance if math.isfinite(stage.first_distance) else None,  # all images were alike
        "after": stage.best_distance if math.isfinite(stage.best_distance) else None,
    }
    from_main(lambda: tuned.save_pretrained(folder, post_training=about))
    return TrainedDecoder(tuned, stage.best_step, stage.first_distance, stage.best_distance)
