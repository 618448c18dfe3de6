"""From counted work to seconds, bytes and hours on so many GPUs.

A step takes the time of its products at a share of the card's peak, and that of its exchanges as far as nothing hides
them: gradients travel while backward goes on. The share stands for everything that is no product: memory-bound
operations, kernel starts, waiting for images. 0.4 is what a transformer of such a size is expected to reach when it is
compiled; `benchmarks/training_steps.py` measures it where a GPU is at hand.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from robustok.runtime.distributed import BUCKET
from robustok.training.cost.accelerators import Accelerator
from robustok.training.cost.counted_step import CountedStep

SHARE = 0.4  # of the peak, unless another is given
USABLE = 0.95  # of a card's memory; the allocator loses some to gaps
WIRE = 0.75  # of a link's speed that collectives reach
HOP = 2e-5  # seconds that a message takes between machines, whatever its size
BACKWARD = 2 / 3  # of a step's products, behind which gradients travel
NETWORK = 50.0  # GB/s of a GPU to other machines: 400 Gbit/s, one adapter for each GPU
Strategy = Literal["ddp", "fsdp"]


@dataclass(frozen=True, kw_only=True)
class Work:
    """A run as its preset has it, apart from what a step computes."""

    steps: int
    batch_size: int  # images of a step, over all GPUs
    accumulate: int = 1  # parts that it is worked through in, at least
    gathered: int = 0  # bytes for each image of the global batch that every GPU gets of all others


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What it runs on."""

    gpu: Accelerator
    gpus: int
    share: float = SHARE  # of the GPU's peak that products reach
    network: float = NETWORK  # GB/s of each GPU to other machines

    def __post_init__(self) -> None:
        if self.gpus < 1:
            raise ValueError(f"{self.gpus} GPUs; a run needs at least 1")
        if not 0 < self.share <= 1:
            raise ValueError(f"the share of the peak is {self.share}; it is above 0 and at most 1, for example 0.4")
        if self.network <= 0:
            raise ValueError(f"the network moves {self.network} GB/s; it must be more than 0, 50 is 400 Gbit/s")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What one run costs. Bytes are of one GPU unless said otherwise."""

    gpus: int
    batch_per_gpu: int  # images that a GPU works on at once
    accumulate: int  # times that it does so in a step
    strategy: Strategy
    memory: dict[str, float]  # bytes, by what they are for
    fits: bool
    flops_per_image: int
    seconds_computing: float  # of a step
    seconds_moving: float  # of a step, to read and write what each operation does, were none fused
    seconds_exchanging: float  # of a step, all told
    seconds_exposed: float  # of these, the ones that nothing hides
    traffic: float  # bytes that a GPU sends in a step, as many as it receives
    images_per_second: float  # of all GPUs together
    hours: float
    checkpoint: float  # bytes of a file to go on from
    model: float  # bytes of the weights alone

    @property
    def gpu_hours(self) -> float:
        return self.hours * self.gpus

    def plain(self) -> dict[str, Any]:
        """Every number, for JSON."""
        return asdict(self) | {"gpu_hours": self.gpu_hours}


@dataclass(frozen=True)
class PeakMemory:
    """Bytes on top of what a process holds, as a straight line over the batch: exact where nothing is shared."""

    fixed: float
    per_image: float

    @classmethod
    def through(cls, small: CountedStep, large: CountedStep) -> "PeakMemory":
        slope = (large.counted.peak - small.counted.peak) / (large.batch - small.batch)
        return cls(small.counted.peak - slope * small.batch, slope)

    def at(self, batch: int) -> float:
        return self.fixed + self.per_image * batch


def memory(step: CountedStep, peak: PeakMemory, batch: int, gpus: int, strategy: Strategy) -> dict[str, float]:
    """Bytes of a process at a batch, by what they are for.

    FSDP cuts weights, gradients, moments and average over the processes; two units are whole at a time, one that
    computes in bfloat16 and the next one on its way, and the gradient of one in float32.
    """
    held = step.held._asdict()
    if strategy == "fsdp" and gpus > 1:
        held |= {name: held[name] / gpus for name in ("weights", "gradients", "moments", "average")}
        held["units"] = (2 * 2 + 4) * step.largest_unit
    elif gpus > 1:
        held["on their way"] = step.held.gradients  # a copy of the gradients, from bucket to bucket
    return held | {"activations": peak.at(batch)}


def largest_batch(step: CountedStep, peak: PeakMemory, cluster: Cluster, strategy: Strategy) -> int:
    """Images that fit on a GPU at once; 0 where not even one does."""
    room = USABLE * 1e9 * cluster.gpu.memory - sum(memory(step, peak, 0, cluster.gpus, strategy).values())
    return max(0, math.floor(room / peak.per_image))


def estimate(
    counted: Sequence[CountedStep],
    work: Work,
    cluster: Cluster,
    *,
    strategy: Strategy = "ddp",
    batch_per_gpu: int | None = None,
) -> Estimate:
    """The cost of a run, from its step counted at two batches.

    Without `batch_per_gpu` a GPU takes its share of the global batch in as few equal parts as fit, but in as many as
    the run asks for at least. Raises ValueError where there are more GPUs than images in a step.
    """
    small, large = counted
    peak = PeakMemory.through(small, large)
    share = work.batch_size // cluster.gpus
    if share < 1:
        raise ValueError(
            f"{cluster.gpus} GPUs cannot share a batch of {work.batch_size} images; take {work.batch_size} at most, or "
            "set a larger loop.batch_size and find its learning rate"
        )
    if batch_per_gpu is None:
        fitting = largest_batch(large, peak, cluster, strategy)
        parts = max(work.accumulate, math.ceil(share / max(1, fitting)))
        batch_per_gpu = math.ceil(share / parts)
    batch_per_gpu = min(batch_per_gpu, share)
    accumulate = math.ceil(share / batch_per_gpu)
    needed = memory(large, peak, batch_per_gpu, cluster.gpus, strategy)
    computing = share * seconds_for(large, cluster) / large.batch
    exchanging, traffic = exchanges(large, work, cluster, strategy, accumulate)
    exposed = exchanging - hidden(computing, accumulate, exchanging, strategy)
    seconds = computing + exposed
    held = large.held
    return Estimate(
        gpus=cluster.gpus,
        batch_per_gpu=batch_per_gpu,
        accumulate=accumulate,
        strategy=strategy,
        memory=needed,
        fits=sum(needed.values()) <= USABLE * 1e9 * cluster.gpu.memory,
        flops_per_image=large.flops // large.batch,
        seconds_computing=computing,
        seconds_moving=share * large.counted.moved / large.batch / (1e9 * cluster.gpu.bandwidth),
        seconds_exchanging=exchanging,
        seconds_exposed=exposed,
        traffic=traffic,
        images_per_second=work.batch_size / seconds,
        hours=work.steps * seconds / 3600,
        checkpoint=held.weights + held.moments + held.average + held.discriminator * 3 / 4,
        model=held.average,
    )


def seconds_for(step: CountedStep, cluster: Cluster) -> float:
    """Time of a counted step's products, at a share of the peak of the units that do them."""
    peaks = {"bf16": cluster.gpu.bf16, "tf32": cluster.gpu.tf32, "fp32": cluster.gpu.fp32}
    return sum(count / (cluster.share * 1e12 * peaks[kind]) for kind, count in step.counted.flops.items())


