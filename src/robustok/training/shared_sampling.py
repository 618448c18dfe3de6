"""Samples of a generator that all processes draw together, and that are kept in a file."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from robustok.generators.generate import AnySampling, sample
from robustok.generators.protocol import GeneratorLike
from robustok.layers import precision as number_format
from robustok.runtime.checkpoint import is_whole, parse_json, save_tensors, short_hash, stored_tensors
from robustok.runtime.configs import to_plain
from robustok.runtime.distributed import from_main, gather, rank, world_size
from robustok.runtime.logging import Progress
from robustok.runtime.seeding import derive
from robustok.shapes import Labels
from robustok.training.optim import Precision, autocast


def sample_together(
    generator: GeneratorLike,
    labels: Labels,
    sampling: AnySampling,
    seed: int,
    progress: Callable[[int], None] | None = None,
    compile: str | None = None,
) -> Tensor:
    """Tokens or latents of one image per label; several processes share the work where there is enough of it.

    Raises ValueError for settings of the other kind of generator, and for one that cannot be compiled where it shall.
    """
    how: dict[str, Any] = {"seed": seed, "compile": compile, "progress": progress}
    if len(labels) < world_size():
        return sample(generator, labels, sampling, **how)
    shares = labels.tensor_split(world_size())
    counts = [len(share) for share in shares]
    return gather(sample(generator, shares[rank()], sampling, first=sum(counts[: rank()]), **how), counts)


def sampled(
    path: Path,
    generator: GeneratorLike,
    labels: Labels,
    sampling: AnySampling,
    seed: int,
    *,
    purpose: str,
    precision: Precision = "auto",
    quiet: bool = False,
) -> Tensor:
    """Freely sampled tokens or latents, one image per label: drawn once, then read back from the file.

    `purpose` is their stream of random numbers and what they are called on the screen. The file says how they were
    drawn, and is written anew where they are to be drawn in another way.
    """
    with autocast(generator.device, precision):
        about = {
            "generator": generator.fingerprint(),
            "labels": short_hash(labels.cpu().numpy().tobytes()),
            "sampling": to_plain(sampling),
            "seed": seed,
            "purpose": purpose,
            "precision": number_format(generator),
        }
        if not from_main(lambda: _holds(path, about)):
            with Progress(purpose, len(labels), quiet=quiet) as progress:
                drawn = sample_together(generator, labels, sampling, derive(seed, purpose), progress.update)
            name = "latents" if drawn.is_floating_point() else "tokens"
            from_main(lambda: save_tensors(path, {name: drawn}, {"drawn": json.dumps(about)}))
    (drawn,) = stored_tensors(path)[0].values()
    return drawn


def sampled_in(path: Path) -> str:
    """The number format in which the generator computed what `sampled` left in a file."""
    return str(_about(path).get("precision", "unknown"))


def _holds(path: Path, about: dict[str, Any]) -> bool:
    """Tell whether the file holds samples that were drawn so, as they were written."""
    if _about(path) != about:
        return False
    with suppress(SafetensorError):
        return is_whole(*stored_tensors(path))
    return False


def _about(path: Path) -> dict[str, Any]:
    """How the samples in a file were drawn; nothing where there is none, or one that does not say or was damaged."""
    with suppress(OSError, SafetensorError, ValueError), safe_open(path, framework="pt") as file:
        return parse_json((file.metadata() or {}).get("drawn", "{}"))
    return {}
