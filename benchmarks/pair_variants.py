"""Pairs for post-training of a continuous decoder: full SDEdit against ways that cost a fraction of it.

    robustok demo --latent continuous --out OUT
    python benchmarks/pair_variants.py OUT [SEED ...]

All variants start from the same real latents with the same noise. SDEdit follows the generator from there, as it will
be sampled, and ends in samples; one pass takes the generator's guess at the data, a mean, which is smoother. Every
decoder is tuned by the demo's own recipe, for as many steps, and decodes the same generated latents. Everything goes to
OUT/pair_variants/SEED; what is there is not done again.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from robustok.api import load_generator, load_tokenizer
from robustok.data.latent_cache import LatentCache
from robustok.data.pairs import PairMode, Pairs, make_pairs
from robustok.demo.config import Demo, DemoImages
from robustok.evaluation.decoding import decoded
from robustok.evaluation.features.spaces.embedded import lite0
from robustok.evaluation.scores.difference import paired_difference
from robustok.evaluation.scores.feature_stream import FeatureStream, feature_stream
from robustok.evaluation.scores.reference import Reference
from robustok.generators.flow import FlowSampling
from robustok.runtime.checkpoint import read_json, write_json
from robustok.runtime.configs import from_plain
from robustok.runtime.logging import Progress
from robustok.runtime.seeding import derive
from robustok.training.decoder_stage import train_decoder
from robustok.training.held_out import HeldOut
from robustok.training.optim import autocast

SPREAD = 0.2  # mixed levels: a third of the pairs each at sigma - SPREAD, sigma and sigma + SPREAD
FEWER = 5  # the short SDEdit takes one in so many steps


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A way to make pairs."""

    name: str
    sigmas: tuple[float, ...]  # preservation ratios, each of an equal share of the pairs
    mode: PairMode = "sdedit"
    sampling: FlowSampling


