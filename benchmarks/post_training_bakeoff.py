"""Which way of post-training a decoder gains most, also where nothing was trained? Arms of the same steps and samples.

    python benchmarks/post_training_bakeoff.py run runs/post_training docs/studies/post_training --seed 0
    python benchmarks/post_training_bakeoff.py run runs/post_training docs/studies/post_training --arm "paired"
    python benchmarks/post_training_bakeoff.py page docs/studies/post_training

`run` works off the arms, or what is left of them: one JSON file for each corner, arm and seed, written once all of it
has been measured. The first folder keeps the models: `tokens_0` is the demo of seed 0 as far as its samples, and may
be a folder that `robustok demo --seed 0` left. Every decoder of a corner and seed decodes the same samples. The scored
images choose nothing: the step that is kept is chosen on held-out training images.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import post_training_page
import torch
from main_training_scores import Notes
from main_training_study import WORK, circumstances
from post_training_arms import ARMS, CORNERS, ORIGINAL, SPACES, Size, configured, file_name, queue
from torch import Tensor

from robustok import load_generator, load_tokenizer
from robustok.data.images import FashionMNIST, ImageSet
from robustok.data.latent_cache import LatentCache, encode_images
from robustok.demo.config import Demo
from robustok.demo.run import train_demo_generator
from robustok.evaluation.decoding import decoded
from robustok.evaluation.features.extractor import Extractor
from robustok.evaluation.features.registry import extractor
from robustok.evaluation.metrics.image_statistics import bands, color_statistics, decibels, radial_power, wasserstein
from robustok.evaluation.metrics.precision_recall import density_coverage, precision_recall
from robustok.evaluation.scores.difference import paired_difference
from robustok.evaluation.scores.feature_stream import FeatureStream, extracted
from robustok.evaluation.scores.reference import Reference
from robustok.generators.sampling import balanced_labels
from robustok.runtime.checkpoint import write_json
from robustok.runtime.configs import to_plain
from robustok.runtime.locking import claim
from robustok.runtime.tensor_files import read_tensors
from robustok.shapes import Pixels, to_pixels
from robustok.tokenizer.protocol import kind_of
from robustok.training.held_out import HeldOut, Witness
from robustok.training.post_training import SAMPLES, PostTraining, post_train
from robustok.training.shared_sampling import sampled
from robustok.training.tokenizer_training import train_tokenizer

BLOCK = 250


class Judge:
    """The images, the feature spaces and the references that the arms of all corners are measured by."""

    def __init__(self, size: Size, folder: Path, side: int, spaces: dict[str, Extractor] | None = None):
        everything, validation = FashionMNIST("train", side), FashionMNIST("validation", side)
        self.size = size
        self.train = everything.subset(torch.arange(size.train))
        self.held = everything.subset(torch.arange(len(everything) - size.held_out, len(everything)))
        self.validation = validation.subset(torch.arange(size.reference))
        self.spaces = spaces or {name: extractor(name) for name in SPACES}
        self.references = {name: self._reference(folder, name) for name in self.spaces}
        rows = torch.arange(min(size.scored, size.reference))
        self.real = torch.cat([to_pixels(self.validation.images(part)) for part in rows.split(BLOCK)])

    def _reference(self, folder: Path, name: str) -> Reference:
        path = folder / f"reference_{name}.safetensors"
        if not path.exists():
            Reference.of(self.validation, self.spaces[name]).save(path)
        return Reference.load(path)

    def streams(self, pixels: Pixels) -> dict[str, FeatureStream]:
        """What every space sees of images."""
        streams = {name: FeatureStream(space.describe()) for name, space in self.spaces.items()}
        for part, rows in zip(pixels.split(BLOCK), torch.arange(len(pixels)).split(BLOCK), strict=True):
            for name, space in self.spaces.items():
                streams[name].add(extracted(space, part), rows)
        return streams

    def scores(self, before: dict[str, FeatureStream], after: dict[str, FeatureStream]) -> dict[str, Any]:
        """In every space the distance, its paired change, and what is real and covered of the images."""
        scores = {}
        for name, reference in self.references.items():
            change = paired_difference(before[name], after[name], reference)
            sets = {"generated": after[name].sample, "real": reference.sample}
            scores[name] = {
                "gfid": change.after,
                "change": change.value,
                "interval": change.interval,
                **precision_recall(**sets)._asdict(),
                **density_coverage(**sets)._asdict(),
            }
        return scores

    def to_the_eye(self, pixels: Pixels) -> dict[str, Any]:
        """How far colors are from the real ones' (Wasserstein, CIELAB), and how much detail is missing (decibels)."""
        colors = wasserstein(color_statistics(pixels), color_statistics(self.real))
        spectrum = decibels(radial_power(pixels), radial_power(self.real))
        detail = [float(spectrum[band].mean()) for band in bands(len(spectrum))]
        return {"color": float(colors.mean()), "detail": detail}


