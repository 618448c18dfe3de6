"""Which way of perturbing latents in main training makes generated images better? Arms of equal budgets, converged.

    python benchmarks/main_training_study.py run runs/main_training docs/studies/main_training
    python benchmarks/main_training_study.py score runs/main_training docs/studies/main_training vgg-hed lite2
    python benchmarks/main_training_study.py post runs/main_training docs/studies/main_training
    python benchmarks/main_training_study.py page docs/studies/main_training

`run` works off the queue, or what is left of it: one JSON file for each arm and seed, written once all of it has been
measured. Started twice, the two share the queue. Models, sampled tokens and unfinished measurements stay in the first
folder, so that more can be measured later; a generator is trained once for all arms whose tokens are the same.
"""

import argparse
import math
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import main_training_more
import main_training_page
import torch
from main_training_arms import (
    ARMS,
    FIRST,
    QUEUE,
    Arm,
    Size,
    file_name,
    generator_training,
    main_training,
)
from main_training_scores import ALONG, Judge, Notes, evenly, generation, nats, reconstruction, reconstruction_loss
from main_training_scores import tokens_of as tokens_in

from robustok.analysis.imitation import JOINT, imitate
from robustok.data.latent_cache import encode_images
from robustok.evaluation.features.extractor import Extractor
from robustok.evaluation.metrics.pfid import Cell
from robustok.generators.autoregressive import AutoregressiveModel
from robustok.generators.sampling import Sampling, sample_tokens
from robustok.runtime.checkpoint import load_resume, save_resume, write_json
from robustok.runtime.configs import to_plain
from robustok.runtime.locking import claim
from robustok.runtime.seeding import derive
from robustok.tokenizer.perturbation import Perturbation, second_phase
from robustok.tokenizer.tokenizer import Tokenizer
from robustok.training.calibration import departing, pilot_tokens
from robustok.training.generator_training import train_generator
from robustok.training.pilot import now
from robustok.training.saving import RESUME
from robustok.training.tokenizer_training import TokenizerTraining, train_tokenizer

LOOKS = 20  # at the validation loss of a training
WORK = "work"  # what is claimed of a folder, so that several processes share a study


def train_arm_tokenizer(config: TokenizerTraining, judge: Judge, folder: Path, notes: Notes) -> Tokenizer:
    """The arm's tokenizer; its validation loss along the way goes to the notes."""
    if "tokens_of" in notes.values:
        return Tokenizer.from_pretrained(folder / "tokenizer")

    def check(tokenizer: Tokenizer, done: int) -> dict[str, float]:
        notes.look("tokenizer_loss", done, reconstruction_loss(tokenizer, judge))
        return {}

    every = max(1, config.loop.steps // LOOKS)
    tokenizer = train_tokenizer(
        config, judge.train, folder / "tokenizer", validate=check, validate_every=every, quiet=True
    )
    notes.once("tokens_of", tokenizer.fingerprint)
    return tokenizer


def go_on_from_first_phase(donor: Path, config: TokenizerTraining, folder: Path, notes: Notes) -> None:
    """Begin an arm with the clean first phase of another one, which is the same to the last bit."""
    change = second_phase(now(config.perturbation), config.loop.steps)
    source, target = donor / "tokenizer" / f"resume_{change:07d}.safetensors", folder / "tokenizer" / RESUME
    if target.exists() or not source.exists():
        return
    saved = load_resume(source)
    saved["settings"]["stage"]["perturbation"] = to_plain(config)["perturbation"]
    save_resume(target, saved)
    for step, loss in Notes(donor / "measured.json").values["tokenizer_loss"].items():
        if int(step) <= change:
            notes.look("tokenizer_loss", int(step), loss)
    notes.once("first_phase_of", lambda: donor.name)


def calibrated(arm: Arm, tokenizer: Tokenizer, judge: Judge, generators: Path, seed: int, notes: Notes) -> Perturbation:
    """The arm's perturbation with alpha and delta as a pilot shows them: the generator at the first eighth.

    `tokenizer` is another two-phase arm's, whose tokens are the same. Measured on held-out images.
    """
    pilot = (
        generators
        / f"{tokenizer.fingerprint()}_{seed}"
        / "along"
        / str(math.ceil(ALONG[0] * judge.size.generator_steps))
    )

    def measured() -> dict[str, float]:
        rows = evenly(judge.held.labels, judge.size.looked_at)
        tokens, labels = tokens_in(tokenizer, judge.held, rows), judge.held.labels[rows]
        generator, codebook = AutoregressiveModel.from_pretrained(pilot), tokenizer.codebook.detach()
        if arm.imitates == "departures":
            return Cell(*departing(pilot_tokens(generator, tokens, labels, seed=seed), tokens, codebook))._asdict()
        one, other = labels.argsort(stable=True).view(10, 2, -1).unbind(1)  # of the same class at the same place
        one, other = one.flatten(), other.flatten()
        drawn = sample_tokens(generator, labels[one], Sampling(), seed=derive(seed, "pilot samples"))
        found = imitate(tokens[one], tokens[other], {"sampled": drawn}, codebook, tokenizer.lookup, seed=seed)
        return found.target("sampled", JOINT).best._asdict()

    cell = notes.once("calibration", measured)
    return replace(arm.perturbation, alpha=cell["alpha"], delta=cell["delta"])


def train_arm_generator(tokenizer: Tokenizer, judge: Judge, seed: int, folder: Path) -> dict[str, Any]:
    """Train the generator of some tokens and sample it; what it is like, and where the samples lie.

    All of it depends on the tokens alone, so arms that share encoder, codebook and seed share this folder.
    """
    size, notes = judge.size, Notes(folder / "measured.json")
    cache = encode_images(tokenizer, judge.train, folder / "tokens")
    config = generator_training(tokenizer.tokens_per_image, size, seed, len(tokenizer.codebook))
    held = evenly(judge.held.labels, size.looked_at * 2)
    unseen, labels = tokens_in(tokenizer, judge.held, held), judge.held.labels[held]
    points = {math.ceil(share * size.generator_steps) for share in ALONG}

    def check(generator: AutoregressiveModel, done: int) -> dict[str, float]:
        value = nats(generator, unseen, labels)
        notes.look("generator_loss", done, value)
        if done in points:
            generator.save_pretrained(folder / "along" / str(done))
        return {}

    every = math.gcd(size.generator_steps // LOOKS, *points)
    notes.once("settings", lambda: to_plain(config))

    def train() -> float:
        generator = train_generator(
            config, cache, folder / "generator", validate=check, validate_every=every, quiet=True
        )
        rows = torch.arange(len(judge.validation))
        return nats(generator, tokens_in(tokenizer, judge.validation, rows), judge.validation.labels)

    notes.once("nats", train)
    return notes.values


def circumstances() -> dict[str, Any]:
    """Where and with what an arm was computed."""
    here = Path(__file__).parent
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False
    ).stdout.strip()
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), cpu)
    return {
        "commit": commit,
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "precision": "bf16 with autocast" if torch.cpu.get_capabilities().get("avx512_bf16") else "fp32",
    }


