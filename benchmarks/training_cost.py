"""What a full-scale run takes, before it is started: floating-point operations, memory held, hours on N GPUs.

    python benchmarks/training_cost.py rar_l --gpu H100 --gpus 8,64,512
    python benchmarks/training_cost.py rar_l --gpus 64 --loop.batch_size 131072 --loop.steps 3906

An estimate. FLOPs are those of the whole training step, all networks and losses, late in the run, counted on the meta
device, where nothing is computed or stored; attention counts without what flash kernels compute again. The rest is
arithmetic: products take a share of the peak in bfloat16 (--utilization, model FLOPs utilization), gradients are summed
over the GPUs once a step behind the backward pass, at 75 % of the links' speed. Activations are not estimated:
`training_steps.py` measures them, and the speed, on a GPU.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from robustok.cli.settings import layered
from robustok.presets.recipes import DECODERS, GENERATORS, TOKENIZERS, recipe
from robustok.report.table import Table
from robustok.tokenizer.autoencoder import Autoencoder, AutoencoderConfig
from robustok.tokenizer.tokenizer import Tokenizer, TokenizerConfig
from robustok.training.decoder_stage import DecoderStage, PostTraining
from robustok.training.generator_training import GeneratorStage, GeneratorTraining
from robustok.training.performance import blocks
from robustok.training.tokenizer_training import TokenizerStage, TokenizerTraining

Training = TokenizerTraining | GeneratorTraining | PostTraining
BATCH = 2  # images of the counted step; products grow in proportion
WIRE = 0.75  # of a link's speed that a collective reaches
BUCKET, HOP = 25 * 2**20, 20e-6  # bytes of DDP's buckets; seconds for a message from machine to machine
BACKWARD = 2 / 3  # of a step's products


class GPU(NamedTuple):
    """What a data sheet says: dense products in bfloat16, memory, and the link to the other GPUs of a machine of 8."""

    tflops: float
    gigabytes: float
    link: float  # GB/s each way


GPUS = {  # https://www.nvidia.com/en-us/data-center/: h100, h200, hgx (B200), a100, l40s
    "H100": GPU(989.4, 80, 450),
    "H200": GPU(989.4, 141, 450),
    "B200": GPU(2250, 180, 900),
    "A100": GPU(312, 80, 300),
    "L40S": GPU(362, 48, 32),
}


@dataclass(frozen=True)
class Step:
    """A counted training step."""

    flops: float  # per image, forward and backward, everything that is multiplied
    weights: int  # that are trained, without the discriminator's
    discriminator: int
    frozen: float  # bytes of networks that are not trained, buffers and other copies
    blocks: int = 1  # that FSDP puts together one by one

    @property
    def held(self) -> dict[str, float]:
        """Bytes that a GPU keeps from step to step: float32 weights, gradients and AdamW's two moments, and the EMA."""
        return {"trained": 16.0 * self.weights, "EMA": 4.0 * self.weights, "discriminator": 16.0 * self.discriminator}


def count(config: Training, tokenizer: TokenizerConfig | AutoencoderConfig | None = None) -> Step:
    """The step that `config` trains with; post-training takes the config of the `tokenizer` whose decoder is tuned."""
    changes: dict[str, Any] = {
        "precision": "fp32",
        "performance": replace(config.performance, compile=None, checkpointing=False),
    }
    changes |= {"loop": replace(config.loop, batch_size=BATCH), "optim": replace(config.optim, micro_batches=1)}
    without = {
        "start": None,
        "shard": False,
        "mask_ratio_min": 0.0,
        "mask_ratio_max": 0.0,
    }  # hidden patches count as if seen
    changes |= {name: value for name, value in without.items() if hasattr(config, name)}
    if hasattr(config, "objective"):
        changes["objective"] = replace(config.objective, frechet=0.0)  # whose moments are of real images
    counted = without_files(replace(config, **changes))
    adamw = torch.optim.AdamW
    with torch.device("meta"), mock.patch("torch.optim.AdamW", lambda *a, **k: adamw(*a, **k | {"fused": None})):
        stage, images = stage_of(counted, tokenizer, torch.device("meta"), BATCH)
    with mock.patch("torch.autocast", _Autocast), Flops() as flops:
        stage.step(images, config.loop.steps - 1)
    trained = [w for w in _tensors(vars(stage), set()) if w.requires_grad]
    model = stage.decoder if isinstance(stage, DecoderStage) else stage.model
    weights = sum(w.numel() for w in model.parameters() if w.requires_grad)
    everything = sum(t.nbytes for t in _tensors(vars(stage), set()))
    others = sum(w.numel() for w in trained) - weights
    return Step(flops.total / BATCH, weights, others, everything - 4 * (2 * weights + others), len(blocks(model)))