@dataclass(frozen=True)
class Trained:
    """What the arms of a seed begin with."""

    tokenizer: Any
    generator: Any
    cache: LatentCache  # the training images' tokens or latents
    post: PostTraining  # how the generator is sampled, and which spaces bear witness when the step is chosen
    discriminator: Path | None = None  # folder of main training's; None: a fresh one


def once(load: Callable[[Path], Any], train: Callable[..., Any], *given: Any, where: Path, **how: Any) -> Any:
    """A model as it was trained in a folder, by this version or an earlier one, or is now."""
    return load(where) if (where / "config.json").exists() else train(*given, where, quiet=True, **how)


def train_demo(preset: Demo, train: ImageSet, folder: Path) -> Trained:
    """A demo's tokenizer and generator, or what is left to train of them."""
    tokenizer = once(load_tokenizer, train_tokenizer, preset.main, train, where=folder / "tokenizer")
    cache = encode_images(tokenizer, train, folder / kind_of(tokenizer))
    generator = once(load_generator, train_demo_generator, preset, tokenizer, cache, where=folder / "generator")
    post = replace(preset.post, witnesses=())
    return Trained(tokenizer, generator, cache, post, folder / "tokenizer" / "discriminator")


class Models:
    """The models of one seed, and the samples of its generator, which all its arms share."""

    def __init__(self, trained: Trained, seed: int, judge: Judge, folder: Path):
        self.trained, self.seed, self.judge, self.folder = trained, seed, judge, folder
        scored = balanced_labels(judge.size.scored, 10)
        self.samples = self._sampled("samples.safetensors", scored, "scored samples")
        self.before = judge.streams(self.pixels(trained.tokenizer))
        generated = self._sampled(SAMPLES, judge.held.labels, "held-out samples")
        deciding, *others = (
            Witness(judge.spaces[name], Reference.of(judge.held, judge.spaces[name]))
            for name in (SPACES[0], *trained.post.witnesses)
        )
        self.held_out = HeldOut(trained.tokenizer, generated, deciding.reference, deciding.extract, others)

    def _sampled(self, name: str, labels: Tensor, purpose: str) -> Tensor:
        """What a demo left in the folder, as many of it as are asked for, or drawn now."""
        path, post = self.folder / name, self.trained.post
        if path.exists():
            (drawn,) = read_tensors(path).values()
            return (drawn if drawn.is_floating_point() else drawn.long())[: len(labels)]
        how: dict[str, Any] = {"purpose": purpose, "precision": post.sampling_precision, "quiet": True}
        return sampled(path, self.trained.generator, labels, post.sampling, self.seed, **how)

    def asking(self, names: Sequence[str]) -> HeldOut:
        """The held-out check, with witnesses more."""
        judge = self.judge
        more = [Witness(judge.spaces[name], Reference.of(judge.held, judge.spaces[name])) for name in names]
        return self.held_out.with_(witnesses=[*self.held_out.witnesses, *more])

    def with_decoder(self, tokenizer: Any, discriminator: Path) -> "Models":
        """The same generator and samples, and another decoder for the same latents to begin with."""
        other = copy(self)
        other.trained = replace(self.trained, tokenizer=tokenizer, discriminator=discriminator)
        other.held_out = self.held_out.with_(tokenizer=tokenizer)
        return other

    def pixels(self, tokenizer: Any) -> Pixels:
        return torch.cat(list(decoded(tokenizer, self.samples)))


def run_arm(corner: str, arm: str, config: PostTraining, models: Models, runs: Path, results: Path) -> None:
    """Post-train one arm and measure it; what was finished before is not done again."""
    print(f"{corner}, {arm}, seed {models.seed}", flush=True)
    judge, trained, name = models.judge, models.trained, file_name(corner, arm, models.seed)
    notes = Notes(runs / name / "measured.json")
    notes.add("circumstances", circumstances())
    tokenizer, about = trained.tokenizer, {"step": 0}
    if arm != ORIGINAL:
        began, clock = time.process_time(), time.monotonic()
        result = post_train(
            config,
            trained.tokenizer,
            trained.generator,
            judge.train,
            runs / name,
            held_out=models.asking(config.witnesses),
            cache=trained.cache,
            discriminator=trained.discriminator,
            quiet=True,
        )
        tuned = result.tuned
        seconds = {"cpu": time.process_time() - began, "clock": time.monotonic() - clock}
        about = {"step": tuned.step, "before": tuned.before, "after": tuned.after, "last": tuned.last}
        about |= {"worse_in": tuned.worse_in, "share": tuned.share} if tuned.worse_in else {}
        about["tries"] = [vars(one) for one in result.tries]
        notes.once("seconds", lambda: seconds)  # of a run that was stopped, what was left of it
        tokenizer = tuned.tokenizer
    about |= {"corner": corner, "arm": arm, "seed": models.seed, "settings": to_plain(config)}
    measure(tokenizer, models, notes, about, results / f"{name}.json")


