"""Stage 1: a tokenizer learns to reconstruct, while latent perturbation disturbs what its decoder sees.

Order within a step (paper, sec. 4.2 and A.2): encode, quantize or draw from the posterior, perturb, decode; take the
image terms of what was decoded and the codebook, semantic or bottleneck terms of what was not perturbed. With a
codebook and without one it is the same stage; what differs is in `WithCodebook` and `WithoutCodebook`.
"""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from robustok.data.images import ImageSet
from robustok.data.loading import training_batch
from robustok.layers import check_float32
from robustok.runtime.checkpoint import fingerprint
from robustok.runtime.distributed import from_main
from robustok.runtime.locking import alone_in_its
from robustok.runtime.seeding import derive
from robustok.shapes import Images
from robustok.tokenizer.autoencoder import Autoencoder, AutoencoderConfig
from robustok.tokenizer.frozen_encoder import FrozenEncoder
from robustok.tokenizer.protocol import TokenizerLike, as_module, codebook_of
from robustok.tokenizer.tokenizer import Tokenizer, TokenizerConfig
from robustok.training.loop import Validation, run
from robustok.training.micro_batch import micro_batches_here, micro_batches_of, own_rows, split
from robustok.training.objective import ImageLoss
from robustok.training.optim import EMA, Accumulation, Optimizer, autocast
from robustok.training.performance import without_performance
from robustok.training.phases import Phases
from robustok.training.pilot import now
from robustok.training.pretrained import begin_with_dinov2, fill_frozen_encoder
from robustok.training.previews import Picture
from robustok.training.tokenizer_settings import AnyPerturbation as AnyPerturbation
from robustok.training.tokenizer_settings import TokenizerTraining as TokenizerTraining
from robustok.training.tokenizer_settings import other_kind
from robustok.training.undisturbed import undisturbed
from robustok.training.with_codebook import WithCodebook
from robustok.training.without_codebook import WithoutCodebook


class TokenizerStage:
    """The tokenizer, its losses, their optimizers and the weight average.

    A given `tokenizer` is an `nn.Module` of any family, whose `encode` passes gradients on; those of its weights that
    ask for a gradient change. `set_reference` to the images that will be trained on first, where the objective has a
    Frechet term, where a batch has few latents for the number of codes, and for `averaged`.
    """

    PARTS = ("model", "optimizer", "ema", "image_loss", "latents")  # of its state

    def __init__(
        self,
        config: TokenizerTraining,
        device: str | torch.device = "cpu",
        tokenizer: TokenizerLike | None = None,
    ):
        self.config, self.device = config, torch.device(device)
        steps, seed = config.loop.steps, config.loop.seed
        torch.manual_seed(derive(seed, "tokenizer weights"))
        self.model = _model(config, tokenizer)
        self.module = module = as_module(self.model).to(self.device).train()
        config.objective.check_side(self.model.image_size)
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.phases = Phases(now(config.perturbation), steps)
        kind: Any = WithCodebook if config.has_codebook else WithoutCodebook
        self.latents: WithCodebook | WithoutCodebook = kind(config, self.model, self.phases, self.device)
        head = [(f"semantic.{name}", weight) for name, weight in self.latents.head.named_parameters()]
        self.optimizer = Optimizer([*module.named_parameters(), *head], config.optim, steps)
        self.ema = EMA(module, config.ema_decay)
        config.performance.apply([part for name, part in module.named_children() if name in ("encoder", "decoder")])
        self.image_loss = ImageLoss(config.objective, steps, seed, self.device, config.precision)
        self._images: ImageSet | None = None

    def set_reference(self, images: ImageSet) -> None:
        """Take what is needed of the images before training starts."""
        self.latents.set_reference(images)
        self.image_loss.set_reference(images)
        self._images = images

    def step(self, batch: Images, step: int) -> dict[str, Tensor]:
        """One step on images (b 3 h w)."""
        config, latents = self.config, cast(Any, self.latents)
        if self.phases.begins(step):  # from now on the decoder learns alone
            self.phases.begin(self.module, self.ema.module)
            latents.freeze(self.ema.module, self._images)
        micro_batches = micro_batches_here(len(batch), config.loop.batch_size, config.optim.micro_batches)
        rows = own_rows(micro_batches)
        if step == 0 and not self.phases.decoder_only:
            latents.start(batch, rows, self._images)
        drawn = latents.draw(rows.of, step)
        own_draws = {name: draw[rows.own] for name, draw in drawn.items()}
        accumulation, kept = Accumulation(self.optimizer), []
        for (images, own), micro in split((batch, own_draws), micro_batches):
            images = images.to(self.device, memory_format=torch.channels_last, non_blocking=True)
            encoded = latents.encode(images, own, drawn, micro, step)
            with autocast(self.device, config.precision):
                output = self.model.decode(encoded.codes).float()
            loss, terms = self.image_loss.loss(images, output, self.model.last_layer, step, micro)
            asked, logged = latents.terms(images, encoded, micro)
            for name, weight, term in asked:
                loss, terms[name] = loss + weight * term, term.detach()
            accumulation.backward(loss, terms | logged, micro)
            accumulation.add(self.image_loss.discriminator_backward(images, output, step, micro), micro)
            kept.append(encoded.kept)
        return accumulation.step(
            self.phases.step_in_phase(step, self.optimizer),
            self.ema,
            self.module,
            discriminator_step=partial(self.image_loss.discriminator_step, step),
            before_ema=partial(latents.after, kept, step, rows),
        )

    def averaged(self) -> Any:
        """The averaged tokenizer as it is used."""
        return self.latents.finished(self.ema.module, self._images)

    def state_dict(self) -> dict[str, Any]:
        parts = {name: getattr(self, name).state_dict() for name in self.PARTS}
        return parts | {"decoder_only": self.phases.decoder_only}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["decoder_only"]:
            self.phases.hold(self.module)
        for name in self.PARTS:
            getattr(self, name).load_state_dict(state[name])


