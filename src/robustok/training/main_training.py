"""Stage 1: a tokenizer learns to reconstruct, while latent perturbation disturbs what its decoder sees.

Order within a step (paper, sec. 4.2 and A.2): encode, quantize, take the codebook, commitment and semantic terms
from the clean codes; then perturb the tokens, decode, and take the pixel, perceptual and adversarial terms.
"""

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from robustok.backbones.dino import DINOv2
from robustok.backbones.lite0 import EfficientNetLite0
from robustok.data.images import ImageSet
from robustok.data.loading import training_batch
from robustok.layers import check_float32
from robustok.losses.semantic import SemanticHead, contrastive
from robustok.runtime.distributed import from_main, gather, in_places, is_main, mean, rank, world_size
from robustok.runtime.locking import alone_in_its
from robustok.runtime.seeding import derive, stream
from robustok.shapes import Images, Latents, Neighbours, Scalar, Tokens
from robustok.tokenizer.perturbation import (
    Draw,
    NeighbourTable,
    Perturbation,
    draw,
    draw_as_released,
    replace_as_released,
    replace_tokens,
)
from robustok.tokenizer.quantizer import (
    AnyQuantizer,
    BinarySphericalQuantizer,
    FiniteScalarQuantizer,
    LookupFreeQuantizer,
    Quantized,
    VectorQuantizer,
    code_use,
)
from robustok.tokenizer.tokenizer import AnyTokenizer, Tokenizer, TokenizerConfig, as_module
from robustok.training.calibration import Calibrated, calibrate, now
from robustok.training.loop import Checked, Loop, Picture, run
from robustok.training.objective import ImageLoss, Objective
from robustok.training.optim import Average, Optim, Precision, Update, autocast
from robustok.training.parts import BatchRows, Part, own_rows, parts_here, parts_of, split
from robustok.training.phases import Phases
from robustok.training.pretrained import begin_with_dinov2, semantic_teacher
from robustok.training.speed import Speed, without_speed

LATENTS_PER_CODE = (2, 16)  # that k-means starts from, at least and at most
USED_WITHIN = 100  # steps within which a code was chosen if it counts as used in the log


@dataclass(frozen=True, kw_only=True)
class MainTraining:
    """How a tokenizer is trained."""

    tokenizer: TokenizerConfig | None = None  # what is trained; None: a tokenizer that is given, whoever made it
    start: DINOv2 | None = None  # whose weights a new tokenizer's vision transformers begin with
    loop: Loop  # how long, and how often to look
    perturbation: Perturbation | Calibrated = field(default_factory=Perturbation)  # what the decoder learns to tolerate
    objective: Objective = field(default_factory=Objective)  # what is asked of decoded images
    codebook: float = 1.0  # weight of the codebook and commitment losses
    semantic: float = 0.1  # weight of the semantic term; 0 leaves it out
    semantic_scale: float = 1 / 0.07  # what the cosines of the semantic term are multiplied by, as CLIP starts
    teacher: EfficientNetLite0 | DINOv2 = field(default_factory=EfficientNetLite0)  # whose features it compares with
    semantic_size: int = 224  # side in pixels at which the semantic teacher sees the images
    optim: Optim = field(default_factory=lambda: Optim(lr=2.4e-4, warmup=1000))  # of encoder, codebook, decoder
    average: float = 0.9999  # decay of the weight average, which is what is kept
    precision: Precision = "auto"  # bf16 where the hardware multiplies it
    speed: Speed = field(default_factory=Speed)  # how it is computed


class CodebookWarning(UserWarning):
    """Too much of a codebook lies idle."""