def measure(tokenizer: Any, models: Models, notes: Notes, about: dict[str, Any], path: Path) -> None:
    """Score what a decoder makes of the samples, and write that with what the notes and `about` tell of the arm."""
    judge, pixels = models.judge, models.pixels(tokenizer)
    notes.once("scores", lambda: judge.scores(models.before, judge.streams(pixels)))
    notes.once("to_the_eye", lambda: judge.to_the_eye(pixels))
    spaces = {space: extract.describe() for space, extract in judge.spaces.items()}
    write_json(path, about | {"size": vars(judge.size), "spaces": spaces} | notes.values)


@contextmanager
def unfinished(name: str, runs: Path, results: Path) -> Iterator[bool]:
    """True where an arm has no results yet and nobody else works on it; for the while it is ours."""
    if (results / f"{name}.json").exists():
        yield False
        return
    with claim(runs / name / WORK) as free:
        yield free


Work = tuple[str, str, int]  # corner, arm and seed


def run(runs: Path, results: Path, size: Size, work: Sequence[Work], spaces: Any = None, presets: Any = None) -> None:
    """Work off the arms that are not finished."""
    presets = presets or CORNERS

    def models(corner: str, seed: int, folder: Path) -> Models:
        preset = presets[corner]().with_seed(seed)
        judge = Judge(size, runs, preset.main.tokenizer.image_size, spaces)
        return Models(train_demo(preset, judge.train, folder), seed, judge, folder)

    work_off(
        runs, results, work, models, lambda corner, arm, models: configured(arm, presets[corner](), size, models.seed)
    )


def work_off(
    runs: Path,
    results: Path,
    work: Sequence[Work],
    models: Callable[[str, int, Path], Models],
    config: Callable[[str, str, Models], PostTraining],
) -> None:
    """Work off what is not finished, leaving to others what they work on.

    `models` makes those of a corner and seed in a folder, `config` an arm's post-training of them.
    """
    results.mkdir(parents=True, exist_ok=True)
    made: dict[tuple[str, int], Models] = {}
    for corner, arm, seed in work:
        with unfinished(file_name(corner, arm, seed), runs, results) as ours:
            if not ours:
                continue
            if (corner, seed) not in made:
                folder = runs / file_name(corner, seed)
                with claim(folder / WORK, wait=True):  # others may want them, too, for their arms
                    made[corner, seed] = models(corner, seed, folder)
            found = made[corner, seed]
            run_arm(corner, arm, config(corner, arm, found), found, runs, results)


def _asked(corner: str, seed: int, arms: Sequence[str] | None) -> list[Work]:
    """The arms that were asked for, of all that a corner has. Raises ValueError for one that it lacks."""
    every = queue(corner, seed)
    if unknown := {*(arms or ())} - {arm for _, arm, _ in every}:
        raise ValueError(f"the corner {corner!r} has no arm {unknown.pop()!r}; choose another corner")
    return [work for work in every if not arms or work[1] in arms]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    running = verbs.add_parser("run", help="train and measure what is left of the arms")
    running.add_argument("runs", type=Path, help="folder of models and samples, which stays out of the repository")
    running.add_argument("results", type=Path, help="folder of one JSON file for each corner, arm and seed")
    running.add_argument("--corner", choices=list(CORNERS), default="tokens")
    running.add_argument("--arm", choices=list(ARMS), action="append", help="only these; may be given again")
    running.add_argument("--seed", type=int, default=0)
    running.set_defaults(do=lambda a: run(a.runs, a.results, Size(), _asked(a.corner, a.seed, a.arm)))
    page = verbs.add_parser("page", help="write README.md beside the JSON files")
    page.add_argument("results", type=Path)
    page.set_defaults(do=lambda a: post_training_page.write(a.results))
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    chosen = parser.parse_args()
    chosen.do(chosen)


if __name__ == "__main__":
    main()
