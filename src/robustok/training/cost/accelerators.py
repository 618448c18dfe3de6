"""Kinds of GPU: what a data sheet says of each.

Peaks are of dense products, added up in float32; data sheets that give peaks with sparsity give twice as much. A GB is
10^9 bytes, of memory too: of what a card has on top, driver, CUDA context, NCCL and fragmentation take about as much.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """A kind of GPU."""

    bf16: float  # TFLOP/s, at most
    tf32: float  # TFLOP/s, at most
    fp32: float  # TFLOP/s, at most, of what is not allowed to be TF32
    memory: float  # GB
    bandwidth: float  # of its memory, GB/s
    link: float  # to the other GPUs of its machine, GB/s each way
    per_machine: int = 8  # GPUs that a machine has, as a rule
    source: str = ""  # where that was published

    def __post_init__(self) -> None:
        for name in ("bf16", "tf32", "fp32", "memory", "bandwidth", "link", "per_machine"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} of a GPU is {getattr(self, name)}; it must be more than 0")


H100 = "https://www.nvidia.com/en-us/data-center/h100/"
H200 = "https://www.nvidia.com/en-us/data-center/h200/"
B200 = "https://www.nvidia.com/en-us/data-center/hgx/"
A100 = "https://www.nvidia.com/en-us/data-center/a100/"
L40S = "https://www.nvidia.com/en-us/data-center/l40s/"
ADA = "https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf"
GA102 = "https://www.nvidia.com/content/PDF/nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.pdf"

# fmt: off
ACCELERATORS = {
    "H100":      Accelerator(bf16=989.4, tf32=494.7, fp32=66.9, memory=80,  bandwidth=3350, link=450, source=H100),
    "H100-PCIe": Accelerator(bf16=756.5, tf32=378.2, fp32=51.2, memory=80,  bandwidth=2000, link=64,  source=H100),
    "H200":      Accelerator(bf16=989.4, tf32=494.7, fp32=66.9, memory=141, bandwidth=4800, link=450, source=H200),
    "B200":      Accelerator(bf16=2250,  tf32=1125,  fp32=75,   memory=180, bandwidth=8000, link=900, source=B200),
    "A100":      Accelerator(bf16=312,   tf32=156,   fp32=19.5, memory=80,  bandwidth=2039, link=300, source=A100),
    "A100-40":   Accelerator(bf16=312,   tf32=156,   fp32=19.5, memory=40,  bandwidth=1555, link=300, source=A100),
    "L40S":      Accelerator(bf16=362,   tf32=183,   fp32=91.6, memory=48,  bandwidth=864,  link=32,  source=L40S),
    "RTX-4090":  Accelerator(bf16=165.2, tf32=82.6,  fp32=82.6, memory=24,  bandwidth=1008, link=32,  source=ADA),
    "RTX-3090":  Accelerator(bf16=71,    tf32=35.6,  fp32=35.6, memory=24,  bandwidth=936,  link=32,  source=GA102),
}
# fmt: on


def accelerator(name: str) -> Accelerator:
    """The GPU of a name, in capitals or not. Raises ValueError for an unknown one, with the list."""
    known = {kind.lower(): data for kind, data in ACCELERATORS.items()}
    if name.lower() not in known:
        raise ValueError(
            f"no data of a GPU {name!r}; choose from {', '.join(ACCELERATORS)}, or describe yours with "
            "--peak-tflops and --memory-gb"
        )
    return known[name.lower()]
