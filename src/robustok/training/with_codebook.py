"""Between encoder and decoder, where there is a codebook: quantize, perturb tokens, and keep the codes in use.

The codebook, commitment and semantic terms are of the clean codes; only what the decoder sees is perturbed (paper,
sec. 4.2 and A.2).
"""

import math
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustok.data.images import ImageSet
from robustok.losses.semantic import SemanticHead, contrastive
from robustok.runtime.distributed import from_main, gather, in_places, is_main, mean, rank, world_size
from robustok.runtime.seeding import stream
from robustok.shapes import Codebook, Images, Latents, Neighbors, Scalar
from robustok.tokenizer.perturbation import (
    Draw,
    NeighborTable,
    Perturbation,
    ReleasedPerturbation,
    chosen_tokens,
    draw_as_released,
    draw_replacements,
    replace_as_released,
    replace_tokens,
)
from robustok.tokenizer.protocol import TokenizerLike, books_of, codebook_of
from robustok.tokenizer.quantizer import (
    AnyQuantizer,
    BinarySphericalQuantizer,
    FiniteScalarQuantizer,
    LearnedCodes,
    LookupFreeQuantizer,
    MultiScale,
    Quantized,
    ResidualQuantizer,
    SimVectorQuantizer,
    code_use,
)
from robustok.tokenizer.tokenizer import Tokenizer
from robustok.training.calibration import Calibrated, calibrate, check_calibrated
from robustok.training.micro_batch import BatchRows, MicroBatch
from robustok.training.optim import autocast
from robustok.training.phases import Phases
from robustok.training.pilot import now
from robustok.training.pretrained import semantic_teacher
from robustok.training.rehearsal import Rehearsed, empty_pilot, pilot_of, rehearse
from robustok.training.tokenizer_settings import TokenizerTraining
from robustok.training.without_codebook import Terms

LATENTS_PER_CODE = (2, 16)  # that k-means starts from, at least and at most
USED_WITHIN = 100  # steps within which a code was chosen if it counts as used in the log


class CodebookWarning(UserWarning):
    """Too much of a codebook lies idle."""


class EncodedTokens(NamedTuple):
    """A micro-batch on its way to the decoder."""

    codes: Latents  # what the decoder sees
    quantized: Quantized  # before any perturbation
    kept: tuple[Tensor, Tensor]  # tokens and latents, which the codebook is tended with after the step


