"""Sampling from a generator of any kind: tokens as `sampling` or `unmasking` says, latents as `flow` says."""

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor

from robustok.generators.compiled import memory_of
from robustok.generators.fit import check_sampling
from robustok.generators.flow import FlowSampling, sample_latents
from robustok.generators.protocol import GeneratorLike
from robustok.generators.sampling import Sampling, sample_tokens
from robustok.generators.unmasking import MaskedSampling, sample_masked
from robustok.layers import evaluating
from robustok.shapes import Labels, TokenMask

AnySampling: TypeAlias = Sampling | MaskedSampling | FlowSampling


def plain_sampling(generator: object) -> AnySampling:
    """The plain way to sample a generator, or a class of them: no guidance, nothing cut off."""
    kinds: tuple[type[AnySampling], ...] = (Sampling, MaskedSampling, FlowSampling)
    return next(kind() for kind in kinds if hasattr(generator, kind.asks))


def sample(
    generator: GeneratorLike,
    labels: Labels,
    sampling: AnySampling,
    *,
    seed: int,
    first: int = 0,
    start: Tensor | None = None,
    keep: TokenMask | None = None,
    level: float = 1.0,
    one_pass: bool = False,
    null_class: bool = False,
    batch_size: int | None = None,
    compile: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Tokens (b n) or latents (b n d) of one image per label, on the labels' device.

    Image i depends on (seed, first + i) alone. `start` are tokens or latents of real images: tokens stay where `keep`
    is true, latents are noised to `level` and followed from there, or guessed from there in `one_pass`. `null_class`
    lets the generator's own be a label. `compile` is a backend of `torch.compile`, for generators that `sample_tokens`
    can compile. `progress` is told how many images are done. Raises ValueError for settings of another kind of
    generator, for others to be compiled, and what `sample_tokens`, `sample_masked` and `sample_latents` raise, which do
    the work.
    """
    check_sampling(generator, sampling)
    if not isinstance(compile, str | None):
        raise ValueError(f"compile is {compile!r}; name a backend of torch.compile, such as 'inductor', or give None")
    if compile is not None:
        memory_of(generator)  # which says what cannot be compiled
    how: dict[str, Any] = {"seed": seed, "first": first, "null_class": null_class, "progress": progress}
    how |= {} if batch_size is None else {"batch_size": batch_size}
    with evaluating(generator):
        if isinstance(sampling, MaskedSampling):
            return sample_masked(generator, labels, sampling, keep=keep, tokens=start, **how)
        if isinstance(sampling, Sampling):
            return sample_tokens(generator, labels, sampling, keep=keep, tokens=start, compile=compile, **how)
        return sample_latents(generator, labels, sampling, start=start, level=level, one_pass=one_pass, **how)
