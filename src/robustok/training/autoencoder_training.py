"""Stage 1 without a codebook: an autoencoder learns to reconstruct, while its latents are disturbed and patches hidden.

Order within a step, as for discrete tokenizers: encode what is not hidden, draw from the posterior, take the
bottleneck's term; then perturb the latents, decode, and take the pixel, perceptual and adversarial terms against the
whole image. Hiding patches is MAETok's (arXiv 2502.03444, without its auxiliary decoders), hiding and noise together
are l-DeTok's (arXiv 2507.15856). At the end the latents' mean and scale are measured and become part of the tokenizer.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustok.backbones.dino import DINOv2
from robustok.data.images import ImageSet
from robustok.data.loading import training_batch
from robustok.layers import check_float32
from robustok.runtime.distributed import from_main, gather
from robustok.runtime.locking import alone_in_its
from robustok.runtime.seeding import derive, spread, stream
from robustok.shapes import Images, Latents, Scalar
from robustok.tokenizer.autoencoder import Autoencoder, AutoencoderConfig
from robustok.tokenizer.bottleneck import bottleneck_loss
from robustok.tokenizer.encoder import patch_side, patches, patches_hidden
from robustok.tokenizer.latent_perturbation import (
    LatentDraw,
    LatentMixing,
    LatentNoise,
    draw_latent,
    perturb_latents,
)
from robustok.tokenizer.tokenizer import ContinuousTokenizer, as_module
from robustok.training.loop import Checked, Loop, Picture, run
from robustok.training.objective import ImageLoss, Objective
from robustok.training.optim import Average, Optim, Precision, Update, autocast
from robustok.training.parts import Part, own_rows, parts_here, parts_of, split
from robustok.training.phases import Phases
from robustok.training.pretrained import begin_with_dinov2
from robustok.training.speed import Speed, without_speed


@dataclass(frozen=True, kw_only=True)
class AutoencoderTraining:
    """How a continuous tokenizer is trained."""

    tokenizer: AutoencoderConfig | None = None  # what is trained; None: a tokenizer that is given, whoever made it
    start: DINOv2 | None = None  # whose weights a new tokenizer's vision transformers begin with
    loop: Loop  # how long, and how often to look
    perturbation: LatentNoise | LatentMixing = field(default_factory=LatentNoise)  # what the decoder learns to tolerate
    hidden_from: float = 0.0  # least share of patches hidden from the encoder; MAETok: 0.4, l-DeTok: -0.1
    hidden_to: float = 0.0  # largest; MAETok: 0.6, l-DeTok: 0.7. Uniform in each step, below 0 counts as 0
    objective: Objective = field(default_factory=Objective)  # what is asked of decoded images
    optim: Optim = field(default_factory=lambda: Optim(lr=2.4e-4, warmup=1000))  # of encoder and decoder
    average: float = 0.9999  # decay of the weight average, which is what is kept
    measured: int = 10_000  # images whose latents' mean and scale, channel by channel, become the tokenizer's
    precision: Precision = "auto"  # bf16 where the hardware multiplies it
    speed: Speed = field(default_factory=Speed)  # how it is computed

    def __post_init__(self) -> None:
        if not -1 <= self.hidden_from <= self.hidden_to < 1:
            raise ValueError(
                "hidden_from and hidden_to are shares of patches below 1, the first not above the second; "
                f"not {self.hidden_from} and {self.hidden_to}"
            )
        if self.measured < 1:
            raise ValueError(
                f"measured is {self.measured}; mean and scale need at least 1 image, better some thousands"
            )


class AutoencoderStage:
    """The tokenizer, its losses, their optimizers and the weight average.

    A given `tokenizer` is an `nn.Module` of any kind without a codebook, whose `encode` passes gradients on; those of
    its weights that ask for a gradient change.
    """

    def __init__(
        self,
        config: AutoencoderTraining,
        device: str | torch.device = "cpu",
        tokenizer: ContinuousTokenizer | None = None,
    ):
        self.config, self.device = config, torch.device(device)
        steps, seed = config.loop.steps, config.loop.seed
        least = min(part.size for part in parts_of(config.loop.batch_size, config.optim.accumulate, 0, 1))
        if isinstance(config.perturbation, LatentMixing) and config.perturbation.beta and least < 2:
            raise ValueError(
                f"latents are mixed with those of other images, but a batch of {config.loop.batch_size} in "
                f"{config.optim.accumulate} parts has parts of one image; take a larger batch_size, a lower "
                "accumulate, or LatentNoise"
            )
        torch.manual_seed(derive(seed, "tokenizer weights"))
        self.model = _model(config, tokenizer)
        module = as_module(self.model).to(self.device).train()
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.latent_shape = latent_shape(self.model)
        self.update = Update(module, config.optim, steps)
        self.average = Average(module, config.average)
        self.phases = Phases(config.perturbation, steps)
        config.speed.apply([part for name, part in module.named_children() if name in ("encoder", "decoder")])
        self.loss = ImageLoss(config.objective, steps, seed, self.device, config.precision)

    def observe(self, images: ImageSet) -> None:
        """Take what is needed of the images before training starts."""
        self.loss.observe(images)

    def step(self, batch: Images, step: int) -> dict[str, Tensor]:
        """One step on images (b 3 h w)."""
        config = self.config
        if self.phases.begins(step):
            self.phases.begin(self.model, self.average.module)
        parts = parts_here(len(batch), config.loop.batch_size, config.optim.accumulate)
        rows = own_rows(parts)
        drawn = self._draw(rows.of, step)
        terms = dict[str, Tensor]()
        for (images, own), part in split((batch, {name: draw[rows.own] for name, draw in drawn.items()}), parts):
            images = images.to(self.device, memory_format=torch.channels_last, non_blocking=True)
            with autocast(self.device, config.precision):
                latents, loss_of_bottleneck = self._encode(images, own)
                everyone = gather(latents.detach(), part.counts)
                disturbed = self._disturbed(latents, everyone, drawn, part)
                output = self.model.decode(disturbed).float()
            image_loss, part_terms = self.loss.charge(images, output, self.model.last_layer, step, part)
            loss = image_loss + loss_of_bottleneck
            part_terms["bottleneck"] = loss_of_bottleneck.detach()
            self.update.backward(loss, part.share, last=part.last)
            part_terms |= self.loss.learn(images, output, step, part)
            part_terms |= {"latent_scale": everyone.std(), "loss": loss.detach()}
            for name, term in part_terms.items():
                terms[name] = terms.get(name, 0) + part.share * term
        terms |= self.update.apply(self.phases.step_in_phase(step, self.update))
        opposed = self.loss.apply(step)
        terms["skipped"] = torch.maximum(terms["skipped"], opposed.pop("skipped", terms["skipped"]))
        if not terms["skipped"]:
            self.average.update(as_module(self.model))
        return terms | opposed

    def _draw(self, b: int, step: int) -> dict[str, Tensor]:
        """What this step draws, for the whole batch at once: the posterior's noise, perturbation, hidden patches."""
        config, loop = self.config, self.config.loop
        n, d = self.latent_shape
        generator = stream(loop.seed, "latent perturbation", step)
        progress, perturbing = step / loop.steps, self.phases.perturbing
        disturbed = draw_latent(config.perturbation, b, n, d, progress, perturbing=perturbing, generator=generator)
        noise = torch.randn(b, n, d, generator=stream(loop.seed, "posterior", step))
        drawn = {"posterior": noise} | disturbed._asdict()
        if config.hidden_to > 0 and isinstance(self.model, Autoencoder):
            generator = stream(loop.seed, "hidden patches", step)
            uniform = float(torch.rand((), generator=generator))
            share = max(0.0, config.hidden_from + uniform * (config.hidden_to - config.hidden_from))
            side = patches(self.model.image_size, patch_side(self.model.config.encoder))
            drawn["hidden"] = patches_hidden(b, side**2, share, generator=generator)
        return drawn

    def _encode(self, images: Images, drawn: Mapping[str, Tensor]) -> tuple[Latents, Scalar]:
        """Latents as the decoder is to see them before any perturbation, and the bottleneck's term."""
        if not isinstance(self.model, Autoencoder):
            return self.model.encode(images).float(), torch.zeros((), device=self.device)
        hidden = drawn["hidden"].to(self.device) if "hidden" in drawn else None
        posterior = self.model.posterior(images, hidden)
        latents = posterior.draw(drawn["posterior"].to(self.device))
        return latents, bottleneck_loss(self.model.config.bottleneck, posterior)

    def _disturbed(self, latents: Latents, everyone: Latents, drawn: Mapping[str, Tensor], part: Part) -> Latents:
        """The latents disturbed, by the statistics and with the neighbours of the part on all ranks, `everyone`."""
        of_part = slice(part.start, part.start + part.size)
        draw = LatentDraw(*(drawn[name][of_part].to(self.device) for name in LatentDraw._fields))
        if not draw.chosen.any():
            return latents
        first, stop = int(part.rows.own[0]), int(part.rows.own[-1]) + 1
        whole = torch.cat([everyone[:first], latents, everyone[stop:]])
        return perturb_latents(self.config.perturbation, whole, draw)[first:stop]

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": as_module(self.model).state_dict(),
            "update": self.update.state_dict(),
            "average": self.average.state_dict(),
            "loss": self.loss.state_dict(),
            "decoder_only": self.phases.decoder_only,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        as_module(self.model).load_state_dict(state["model"])
        self.update.load_state_dict(state["update"])
        self.average.load_state_dict(state["average"])
        self.loss.load_state_dict(state["loss"])
        if state["decoder_only"]:
            self.phases.hold(self.model)


