"""Does a second phase on perturbed latents make a decoder that generates better? One latent space, one generator.

    python benchmarks/second_phases.py run runs/post_training docs/studies/second_phases --seed 0
    python benchmarks/second_phases.py run runs/post_training docs/studies/second_phases --seed 1 --longer 3000
    python benchmarks/second_phases.py page docs/studies/second_phases

An autoencoder is trained without perturbation and a diffusion transformer on its latents, both as the continuous demo
has them (they are those of `post_training_bakeoff.py --corner "latents, unperturbed"`, and lie in the same folder).
Then the decoder alone is trained on, as long in each arm: on clean latents, on noised ones, or on those that a pilot
generator followed back from noise. None of these sees the generator; all decode its same samples. Last, the original
decoder and some arms' are post-trained for it, as the demo does. `--longer` trains another generator of the same
latents, for more steps, and scores what the finished decoders make of its samples. One JSON file for each arm and seed;
what is finished is not done again.
"""

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import post_training_page
import torch
from main_training_scores import Notes
from main_training_study import circumstances
from post_training_arms import CLEAN, CORNERS, ORIGINAL, Size, configured, file_name
from post_training_bakeoff import Judge, Models, measure, once, train_demo, unfinished
from post_training_bakeoff import run_arm as post_train_arm

from robustok import load_generator, load_tokenizer
from robustok.demo.run import train_demo_generator
from robustok.evaluation.decoding import decoded, encoded
from robustok.evaluation.metrics.fid import frechet_distance
from robustok.evaluation.metrics.pixelwise import psnr
from robustok.presets.scales import varied
from robustok.runtime.checkpoint import parse_json, read_json, write_json
from robustok.runtime.configs import to_plain
from robustok.tokenizer.latent_perturbation import LatentNoise
from robustok.training.optim import Optim
from robustok.training.rehearsal import RehearsedLatents
from robustok.training.tokenizer_training import TokenizerTraining, train_tokenizer

CORNER = "latents, unperturbed"
NOISE = LatentNoise(beta=1.0, strength=0.5, latent_space="frozen", freeze_from=0.0)
ARMS: dict[str, LatentNoise | RehearsedLatents | None] = {
    ORIGINAL: None,
    CLEAN: replace(NOISE, beta=0.0),
    "noise": NOISE,
    "rehearsed": RehearsedLatents(freeze_from=0.0),
}
POST_TRAINED = {f"{arm}, post-trained": arm for arm in ARMS}  # and what each begins with
HEAD = """# A second phase on perturbed latents, for one latent space and one generator

*Written by `benchmarks/second_phases.py page` from the JSON files beside it; do not edit.*

An autoencoder of the continuous demo, trained without perturbation, and a diffusion transformer on its latents. Then
the decoder alone is trained on for 500 steps with a fresh discriminator, on clean latents (the control), on latents
with noise (`LatentNoise`, up to half), or on latents that a pilot generator followed back from as much noise
(`RehearsedLatents`). None of these sees the generator. All decoders of a seed decode its same 2,000 samples, 10,000
validation images score them, and nothing is chosen: the last average is what is scored. *Post-trained*: the arm's
decoder after 500 steps of the demo's post-training for that generator, on pairs that keep half, its step chosen by
held-out training images. What a second phase still gains then is its change against the clean one, post-trained,
which had as many steps.
"""


def control_of(arm: str) -> str | None:
    """The arm that one is held against."""
    if arm in POST_TRAINED:
        before = {ORIGINAL: None, CLEAN: f"{ORIGINAL}, post-trained"}
        return before.get(POST_TRAINED[arm], f"{CLEAN}, post-trained")
    return None if arm in (ORIGINAL, CLEAN) else CLEAN


