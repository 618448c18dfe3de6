"""Which way of perturbing latents in main training makes generated images better? Arms of equal budgets, converged.

    python benchmarks/main_training_study.py run runs/main_training docs/studies/main_training
    python benchmarks/main_training_study.py page docs/studies/main_training

`run` works off the queue, or what is left of it: one JSON file for each arm and seed, written once all of it has been
measured. Started twice, the two share the queue. Models, sampled tokens and unfinished measurements stay in the first
folder, so that more can be measured later; a generator is trained once for all arms whose tokens are the same.
"""

import argparse
import fcntl
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import main_training_page
import torch
import torch.nn.functional as F
from study_spaces import spaces
from torch import Tensor

from robustok.data.images import FashionMNIST, ImageSet
from robustok.data.tokens import encode_tokens
from robustok.evaluation.codebook_use import code_counts, perplexity
from robustok.evaluation.features import Extractor
from robustok.evaluation.fid import FeatureStats, frechet_distance
from robustok.evaluation.pfid import BLOCK, grid, perturbed
from robustok.evaluation.precision_recall import precision_recall
from robustok.generators.autoregressive import Autoregressive, AutoregressiveModel
from robustok.generators.sampling import Sampling, sample_tokens
from robustok.losses.augmentation import Augmentation
from robustok.losses.discriminator import FeatureDiscriminator
from robustok.runtime.checkpoint import read_json, write_json
from robustok.runtime.configs import to_plain
from robustok.runtime.seeding import derive
from robustok.shapes import Features, Labels, Pixels, Tokens, to_pixels
from robustok.tokenizer.encoder import Conv
from robustok.tokenizer.perturbation import Perturbation, neighbours
from robustok.tokenizer.quantizer import VQ
from robustok.tokenizer.tokenizer import Tokenizer, TokenizerConfig
from robustok.training.adversary import Adversary
from robustok.training.generator_training import GeneratorTraining, train_generator
from robustok.training.loop import Loop
from robustok.training.main_training import MainTraining, train_tokenizer
from robustok.training.objective import Objective
from robustok.training.optim import Optim
from robustok.training.pretrained import perceptual_network

CODES = 256
ALONG = (0.125, 0.25, 0.5, 0.75, 1.0)  # shares of the generator's training at which its images are scored
LOOKS = 20  # at the validation loss of a training
GUIDANCE = (1.0, 1.25, 1.5, 2.0)


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large the problem is, and how many images each score takes."""

    side: int = 28
    held_out: int = 5_000  # of the training images, every class equally often; they choose the guidance
    tokenizer_steps: int = 3_000
    generator_steps: int = 2_400
    classifier_steps: int = 1_200
    looked_at: int = 500  # held-out images of a tokenizer's validation loss
    perturbed: int = 1_000  # validation images of rFID and pFID
    tuned_by: int = 1_000  # generated images for each guidance
    along: int = 2_000  # generated images for each point of the course
    generated: int = 5_000  # generated images at the end
    compared: int = 2_500  # images on either side of precision and recall


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train a tokenizer."""

    perturbation: Perturbation
    semantic: float = 0.0


TWO_PHASES = Perturbation(alpha=0.3, beta=1.0, delta=10, latent_space="frozen", freeze_from=0.75)
ARMS = {
    "none": Arm(perturbation=Perturbation(beta=0.0)),
    "paper": Arm(perturbation=Perturbation(alpha=1.0, beta=0.1, delta=6)),
    "half of the images": Arm(perturbation=Perturbation(alpha=1.0, beta=0.5, delta=10)),
    "stopped": Arm(perturbation=Perturbation(alpha=1.0, beta=0.5, delta=10, latent_space="stopped")),
    "two phases": Arm(perturbation=TWO_PHASES),
    "two phases, clean": Arm(perturbation=replace(TWO_PHASES, beta=0.0)),
    "none, semantic": Arm(perturbation=Perturbation(beta=0.0), semantic=0.1),
    "two phases, semantic": Arm(perturbation=TWO_PHASES, semantic=0.1),
}
QUEUE: tuple[tuple[str, int], ...] = (
    ("none", 0),
    ("two phases", 0),
    ("two phases, clean", 0),
    ("paper", 0),
    ("none", 1),
    ("two phases", 1),
    ("two phases, clean", 1),
    ("stopped", 0),
    ("none", 2),
    ("two phases", 2),
    ("two phases, clean", 2),
    ("half of the images", 0),
    ("none, semantic", 0),
    ("two phases, semantic", 0),
    ("paper", 1),
    ("paper", 2),
)


