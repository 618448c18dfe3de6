"""The same demo with and without latent perturbation in main training, several seeds each.

`run_ablation` (`robustok demo --ablate`) follows one kind of latent through the generator's training; `run_factorial`
(`--corners`) is 2 x 2 x 3: {discrete, continuous} x {without, with perturbation} x {before, control, after}.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from robustok.data.latent_cache import encode_images
from robustok.demo.config import Demo, DemoImages
from robustok.demo.run import run_demo, samples_to_score, train_demo_generator
from robustok.demo.run_state import RunState
from robustok.demo.scores import how_generated, reconstruction_scores, reference_of
from robustok.evaluation.decoding import decoded
from robustok.evaluation.features.spaces.embedded import lite0
from robustok.evaluation.scores.image_scores import score_pixels
from robustok.evaluation.scores.intervals import seeds_interval
from robustok.evaluation.scores.metric_names import VARIANTS
from robustok.evaluation.scores.score import Score
from robustok.generators.sampling import balanced_labels
from robustok.models import load_generator, load_tokenizer
from robustok.report.page import write_report
from robustok.report.table import Column, Table
from robustok.report.text import BLANK, MINUS
from robustok.runtime.checkpoint import write_bytes, write_json
from robustok.runtime.configs import to_plain
from robustok.tokenizer.protocol import kind_of
from robustok.training.tokenizer_training import train_tokenizer

SNAPSHOTS = (0.25, 0.5)  # fractions of the generator's training after which it is also scored
METRICS = ("rfid", "rfid_pfid_images", "pfid", *(f"gfid_{decoder}" for decoder in VARIANTS))


def run_ablation(
    config: Demo, out: str | Path, *, seeds: tuple[int, ...] = (0, 1, 2), quiet: bool = False
) -> list[Score]:
    """Run the demo for every seed, and beside it the tokenizer and generator without perturbation.

    `out` itself is the demo of the first seed, seed s after it goes to `out/seed_s`; what is without perturbation is in
    the folder `unperturbed` of each. `out/ablation.json` gathers the records. What was stopped goes on.
    """
    out, records = Path(out), list[Score]()
    for number, seed in enumerate(seeds):
        demo, folder = config.with_seed(seed), out if number == 0 else out / f"seed_{seed}"
        for name, scores in (("perturbed", perturbed), ("unperturbed", unperturbed)):
            where = {"arm": name, "seed": seed}
            records += marked(scores(demo, folder, quiet), (*METRICS, "psnr"), where, generator_share=1.0)
        write_json(out / "ablation.json", [record.to_plain() for record in records])
    write_report(out)
    return records


def marked(scores: Iterable[Score], metrics: Sequence[str], where: Mapping[str, Any], **unless: Any) -> list[Score]:
    """Those scores that are compared, in the space that was trained in, their protocols saying where they belong."""
    return [
        replace(score, protocol={**unless, **score.protocol, **where})
        for score in scores
        if score.metric in metrics and not score.protocol.get("held_out")
    ]


def perturbed(config: Demo, folder: Path, quiet: bool) -> list[Score]:
    """The demo itself, and gFID of its generator's snapshots."""
    scores = run_demo(config, folder, quiet=quiet)
    variant = Variant(config, folder, folder, RunState(folder / "perturbed", {"demo": to_plain(config)}, quiet))
    with variant.state.stage("snapshots", f"Seed {config.seed}: gFID in the course of the generator's training"):
        return variant.snapshot_scores(load_tokenizer(folder / "tokenizer")) + scores


def unperturbed(config: Demo, folder: Path, quiet: bool) -> list[Score]:
    """Tokenizer and generator with the same budget, but without perturbation."""
    config, own = config.without_perturbation(), folder / "unperturbed"
    images, state = DemoImages.of(config), RunState(own, {"demo": to_plain(config)}, quiet)
    variant = Variant(config, own, folder, state)
    with state.stage("tokenizer", f"Seed {config.seed}: main training without perturbation"):
        tokenizer = train_tokenizer(config.main, images.train, own / "tokenizer", quiet=quiet)
        scores = state.scores("tokenizer", lambda: reconstruction_scores(config, tokenizer, images, lite0()))
    with state.stage("generator", f"Seed {config.seed}: its generator"):
        cache = encode_images(tokenizer, images.train, own / kind_of(tokenizer))
        generator = train_demo_generator(config, tokenizer, cache, own / "generator", quiet=quiet)
        early = variant.snapshot_scores(tokenizer)
        return scores + early + variant.generator_scores(tokenizer, generator, 1.0)