def variants(config: Demo) -> list[Variant]:
    """The control, full SDEdit, and what is cheaper."""
    sigma, full = config.post.sigma, config.post.sampling
    assert isinstance(full, FlowSampling), "pairs of tokens are not made by SDEdit"
    short = replace(full, steps=max(1, full.steps // FEWER))
    mixed = tuple(min(max(sigma + step, 0.05), 0.95) for step in (-SPREAD, 0.0, SPREAD))
    return [
        Variant(name="clean latents", sigmas=(1.0,), sampling=full),
        Variant(name="SDEdit", sigmas=(sigma,), sampling=full),
        Variant(name="SDEdit, fewer steps", sigmas=(sigma,), sampling=short),
        Variant(name="SDEdit, mixed levels", sigmas=mixed, sampling=full),
        Variant(name="one pass", sigmas=(sigma,), mode="one-pass", sampling=full),
        Variant(name="one pass, mixed levels", sigmas=mixed, mode="one-pass", sampling=full),
    ]


class Cost(NamedTuple):
    """What pairs took and what they are."""

    passes: float  # latents that went through the generator, for each pair
    seconds: float
    distance: float  # root mean square from the real latents, in standard deviations of those
    deviation: float  # standard deviation about each position's mean, over that of the real latents


class Bench:
    """A finished demo, and the decoders that are tuned with it."""

    def __init__(self, out: Path):
        self.out, self.config = out, from_plain(Demo, read_json(out / "config.json"))
        self.tokenizer = load_tokenizer(out / "tokenizer")
        self.generator = load_generator(out / "generator", tokenizer=self.tokenizer)
        self.images, self.extract = DemoImages.of(self.config), lite0()
        self.cache = LatentCache(out / "latents", self.tokenizer)
        self.drawn = load_file(out / "samples.safetensors")["latents"]
        fresh = load_file(out / "post_training" / "held_out.safetensors")["latents"]
        real = Reference.of(self.images.held_out, self.extract).stats
        self.held_out = HeldOut(self.tokenizer, fresh, real, self.extract)
        self.reference = Reference.load(out / "reference.safetensors")

    def pairs(self, variant: Variant, folder: Path, seed: int) -> tuple[Pairs, Cost]:
        """The pairs of a variant, and what they cost when they were made."""
        passed = 0

        def passing(module: Any, inputs: Any, output: Tensor) -> None:
            nonlocal passed
            passed += len(output)

        count, known = self.config.post.pairs // len(variant.sigmas), folder / "cost.json"
        hook, began = self.generator.register_forward_hook(passing), perf_counter()
        folders = [folder / f"pairs_{sigma:g}" for sigma in variant.sigmas]
        for sigma, place in zip(variant.sigmas, folders, strict=True):
            with (
                Progress(f"{variant.name}, sigma {sigma:g}", count) as progress,
                autocast(self.generator.device, self.config.post.sampling_precision),
            ):
                make_pairs(
                    self.generator,
                    self.cache,
                    place,
                    sigma=sigma,
                    sampling=variant.sampling,
                    count=count,
                    seed=seed if len(variant.sigmas) == 1 else derive(seed, f"sigma {sigma:g}"),
                    mode=variant.mode,
                    progress=progress.update,
                )
        hook.remove()
        pairs = Pairs(*folders)
        if not known.exists():
            cost = self._cost(pairs, passed / len(pairs), perf_counter() - began)
            write_json(known, cost._asdict())
        return pairs, Cost(**read_json(known))

    def _cost(self, pairs: Pairs, passes: float, seconds: float) -> Cost:
        pair = pairs.batch(torch.arange(len(pairs)))
        own = self.cache.plain(pair.images)
        apart = (pair.generated - own).square().mean().sqrt() / own.std()
        deviation = pair.generated.std(dim=0).square().mean().sqrt() / own.std(dim=0).square().mean().sqrt()
        return Cost(passes, seconds, apart.item(), deviation.item())

    def stream(self, tokenizer: Any) -> FeatureStream:
        """Features of the generated latents as a tokenizer decodes them."""
        return feature_stream(decoded(tokenizer, self.drawn), self.extract)

    def tuned(self, variant: Variant, seed: int) -> tuple[Cost, Any]:
        """What the pairs cost, and what post-training on them came to."""
        folder = self.out / "pair_variants" / str(seed) / variant.name.replace(", ", "_").replace(" ", "_")
        pairs, cost = self.pairs(variant, folder, seed)
        post = replace(self.config.post, loop=replace(self.config.post.loop, seed=seed))
        discriminator = self.out / "tokenizer" / "discriminator"
        return cost, train_decoder(
            post,
            self.tokenizer,
            pairs,
            self.images.train,
            folder / "run",
            held_out=self.held_out,
            discriminator=discriminator if discriminator.is_dir() else None,
            name=variant.name,
        )

    def rows(self, seed: int) -> list[dict[str, Any]]:
        """All variants with one seed of pairs and of post-training."""
        before, streams, rows = self.stream(self.tokenizer), dict[str, FeatureStream](), []
        for variant in variants(self.config):
            cost, result = self.tuned(variant, seed)
            streams[variant.name] = stream = self.stream(result.tokenizer)
            change = paired_difference(before, stream, self.reference)
            rows.append(
                {"variant": variant.name, "seed": seed, "sigmas": variant.sigmas, **cost._asdict()}
                | {"heldout_before": result.before, "heldout_after": result.after, "step": result.step}
                | {"gfid_before": change.before, "gfid_after": change.after, "interval": change.interval}
                | {"sampling": asdict(variant.sampling), "mode": variant.mode}
            )
        full = streams["SDEdit"]
        for row in rows:
            against = paired_difference(full, streams[row["variant"]], self.reference)
            row |= {"against_sdedit": against.value, "against_sdedit_interval": against.interval}
        return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line for every variant and seed, in Markdown."""
    lines = [
        "| pairs | seed | passes | seconds | distance | deviation | held-out FD | gFID before -> after (95 %) "
        "| against SDEdit (95 %) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["interval"]
        below, above = row["against_sdedit_interval"]
        lines.append(
            f"| {row['variant']} | {row['seed']} | {row['passes']:.1f} | {row['seconds']:.0f} | {row['distance']:.3f} "
            f"| {row['deviation']:.3f} | {row['heldout_before']:.2f} -> {row['heldout_after']:.2f} "
            f"| {row['gfid_before']:.2f} -> {row['gfid_after']:.2f} ({low:+.2f} to {high:+.2f}) "
            f"| {row['against_sdedit']:+.2f} ({below:+.2f} to {above:+.2f}) |"
        )
    return "\n".join(lines)


def main() -> None:
    out, seeds = Path(sys.argv[1]), [int(seed) for seed in sys.argv[2:]] or [0]
    bench = Bench(out)
    rows = [row for seed in seeds for row in bench.rows(seed)]
    write_json(out / "pair_variants" / "rows.json", rows)
    print(table(rows))


if __name__ == "__main__":
    main()