def _model(config: AutoencoderTraining, tokenizer: ContinuousTokenizer | None) -> ContinuousTokenizer:
    """A new tokenizer as the config says, or a copy of the one that is given."""
    if (config.tokenizer is None) == (tokenizer is None):
        raise ValueError("main training takes a tokenizer or the config of a new one; give one of the two")
    if config.tokenizer is not None:
        new = Autoencoder(config.tokenizer)
        if config.start is not None:
            begin_with_dinov2(new, config.start)
        return new
    if config.hidden_to > 0 and not isinstance(tokenizer, Autoencoder):
        raise ValueError(
            f"patches cannot be hidden from the encoder of a {type(tokenizer).__name__}; set hidden_to to 0"
        )
    assert tokenizer is not None
    check_float32(tokenizer)
    model = copy.deepcopy(tokenizer)
    if isinstance(model, Autoencoder):  # trained on latents as they are; standardized anew at the end
        model.latent_mean.zero_()
        model.latent_scale.fill_(1)
    return model


@torch.no_grad()
def latent_shape(tokenizer: ContinuousTokenizer) -> tuple[int, int]:
    """(n, d) of a tokenizer's latents."""
    if isinstance(tokenizer, Autoencoder):
        return tokenizer.latent_shape
    gray = torch.zeros(1, 3, tokenizer.image_size, tokenizer.image_size, device=tokenizer.device)
    _, n, d = tokenizer.encode(gray).shape
    return n, d