class WithCodebook:
    """A tokenizer's codebook in training: its neighbor table, how long codes lie idle, the semantic head."""

    def __init__(self, config: TokenizerTraining, model: TokenizerLike, phases: Phases, device: torch.device):
        self.config, self.model, self.phases, self.device = config, model, phases, device
        self.perturbation: Perturbation | ReleasedPerturbation = now(config.perturbation)
        self.pilot: Any = None  # the generator of a rehearsed perturbation, from its second phase on
        several = isinstance(_quantizer(model), ResidualQuantizer | MultiScale)
        if isinstance(self.perturbation, ReleasedPerturbation) and (several or not isinstance(model, Tokenizer)):
            kind = type(_quantizer(model) if several else model).__name__
            raise ValueError(
                "ReleasedPerturbation ranks codes by distance to latents as robustok's own quantizers place them, one "
                f"token for each, which a {kind} does not tell; take Perturbation"
            )
        self._check_delta()
        self.fresh = config.tokenizer is not None  # then the codes are placed before the first step
        self.head: nn.Module = nn.Module()
        if config.semantic:
            teacher = semantic_teacher(config.teacher)
            self.teacher = teacher.network.to(device)
            self.head = SemanticHead(teacher.width, self.codebook.shape[1]).to(device)
        self.table = NeighborTable(books=books_of(model))
        self.steps_unused = torch.zeros(len(self.codebook), dtype=torch.int32, device=device)  # steps since last chosen
        self._warned = False

    @property
    def codebook(self) -> Codebook:
        codebook = codebook_of(self.model)
        assert codebook is not None, "of the other kind is WithoutCodebook"
        return codebook

    def _check_delta(self) -> None:
        """Raises ValueError for more neighbors than there are, in a second phase too, which comes after hours."""
        p, codes = self.perturbation, len(self.codebook) // books_of(self.model)
        most = codes if isinstance(p, ReleasedPerturbation) else codes - 1  # there a token is one of its own neighbors
        if p.beta and p.delta > most:
            raise ValueError(
                f"perturbation delta is {p.delta}, but of {codes} codes a replacement is drawn from {most} at most; "
                "take a smaller delta, or more codes"
            )

    def set_reference(self, images: ImageSet) -> None:
        """Raises ValueError for images that a second phase could not do with."""
        if isinstance(self.config.perturbation, Calibrated) and not self.phases.decoder_only:
            check_calibrated(self.model, images)

    def start(self, batch: Images, rows: BatchRows, images: ImageSet | None) -> None:
        """Place a new tokenizer's codes, where they are learned, on latents of the first batch.

        And of more `images` where those are few for the number of codes.
        """
        quantizer = _learned(self.model)
        if quantizer is not None and not self.fresh:
            quantizer.align()
        if not self.fresh or quantizer is None:
            return
        least = LATENTS_PER_CODE[0] * len(self.steps_unused)
        generator = stream(self.config.loop.seed, "k-means")
        missing = math.ceil(least / self.model.tokens_per_image) - rows.of
        if missing > 0 and images is not None:
            more = torch.randperm(len(images), generator=generator)[:missing]
            own = torch.arange(len(more)).tensor_split(world_size())[rank()]
            batch = torch.cat([batch, images.images(more[own]).to(batch.device)])
            rows = BatchRows(torch.cat([rows.own, rows.of + own]), rows.of + len(more))
        pieces = batch.split(math.ceil(self.config.loop.batch_size / self.config.optim.micro_batches))
        with torch.no_grad():
            latents = torch.cat(
                [self.model.encode(piece.to(self.device, memory_format=torch.channels_last)) for piece in pieces]
            )
        quantizer.init_kmeans(in_places(latents, *rows), generator=generator, per_code=LATENTS_PER_CODE[1])

    def draw(self, b: int, step: int) -> dict[str, Tensor]:
        """Which tokens of this step are perturbed, and how far: drawn for the whole batch at once."""
        p, loop = self.perturbation, self.config.loop
        alpha, delta = p.at(step / loop.steps)
        beta = p.beta if self.phases.perturbing else 0.0
        generator = stream(loop.seed, "perturbation", step)
        if isinstance(self.config.perturbation, Rehearsed):
            chosen = chosen_tokens(b, self.model.tokens_per_image, alpha, beta, generator=generator)
            return {"chosen": chosen, "rank": torch.rand(chosen.shape, generator=generator)}
        how = draw_as_released if isinstance(p, ReleasedPerturbation) else draw_replacements
        if beta and how is draw_replacements:
            self._near(step)  # on every process, so that all rebuild their tables in the same steps
        return how(b, self.model.tokens_per_image, delta, alpha, beta, generator=generator)._asdict()

    def encode(
        self, images: Images, own: Mapping[str, Tensor], drawn: Mapping[str, Tensor], micro: MicroBatch, step: int
    ) -> EncodedTokens:
        """Latents, quantized, and perturbed as was drawn for these rows."""
        with autocast(self.device, self.config.precision):
            z = self.model.encode(images).float()
        quantizer = _quantizer(self.model)
        if isinstance(quantizer, LookupFreeQuantizer | BinarySphericalQuantizer):
            quantizer.across = lambda value: mean(micro.weight * value)  # entropies are of the micro-batch on all ranks
        quantized = self.model.quantize(z)
        codes = self._perturbed(z, quantized, Draw(**own), step)
        return EncodedTokens(codes, quantized, (quantized.tokens, z.detach()))

    def terms(self, images: Images, encoded: EncodedTokens, micro: MicroBatch) -> Terms:
        """The codebook and commitment losses, and the semantic term."""
        asked = [("codebook", self.config.codebook, encoded.quantized.loss)]
        if self.config.semantic and not self.phases.decoder_only:
            released = isinstance(self.perturbation, ReleasedPerturbation)
            seen = encoded.codes if released else encoded.quantized.codes
            asked.append(("semantic", self.config.semantic, self._semantic(images, seen, micro)))
        return asked, {}

    @torch.no_grad()
    def after(self, kept: list[tuple[Tensor, Tensor]], step: int, rows: BatchRows) -> dict[str, Tensor]:
        """Reset dead codes where they are learned, log how many are used, and warn when too few are."""
        tokens, latents = (torch.cat(tensors) for tensors in zip(*kept, strict=True))
        quantizer, learned, loop = _quantizer(self.model), _learned(self.model), self.config.loop
        if learned is not None and learned.averages is not None:
            learned.follow(*(world_size() * mean(part) for part in learned.clusters(tokens, latents)))
        tokens = in_places(tokens, *rows)
        self.steps_unused += 1
        self.steps_unused[tokens.flatten()] = 0
        terms = dict[str, Tensor]()
        if learned is not None:
            dead = self.steps_unused > (learned.config.revive_after or torch.iinfo(self.steps_unused.dtype).max)
            terms["dead_codes"] = torch.zeros(())
            if dead.any():  # seldom, once training is on its way: only then do latents travel
                latents = in_places(latents, *rows)
                moved = learned.reset_dead_codes(dead, latents, generator=stream(loop.seed, "revival", step))
                self.steps_unused[moved] = 0
                terms["dead_codes"] += len(moved)
        use = (self.steps_unused < USED_WITHIN).float().mean()
        if is_main() and not self._warned and use < 0.5 and step > max(USED_WITHIN, loop.steps // 10):
            self._warned = True
            warnings.warn(
                f"only {use:.0%} of the codes were used in the last {USED_WITHIN} steps; {_remedy(quantizer)}",
                CodebookWarning,
                stacklevel=2,
            )
        perplexity = code_use(tokens, len(self.steps_unused))["codebook_perplexity"]
        return {"codebook_use": use, "codebook_perplexity": perplexity} | terms

    def freeze(self, averaged: Any, images: ImageSet | None) -> None:
        """The second phase begins: perturb as a pilot generator shows, if it is asked."""
        how, seed = self.config.perturbation, self.config.loop.seed
        if isinstance(how, Calibrated):
            cell = from_main(lambda: calibrate(how, averaged, images, seed=seed))
            self.perturbation = now(how, *cell)
        elif isinstance(how, Rehearsed):
            weights = from_main(lambda: pilot_of(how, averaged, images, seed=seed).cpu().state_dict())
            self._take_pilot(how, weights)

    def finished(self, averaged: Any, images: ImageSet | None) -> Any:
        """The averaged tokenizer as it is used."""
        return averaged

    def _perturbed(self, z: Latents, quantized: Quantized, drawn: Draw, step: int) -> Latents:
        """The codes that the decoder sees, gradients passing straight through to the latents if they are to."""
        if not drawn.chosen.any():
            return quantized.codes
        p, model = self.perturbation, self.model
        drawn = Draw(drawn.chosen.to(self.device), drawn.rank.to(self.device))
        if isinstance(p, ReleasedPerturbation):
            assert isinstance(model, Tokenizer)  # __init__ has seen to it
            _, delta = p.at(step / self.config.loop.steps)
            placed = model.quantizer.project(z).detach()
            noisy = replace_as_released(placed, quantized.tokens, self.codebook.detach(), delta, drawn)
        elif self.pilot is not None:
            noisy = rehearse(self.pilot, model, quantized.tokens, *drawn)
        else:
            noisy = replace_tokens(quantized.tokens, self._near(step), drawn)
        if p.latent_space == "stopped":
            kept = ~drawn.chosen.any(dim=1)[:, None, None]
            return torch.where(kept, quantized.codes, model.lookup(noisy).detach())
        return model.straight_through(z, model.lookup(noisy))

    def _take_pilot(self, how: Rehearsed, weights: Mapping[str, Tensor]) -> None:
        self.pilot = empty_pilot(how, self.model).eval().requires_grad_(False)
        self.pilot.load_state_dict(weights)

    def _near(self, step: int) -> Neighbors:
        """The neighbors of every code, as many as this step draws from."""
        _, delta = self.perturbation.at(step / self.config.loop.steps)
        return self.table(self.codebook, delta)

    def _semantic(self, images: Images, codes: Latents, micro: MicroBatch) -> Scalar:
        """The contrastive term between each image's mean code and the teacher's feature of it, over all ranks."""
        size = self.config.semantic_size
        with torch.no_grad(), autocast(self.device, self.config.precision):
            if images.shape[-1] != size:
                images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
            features = self.teacher(images).pooled.float()
        a, b = (gather(rows, micro.counts) for rows in (codes.mean(dim=1), self.head(features)))
        return contrastive(a, b, self.config.semantic_scale)

    def state_dict(self) -> dict[str, Any]:
        return {
            "steps_unused": self.steps_unused,
            "head": self.head.state_dict(),
            "table": self.table.state_dict(),
            "strength": (self.perturbation.alpha, self.perturbation.delta),  # measured, where it is calibrated
        } | ({} if self.pilot is None else {"pilot": self.pilot.state_dict()})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps_unused.copy_(state["steps_unused"])
        self.head.load_state_dict(state["head"])
        self.table.load_state_dict(state["table"])
        if self.phases.decoder_only:
            self.perturbation = now(how := self.config.perturbation, *state["strength"])
            if isinstance(how, Rehearsed):
                self._take_pilot(how, state["pilot"])


def _quantizer(tokenizer: TokenizerLike) -> AnyQuantizer | None:
    """The quantizer of our own tokenizer; of others nothing is known but what their codebook is."""
    return tokenizer.quantizer if isinstance(tokenizer, Tokenizer) else None


def _learned(tokenizer: TokenizerLike) -> LearnedCodes | None:
    """The quantizer whose codes may be placed anew: it has learned ones, and they ask for a gradient."""
    quantizer = _quantizer(tokenizer)
    if isinstance(quantizer, LearnedCodes) and quantizer.embedding.requires_grad:
        return quantizer
    return None


def _remedy(quantizer: AnyQuantizer | None) -> str:
    """What helps when many codes lie idle."""
    match quantizer:
        case LearnedCodes() if not quantizer.embedding.requires_grad:
            return "they are frozen, so let them learn, or train on more images"
        case SimVectorQuantizer():
            return "take fewer codes of the SimVQ, or train longer"
        case LearnedCodes():
            return (
                "set the quantizer's revive_after to 100 or less, lower its codebook_size, width or the learning rate"
            )
        case FiniteScalarQuantizer():
            return "take fewer levels or channels of the FSQ, or train longer"
        case LookupFreeQuantizer() | BinarySphericalQuantizer():
            return "raise the quantizer's entropy weight or its diversity, or take fewer bits"
    return "lower the learning rate, or train on more images"
