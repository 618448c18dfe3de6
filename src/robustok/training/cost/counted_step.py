"""The step of a stage, counted: what it computes, and what a rank holds between steps and at its fullest."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robustok.generators.autoregressive import Autoregressive
from robustok.generators.diffusion_transformer import DiffusionTransformer
from robustok.generators.llama import Llama
from robustok.tokenizer.autoencoder import Autoencoder, AutoencoderConfig
from robustok.tokenizer.tokenizer import ContinuousTokenizer, Tokenizer, TokenizerConfig
from robustok.training.adversary import Opponent
from robustok.training.autoencoder_training import AutoencoderStage, AutoencoderTraining
from robustok.training.cost.counting import Counted, Counting, as_on_a_gpu
from robustok.training.generator_training import GeneratorStage, GeneratorTraining
from robustok.training.main_training import MainTraining, TokenizerStage
from robustok.training.optim import Average
from robustok.training.post_training import DecoderStage, PostTraining
from robustok.training.speed import blocks

Training = MainTraining | AutoencoderTraining | GeneratorTraining | PostTraining
META = "meta"


class Held(NamedTuple):
    """Bytes that one process keeps from step to step, where nothing is cut over processes."""

    weights: int  # that are trained
    gradients: int
    moments: int  # of AdamW, two for every weight
    average: int  # of the weights
    discriminator: int  # its weights, gradients and moments
    frozen: int  # networks that are not trained, buffers, other copies

    @property
    def all(self) -> int:
        return sum(self)


@dataclass(frozen=True, kw_only=True)
class CountedStep:
    """One step of one process on `batch` images."""

    batch: int
    trained: int  # weights that are trained, those of the discriminator left out
    largest_unit: int  # weights of the largest transformer block, which FSDP puts together as one; 0 where it has none
    held: Held
    counted: Counted  # `peak` is what comes on top of `held`: activations and what is only needed for a moment

    @property
    def flops(self) -> int:
        return sum(self.counted.flops.values())


def count_step(
    config: Training, batch: int, tokenizer: TokenizerConfig | AutoencoderConfig | None = None
) -> CountedStep:
    """The step that `config` trains with, late in the run, when everything takes part, on `batch` images.

    Nothing is computed or stored, so any size can be counted anywhere. Post-training takes the config of the
    `tokenizer` whose decoder is tuned. It is counted in bfloat16 unless the config says fp32, without torch.compile,
    which changes neither products nor most of what is kept. The Frechet term's moments are left out, and patches that
    are hidden from an encoder count as if it saw them.
    """
    config = _countable(config, batch)
    last = config.loop.steps - 1
    with as_on_a_gpu():
        with torch.device(META):
            stage, inputs = _staged(config, tokenizer)
            images = inputs(batch)
        for weight in _trained(stage):
            weight.grad = torch.zeros_like(weight)
        with config.speed.multiplying(), Counting() as counted:
            stage.step(images, last)
    held, trained = _held(stage), 0
    model = stage.decoder if isinstance(stage, DecoderStage) else stage.model
    for weight in model.parameters():
        trained += weight.numel() * weight.requires_grad
    units = [sum(w.numel() for w in block.parameters()) for block in blocks(model)]
    return CountedStep(batch=batch, trained=trained, largest_unit=max(units, default=0), held=held, counted=counted)


def _countable(config: Any, batch: int) -> Any:
    """The same work in one part, in bfloat16 where the machine would choose, and without what only matters on a GPU."""
    changes: dict[str, Any] = {"loop": replace(config.loop, batch_size=batch)}
    changes["optim"] = replace(config.optim, accumulate=1)
    changes["speed"] = replace(config.speed, compile=None)
    if config.precision == "auto":
        changes["precision"] = "bf16"
    if hasattr(config, "objective"):
        changes["objective"] = replace(config.objective, frechet=0.0)
    without = {"start": None, "shard": False, "hidden_from": 0.0, "hidden_to": 0.0}
    changes |= {name: value for name, value in without.items() if hasattr(config, name)}
    return without_files(replace(config, **changes))


def without_files(config: Any) -> Any:
    """The same with random weights wherever published ones would be read."""
    changes = {}
    for name, value in ((field.name, getattr(config, field.name)) for field in fields(config) if field.init):
        if name in ("weights", "heads") and isinstance(value, str):
            changes[name] = "random"
        elif is_dataclass(value):
            changes[name] = without_files(value)
    return replace(config, **changes)


def _staged(config: Any, tokenizer: Any) -> tuple[Any, Callable[[int], Any]]:
    """(the stage on the meta device, what makes a batch of so many images for it)."""
    match config:
        case MainTraining(tokenizer=TokenizerConfig(image_size=size)):
            return TokenizerStage(config, META), lambda b: torch.empty(b, 3, size, size)
        case AutoencoderTraining(tokenizer=AutoencoderConfig(image_size=size)):
            return AutoencoderStage(config, META), lambda b: torch.empty(b, 3, size, size)
        case GeneratorTraining(generator=Autoregressive() | Llama() as generator):
            n = generator.tokens
            return GeneratorStage(config, META), lambda b: (_whole_numbers(b, n), _whole_numbers(b))
        case GeneratorTraining(generator=DiffusionTransformer() as generator):
            n, d = generator.tokens, generator.channels
            return GeneratorStage(config, META), lambda b: (torch.empty(b, n, d), _whole_numbers(b))
        case PostTraining() if tokenizer is not None:
            model = tokenizer_of(tokenizer)
            return DecoderStage(config, model, META), lambda b: (_touched(model, tokenizer, b), _images(model, b))
    raise ValueError(
        f"the step of a {type(config).__name__} cannot be counted as it is: give training a new model's config, and "
        "post-training the config of a tokenizer"
    )


def tokenizer_of(config: TokenizerConfig | AutoencoderConfig) -> ContinuousTokenizer:
    """A tokenizer of either kind."""
    return Tokenizer(config) if isinstance(config, TokenizerConfig) else Autoencoder(config)


def _whole_numbers(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64)


def _images(model: ContinuousTokenizer, b: int) -> Tensor:
    return torch.empty(b, 3, model.image_size, model.image_size)


def _touched(model: ContinuousTokenizer, config: Any, b: int) -> Tensor:
    """What a pair brings: tokens, or latents where there is no codebook."""
    if isinstance(config, TokenizerConfig):
        return _whole_numbers(b, model.tokens_per_image)
    return torch.empty(b, model.tokens_per_image, config.width)


def _trained(stage: Any) -> Iterator[nn.Parameter]:
    for _, tensor in _reachable(stage, "", set()):
        if isinstance(tensor, nn.Parameter) and tensor.requires_grad:
            yield tensor


def _held(stage: Any) -> Held:
    """Every tensor that can be reached from a stage, by what it is for; memory that several share counts once."""
    sizes, known = Counter[str](), set[int]()
    for kind, tensor in list(_reachable(stage, "", set())):
        memory = tensor.untyped_storage()
        if memory._cdata in known:
            continue
        known.add(memory._cdata)
        learns = isinstance(tensor, nn.Parameter) and tensor.requires_grad
        if kind == "discriminator" and learns:
            sizes[kind] += 2 * memory.nbytes()
        elif learns:
            sizes["weights"] += memory.nbytes()
            sizes["gradients"] += memory.nbytes()
        else:
            sizes[kind or "frozen"] += memory.nbytes()
    return Held(**{name: sizes[name] for name in Held._fields})


def _reachable(thing: Any, kind: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """(what it is for, tensor) of everything that `thing` holds: parameters, buffers, optimizer states, copies."""
    if id(thing) in seen or isinstance(thing, (str, int, float, bool, type)) or thing is None or is_dataclass(thing):
        return
    seen.add(id(thing))
    match thing:
        case Tensor():
            yield kind, thing
        case torch.optim.Optimizer():
            for state in thing.state.values():
                for tensor in state.values():
                    if isinstance(tensor, Tensor) and tensor.ndim:
                        yield kind or "moments", tensor
        case nn.Module():
            for tensor in (*thing.parameters(), *thing.buffers()):
                own = isinstance(tensor, nn.Parameter) and tensor.requires_grad
                yield kind if own or kind != "discriminator" else "frozen", tensor
        case dict():
            for value in thing.values():
                yield from _reachable(value, kind, seen)
        case list() | tuple():
            for value in thing:
                yield from _reachable(value, kind, seen)
        case _ if type(thing).__module__.startswith("robustok."):
            kind = {Average: "average", Opponent: "discriminator"}.get(type(thing), kind)
            yield from _reachable(vars(thing), kind, seen)