def main_training(arm: Arm, size: Size, seed: int) -> MainTraining:
    part = Conv(stem=2, channels=(16, 64), blocks=1, attention=False)
    adversary = Adversary(
        discriminator=FeatureDiscriminator(stages=(2, 3), width=48),
        optim=Optim(lr=5e-4, betas=(0.5, 0.9)),
        learns_from=0.5,
        charges_from=0.55,
        augmentation=Augmentation(probability=0.0),
    )
    return MainTraining(
        tokenizer=TokenizerConfig(
            image_size=size.side, encoder=part, quantizer=VQ(codebook_size=CODES, width=16), decoder=part, channels=1
        ),
        loop=Loop(steps=size.tokenizer_steps, batch_size=16, seed=seed, save_every=250, keep_best="none"),
        perturbation=arm.perturbation,
        objective=Objective(l1=1.0, l2=1.0, perceptual=1.0, perceptual_stages=3, adversarial=0.5, adversary=adversary),
        semantic=arm.semantic,
        semantic_size=64,
        optim=Optim(lr=2e-3, warmup=50, final_lr_share=0.05),
        average=0.99,
    )


def generator_training(tokens: int, size: Size, seed: int) -> GeneratorTraining:
    return GeneratorTraining(
        generator=Autoregressive(
            codebook_size=CODES, tokens=tokens, classes=10, width=96, depth=2, heads=3, order="raster"
        ),
        loop=Loop(steps=size.generator_steps, batch_size=64, seed=seed, save_every=200, keep_best="none"),
        optim=Optim(lr=2e-3, betas=(0.9, 0.96), weight_decay=0.03, warmup=50, final_lr_share=0.05),
        average=0.99,
    )


@dataclass
class Notes:
    """Measurements in a file that holds every finished one."""

    path: Path
    values: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.values = read_json(self.path) if self.path.exists() else {}

    def once(self, name: str, measure: Callable[[], Any]) -> Any:
        """What `measure` returns, now or in an earlier run."""
        if name not in self.values:
            began = time.process_time()
            self.values[name] = measure()
            self.values.setdefault("cpu_seconds", {})[name] = round(time.process_time() - began, 1)
            write_json(self.path, self.values)
            print(f"  {name}: {str(self.values[name])[:160]}", flush=True)
        return self.values[name]

    def look(self, name: str, step: int, value: Any) -> None:
        """Add a point to a curve."""
        self.values.setdefault(name, {})[str(step)] = value
        write_json(self.path, self.values)


class Judge:
    """The images, feature spaces and reference statistics that all arms are measured by."""

    def __init__(self, size: Size, folder: Path):
        self.size = size
        everything, self.validation = FashionMNIST("train", size.side), FashionMNIST("validation", size.side)
        held = evenly(everything.labels, size.held_out, last=True)
        rest = torch.ones(len(everything), dtype=torch.bool)
        rest[held] = False
        self.train, self.held = everything.subset(rest.nonzero().flatten()), everything.subset(held)
        self.spaces = spaces(self.train, self.held, folder / "spaces", size.classifier_steps)
        self.perceptual = perceptual_network(Objective().network, 3, None)
        self.chosen = evenly(self.validation.labels, size.perturbed)
        self._references: dict[str, dict[str, FeatureStats]] = {}

    def features(self, pixels: Pixels) -> dict[str, Features]:
        return {name: extract(pixels) for name, extract in self.spaces.items()}

    def reference(self, which: str) -> dict[str, FeatureStats]:
        """Statistics of all validation images, of the held-out ones, or of those that rFID and pFID take."""
        if which not in self._references:
            images = self.held if which == "held out" else self.validation
            rows = self.chosen if which == "chosen" else torch.arange(len(images))
            self._references[which] = statistics(self.features(pixels_of(images, rows)))
        return self._references[which]

    def distances(self, pixels: Pixels, which: str) -> dict[str, float]:
        made = statistics(self.features(pixels))
        return {name: frechet_distance(stats, made[name]) for name, stats in self.reference(which).items()}


def statistics(features: dict[str, Features]) -> dict[str, FeatureStats]:
    return {name: FeatureStats.of(values) for name, values in features.items()}


def evenly(labels: Labels, count: int, last: bool = False) -> Tensor:
    """Indices of `count` images, every class equally often: the first, or the last, of each."""
    classes = int(labels.max()) + 1
    each = count // classes
    rows = [(labels == label).nonzero().flatten() for label in range(classes)]
    return torch.cat([row[-each:] if last else row[:each] for row in rows]).sort().values


