"""Stage 2: a generator learns to predict a tokenizer's tokens, or the way to its latents, class by class."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from robustok.data.latent_cache import LatentCache
from robustok.data.loading import cached_batch
from robustok.generators.autoregressive import Autoregressive, AutoregressiveModel, random_order_fraction
from robustok.generators.diffusion_transformer import DiffusionTransformer, DiffusionTransformerModel
from robustok.generators.fit import check_classes, check_fit
from robustok.generators.flow_matching import TrainingTimes
from robustok.generators.llama import Llama, LlamaModel
from robustok.generators.masked import Masked, MaskedModel
from robustok.layers import Block, check_float32
from robustok.runtime.distributed import from_main, shard, whole
from robustok.runtime.locking import alone_in_its
from robustok.runtime.seeding import derive, stream
from robustok.training.loop import Loop, Validation, run
from robustok.training.micro_batch import micro_batches_here, micro_batches_of, own_rows, split
from robustok.training.optim import EMA, Accumulation, Optim, Optimizer, Precision, autocast, is_bf16, load_whole
from robustok.training.performance import Performance, blocks, without_performance
from robustok.training.previews import Picture
from robustok.training.undisturbed import undisturbed

AnyGenerator: TypeAlias = Autoregressive | Llama | Masked | DiffusionTransformer
AnyModel: TypeAlias = AutoregressiveModel | LlamaModel | MaskedModel | DiffusionTransformerModel
MODELS: Mapping[type[AnyGenerator], type[AnyModel]] = {
    Autoregressive: AutoregressiveModel,
    Llama: LlamaModel,
    Masked: MaskedModel,
    DiffusionTransformer: DiffusionTransformerModel,
}


@dataclass(frozen=True, kw_only=True)
class GeneratorTraining:
    """Training of a generator on cached tokens or latents."""

    generator: AnyGenerator | None = None  # what is trained; None: one that is given
    loop: Loop  # how long, and how often to log, save and preview
    optim: Optim = field(  # RAR's: arXiv 2411.00776, table 9
        default_factory=lambda: Optim(lr=4e-4, betas=(0.9, 0.96), weight_decay=0.03)
    )
    times: TrainingTimes = field(default_factory=TrainingTimes)  # of latents: the noise levels that are trained
    order_start: float = 0.5  # of tokens: fraction of training after which random orders give way to raster order
    order_end: float = 0.75  # fraction of training after which every image comes in raster order
    ema_decay: float = 0.9999  # of the weights' moving average, which is what is kept
    precision: Precision = "auto"  # bf16 where the hardware multiplies it
    performance: Performance = field(default_factory=Performance)  # how it is computed
    shard: bool = False  # each process keeps its piece of the weights, their average and the optimizer only (FSDP2)

    def __post_init__(self) -> None:
        if not 0 <= self.order_start <= self.order_end <= 1:
            raise ValueError(
                "order_start and order_end are fractions of training, the first not above the second; "
                f"not {self.order_start} and {self.order_end}"
            )


class GeneratorStage:
    """The generator, its optimizer and its weight average.

    A given `generator` is an `nn.Module` with the methods `draw(b, *, generator)`, which draws all that is random in a
    step on b images as a named tuple, and `loss(tokens or latents, labels, draw)`.
    """

    def __init__(self, config: GeneratorTraining, device: str | torch.device = "cpu", generator: Any = None):
        self.config, self.device = config, torch.device(device)
        torch.manual_seed(derive(config.loop.seed, "generator weights"))
        self.model = _model(config, generator).to(self.device).train()
        self.ema = EMA(self.model, config.ema_decay)
        self._whole = copy.deepcopy(self.ema.module).cpu() if config.shard else self.ema.module
        config.performance.apply([self.model])
        if config.shard:
            bf16 = is_bf16(self.device, config.precision)
            for module in (self.model, self.ema.module):
                shard(module, _units(module), travel=torch.bfloat16 if bf16 else None, method="loss")
        self.optimizer = Optimizer(self.model, config.optim, config.loop.steps)

    def step(self, batch: tuple[Tensor, Tensor], step: int) -> dict[str, Tensor]:
        """One step on (tokens (b n) or latents (b n d), labels (b))."""
        config, how = self.config, self._how(step)
        generator = stream(config.loop.seed, "order and label dropout", step)
        accumulation = Accumulation(self.optimizer)
        micro_batches = micro_batches_here(len(batch[0]), config.loop.batch_size, config.optim.micro_batches)
        for (inputs, labels), micro in split(batch, micro_batches):
            draw = micro.drawn(self.model.draw(micro.size, **how, generator=generator))
            with autocast(self.device, config.precision):
                loss = self.model.loss(inputs.to(self.device), labels.to(self.device), draw)
            accumulation.backward(loss, {}, micro)
        return accumulation.step(step, self.ema, self.model)

    def averaged(self) -> Any:
        """The generator with the averaged weights; every process calls it, for it may have to be put together."""
        if self.config.shard:
            state = {name: whole(value).cpu() for name, value in self.ema.module.state_dict().items()}
            self._whole.load_state_dict(state)
            self._whole.to(self.device)
        return self._whole

    def _how(self, step: int) -> dict[str, Any]:
        """Arguments of the model's `draw`: the fraction of random orders now, or the noise levels."""
        config = self.config
        match self.model:
            case AutoregressiveModel() if self.model.config.order == "random":
                return {
                    "random_order_fraction": random_order_fraction(
                        step / config.loop.steps, config.order_start, config.order_end
                    )
                }
            case AutoregressiveModel():
                return {"random_order_fraction": 0.0}
            case DiffusionTransformerModel():
                return {"times": config.times}
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "ema")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        load_whole(self.model, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict(state["ema"])


def build_generator(config: AnyGenerator) -> AnyModel:
    """A new generator, its weights as torch's global generator draws them."""
    build: Any = MODELS[type(config)]
    return build(config)


def _model(config: GeneratorTraining, given: Any) -> Any:
    """A new generator as the config says, or a copy of the one that is given."""
    match config.generator, given:
        case Autoregressive() | Llama() | Masked() | DiffusionTransformer() as new, None:
            return build_generator(new)
        case None, nn.Module() if hasattr(given, "loss"):
            check_float32(given)
            own = copy.deepcopy(given)
            frozen = not any(weight.requires_grad for weight in own.parameters())
            return own.requires_grad_(True) if frozen else own  # frozen: what training returned
        case None, nn.Module():
            raise ValueError(f"a {type(given).__name__} has no loss to train it by; it can be sampled and scored")
    raise ValueError("generator training takes a generator or the config of a new one; give one of the two")


@alone_in_its("folder")
@undisturbed
def train_generator(
    config: GeneratorTraining,
    cache: LatentCache,
    folder: str | Path,
    *,
    generator: Any = None,
    device: str | torch.device = "cpu",
    validate: Callable[[Any, int], Validation] | None = None,
    validate_every: int = 0,
    preview: Callable[[Any], Mapping[str, Picture]] | None = None,
    quiet: bool = False,
) -> Any:
    """Train a generator on cached tokens or latents; the averaged weights go to `folder` and are returned.

    It is a new one as the config says, or a copy of the given `generator`, which may be one of `robustok.adapters`.
    `validate(model, steps taken)` gives values for the log every `validate_every` steps, `preview(model)` pictures as
    often as the loop says, both of the averaged model. A run that was stopped goes on. The generator remembers whose
    tokens or latents they were (`trained_on`) and what the classes are called (`class_names`). Raises ValueError when
    what the cache holds does not fit the generator, or is of another tokenizer than what the given one was trained on.
    """
    loop = config.loop
    rows = own_rows(micro_batches_of(loop.batch_size, config.optim.micro_batches)).own
    stage = GeneratorStage(config, device, generator)
    check_fit(stage.model, cache)
    check_classes(stage.model, cache.labels, cache.classes)
    stage.averaged().trained_on, stage.averaged().class_names = cache.fingerprint, cache.classes

    def batches(step: int) -> tuple[Tensor, Tensor]:
        return cached_batch(cache, loop.batch_size, loop.seed, step, rows)

    with config.performance.tf32_matmul():
        run(
            stage,
            batches,
            loop,
            Path(folder),
            name="generator",
            describe={"stage": without_performance(config)}
            | {cache.kind: {"tokenizer": cache.fingerprint, "images": cache.images}}
            | ({} if generator is None else {"from": generator.fingerprint()}),
            preview=None if preview is None else lambda done: preview(stage.averaged()),
            validate=None if validate is None else lambda done: validate(stage.averaged(), done),
            validate_every=validate_every,
            model=stage.averaged,
            quiet=quiet,
        )
    trained = stage.averaged()
    from_main(lambda: trained.save_pretrained(folder))
    return trained


def _units(model: nn.Module) -> Iterator[nn.Module]:
    """Modules put together on their own while they compute: blocks, and before them what others call of them."""
    for block in blocks(model):
        if isinstance(block, Block) and block.modulation is not None:
            yield block.modulation
        yield block