def stage_of(
    config: Training, tokenizer: TokenizerConfig | AutoencoderConfig | None, device: torch.device, batch: int
) -> tuple[Any, Any]:
    """The stage and a batch of noise for it. Raises ValueError where there is no new model to train."""

    def noise(*shape: int) -> Tensor:
        return torch.rand(batch, *shape, device=device) * 2 - 1

    def below(most: int, *shape: int) -> Tensor:
        return torch.randint(most, (batch, *shape), device=device)

    match config:
        case TokenizerTraining(tokenizer=TokenizerConfig(image_size=size) | AutoencoderConfig(image_size=size)):
            return TokenizerStage(config, device), noise(3, size, size)
        case GeneratorTraining(generator=g) if g is not None:
            codes = getattr(g, "codebook_size", None)
            samples = below(codes, g.tokens) if codes else noise(g.tokens, g.channels)
            return GeneratorStage(config, device), (samples, below(g.classes))
        case PostTraining() if tokenizer is not None:
            discrete = isinstance(tokenizer, TokenizerConfig)
            model = Tokenizer(tokenizer) if discrete else Autoencoder(tokenizer)
            n, size = model.tokens_per_image, model.image_size
            samples = below(len(model.codebook), n) if discrete else noise(n, tokenizer.width)
            return DecoderStage(config, model, device), (samples, noise(3, size, size))
    raise ValueError(f"a {type(config).__name__} without a new model's config cannot be counted; give it one")


def without_files(config: Any) -> Any:
    """The same with random weights wherever published ones would be read."""
    changes = {}
    for name, value in ((field.name, getattr(config, field.name)) for field in fields(config) if field.init):
        if name in ("weights", "lin_layers") and isinstance(value, str):
            changes[name] = "random"
        elif is_dataclass(value):
            changes[name] = without_files(value)
    return replace(config, **changes)


class _Autocast(torch.autocast):
    """Autocast that is switched off on the meta device, which it does not know."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if device_type == "meta" else device_type, *args, **kwargs)


class Flops(TorchDispatchMode):
    """Counts products by torch's formulas in `total`, two FLOPs to a multiply and add.

    `FlopCounterMode` counts the same, and cannot follow a step that takes gradients on its way. Where the value of a
    meta tensor is asked for, which nobody knows, the answer is 1: a loss is finite.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return 1
        made = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            self.total += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=made)
        return made


def _tensors(thing: Any, seen: set[int]) -> Iterator[Tensor]:
    """All parameters and buffers that a stage holds, each once."""
    if id(thing) in seen or isinstance(thing, (str, int, float, type)) or is_dataclass(thing):
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, nn.Module):
        for tensor in (*thing.parameters(), *thing.buffers()):
            yield from _tensors(tensor, seen)
    elif isinstance(thing, dict):
        for value in thing.values():
            yield from _tensors(value, seen)
    elif isinstance(thing, (list, tuple)):
        yield from _tensors(dict(enumerate(thing)), seen)
    elif type(thing).__module__.startswith("robustok."):
        yield from _tensors(vars(thing), seen)


class Cost(NamedTuple):
    """A run on so many GPUs."""

    held: float  # bytes on each GPU, activations left out
    computing: float  # seconds of products in a step
    exchanging: float  # seconds of sums over the GPUs in a step
    exposed: float  # of these, the ones that nothing hides
    step: float  # seconds


def cost(step: Step, config: Training, gpu: GPU, gpus: int, utilization: float, network: float) -> Cost:
    """A step on `gpus` GPUs, 8 to a machine, each with an adapter of `network` GB/s to the others.

    DDP sums gradients once a step, behind the backward pass of its last micro-batch. Where weights are cut over the
    GPUs (FSDP), every micro-batch gathers them twice in bfloat16 and scatters gradients in float32 behind its passes.
    Raises ValueError where there are more GPUs than images.
    """
    if not 1 <= gpus <= config.loop.batch_size:
        raise ValueError(f"{gpus} GPUs cannot share a batch of {config.loop.batch_size} images; take as many at most")
    share = math.ceil(config.loop.batch_size / gpus)
    computing = share * step.flops / (utilization * 1e12 * gpu.tflops)
    micro_batches = min(config.optim.micro_batches, share)
    if getattr(config, "shard", False):
        held = (step.held["trained"] + step.held["EMA"]) / gpus + step.held["discriminator"] + step.frozen
        exchanging = micro_batches * all_reduce(8.0 * step.weights, gpu, gpus, network, 3 * step.blocks) / 2
        hidden = computing
    else:
        on_their_way = 4 * step.weights if gpus > 1 else 0  # a copy of the gradients, bucket by bucket
        held = sum(step.held.values()) + step.frozen + on_their_way
        size = 4.0 * (step.weights + step.discriminator)
        exchanging = all_reduce(size, gpu, gpus, network, math.ceil(size / BUCKET))
        hidden = BACKWARD * computing / micro_batches
    exposed = max(0.0, exchanging - hidden)
    return Cost(held, computing, exchanging, exposed, computing + exposed)