def run_arm(name: str, seed: int, judge: Judge, runs: Path, results: Path) -> None:
    """Train one arm and measure it; what was finished before is not done again."""
    print(f"{name}, seed {seed}", flush=True)
    arm, folder, donor = ARMS[name], runs / file_name(name, seed), runs / file_name(FIRST, seed)
    notes = Notes(folder / "measured.json")
    notes.add("circumstances", circumstances())
    if arm.imitates:
        other = Tokenizer.from_pretrained(donor / "tokenizer")
        arm = replace(arm, perturbation=calibrated(arm, other, judge, runs / "generators", seed, notes))
    config = main_training(arm, judge.size, seed)
    notes.once("settings", lambda: to_plain(config))
    if now(arm.perturbation).latent_space == "frozen" and not arm.semantic:
        go_on_from_first_phase(donor, config, folder, notes)
    finish_arm({"arm": name, "seed": seed}, config, judge, runs, results)


def finish_arm(about: dict[str, Any], config: TokenizerTraining, judge: Judge, runs: Path, results: Path) -> None:
    """Train tokenizer and generator of `about`'s arm and seed, as far as they are not, and measure them."""
    seed = about["seed"]
    folder = runs / file_name(about["arm"], seed)
    notes = Notes(folder / "measured.json")
    tokenizer = train_arm_tokenizer(config, judge, folder, notes)
    shared = runs / "generators" / f"{tokenizer.fingerprint()}_{seed}"
    notes.once("reconstruction", lambda: reconstruction(tokenizer, judge))
    with claim(shared / WORK) as free:
        if not free:
            print("  its generator is being trained by another process", flush=True)
            return
        generator = train_arm_generator(tokenizer, judge, seed, shared)
        generation(tokenizer, judge, shared, notes)
    about |= {"size": vars(judge.size), "spaces": described(judge.spaces)}
    write_json(results / f"{folder.name}.json", about | notes.values | {"generator": generator})


def described(extractors: dict[str, Extractor]) -> dict[str, Any]:
    return {name: extract.describe() for name, extract in extractors.items()}


def run(runs: Path, results: Path, size: Size, queue: Sequence[tuple[str, int]] = QUEUE) -> None:
    """Work off the queue, leaving to others what they work on and for later what waits for another arm."""
    results.mkdir(parents=True, exist_ok=True)
    judge = Judge(size, runs)
    for name, seed in queue:
        donor = results / f"{file_name(FIRST, seed)}.json"
        if (results / f"{file_name(name, seed)}.json").exists():
            continue
        if ARMS[name].imitates and not donor.exists():
            print(
                f"{name}, seed {seed}: comes after {FIRST!r}; start the study again once that is finished", flush=True
            )
            continue
        with claim(runs / file_name(name, seed) / WORK) as free:
            if free:
                run_arm(name, seed, judge, runs, results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    running = verbs.add_parser("run", help="train and measure what is left of the queue")
    running.add_argument("runs", type=Path, help="folder of models and samples, which stays out of the repository")
    running.add_argument("results", type=Path, help="folder of one JSON file for each arm and seed")
    running.add_argument("--arm", choices=list(ARMS), help="only this one")
    running.add_argument("--seed", type=int, default=0, help="of --arm")
    running.set_defaults(do=lambda a: run(a.runs, a.results, Size(), [(a.arm, a.seed)] if a.arm is not None else QUEUE))
    scoring = verbs.add_parser("score", help="measure finished arms in other feature spaces")
    posting = verbs.add_parser("post", help="post-train the decoders of finished arms, and measure them")
    for verb in (scoring, posting):
        verb.add_argument("runs", type=Path)
        verb.add_argument("results", type=Path)
    scoring.add_argument("spaces", nargs="+", help="names of feature spaces, such as vgg-hed")
    scoring.set_defaults(do=lambda a: main_training_more.score(a.runs, a.results, Size(), a.spaces))
    posting.add_argument("--arm", action="append", choices=list(ARMS), help="only this one; may come several times")
    posting.set_defaults(do=lambda a: main_training_more.post_train(a.runs, a.results, Size(), a.arm or ()))
    page = verbs.add_parser("page", help="write README.md beside the JSON files")
    page.add_argument("results", type=Path)
    page.set_defaults(do=lambda a: main_training_page.write(a.results))
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    chosen = parser.parse_args()
    chosen.do(chosen)


if __name__ == "__main__":
    main()
