"""Stage 3: the decoder alone is tuned on latents that the generator touched (paper, sec. 4.3).

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
from robustok.data.pairs import Pairs
from robustok.evaluation.features.extractor import Extractor, outputs
from robustok.evaluation.metrics.fid import FeatureStats, frechet_distance
from robustok.generators.trained_on import fingerprints
from robustok.layers import check_float32
from robustok.runtime.distributed import from_main, gather_objects, rank, world_size
from robustok.runtime.locking import alone_in_its
from robustok.shapes import Images, to_pixels
from robustok.tokenizer.tokenizer import ContinuousTokenizer, as_module, codes_of, decoding_with
from robustok.training.loop import Loop, run
from robustok.training.objective import ImageLoss, Objective
from robustok.training.optim import Average, Optim, Precision, Update, autocast
from robustok.training.parts import own_rows, parts_here, parts_of, split
from robustok.training.speed import Speed, without_speed

AnyOne = TypeVar("AnyOne", bound=ContinuousTokenizer)


@dataclass(frozen=True, kw_only=True)
class PostTraining:
    """How a decoder is tuned for a generator."""

    loop: Loop  # how long, and how often to look
    objective: Objective = field(default_factory=Objective)  # what is asked of decoded images
    optim: Optim = field(default_factory=lambda: Optim(lr=1.2e-4))  # of the decoder: half of main training's lr
    average: float = 0.999  # decay of the weight average, which is what is kept
    check_every: int = 500  # steps between looks at held-out images
    precision: Precision = "auto"  # bf16 where the hardware multiplies it
    speed: Speed = field(default_factory=Speed)  # how it is computed

    def __post_init__(self) -> None:
        if self.check_every < 1:
            raise ValueError(
                f"check_every is {self.check_every}; post-training can hurt, so it is checked at least every some steps"
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
        self.update = Update(self.decoder, config.optim, config.loop.steps)
        self.average = Average(self.decoder, config.average)
        config.speed.apply([self.decoder])
        self.loss = ImageLoss(config.objective, config.loop.steps, config.loop.seed, self.device, config.precision)
        self.first_distance = self.best_distance = float("inf")
        self.best_step = 0
        self.best = copy.deepcopy(self.average.module.state_dict())

    def step(self, batch: tuple[Tensor, Images], step: int) -> dict[str, Tensor]:
        """One step on (tokens (b n) or latents (b n d) that the generator touched, the real images (b 3 h w))."""
        config, terms = self.config, dict[str, Tensor]()
        parts = parts_here(len(batch[1]), config.loop.batch_size, config.optim.accumulate)
        for (touched, images), part in split(batch, parts):
            images = images.to(self.device, memory_format=torch.channels_last, non_blocking=True)
            codes = codes_of(self.tokenizer, touched)
            with autocast(self.device, config.precision):
                output = self.tokenizer.decode(codes).float()
            loss, part_terms = self.loss.charge(images, output, self.tokenizer.last_layer, step, part)
            self.update.backward(loss, part.share, last=part.last)
            part_terms |= self.loss.learn(images, output, step, part) | {"loss": loss.detach()}
            for name, term in part_terms.items():
                terms[name] = terms.get(name, 0) + part.share * term
        terms |= self.update.apply(step)
        opposed = self.loss.apply(step)
        terms["skipped"] = torch.maximum(terms["skipped"], opposed.pop("skipped", terms["skipped"]))
        if not terms["skipped"]:
            self.average.update(self.decoder)
        return terms | opposed

    def look(self, distance: Callable[[nn.Module], float], done: int) -> dict[str, float]:
        """Measure the averaged decoder on held-out images and keep it if it is the best so far."""
        now = distance(self.average.module)
        if now < self.best_distance:
            self.best_distance, self.best_step = now, done
            self.best = {name: weight.clone() for name, weight in self.average.module.state_dict().items()}
        return {"heldout_fd": now, "best_heldout_fd": self.best_distance}

    def state_dict(self) -> dict[str, Any]:
        return {
            "decoder": self.decoder.state_dict(),
            "update": self.update.state_dict(),
            "average": self.average.state_dict(),
            "loss": self.loss.state_dict(),
            "best": {
                "first": self.first_distance,
                "distance": self.best_distance,
                "step": self.best_step,
                "decoder": self.best,
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.decoder.load_state_dict(state["decoder"])
        self.update.load_state_dict(state["update"])
        self.average.load_state_dict(state["average"])
        self.loss.load_state_dict(state["loss"])
        best = state["best"]
        self.first_distance, self.best_distance = best["first"], best["distance"]
        self.best_step, self.best = best["step"], best["decoder"]


class HeldOut:
    """How far a decoder's images of freely sampled tokens or latents are from images that no decoder was trained on."""

    def __init__(self, tokenizer: ContinuousTokenizer, generated: Tensor, reference: FeatureStats, extract: Extractor):
        self.tokenizer, self.generated, self.reference, self.extract = tokenizer, generated, reference, extract

    @torch.no_grad()
    def __call__(self, decoder: nn.Module, batch_size: int = 250) -> float:
        """The Frechet distance of the decoded images to the reference; infinite for a decoder that has collapsed.

        Several processes share the images.
        """
        numbered = list(enumerate(self.generated.split(batch_size)))[rank() :: world_size()]
        with decoding_with(self.tokenizer, decoder):
            own = [(number, self._stats(touched)) for number, touched in numbered]
        parts = [stats for _, stats in sorted(chain(*gather_objects(own)), key=itemgetter(0))]

        def distance() -> float:
            try:
                return frechet_distance(reduce(add, parts), self.reference)
            except ValueError:  # all images alike, or features that are not finite
                return math.inf

        return from_main(distance)

    def _stats(self, touched: Tensor) -> FeatureStats:
        pixels = to_pixels(self.tokenizer.decode(codes_of(self.tokenizer, touched)))
        return FeatureStats.of(outputs(self.extract, pixels).features)

    @torch.no_grad()
    def picture(self, decoder: nn.Module, count: int = 8) -> Images:
        """The first images as the original decoder makes them, above those that `decoder` makes."""
        codes = codes_of(self.tokenizer, self.generated[:count])
        before = self.tokenizer.decode(codes)
        with decoding_with(self.tokenizer, decoder):
            return torch.cat([before, self.tokenizer.decode(codes)]).clamp(-1, 1)