class TokenizerStage:
    """The tokenizer, its losses, their optimizers, the neighbour table and the weight average.

    A given `tokenizer` is an `nn.Module` of any kind with a codebook; those of its weights that ask for a gradient
    change. `observe` the images that will be trained on first, where the objective has a Frechet term or where a batch
    has few latents for the number of codes.
    """

    def __init__(self, config: MainTraining, device: str | torch.device = "cpu", tokenizer: AnyTokenizer | None = None):
        self.config, self.device = config, torch.device(device)
        steps, seed = config.loop.steps, config.loop.seed
        self.fresh = tokenizer is None  # then the codes are placed before the first step
        self.perturbation = now(config.perturbation)
        torch.manual_seed(derive(seed, "tokenizer weights"))
        self.model = _model(config, tokenizer)
        module = as_module(self.model).to(self.device).train()
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        trained = list(module.named_parameters())
        if config.semantic:
            teacher = semantic_teacher(config.teacher)
            self.teacher = teacher.network.to(self.device)
            self.head = SemanticHead(teacher.width, self.model.codebook.shape[1]).to(self.device)
            trained += [(f"semantic.{name}", p) for name, p in self.head.named_parameters()]
        self.update = Update(trained, config.optim, steps)
        self.average = Average(module, config.average)
        config.speed.apply([part for name, part in module.named_children() if name in ("encoder", "decoder")])
        self.loss = ImageLoss(config.objective, steps, seed, self.device, config.precision)
        self.table = NeighbourTable()
        codes = len(self.model.codebook)
        self.idle = torch.zeros(codes, dtype=torch.int32, device=self.device)  # steps since a code was last chosen
        self.phases = Phases(self.perturbation, steps)
        self._images: ImageSet | None = None
        self._warned = False

    def observe(self, images: ImageSet) -> None:
        """Take what is needed of the images before training starts."""
        self.loss.observe(images)
        self._images = images

    def step(self, batch: Images, step: int) -> dict[str, Tensor]:
        """One step on images (b 3 h w)."""
        config = self.config
        if self.phases.begins(step):
            self._begin_second_phase()
        parts = parts_here(len(batch), config.loop.batch_size, config.optim.accumulate)
        rows = own_rows(parts)
        if step == 0:
            self._start_codebook(batch, rows)
        drawn = self._draw(rows.of, step)
        if self.perturbation.beta and self.phases.perturbing and not self.perturbation.reference_code:
            self._near(step)  # on every process, so that all rebuild their tables in the same steps
        tokens, latents, terms = [], [], dict[str, Tensor]()
        for (images, chosen, nearness), part in split((batch, drawn.chosen[rows.own], drawn.rank[rows.own]), parts):
            images = images.to(self.device, memory_format=torch.channels_last, non_blocking=True)
            with autocast(self.device, config.precision):
                z = self.model.encode(images).float()
            quantized = self._quantized(z, part)
            codes = self._perturbed(z, quantized, Draw(chosen, nearness), step)
            with autocast(self.device, config.precision):
                output = self.model.decode(codes).float()
            image_loss, part_terms = self.loss.charge(images, output, self.model.last_layer, step, part)
            loss = image_loss + config.codebook * quantized.loss
            part_terms["codebook"] = quantized.loss.detach()
            if config.semantic and not self.phases.decoder_only:
                # in the released code this term too sees the perturbed codes
                seen = codes if self.perturbation.reference_code else quantized.codes
                semantic = self._semantic(images, seen, part.counts)
                loss, part_terms["semantic"] = loss + config.semantic * semantic, semantic.detach()
            self.update.backward(loss, part.share, last=part.last)
            part_terms |= self.loss.learn(images, output, step, part) | {"loss": loss.detach()}
            for name, term in part_terms.items():
                terms[name] = terms.get(name, 0) + part.share * term
            tokens.append(quantized.tokens)
            latents.append(z.detach())
        terms |= self.update.apply(self.phases.step_in_phase(step, self.update))
        opposed = self.loss.apply(step)
        terms["skipped"] = torch.maximum(terms["skipped"], opposed.pop("skipped", terms["skipped"]))
        if not terms["skipped"]:
            terms |= self._tend_codebook(torch.cat(tokens), torch.cat(latents), step, rows)
            self.average.update(as_module(self.model))
        return terms | opposed

    def _begin_second_phase(self) -> None:
        """From now on the decoder learns alone, as strongly perturbed as a pilot generator shows, if it is asked."""
        self.phases.begin(self.model, self.average.module)
        if isinstance(how := self.config.perturbation, Calibrated):
            averaged: Any = self.average.module
            cell = from_main(lambda: calibrate(how, averaged, self._images, seed=self.config.loop.seed))
            self.perturbation = now(how, *cell)

    def _draw(self, b: int, step: int) -> Draw:
        """Which tokens of this step are perturbed, and how far: drawn for the whole batch at once."""
        p, loop = self.perturbation, self.config.loop
        (alpha, delta), beta = p.at(step / loop.steps), p.beta if self.phases.perturbing else 0.0
        how = draw_as_released if p.reference_code else draw
        generator = stream(loop.seed, "perturbation", step)
        return how(b, self.model.tokens_per_image, delta, alpha, beta, generator=generator)

    def _quantized(self, z: Latents, part: Part) -> Quantized:
        """Codes, tokens and loss, in which entropies over the batch are those of the part on all ranks."""
        quantizer = _quantizer(self.model)
        if isinstance(quantizer, (LookupFreeQuantizer, BinarySphericalQuantizer)):
            quantizer.across = lambda value: mean(part.weight * value)
        return self.model.quantize(z)

    def _perturbed(self, z: Latents, quantized: Quantized, drawn: Draw, step: int) -> Latents:
        """The codes that the decoder sees, gradients passing straight through to the latents if they are to."""
        if not drawn.chosen.any():
            return quantized.codes
        p, model = self.perturbation, self.model
        drawn = Draw(drawn.chosen.to(self.device), drawn.rank.to(self.device))
        if p.reference_code:
            assert isinstance(model, Tokenizer)  # _model has seen to it
            _, delta = p.at(step / self.config.loop.steps)
            placed = model.quantizer.place(z).detach()
            noisy = replace_as_released(placed, quantized.tokens, model.codebook.detach(), delta, drawn)
        else:
            noisy = replace_tokens(quantized.tokens, self._near(step), drawn)
        if p.latent_space == "stopped":
            return torch.where(drawn.chosen.any(dim=1)[:, None, None], model.lookup(noisy).detach(), quantized.codes)
        return model.pass_through(z, model.lookup(noisy))

    def _near(self, step: int) -> Neighbours:
        """The neighbours of every code, as many as this step draws from."""
        _, delta = self.perturbation.at(step / self.config.loop.steps)
        return self.table(self.model.codebook, delta)

    def _semantic(self, images: Images, codes: Latents, counts: Sequence[int]) -> Scalar:
        """The contrastive term between each image's mean code and the teacher's feature of it, over all ranks."""
        size = self.config.semantic_size
        with torch.no_grad(), autocast(self.device, self.config.precision):
            if images.shape[-1] != size:
                images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
            features = self.teacher(images).pooled.float()
        a, b = (gather(rows, counts) for rows in (codes.mean(dim=1), self.head(features)))
        return contrastive(a, b, self.config.semantic_scale)

    @torch.no_grad()
    def _start_codebook(self, batch: Images, rows: BatchRows) -> None:
        """Place the codes, where they are learnt, on the latents of the first batch, and of more images if need be."""
        quantizer = _learnt(self.model)
        if not self.fresh or quantizer is None:
            return
        least, most = (per_code * len(self.idle) for per_code in LATENTS_PER_CODE)
        generator = stream(self.config.loop.seed, "k-means")
        missing = math.ceil(least / self.model.tokens_per_image) - rows.of
        if missing > 0 and self._images is not None:
            more = torch.randperm(len(self._images), generator=generator)[:missing]
            own = torch.arange(len(more)).tensor_split(world_size())[rank()]
            batch = torch.cat([batch, self._images.images(more[own]).to(batch.device)])
            rows = BatchRows(torch.cat([rows.own, rows.of + own]), rows.of + len(more))
        parts = batch.split(math.ceil(self.config.loop.batch_size / self.config.optim.accumulate))
        latents = torch.cat(
            [self.model.encode(images.to(self.device, memory_format=torch.channels_last)) for images in parts]
        )
        latents = in_places(latents, *rows).flatten(0, 1)
        latents = latents[torch.randperm(len(latents), generator=generator)[:most].to(self.device)]
        quantizer.start(latents, generator=generator)

    def _tend_codebook(self, tokens: Tokens, latents: Tensor, step: int, rows: BatchRows) -> dict[str, Tensor]:
        """Revive dead codes where they are learnt, tell how many are used, and warn when too few are."""
        quantizer, learnt, loop = _quantizer(self.model), _learnt(self.model), self.config.loop
        tokens = in_places(tokens, *rows)
        self.idle += 1
        self.idle[tokens.flatten()] = 0
        terms = dict[str, Tensor]()
        if learnt is not None:
            dead = self.idle > (learnt.config.revive_after or torch.iinfo(self.idle.dtype).max)
            terms["dead_codes"] = torch.zeros(())
            if dead.any():  # seldom, once training is on its way: only then do latents travel
                latents = in_places(latents, *rows)
                revived = learnt.revive(dead, latents, generator=stream(loop.seed, "revival", step))
                self.idle[revived] = 0
                terms["dead_codes"] += len(revived)
        use = (self.idle < USED_WITHIN).float().mean()
        if is_main() and not self._warned and use < 0.5 and step > max(USED_WITHIN, loop.steps // 10):
            self._warned = True
            warnings.warn(
                f"only {use:.0%} of the codes were used in the last {USED_WITHIN} steps; {_remedy(quantizer)}",
                CodebookWarning,
                stacklevel=2,
            )
        perplexity = code_use(tokens, len(self.idle))["codebook_perplexity"]
        return {"codebook_use": use, "codebook_perplexity": perplexity} | terms

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": as_module(self.model).state_dict(),
            "idle": self.idle,
            "semantic": self.head.state_dict() if self.config.semantic else None,
            "update": self.update.state_dict(),
            "average": self.average.state_dict(),
            "loss": self.loss.state_dict(),
            "table": self.table.state_dict(),
            "decoder_only": self.phases.decoder_only,
            "strength": (self.perturbation.alpha, self.perturbation.delta),  # measured, where it is calibrated
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        as_module(self.model).load_state_dict(state["model"])
        self.idle.copy_(state["idle"])
        if self.config.semantic:
            self.head.load_state_dict(state["semantic"])
        self.update.load_state_dict(state["update"])
        self.average.load_state_dict(state["average"])
        self.loss.load_state_dict(state["loss"])
        self.table.load_state_dict(state["table"])
        if state["decoder_only"]:
            self.phases.hold(self.model)
            self.perturbation = now(self.config.perturbation, *state["strength"])


def _model(config: MainTraining, tokenizer: AnyTokenizer | None) -> AnyTokenizer:
    """A new tokenizer as the config says, or a copy of the one that is given."""
    if (config.tokenizer is None) == (tokenizer is None):
        raise ValueError("main training takes a tokenizer or the config of a new one; give one of the two")
    if config.tokenizer is not None:
        model = Tokenizer(config.tokenizer)
        if config.start is not None:
            begin_with_dinov2(model, config.start)
        return model
    if now(config.perturbation).reference_code and not isinstance(tokenizer, Tokenizer):
        raise ValueError(
            f"reference_code ranks codes by distance to latents as robustok's own quantizers place them, which a "
            f"{type(tokenizer).__name__} does not tell; set perturbation.reference_code to false"
        )
    assert tokenizer is not None
    check_float32(tokenizer)
    return copy.deepcopy(tokenizer)


def _quantizer(tokenizer: AnyTokenizer) -> AnyQuantizer | None:
    """The quantizer of our own tokenizer; of others nothing is known but what their codebook is."""
    return tokenizer.quantizer if isinstance(tokenizer, Tokenizer) else None


def _learnt(tokenizer: AnyTokenizer) -> VectorQuantizer | None:
    """The quantizer whose codes may be placed anew: it has learnt ones, and they ask for a gradient."""
    quantizer = _quantizer(tokenizer)
    if isinstance(quantizer, VectorQuantizer) and quantizer.embedding.requires_grad:
        return quantizer
    return None


def _remedy(quantizer: AnyQuantizer | None) -> str:
    """What helps when many codes lie idle."""
    match quantizer:
        case VectorQuantizer() if not quantizer.embedding.requires_grad:
            return "they are frozen, so let them learn, or train on more images"
        case VectorQuantizer():
            return "set the VQ's revive_after to 100 or less, lower its codebook_size, width or the learning rate"
        case FiniteScalarQuantizer():
            return "take fewer levels or channels of the FSQ, or train longer"
        case LookupFreeQuantizer() | BinarySphericalQuantizer():
            return "raise the quantizer's entropy weight or its diversity, or take fewer bits"
    return "lower the learning rate, or train on more images"


@alone_in_its("folder")
def train_tokenizer(
    config: MainTraining,
    images: ImageSet,
    folder: str | Path,
    *,
    tokenizer: AnyTokenizer | None = None,
    device: str | torch.device = "cpu",
    check: Callable[[Any, int], Checked] | None = None,
    check_every: int = 0,
    quiet: bool = False,
) -> Any:
    """Train a tokenizer on images; the averaged weights go to `folder` and are returned.

    It is a new one as the config says, or a copy of the given `tokenizer`, which may be one of `robustok.adapters`.

    Beside them, `folder/discriminator` keeps the discriminator for post-training. `check(tokenizer, steps
    taken)` gives values for the log every `check_every` steps, of the averaged weights. A run that was stopped
    goes on.
    """
    loop = config.loop
    rows = own_rows(parts_of(loop.batch_size, config.optim.accumulate)).own
    stage = TokenizerStage(config, device, tokenizer)
    stage.observe(images)

    def batches(step: int) -> Images:
        return training_batch(images, loop.batch_size, loop.seed, step, rows)

    with config.speed.multiplying():
        run(
            stage,
            batches,
            loop,
            Path(folder),
            name="tokenizer",
            describe={"stage": without_speed(config), "images": images.describe()}
            | ({} if tokenizer is None else {"from": tokenizer.fingerprint()}),
            preview=lambda done: reconstructions(stage.average.module, images),
            check=None if check is None else lambda done: check(stage.average.module, done),
            check_every=check_every,
            model=lambda: stage.average.module,
            quiet=quiet,
        )
    trained: Any = stage.average.module
    from_main(lambda: trained.save_pretrained(folder))
    if stage.loss.opponent is not None:
        from_main(partial(stage.loss.opponent.save, Path(folder) / "discriminator"))
    return trained


@torch.no_grad()
def reconstructions(tokenizer: Any, images: ImageSet, count: int = 8) -> dict[str, Picture]:
    """The first images of a set above what the tokenizer makes of them."""
    real = images.images(torch.arange(min(count, len(images)))).to(tokenizer.device)
    output = tokenizer.decode(tokenizer.quantize(tokenizer.encode(real)).codes)
    return {"reconstructions": torch.cat([real, output.clamp(-1, 1)])}