@dataclass(frozen=True)
class Variant:
    """A demo with or without perturbation, and where it is."""

    config: Demo
    own: Path  # its generator and samples
    shared: Path  # the reference
    state: RunState

    def snapshot_scores(self, tokenizer: Any) -> list[Score]:
        """gFID of the generator as it was after each fraction of its training in `SNAPSHOTS`."""
        scores = []
        for fraction in SNAPSHOTS:
            step = round(4 * fraction) * (self.config.generator.loop.steps // 4)
            generator = load_generator(self.own / "generator" / f"step_{step}")
            scores += self.generator_scores(tokenizer, generator, fraction)
        return scores

    def generator_scores(self, tokenizer: Any, generator: Any, fraction: float) -> list[Score]:
        """gFID of a generator, as the demo scores its own: the same seed, labels and reference."""
        config, images, extract = self.config, DemoImages.of(self.config), lite0()
        labels = balanced_labels(config.scored, len(images.train.classes))
        samples = self.own / f"samples_{fraction:g}.safetensors"

        def compute() -> list[Score]:
            drawn = samples_to_score(generator, labels, config, samples, self.state.quiet)
            return score_pixels(
                decoded(tokenizer, drawn),
                reference_of(images, self.shared, extract),
                extract,
                suffix="_before",
                seeds=(config.seed,),
                protocol={**how_generated(config, samples, tokenizer), "generator_share": fraction},
            )

        return self.state.scores(f"generator_{fraction:g}", compute)


def run_factorial(
    demos: Mapping[str, Demo], out: str | Path, *, seeds: tuple[int, ...] = (0, 1, 2), quiet: bool = False
) -> list[Score]:
    """Run every kind of latent, `demos` has a demo for each, without and with perturbation, for every seed.

    Writes a demo into `out/{kind}_{variant}_{seed}` each, so that what was stopped goes on, the gathered scores into
    `out/corners.json`, and the table into `out/corners.md` anew after each of them. Returns the scores, whose protocols
    name kind, variant (`arm`) and seed.
    """
    out, records = Path(out), list[Score]()
    for seed in seeds:
        for kind, demo in demos.items():
            for variant, config in (("unperturbed", demo.without_perturbation()), ("perturbed", demo)):
                scores = run_demo(config.with_seed(seed), out / f"{kind}_{variant}_{seed}", quiet=quiet)
                records += marked(scores, (*METRICS, "ifid"), {"kind": kind, "arm": variant, "seed": seed})
                write_json(out / "corners.json", [record.to_plain() for record in records])
                write_bytes(out / "corners.md", factorial_table(records).encode())
    return records


def factorial_table(records: list[Score]) -> str:
    """Markdown: a row for each kind and variant, every cell the mean over seeds with its 95 % interval (Student's t).

    The changes are taken seed by seed, of the same latents, in percent.
    """
    rows = []
    for kind, variant in dict.fromkeys((r.protocol["kind"], r.protocol["arm"]) for r in records):
        of = [r for r in records if (r.protocol["kind"], r.protocol["arm"]) == (kind, variant)]
        by_metric = {metric: {r.protocol["seed"]: r.value for r in of if r.metric == metric} for metric in METRICS}
        cells = [_mean(list(values.values())) for values in by_metric.values()]
        before, control, after = (by_metric[f"gfid_{decoder}"] for decoder in VARIANTS)
        for other in (before, control):
            shared = sorted(after.keys() & other.keys())
            cells.append(_mean([100 * (after[seed] / other[seed] - 1) for seed in shared], signed=True))
        trained = "with perturbation" if variant == "perturbed" else "without perturbation"
        rows.append([kind, trained, *cells, len(after)])
    heads = ["rFID", "rFID of pFID's images", "pFID", *(f"gFID {decoder}" for decoder in VARIANTS)]
    heads += ["after / before", "after / control", "seeds"]
    return Table(columns=["latent", Column("main training", left=True), *heads], rows=rows).to_markdown()


def _mean(values: list[float], *, signed: bool = False) -> str:
    """`123.4 (120.1 to 126.7)`, of one seed without an interval."""
    sign, unit = ("+", " %") if signed else ("", "")
    if not values:
        return BLANK
    if len(values) == 1:
        return f"{values[0]:{sign}.1f}{unit}".replace("-", MINUS)
    mean, (low, high) = seeds_interval(values)
    return f"{mean:{sign}.1f}{unit} ({low:{sign}.1f} to {high:{sign}.1f})".replace("-", MINUS)