def pixels_of(images: ImageSet, rows: Tensor) -> Pixels:
    return torch.cat([to_pixels(images.images(part)) for part in rows.split(BLOCK)])


@torch.no_grad()
def decoded(tokenizer: Tokenizer, tokens: Tokens) -> Pixels:
    return torch.cat([to_pixels(tokenizer.decode(tokenizer.lookup(part))) for part in tokens.split(BLOCK)])


@torch.no_grad()
def tokens_of(tokenizer: Tokenizer, images: ImageSet, rows: Tensor) -> Tokens:
    return torch.cat([tokenizer.quantize(tokenizer.encode(images.images(part))).tokens for part in rows.split(BLOCK)])


@torch.no_grad()
def reconstruction_loss(tokenizer: Tokenizer, judge: Judge) -> dict[str, float]:
    """The terms of the objective without its adversarial one, on held-out images."""
    rows = evenly(judge.held.labels, judge.size.looked_at)
    images = judge.held.images(rows)
    output = tokenizer(images)
    levels = judge.perceptual.levels(output)
    terms = {
        "l1": F.l1_loss(output, images),
        "l2": F.mse_loss(output, images),
        "perceptual": judge.perceptual(images, levels),
    }
    return {name: float(term) for name, term in terms.items()} | {"loss": float(sum(terms.values()))}


@torch.no_grad()
def nats(generator: AutoregressiveModel, tokens: Tokens, labels: Labels) -> float:
    """Mean -log probability of a token."""
    total = 0.0
    for part, label in zip(tokens.split(BLOCK), labels.split(BLOCK), strict=True):
        logits = generator(part, label).float().flatten(0, 1)
        total += float(F.cross_entropy(logits, part.flatten(), reduction="sum"))
    return total / tokens.numel()


def reconstruction(tokenizer: Tokenizer, judge: Judge) -> dict[str, Any]:
    """rFID and the cells of pFID on the same images, and how the codes are used."""
    tokens = tokens_of(tokenizer, judge.validation, judge.chosen)
    cells = grid(len(tokenizer.codebook))
    near = neighbours(tokenizer.codebook, max(cell.delta for cell in cells))
    blocks = [
        [noisy for _, noisy in perturbed(part, near, cells, seed=0, block=block)]
        for block, part in enumerate(tokens.split(BLOCK))
    ]
    rfid = judge.distances(decoded(tokenizer, tokens), "chosen")
    scores = [
        {**cell._asdict(), "fd": judge.distances(decoded(tokenizer, torch.cat([b[i] for b in blocks])), "chosen")}
        for i, cell in enumerate(cells)
    ]
    return {
        "images": len(tokens),
        "rfid": rfid,
        "pfid": {name: math.fsum(score["fd"][name] for score in scores) / len(scores) for name in rfid},
        "cells": scores,
        "perplexity": perplexity(code_counts(tokens, len(tokenizer.codebook))),
    }


def train_arm_tokenizer(arm: Arm, judge: Judge, seed: int, folder: Path, notes: Notes) -> Tokenizer:
    """The arm's tokenizer; its validation loss along the way goes to the notes."""
    config = main_training(arm, judge.size, seed)
    notes.once("settings", lambda: to_plain(config))

    def check(tokenizer: Tokenizer, done: int) -> dict[str, float]:
        loss = reconstruction_loss(tokenizer, judge)
        notes.look("tokenizer_loss", done, loss)
        return {}

    every = judge.size.tokenizer_steps // LOOKS
    trained: list[Tokenizer] = []

    def train() -> str:
        tokenizer = train_tokenizer(
            config, judge.train, folder / "tokenizer", check=check, check_every=every, quiet=True
        )
        trained.append(tokenizer)
        return tokenizer.fingerprint()

    notes.once("tokens_of", train)
    return trained[0] if trained else Tokenizer.from_pretrained(folder / "tokenizer")


def train_arm_generator(tokenizer: Tokenizer, judge: Judge, seed: int, folder: Path) -> dict[str, Any]:
    """Train the generator of some tokens and sample it; what it is like, and where the samples lie.

    All of it depends on the tokens alone, so arms that share encoder, codebook and seed share this folder.
    """
    size, notes = judge.size, Notes(folder / "measured.json")
    cache = encode_tokens(tokenizer, judge.train, folder / "tokens")
    config = generator_training(tokenizer.tokens_per_image, size, seed)
    held = evenly(judge.held.labels, size.looked_at * 2)
    unseen, labels = tokens_of(tokenizer, judge.held, held), judge.held.labels[held]
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
        generator = train_generator(config, cache, folder / "generator", check=check, check_every=every, quiet=True)
        rows = torch.arange(len(judge.validation))
        return nats(generator, tokens_of(tokenizer, judge.validation, rows), judge.validation.labels)

    notes.once("nats", train)
    return notes.values