def _model(config: TokenizerTraining, given: TokenizerLike | None) -> TokenizerLike:
    """A new tokenizer as the config says, or a copy of the one that is given."""
    match config.tokenizer, given:
        case TokenizerConfig() | AutoencoderConfig() as new, None:
            model: Any = Tokenizer(new) if isinstance(new, TokenizerConfig) else Autoencoder(new)
            if isinstance(model, Autoencoder):
                fill_frozen_encoder(model)
            if config.start is not None:
                begin_with_dinov2(model, config.start)
            return model
        case None, TokenizerLike():
            if config.has_codebook != (codebook_of(given) is not None):
                raise ValueError(other_kind(config.perturbation, type(given).__name__, not config.has_codebook))
            check_float32(given)
            return copy.deepcopy(given)
    raise ValueError("main training takes a tokenizer or the config of a new one; give one of the two")


@alone_in_its("folder")
@undisturbed
def train_tokenizer(
    config: TokenizerTraining,
    images: ImageSet,
    folder: str | Path,
    *,
    tokenizer: TokenizerLike | None = None,
    device: str | torch.device = "cpu",
    validate: Callable[[Any, int], Validation] | None = None,
    validate_every: int = 0,
    quiet: bool = False,
) -> Any:
    """Train a tokenizer on images; the averaged weights go to `folder` and are returned.

    It is a new one as the config says, or a copy of the given `tokenizer`, which may be one of `robustok.adapters`. The
    latents of robustok's own one without a codebook are standardized at the end, by `config.statistics_images` images.

    Beside it, `folder/discriminator` keeps the discriminator for post-training. `validate(tokenizer, steps taken)`
    gives values for the log every `validate_every` steps, of the averaged weights. A run that was stopped goes on.
    Raises ValueError for a tokenizer of another kind than the config's perturbation.
    """
    loop = config.loop
    rows = own_rows(micro_batches_of(loop.batch_size, config.optim.micro_batches)).own
    stage = TokenizerStage(config, device, tokenizer)
    stage.set_reference(images)

    def batches(step: int) -> Images:
        return training_batch(images, loop.batch_size, loop.seed, step, rows)

    with config.performance.tf32_matmul():
        run(
            stage,
            batches,
            loop,
            Path(folder),
            name="tokenizer",
            describe={"stage": without_performance(config), "images": images.describe(), "flip": images.flip}
            | _frozen_weights(stage.model)
            | ({} if tokenizer is None else {"from": tokenizer.fingerprint()}),
            preview=lambda done: reconstructions(stage.ema.module, images),
            validate=None if validate is None else lambda done: validate(stage.averaged(), done),
            validate_every=validate_every,
            model=stage.averaged,
            quiet=quiet,
        )
    trained = stage.averaged()
    from_main(lambda: trained.save_pretrained(folder))
    if stage.image_loss.discriminator is not None:
        from_main(partial(stage.image_loss.discriminator.save, Path(folder) / "discriminator"))
    return trained


def _frozen_weights(model: Any) -> dict[str, str]:
    """What tells the weights of a frozen encoder, which no save of a run holds."""
    encoder = getattr(model, "encoder", None)
    return {"frozen_encoder": fingerprint(encoder.weights())} if isinstance(encoder, FrozenEncoder) else {}


@torch.no_grad()
def reconstructions(tokenizer: Any, images: ImageSet, count: int = 8) -> dict[str, Picture]:
    """The first images of a set above what the tokenizer makes of them."""
    real = images.images(torch.arange(min(count, len(images)))).to(tokenizer.device)
    codes = tokenizer.encode(real)
    if codebook_of(tokenizer) is not None:
        codes = tokenizer.quantize(codes).codes
    return {"reconstructions": torch.cat([real, tokenizer.decode(codes).clamp(-1, 1)])}
