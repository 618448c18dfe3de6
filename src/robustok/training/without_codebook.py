"""Between encoder and decoder, where there is no codebook: draw from the posterior, perturb latents, hide patches.

Hiding patches is MAETok's (arXiv 2502.03444, without its auxiliary decoders), hiding and noise together are l-DeTok's
(arXiv 2507.15856). At the end the latents' mean and scale are measured and become part of the tokenizer.
"""

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from robustok.data.images import ImageSet
from robustok.runtime.distributed import from_main, gather
from robustok.runtime.seeding import spread, stream
from robustok.shapes import Images, Latents, Scalar
from robustok.tokenizer.autoencoder import Autoencoder
from robustok.tokenizer.bottleneck import bottleneck_loss
from robustok.tokenizer.encoder import Conv, ViT, patch_side, patches, random_patch_mask
from robustok.tokenizer.latent_perturbation import (
    AnyLatentPerturbation,
    LatentDraw,
    LatentMixing,
    draw_latent,
    perturb_latents,
)
from robustok.tokenizer.protocol import TokenizerLike
from robustok.training.micro_batch import BatchRows, MicroBatch, micro_batches_of
from robustok.training.optim import autocast
from robustok.training.phases import Phases
from robustok.training.pilot import now
from robustok.training.rehearsal import LatentPilot, RehearsedLatents, latent_pilot_of, rehearse_latents
from robustok.training.tokenizer_settings import TokenizerTraining

Terms: TypeAlias = tuple[list[tuple[str, float, Scalar]], dict[str, Tensor]]  # (name, weight, loss), and what is logged


class EncodedLatents(NamedTuple):
    """A micro-batch on its way to the decoder."""

    codes: Latents  # what the decoder sees
    bottleneck: Scalar  # the bottleneck's loss
    scale: Scalar  # standard deviation of the micro-batch's latents, over all processes
    kept: tuple[()] = ()  # nothing is remembered of it after the step