def sampled(folder: Path, step: int, guidance: float, count: int, purpose: str) -> Tokens:
    """Tokens of a generator at a step of its training, every class equally often; sampled once."""
    path = folder / "sampled" / f"{step}_{guidance:g}_{purpose}_{count}.pt"
    if not path.exists():
        generator = AutoregressiveModel.from_pretrained(folder / "along" / str(step))
        labels = torch.arange(count) % 10
        tokens = sample_tokens(generator, labels, Sampling(guidance=guidance), seed=derive(0, purpose), batch_size=500)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(tokens.to(torch.uint8 if CODES <= 256 else torch.int32), path.with_suffix(".partial"))
        path.with_suffix(".partial").rename(path)
    return torch.load(path, weights_only=True).long()


def generation(tokenizer: Tokenizer, judge: Judge, folder: Path, notes: Notes) -> None:
    """Choose the guidance on held-out images; then gFID along training and at its end, precision and recall."""
    size = judge.size
    end = size.generator_steps

    def held_out_fd(guidance: float) -> float:
        tokens = sampled(folder, end, guidance, size.tuned_by, "tuning")
        return judge.distances(decoded(tokenizer, tokens), "held out")["lite0"]

    tried = {g: notes.once(f"held-out FD at guidance {g:g}", lambda g=g: held_out_fd(g)) for g in GUIDANCE}
    best = notes.once("guidance", lambda: min(tried, key=lambda g: tried[g]))
    for share in ALONG:
        step = math.ceil(share * end)
        notes.once(
            f"gfid at {step}",
            lambda step=step: judge.distances(
                decoded(tokenizer, sampled(folder, step, best, size.along, "course")), "validation"
            ),
        )
    pixels = decoded(tokenizer, sampled(folder, end, best, size.generated, "scored"))
    notes.once("gfid", lambda: judge.distances(pixels, "validation"))
    notes.once("precision_recall", lambda: fidelity_and_diversity(pixels, judge))


def fidelity_and_diversity(pixels: Pixels, judge: Judge) -> dict[str, Any]:
    """Precision and recall (k = 3) of as many generated as real images, every class equally often."""
    count = judge.size.compared
    real = judge.features(pixels_of(judge.validation, evenly(judge.validation.labels, count)))
    made = judge.features(pixels[:count])
    return {name: precision_recall(generated=made[name], real=real[name])._asdict() for name in real}


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Whether nobody else works in the folder; a worker that dies lets go of it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "claimed").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


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
    folder = runs / file_name(name, seed)
    notes = Notes(folder / "measured.json")
    notes.once("circumstances", circumstances)
    tokenizer = train_arm_tokenizer(ARMS[name], judge, seed, folder, notes)
    shared = runs / "generators" / f"{tokenizer.fingerprint()}_{seed}"
    notes.once("reconstruction", lambda: reconstruction(tokenizer, judge))
    with claimed(shared) as free:
        if not free:
            print("  its generator is being trained by another process", flush=True)
            return
        generator = train_arm_generator(tokenizer, judge, seed, shared)
        generation(tokenizer, judge, shared, notes)
    about = {"arm": name, "seed": seed, "size": vars(judge.size), "spaces": described(judge.spaces)}
    write_json(results / f"{file_name(name, seed)}.json", about | notes.values | {"generator": generator})


def described(extractors: dict[str, Extractor]) -> dict[str, Any]:
    return {name: extract.describe() for name, extract in extractors.items()}


def file_name(arm: str, seed: int) -> str:
    return f"{arm.replace(',', '').replace(' ', '_')}_{seed}"


def run(runs: Path, results: Path, size: Size, queue: Sequence[tuple[str, int]] = QUEUE) -> None:
    """Work off the queue."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    results.mkdir(parents=True, exist_ok=True)
    judge = Judge(size, runs)
    for name, seed in queue:
        finished = results / f"{file_name(name, seed)}.json"
        with claimed(runs / file_name(name, seed)) as free:
            if free and not finished.exists():
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
    page = verbs.add_parser("page", help="write README.md beside the JSON files")
    page.add_argument("results", type=Path)
    page.set_defaults(do=lambda a: main_training_page.write(a.results, [f"{n}|{s}" for n, s in QUEUE]))
    chosen = parser.parse_args()
    chosen.do(chosen)


if __name__ == "__main__":
    main()