def second_phase(arm: LatentNoise | RehearsedLatents, main: TokenizerTraining, steps: int) -> TokenizerTraining:
    """Main training of a finished tokenizer's decoder alone."""
    adversary = replace(main.objective.adversary, disc_start=0.0, gan_start=0.1)
    return replace(
        main,
        tokenizer=None,
        perturbation=arm,
        loop=replace(main.loop, steps=steps, save_every=max(1, steps // 4), preview_every=0),
        objective=replace(main.objective, adversary=adversary),
        optim=Optim(lr=main.optim.lr / 2, warmup=20, final_lr_fraction=0.05),
    )


def run_arm(arm: str, main: TokenizerTraining, models: Models, runs: Path, results: Path) -> None:
    """Train one arm's decoder on and measure it; what was finished before is not done again."""
    judge, name = models.judge, named(arm, models.seed)
    with unfinished(name, runs, results) as ours:
        if not ours:
            return
        print(f"{arm}, seed {models.seed}", flush=True)
        notes = Notes(runs / name / "measured.json")
        notes.add("circumstances", circumstances())
        about: dict[str, Any] = {"corner": CORNER, "arm": arm, "seed": models.seed, "step": 0}
        tokenizer = models.trained.tokenizer
        if (perturbation := ARMS[arm]) is not None:
            config = second_phase(perturbation, main, judge.size.steps)
            tokenizer.decoder.requires_grad_(True)
            began, clock = time.process_time(), time.monotonic()
            trained = train_tokenizer(config, judge.train, runs / name, tokenizer=tokenizer, quiet=True)
            notes.once("seconds", lambda: {"cpu": time.process_time() - began, "clock": time.monotonic() - clock})
            assert trained.fingerprint() == tokenizer.fingerprint(), "the latent space is the same"
            tokenizer, about = trained, about | {"step": config.loop.steps, "settings": to_plain(config)}
        results.mkdir(parents=True, exist_ok=True)
        measure(tokenizer, models, notes, about, results / f"{name}.json")


def run(runs: Path, results: Path, size: Size, seed: int, spaces: Any = None, preset: Any = None) -> None:
    """Work off the arms of a seed that are not finished."""
    demo = (preset or CORNERS[CORNER]()).with_seed(seed)
    judge = Judge(size, runs, demo.main.tokenizer.image_size, spaces)
    folder = runs / file_name(CORNER, seed)
    models = Models(train_demo(demo, judge.train, folder), seed, judge, folder)
    for arm in ARMS:
        run_arm(arm, demo.main, models, runs, results)
    for arm, start in POST_TRAINED.items():
        with unfinished(named(arm, seed), runs, results) as ours:
            if not ours:
                continue
            given = models
            if start != ORIGINAL:
                where = where_is(start, runs, seed)
                given = models.with_decoder(load_tokenizer(where), where / "discriminator")
            post_train_arm(CORNER, arm, configured("limited, sigma 0.5", demo, size, seed), given, runs, results)
    add_reconstruction(judge, runs, results, seed)


def named(arm: str, seed: int) -> str:
    """What an arm's folder and its results are called."""
    return file_name(CORNER if arm in POST_TRAINED else "second", arm, seed)


def where_is(arm: str, runs: Path, seed: int) -> Path:
    """The folder of an arm's tokenizer."""
    if arm == ORIGINAL:
        return runs / file_name(CORNER, seed) / "tokenizer"
    return runs / named(arm, seed)


def add_reconstruction(judge: Judge, runs: Path, results: Path, seed: int) -> None:
    """Put rFID and PSNR of as many validation images as are sampled into the results that lack them."""
    images = judge.validation.images(torch.arange(len(judge.real)))
    for arm in (*ARMS, *POST_TRAINED):
        path = results / f"{named(arm, seed)}.json"
        if not path.exists() or "rfid" in (known := read_json(path)) or not where_is(arm, runs, seed).exists():
            continue
        tokenizer = load_tokenizer(where_is(arm, runs, seed))
        pixels = torch.cat(list(decoded(tokenizer, encoded(tokenizer, images))))
        rfid = {
            name: frechet_distance(stream.stats, judge.references[name].stats)
            for name, stream in judge.streams(pixels).items()
        }
        write_json(path, known | {"rfid": rfid, "psnr": float(psnr(pixels, judge.real).mean())})


def run_longer(
    runs: Path, results: Path, size: Size, seed: int, steps: int, spaces: Any = None, preset: Any = None
) -> None:
    """Let a generator that trained for more steps sample for the decoders of a seed whose arms are finished."""
    demo = (preset or CORNERS[CORNER]()).with_seed(seed)
    judge = Judge(size, runs, demo.main.tokenizer.image_size, spaces)
    shorter, corner = runs / file_name(CORNER, seed), f"{CORNER}, generator of {steps:,} steps"
    folder = runs / file_name(corner, seed)
    trained, more = train_demo(demo, judge.train, shorter), varied(demo, generator={"loop": {"steps": steps}})
    how: dict[str, Any] = {"where": folder / "generator"}
    generator = once(load_generator, train_demo_generator, more, trained.tokenizer, trained.cache, **how)
    models = Models(replace(trained, generator=generator), seed, judge, folder)
    lengths = {demo.generator.loop.steps: shorter, steps: folder}
    gains = {str(length): gain(where / "generator") for length, where in lengths.items()}
    for arm in ARMS:
        name, told = file_name(corner, arm, seed), results / f"{named(arm, seed)}.json"
        if (results / f"{name}.json").exists() or not told.exists():
            continue
        print(f"{corner}, {arm}, seed {seed}", flush=True)
        decoder = load_tokenizer(where_is(arm, runs, seed))
        notes, known = Notes(runs / name / "measured.json"), read_json(told)
        notes.add("circumstances", circumstances())
        about = {key: known[key] for key in ("arm", "seed", "step", "settings", "seconds") if key in known}
        measure(decoder, models, notes, about | {"corner": corner, "gains": gains}, results / f"{name}.json")


def gain(generator: Path) -> float | None:
    """How much lower a generator's loss was in the last fifth of its training than in the one before, as a share."""
    rows = [parse_json(line) for line in (generator / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    fifth = len(losses) // 5
    return 1 - mean(losses[-fifth:]) / mean(losses[-2 * fifth : -fifth]) if fifth else None


def write_page(results: Path) -> None:
    found = [read_json(path) for path in sorted(results.glob("*.json"))]
    corners = dict.fromkeys([CORNER, *(run["corner"] for run in found)])
    post_training_page.write(results, HEAD + convergence(found), (*corners,), (*ARMS, *POST_TRAINED), control_of)


def convergence(found: Sequence[dict[str, Any]]) -> str:
    """How far generators of a longer training are converged, and those of the demo's length."""
    told = [
        f"seed {seed}: {', '.join(f'{by:.1%} with {int(steps):,} steps' for steps, by in gains.items() if by)}"
        for seed, gains in sorted({run["seed"]: run["gains"] for run in found if "gains" in run}.items())
    ]
    lower = "How much lower a generator's loss was in the last fifth of its training than in the one before: "
    return f"\n{lower}{'; '.join(told)}.\n" if told else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    running = verbs.add_parser("run", help="train and measure what is left of the arms")
    running.add_argument("runs", type=Path, help="folder of models and samples, which stays out of the repository")
    running.add_argument("results", type=Path, help="folder of one JSON file for each arm and seed")
    running.add_argument("--seed", type=int, default=0)
    running.add_argument("--longer", type=int, help="steps of another generator, which samples for finished decoders")
    running.set_defaults(
        do=lambda a: (
            run_longer(a.runs, a.results, Size(), a.seed, a.longer)
            if a.longer
            else run(a.runs, a.results, Size(), a.seed)
        )
    )
    page = verbs.add_parser("page", help="write README.md beside the JSON files")
    page.add_argument("results", type=Path)
    page.set_defaults(do=lambda a: write_page(a.results))
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    chosen = parser.parse_args()
    chosen.do(chosen)


if __name__ == "__main__":
    main()
