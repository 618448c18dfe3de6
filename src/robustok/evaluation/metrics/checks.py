"""The check that metrics of two sets of features share."""

from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

Generated: TypeAlias = Float[Tensor, "generated f"]
Real: TypeAlias = Float[Tensor, "real f"]


def check_sets(generated: Generated, real: Real, *, least: tuple[int, int] = (2, 2)) -> None:
    """Raises ValueError for features of two spaces, NaN or infinity, and fewer images than `least` on either side."""
    if generated.shape[1] != real.shape[1]:
        raise ValueError(
            f"generated features have {generated.shape[1]} numbers and real ones {real.shape[1]}; "
            "compute both with the same extractor"
        )
    for name, features, count in zip(("generated", "real"), (generated, real), least, strict=True):
        if len(features) < count:
            raise ValueError(f"there are too few {name} images, {len(features)}; give {count} or more")
        if not features.isfinite().all():
            raise ValueError(f"{name} features hold NaN or infinity; look for broken images")