@alone_in_its("folder")
def train_autoencoder(
    config: AutoencoderTraining,
    images: ImageSet,
    folder: str | Path,
    *,
    tokenizer: ContinuousTokenizer | None = None,
    device: str | torch.device = "cpu",
    check: Callable[[Any, int], Checked] | None = None,
    check_every: int = 0,
    quiet: bool = False,
) -> Any:
    """Train a continuous tokenizer on images; the averaged weights go to `folder` and are returned.

    It is a new one as the config says, or a copy of the given `tokenizer`, which may be one of `robustok.adapters`. A
    new one's latents are standardized at the end, by up to `config.measured` images. Otherwise as
    `robustok.training.main_training.train_tokenizer`. A run that was stopped goes on.
    """
    loop = config.loop
    rows = own_rows(parts_of(loop.batch_size, config.optim.accumulate)).own
    stage = AutoencoderStage(config, device, tokenizer)
    stage.observe(images)

    def batches(step: int) -> Images:
        return training_batch(images, loop.batch_size, loop.seed, step, rows)

    def trained() -> Any:
        """The averaged tokenizer, a new one with standardized latents."""
        model = copy.deepcopy(stage.average.module)
        if isinstance(model, Autoencoder):
            model.standardize(*latent_statistics(model, images, config.measured))
        return model

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
            check=None if check is None else lambda done: check(trained(), done),
            check_every=check_every,
            model=trained,
            quiet=quiet,
        )
    finished = trained()
    from_main(lambda: finished.save_pretrained(folder))
    if stage.loss.opponent is not None:
        from_main(partial(stage.loss.opponent.save, Path(folder) / "discriminator"))
    return finished


@torch.no_grad()
def latent_statistics(
    tokenizer: ContinuousTokenizer, images: ImageSet, count: int, batch_size: int = 250
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


@torch.no_grad()
def reconstructions(tokenizer: Any, images: ImageSet, count: int = 8) -> dict[str, Picture]:
    """The first images of a set above what the tokenizer makes of them."""
    real = images.images(torch.arange(min(count, len(images)))).to(tokenizer.device)
    return {"reconstructions": torch.cat([real, tokenizer.decode(tokenizer.encode(real)).clamp(-1, 1)])}