class WithoutCodebook:
    """A continuous tokenizer's latents in training."""

    head: nn.Module = nn.Module()  # no weights but the tokenizer's are trained

    def __init__(self, config: TokenizerTraining, model: TokenizerLike, phases: Phases, device: torch.device):
        self.config, self.model, self.phases, self.device = config, model, phases, device
        self.perturbation: AnyLatentPerturbation = now(config.perturbation)
        self.pilot: LatentPilot | None = None  # of a rehearsed perturbation, from its second phase on
        least = min(micro.size for micro in micro_batches_of(config.loop.batch_size, config.optim.micro_batches, 0, 1))
        if isinstance(self.perturbation, LatentMixing) and self.perturbation.beta and least < 2:
            raise ValueError(
                f"latents are mixed with those of other images, but a batch of {config.loop.batch_size} in "
                f"{config.optim.micro_batches} micro-batches has some of one image; take a larger batch_size, fewer "
                "micro_batches, or LatentNoise"
            )
        self.standard: tuple[Tensor, Tensor] | None = None  # of a given one of our own, whose encoder will not change
        if isinstance(model, Autoencoder):  # trained on latents as they are; standardized at the end
            if phases.change == 0:
                self.standard = model.latent_mean.clone(), model.latent_scale.clone()
            model.latent_mean.zero_()
            model.latent_scale.fill_(1)
        hides = isinstance(model, Autoencoder) and isinstance(model.config.encoder, ViT | Conv)
        if config.mask_ratio_max > 0 and not hides:
            whose = "a frozen encoder" if isinstance(model, Autoencoder) else f"the encoder of a {type(model).__name__}"
            raise ValueError(f"patches cannot be masked for {whose}; set mask_ratio_max to 0")
        self.latent_shape = latent_shape(model)

    def set_reference(self, images: ImageSet) -> None:
        """Nothing is asked of the images."""

    def start(self, batch: Images, rows: BatchRows, images: ImageSet | None) -> None:
        """Nothing is placed where there are no codes."""

    def draw(self, b: int, step: int) -> dict[str, Tensor]:
        """What this step draws, for the whole batch at once: the posterior's noise, perturbation, hidden patches."""
        config, seed = self.config, self.config.loop.seed
        n, d = self.latent_shape
        generator = stream(seed, "latent perturbation", step)
        progress, perturbing = step / config.loop.steps, self.phases.perturbing
        disturbed = draw_latent(self.perturbation, b, n, d, progress, perturbing=perturbing, generator=generator)
        noise = torch.randn(b, n, d, generator=stream(seed, "posterior", step))
        drawn = {"posterior": noise} | disturbed._asdict()
        if config.mask_ratio_max > 0 and isinstance(self.model, Autoencoder):
            assert isinstance(self.model.config.encoder, ViT | Conv), "others are refused"
            generator = stream(seed, "hidden patches", step)
            uniform = float(torch.rand((), generator=generator))
            ratio = max(0.0, config.mask_ratio_min + uniform * (config.mask_ratio_max - config.mask_ratio_min))
            side = patches(self.model.image_size, patch_side(self.model.config.encoder))
            drawn["hidden"] = random_patch_mask(b, side**2, ratio, generator=generator)
        return drawn

    def encode(
        self, images: Images, own: Mapping[str, Tensor], drawn: Mapping[str, Tensor], micro: MicroBatch, step: int
    ) -> EncodedLatents:
        """Latents drawn from the posterior of what is not hidden, and disturbed as was drawn."""
        with autocast(self.device, self.config.precision):
            latents, bottleneck = self._latents(images, own)
            everyone = gather(latents.detach(), micro.counts)
            return EncodedLatents(self._disturbed(latents, everyone, drawn, micro), bottleneck, everyone.std())

    def terms(self, images: Images, encoded: EncodedLatents, micro: MicroBatch) -> Terms:
        """The bottleneck's loss."""
        return [("bottleneck", 1.0, encoded.bottleneck)], {"latent_scale": encoded.scale}

    def after(self, kept: list[tuple[()]], step: int, rows: BatchRows) -> dict[str, Tensor]:
        """Nothing is tended where there are no codes."""
        return {}

    def freeze(self, averaged: Any, images: ImageSet | None) -> None:
        """The second phase begins: train a pilot generator, if one is to rehearse."""
        how, seed = self.config.perturbation, self.config.loop.seed
        if isinstance(how, RehearsedLatents):
            weights = from_main(lambda: latent_pilot_of(how, averaged, images, seed=seed).cpu().state_dict())
            self._take_pilot(how, weights)

    def finished(self, averaged: Any, images: ImageSet | None) -> Any:
        """The averaged tokenizer as it is used: one of our own with standardized latents."""
        model = copy.deepcopy(averaged)
        if self.standard is not None:
            model.standardize(*self.standard)
        elif isinstance(model, Autoencoder) and images is not None:
            model.standardize(*latent_statistics(averaged, images, self.config.statistics_images))
        return model

    def _latents(self, images: Images, own: Mapping[str, Tensor]) -> tuple[Latents, Scalar]:
        """Latents as the decoder is to see them before any perturbation, and the bottleneck's loss."""
        if not isinstance(self.model, Autoencoder):
            return self.model.encode(images).float(), torch.zeros((), device=self.device)
        hidden = own["hidden"].to(self.device) if "hidden" in own else None
        posterior = self.model.posterior(images, hidden)
        latents = posterior.draw(own["posterior"].to(self.device))
        return latents, bottleneck_loss(self.model.config.bottleneck, posterior)

    def _disturbed(
        self, latents: Latents, everyone: Latents, drawn: Mapping[str, Tensor], micro: MicroBatch
    ) -> Latents:
        """The latents disturbed, by statistics and with neighbors of `everyone`: the micro-batch on all ranks."""
        of_micro = slice(micro.start, micro.start + micro.size)
        draw = LatentDraw(*(drawn[name][of_micro].to(self.device) for name in LatentDraw._fields))
        if not draw.chosen.any():
            return latents
        first, stop = int(micro.rows.own[0]), int(micro.rows.own[-1]) + 1
        if isinstance(how := self.config.perturbation, RehearsedLatents):
            assert self.pilot is not None, "nothing is chosen before the second phase"
            return rehearse_latents(self.pilot, latents, LatentDraw(*(part[first:stop] for part in draw)), how.back)
        whole = torch.cat([everyone[:first], latents, everyone[stop:]])
        return perturb_latents(self.perturbation, whole, draw)[first:stop]

    def _take_pilot(self, how: RehearsedLatents, weights: Mapping[str, Tensor]) -> None:
        self.pilot = LatentPilot(how, self.latent_shape).to(self.device).eval().requires_grad_(False)
        self.pilot.load_state_dict(weights)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.pilot is None else {"pilot": self.pilot.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if isinstance(how := self.config.perturbation, RehearsedLatents) and self.phases.decoder_only:
            self._take_pilot(how, state["pilot"])


@torch.no_grad()
def latent_shape(tokenizer: TokenizerLike) -> tuple[int, int]:
    """(n, d) of a tokenizer's latents."""
    if isinstance(tokenizer, Autoencoder):
        return tokenizer.latent_shape
    gray = torch.zeros(1, 3, tokenizer.image_size, tokenizer.image_size, device=tokenizer.device)
    _, n, d = tokenizer.encode(gray).shape
    return n, d


@torch.no_grad()
def latent_statistics(
    tokenizer: TokenizerLike, images: ImageSet, count: int, batch_size: int = 250
) -> tuple[Tensor, Tensor]:
    """(mean, standard deviation) of each channel (d) over the latents of up to `count` images, spread over the set."""
    rows = spread(count, len(images))
    count = len(rows)
    total = squares = torch.zeros((), dtype=torch.float64)
    for part in rows.split(batch_size):
        latents = tokenizer.encode(images.images(part).to(tokenizer.device)).double().cpu()
        total = total + latents.mean(dim=1).sum(dim=0)
        squares = squares + latents.square().mean(dim=1).sum(dim=0)
    mean = total / count
    return mean.float(), (squares / count - mean.square()).clamp_min(0).sqrt().float()