def all_reduce(size: float, gpu: GPU, gpus: int, network: float, pieces: int) -> float:
    """Seconds to sum `size` bytes over all GPUs; to gather or to scatter them takes half of it.

    Within a machine each GPU sums its part, the parts are summed over machines, then gathered within each. Each of
    the `pieces` waits for messages up and down a tree of machines.
    """
    inside = min(gpus, 8)
    machines = math.ceil(gpus / inside)
    within = 2 * size * (inside - 1) / inside / (WIRE * 1e9 * gpu.link)
    across = 2 * size / inside * (machines - 1) / machines / (WIRE * 1e9 * network)
    return within + across + 2 * math.ceil(math.log2(machines)) * HOP * pieces


def table(step: Step, config: Training, gpu: GPU, gpus: list[int], utilization: float, network: float) -> Table:
    """A column for each number of GPUs."""
    costs = [cost(step, config, gpu, n, utilization, network) for n in gpus]
    hours = [config.loop.steps * c.step / 3600 for c in costs]
    rows = {
        "images a GPU": [f"{math.ceil(config.loop.batch_size / n):,}" for n in gpus],
        f"GB held, of {gpu.gigabytes:g}": [f"{c.held / 1e9:.1f}" for c in costs],
        "ms of products in a step": [f"{1e3 * c.computing:.0f}" for c in costs],
        "ms of exchanges (of them not hidden)": [f"{1e3 * c.exchanging:.1f} ({1e3 * c.exposed:.1f})" for c in costs],
        "images/s": [f"{config.loop.batch_size / c.step:,.0f}" for c in costs],
        "hours": [f"{h:,.1f}" for h in hours],
        "GPU-hours": [f"{n * h:,.0f}" for n, h in zip(gpus, hours, strict=True)],
    }
    return Table(columns=["GPUs", *(f"{n:,}" for n in gpus)], rows=[[name, *cells] for name, cells in rows.items()])


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run of robustok's recipes, such as rar_l")
    parser.add_argument("--gpu", choices=GPUS, default="H100")
    parser.add_argument("--gpus", type=lambda text: [int(n) for n in text.split(",")], default=[8])
    parser.add_argument("--utilization", type=float, default=0.4, help="of the peak in bfloat16, above 0 to 1")
    parser.add_argument("--network", type=float, default=50.0, help="GB/s of each GPU to other machines")
    options, settings = parser.parse_known_args(words)
    try:
        if not 0 < options.utilization <= 1 or options.network <= 0 or len(settings) % 2:
            raise ValueError("--utilization is above 0 and at most 1, --network above 0, and a setting is --NAME VALUE")
        typed = zip((name.removeprefix("--") for name in settings[::2]), settings[1::2], strict=True)
        config = layered(recipe(options.run, {**TOKENIZERS, **GENERATORS, **DECODERS}), (), typed)
        step = count(config, recipe("robustok_imagenet256", TOKENIZERS).tokenizer)
        made = table(step, config, GPUS[options.gpu], options.gpus, options.utilization, options.network)
    except ValueError as error:
        parser.error(str(error))
    gpu, loop = GPUS[options.gpu], config.loop
    total = loop.steps * loop.batch_size * step.flops / 1e18
    print(
        f"{options.run} on {options.gpu}, at {options.utilization:.0%} of {gpu.tflops:g} TFLOP/s: an estimate\n\n"
        f"{step.weights / 1e6:.0f} M trained weights, {step.flops / 1e9:.0f} GFLOP an image, {total:,.4g} EFLOP\n"
        f"{loop.steps:,} steps of {loop.batch_size:,} images\n\n{made.to_markdown()}"
    )


if __name__ == "__main__":
    main()