def hidden(computing: float, accumulate: int, exchanging: float, strategy: Strategy) -> float:
    """Seconds of exchanges that go on behind products.

    DDP: behind the backward pass of the last part of a batch. FSDP: behind both passes of every part.
    """
    window = computing if strategy == "fsdp" else BACKWARD * computing / accumulate
    return min(exchanging, window)


def exchanges(
    step: CountedStep, work: Work, cluster: Cluster, strategy: Strategy, accumulate: int
) -> tuple[float, float]:
    """(seconds, bytes that a GPU sends) of a step's exchanges.

    DDP: gradients are summed once a step, in float32. FSDP: in every part of the batch weights are gathered forward and
    backward in bfloat16, and gradients scattered in float32; the discriminator is not cut. All: what losses gather.
    """
    gpus, held = cluster.gpus, step.held
    if gpus == 1:
        return 0.0, 0.0
    summed = held.discriminator / 4  # its gradients, beside weights and two moments
    passed = float(work.gathered * work.batch_size)
    if strategy == "ddp":
        summed += held.gradients
    else:
        passed += accumulate * (2 * held.weights / 2 + held.gradients)
    sent = (2 * summed + passed) * (gpus - 1) / gpus
    return all_reduce_seconds(summed, cluster) + all_reduce_seconds(passed, cluster) / 2, sent


def all_reduce_seconds(size: float, cluster: Cluster) -> float:
    """Time to sum `size` bytes over all GPUs; to gather or to scatter them takes half of it.

    Within a machine each GPU first sums its part, then the parts are summed over machines, each GPU over an adapter of
    its own, then they are gathered within the machine. Every bucket waits for messages up and down a tree of machines.
    """
    inside = min(cluster.gpus, cluster.gpu.per_machine)
    machines = math.ceil(cluster.gpus / inside)
    within = 2 * size * (inside - 1) / inside / (WIRE * 1e9 * cluster.gpu.link)
    across = 2 * size / inside * (machines - 1) / machines / (WIRE * 1e9 * cluster.network)
    waiting = 2 * math.ceil(math.log2(machines)) * HOP * math.ceil(size / BUCKET) if machines > 1 else 0.0
    return within + across + waiting