@dataclass(frozen=True)
class PostTrained(Generic[AnyOne]):
    """What post-training came to."""

    tokenizer: AnyOne  # with the decoder that was best on held-out images
    step: int  # at which it was best; 0: none was better than the original
    before: float  # held-out distance of the original decoder
    after: float  # held-out distance of the decoder that was kept


@alone_in_its("folder")
def post_train_decoder(
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
) -> PostTrained[AnyOne]:
    """Tune a tokenizer's decoder on pairs of touched tokens or latents and the `images` they came from.

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
    of_pairs = {"sigma": pairs.sigma} | ({} if pairs.touch == "sdedit" else {"touch": pairs.touch})
    space = held_out.extract.describe()
    decided = {} if space.get("features") == "lite0" else {"decided_in": space}  # of two spaces they do not compare
    loop = config.loop
    rows = own_rows(parts_of(loop.batch_size, config.optim.accumulate)).own
    stage = DecoderStage(config, tokenizer, device)
    stage.loss.observe(images)

    def first() -> dict[str, float]:
        """What the original decoder is worth."""
        if discriminator is not None and stage.loss.opponent is not None:
            stage.loss.opponent.begin_with(discriminator)
        look = stage.look(held_out, 0)
        stage.first_distance = stage.best_distance
        return look

    def batches(step: int) -> tuple[Tensor, Images]:
        chosen = batch_indices(len(pairs), loop.batch_size, loop.seed, step)
        pair = pairs.batch(chosen[rows])
        return pair.touched, images.images(pair.images)

    with config.speed.multiplying():
        run(
            stage,
            batches,
            loop,
            Path(folder),
            name=name,
            describe={
                "stage": without_speed(config),
                **of_pairs,
                **decided,
                "discriminator": discriminator is not None,
            },
            preview=lambda done: {"before_and_after": held_out.picture(stage.average.module)},
            check=lambda done: stage.look(held_out, done),
            check_every=config.check_every,
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
    return PostTrained(tuned, stage.best_step, stage.first_distance, stage.best_distance)
