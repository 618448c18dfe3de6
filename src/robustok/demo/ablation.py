"""`robustok demo --ablate`: the same budget with and without latent perturbation in main training, several seeds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from robustok.data.latent_cache import encode_images
from robustok.demo.config import Demo, DemoImages
from robustok.demo.diary import Diary
from robustok.demo.run import (
    run_demo,
    samples_to_score,
    train_demo_generator,
)
from robustok.demo.scores import how_generated, reference_of
from robustok.evaluation.decoding import decoded
from robustok.evaluation.features.spaces.embedded import lite0
from robustok.evaluation.scores.image_scores import score_pixels
from robustok.evaluation.scores.score import Score
from robustok.evaluation.scores.tokenizer_scores import score_tokenizer
from robustok.generators.sampling import balanced_labels
from robustok.models import load_generator, load_tokenizer
from robustok.report.page import write_report
from robustok.runtime.checkpoint import write_json
from robustok.tokenizer.protocol import kind_of
from robustok.training.tokenizer_training import train_tokenizer

SNAPSHOTS = (0.25, 0.5)  # shares of the generator's training after which it is also scored
METRICS = ("rfid", "rfid_pfid_images", "pfid", "psnr", "gfid_before", "gfid_control", "gfid_after")


def run_ablation(
    config: Demo, out: str | Path, *, seeds: tuple[int, ...] = (0, 1, 2), quiet: bool = False
) -> list[Score]:
    """Run the demo for every seed, and beside it the tokenizer and generator without perturbation.

    `out` itself is the demo of the first seed, seed s after it goes to `out/seed_s`; the other arm is in the folder
    `unperturbed` of each. `out/ablation.json` gathers the records. What was stopped goes on.
    """
    out = Path(out)
    records = []
    for number, seed in enumerate(seeds):
        folder = out if number == 0 else out / f"seed_{seed}"
        records += perturbed_arm(config.with_seed(seed), folder, quiet)
        records += unperturbed_arm(config.with_seed(seed), folder, quiet)
        write_json(out / "ablation.json", [record.to_plain() for record in records])
    write_report(out)
    return records


def perturbed_arm(config: Demo, folder: Path, quiet: bool) -> list[Score]:
    """The demo itself, and gFID of its generator's snapshots."""
    scores = run_demo(config, folder, quiet=quiet)
    tokenizer = load_tokenizer(folder / "tokenizer")
    diary = Diary(folder / "perturbed", {"demo": config.settings()}, quiet)
    with diary.stage("snapshots", f"Seed {config.seed}: gFID in the course of the generator's training"):
        early = snapshot_scores(config, tokenizer, folder, folder, diary, quiet)
    return in_arm("perturbed", config.seed, early + scores)


def unperturbed_arm(config: Demo, folder: Path, quiet: bool) -> list[Score]:
    """Tokenizer and generator with the same budget, but without perturbation."""
    config = config.without_perturbation()
    images, extract, own = DemoImages.of(config), lite0(), folder / "unperturbed"
    diary = Diary(own, {"demo": config.settings()}, quiet)
    with diary.stage("tokenizer", f"Seed {config.seed}: main training without perturbation"):
        tokenizer = train_tokenizer(config.main, images.train, own / "tokenizer", quiet=quiet)
        scores = diary.scores(
            "tokenizer",
            lambda: score_tokenizer(
                tokenizer, images.scored, extract, pfid_images=config.pfid_images, seed=config.seed
            ),
        )
    with diary.stage("generator", f"Seed {config.seed}: its generator"):
        cache = encode_images(tokenizer, images.train, own / kind_of(tokenizer))
        generator = train_demo_generator(config, tokenizer, cache, own / "generator", quiet=quiet)
        early = snapshot_scores(config, tokenizer, own, folder, diary, quiet)
        full = generator_scores(config, tokenizer, generator, own, folder, 1.0, diary, quiet)
    return in_arm("unperturbed", config.seed, scores + early + full)


def snapshot_scores(config: Demo, tokenizer: Any, own: Path, shared: Path, diary: Diary, quiet: bool) -> list[Score]:
    """gFID of the generator as it was after each share of its training in `SNAPSHOTS`."""
    scores = []
    for share in SNAPSHOTS:
        step = round(4 * share) * (config.generator.loop.steps // 4)
        generator = load_generator(own / "generator" / f"step_{step}")
        scores += generator_scores(config, tokenizer, generator, own, shared, share, diary, quiet)
    return scores


def generator_scores(
    config: Demo,
    tokenizer: Any,
    generator: Any,
    own: Path,
    shared: Path,
    share: float,
    diary: Diary,
    quiet: bool,
) -> list[Score]:
    """gFID of a generator, as the demo scores its own: the same seed, labels and reference."""
    images, extract = DemoImages.of(config), lite0()
    labels = balanced_labels(config.scored, len(images.train.classes))

    def compute() -> list[Score]:
        samples = own / f"samples_{share:g}.safetensors"
        drawn = samples_to_score(generator, labels, config, samples, quiet)
        return score_pixels(
            decoded(tokenizer, drawn),
            reference_of(images, shared, extract),
            extract,
            suffix="_before",
            seeds=(config.seed,),
            protocol={**how_generated(config, samples, tokenizer), "generator_share": share},
        )

    return diary.scores(f"generator_{share:g}", compute)


def in_arm(arm: str, seed: int, scores: list[Score]) -> list[Score]:
    """The scores that the ablation compares, marked with the arm and seed that they belong to."""
    return [
        replace(score, protocol={"generator_share": 1.0, **score.protocol, "arm": arm, "seed": seed})
        for score in scores
        if score.metric in METRICS and not score.protocol.get("held_out")
    ]
