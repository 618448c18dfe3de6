r"""Which score of an autoencoder, computed without a generator, goes with the gFID of one on its latents?

    python benchmarks/latent_prediction.py score runs/post_training docs/studies/latent_prediction \
        docs/studies/second_phases docs/studies/post_training
    python benchmarks/latent_prediction.py page docs/studies/latent_prediction \
        docs/studies/second_phases docs/studies/post_training

The autoencoders are those of `second_phases.py` and of the latent corners of `post_training_bakeoff.py`, before
post-training, with their gFIDs; their models are to lie in the first folder. `score` measures the candidates of those
that have no JSON file yet; what they are, docs/studies/prediction/candidates.md named before.
"""

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import second_phases
import torch
from latent_spread import velocity_irreducible_variance
from main_training_page import table, write_page
from main_training_scores import Notes, evenly
from main_training_study import circumstances
from post_training_arms import CORNERS, ORIGINAL, SPACES, file_name
from prediction_verdict import FITTED, Measured, log, report
from torch import Tensor

from robustok import load_generator, load_tokenizer
from robustok.data.images import FashionMNIST
from robustok.evaluation.decoding import decoded, encoded
from robustok.evaluation.features.registry import extractor
from robustok.evaluation.metrics.fid import FeatureStats, frechet_distance
from robustok.evaluation.scores.feature_stream import extracted
from robustok.evaluation.scores.tokenizer_scores import score_tokenizer
from robustok.generators.flow import FlowSampling, sample_latents
from robustok.runtime.checkpoint import read_json, write_json
from robustok.runtime.seeding import derive, stream
from robustok.shapes import Latents, to_pixels
from robustok.training.pilot_distance import PILOT, own_seed
from robustok.training.rehearsal import latent_pilot_of

CORNERS_OF_LATENTS = ("latents", "latents, rehearsed")  # beside the one that second phases begin with
LEVELS = (0.25, 0.5, 0.75)  # of noise, from which latents are followed back
ONE_PASS = (0.25, 0.3, 0.35, 0.4, 0.45)  # generation-aware rFID draws them from between the first and the last
HEAD = """# Which score of an autoencoder goes with gFID?

*Written by `benchmarks/latent_prediction.py page` from JSON files; do not edit.*

Autoencoders without a codebook, each with the gFID of a diffusion transformer of the same size and training (1,000
steps, guidance 2) on its latents: 2,000 samples against 10,000 validation images. Of
[second phases](../second_phases/README.md) several decoders share their latents and their generator; the others are
those of the [bake-off](../post_training/README.md) before post-training, trained with `LatentNoise` (*latents*) or a
second phase of `RehearsedLatents`. Candidates were [named before](../prediction/candidates.md), when these gFIDs were
not known, but for what the pilot makes; they were computed after. Every Frechet distance is of the same {looked_at}
validation images; VIV is of {spread:,} training images, among which iFID looks for neighbors, too.
"""
ABOUT = """- pFID of latents: mean of 15 cells of noise. iFID: of midpoints of neighbors (arXiv 2603.05630). VIV: what
  classes leave open of latents (arXiv 2606.03578). All three need no generator.
- Followed by the pilot: FD of images whose latents were noised to a level and followed back in 4 steps by the small
  generator without classes that `RehearsedLatents` trains (300 steps), of another seed than the one that a *rehearsed*
  decoder learned from. That knows what pilots leave, so the others are judged by themselves, too.
- Followed by the generator: the same by the finished one, as it samples. Generation-aware rFID: noised to levels of
  0.25 to 0.45 and taken back in one pass (arXiv 2609.24088).
"""


@dataclass(frozen=True, kw_only=True)
class Size:
    """Images that scores are of."""

    looked_at: int = 500  # validation images, every class equally often
    spread: int = 5000  # training images, likewise
    spaces: tuple[str, ...] = SPACES


class Arm(NamedTuple):
    """An autoencoder that has a gFID, and where its parts are."""

    name: str
    latents: str  # equal for those that differ in their decoders alone
    tokenizer: Path
    generator: Path
    gfid: dict[str, float]
    seed: int


def arms(runs: Path, second: Path, bakeoff: Path) -> list[Arm]:
    """Every autoencoder with a gFID in the two studies."""
    found: list[Arm] = []

    def add(name: str, corner: str, files: Sequence[Path], tokenizer: Callable[[int], Path]) -> None:
        for path in files:
            known = read_json(path)
            seed, gfid = known["seed"], {space: scores["gfid"] for space, scores in known["scores"].items()}
            generator = runs / file_name(corner, seed) / "generator"
            found.append(Arm(f"{name}, {seed}", f"{corner}, {seed}", tokenizer(seed), generator, gfid, seed))

    for arm in second_phases.ARMS:
        files = sorted(second.glob(f"{file_name('second', arm)}_[0-9].json"))
        add(f"unperturbed, {arm}", second_phases.CORNER, files, lambda s, a=arm: second_phases.where_is(a, runs, s))
    for corner in CORNERS_OF_LATENTS:
        files = sorted(bakeoff.glob(f"{file_name(corner, ORIGINAL)}_[0-9].json"))
        add(corner, corner, files, lambda seed, of=corner: runs / file_name(of, seed) / "tokenizer")
    return found


@dataclass
class Judge:
    """The images that all autoencoders are scored on, and what was made of the latents that several of them share."""

    size: Size
    side: int
    made: dict[tuple[str, str], Latents] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.train, validation = FashionMNIST("train", self.side), FashionMNIST("validation", self.side)
        self.images = validation.subset(evenly(validation.labels, self.size.looked_at))
        self.spread = self.train.subset(evenly(self.train.labels, self.size.spread))
        self.spaces = {name: extractor(name) for name in self.size.spaces}
        pixels = to_pixels(self.images.images(torch.arange(len(self.images))))
        self.real = {name: FeatureStats.of(extracted(space, pixels).features) for name, space in self.spaces.items()}

    def distances(self, tokenizer: Any, latents: Latents) -> dict[str, float]:
        """FD of what a decoder makes of latents to the images, in every space."""
        pixels = torch.cat(list(decoded(tokenizer, latents)))
        return {
            name: frechet_distance(self.real[name], FeatureStats.of(extracted(space, pixels).features))
            for name, space in self.spaces.items()
        }

    def once(self, arm: Arm, name: str, make: Callable[[], Latents]) -> Latents:
        """What was made of an arm's latents, for all that share them."""
        if (arm.latents, name) not in self.made:
            self.made[arm.latents, name] = make()
        return self.made[arm.latents, name]


def by_pilot(arm: Arm, tokenizer: Any, judge: Judge) -> Iterator[tuple[str, Latents]]:
    """The images' latents, noised and followed back by a pilot that no decoder learned from."""
    own = encoded(tokenizer, judge.images.images(torch.arange(len(judge.images))))
    noise = torch.randn(own.shape, generator=stream(arm.seed, "followed"))
    pilot = None

    def by_it(level: float) -> Latents:
        nonlocal pilot
        pilot = pilot or latent_pilot_of(PILOT, tokenizer, judge.train, seed=own_seed(arm.seed))
        return pilot.follow(own, torch.full((len(own),), level), noise, PILOT.back)

    for level in LEVELS:
        yield f"followed by the pilot, {level:g}", judge.once(arm, f"pilot {level}", lambda at=level: by_it(at))


def by_generator(arm: Arm, tokenizer: Any, sampling: FlowSampling, judge: Judge) -> Iterator[tuple[str, Latents]]:
    """The same by the finished generator, as it samples and in one pass."""
    own = encoded(tokenizer, judge.images.images(torch.arange(len(judge.images))))
    generator, purpose = load_generator(arm.generator), derive(arm.seed, "followed")

    def by_it(level: float, rows: Tensor, *, one_pass: bool) -> Latents:
        given: dict[str, Any] = {"start": own[rows], "level": level, "one_pass": one_pass}
        return sample_latents(generator, judge.images.labels[rows], sampling, seed=purpose, **given)

    def in_one_pass() -> Latents:
        parts = [torch.arange(first, len(own), len(ONE_PASS)) for first in range(len(ONE_PASS))]
        made = [by_it(level, rows, one_pass=True) for level, rows in zip(ONE_PASS, parts, strict=True)]
        return torch.cat(made)[torch.cat(parts).argsort()]

    everything = torch.arange(len(own))
    for level in LEVELS:
        made = judge.once(arm, f"generator {level}", lambda at=level: by_it(at, everything, one_pass=False))
        yield f"followed by the generator, {level:g}", made
    yield "generation-aware rFID", judge.once(arm, "one pass", in_one_pass)


def measure(arm: Arm, judge: Judge, sampling: FlowSampling, notes: Notes) -> None:
    """Add what is not in the notes yet."""
    tokenizer = load_tokenizer(arm.tokenizer)

    def viv() -> float:
        latents = encoded(tokenizer, judge.spread.images(torch.arange(len(judge.spread))))
        return velocity_irreducible_variance(latents, judge.spread.labels)

    def of_tokenizer() -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        for score in score_tokenizer(tokenizer, judge.images, list(judge.spaces.values()), neighbors_in=judge.spread):
            if score.metric in ("rfid", "pfid", "ifid"):
                found.setdefault(score.metric, {})[score.protocol["features"]] = score.value
        return found

    notes.once("viv", viv)
    notes.once("scores", of_tokenizer)

    def distances(made: Iterator[tuple[str, Latents]]) -> dict[str, dict[str, float]]:
        return {name: judge.distances(tokenizer, latents) for name, latents in made}

    notes.once("fd by pilot", lambda: distances(by_pilot(arm, tokenizer, judge)))
    notes.once("fd", lambda: distances(by_generator(arm, tokenizer, sampling, judge)))


def score(runs: Path, results: Path, second: Path, bakeoff: Path, size: Size, preset: Any = None) -> None:
    """Measure the candidates of every autoencoder whose models are there and that has no results yet."""
    results.mkdir(parents=True, exist_ok=True)
    demo = preset or CORNERS[second_phases.CORNER]()
    judge = Judge(size, demo.main.tokenizer.image_size)
    for arm in arms(runs, second, bakeoff):
        path = results / f"{file_name(arm.name)}.json"
        if path.exists() or not (arm.tokenizer / "config.json").exists() or not arm.generator.exists():
            continue
        print(arm.name, flush=True)
        notes = Notes(runs / "latent_prediction" / path.name)
        notes.path.parent.mkdir(parents=True, exist_ok=True)
        notes.add("circumstances", circumstances())
        measure(arm, judge, demo.post.sampling, notes)
        write_json(path, {"name": arm.name, "latents": arm.latents, "size": vars(size)} | notes.values)


def candidates(known: dict[str, Any], space: str) -> dict[str, tuple[float, ...]]:
    """Every candidate's number, or numbers, in a space."""
    rfid, pfid, ifid = (known["scores"][name][space] for name in ("rfid", "pfid", "ifid"))
    single = {"rFID": rfid, "pFID of latents": pfid, "pFID - rFID": pfid - rfid, "pFID / rFID": pfid / rfid}
    single |= {"iFID": ifid, "VIV": known["viv"]} | {
        name: found[space] for name, found in (known["fd by pilot"] | known["fd"]).items()
    }
    both = {f"{FITTED}log(pFID - rFID), log VIV": (log(pfid - rfid), log(known["viv"]))}
    return {name: (value,) for name, value in single.items()} | both


def page(results: Path, second: Path, bakeoff: Path) -> Iterator[str]:
    """The lines of the page."""
    measured, rows, missing = list[Measured](), list[Any](), list[str]()
    size = vars(Size())
    for arm in arms(Path(), second, bakeoff):
        path = results / f"{file_name(arm.name)}.json"
        if not path.exists():
            missing.append(arm.name)
            continue
        known = read_json(path)
        size, spaces = known["size"], known["size"]["spaces"]
        found = {space: candidates(known, space) for space in spaces}
        measured.append(Measured(arm.name, arm.latents, arm.gfid, found))
        rows.append((arm, known, found))
    yield HEAD.format(**size)
    if missing:
        yield f"Not measured, their models being gone: {'; '.join(missing)}.\n"
    if not rows:
        return
    yield "## The autoencoders\n"
    yield f"In {' / '.join(SPACES)}.\n"
    yield from table(
        ("decoder, seed", "rFID", "pFID", "iFID", "followed by the pilot, 0.5", "VIV", "gFID"),
        (
            (
                arm.name,
                *(
                    in_spaces({space: found[space][name][0] for space in found})
                    for name in ("rFID", "pFID of latents", "iFID", "followed by the pilot, 0.5")
                ),
                f"{known['viv']:.3f}",
                in_spaces(arm.gfid),
            )
            for arm, known, found in rows
        ),
    )
    untaught = [one for one in measured if "rehearsed" not in one.name]
    yield from report(measured, SPACES, SPACES, ABOUT, {"Those that no pilot taught": untaught})


def in_spaces(values: dict[str, float]) -> str:
    return " / ".join(f"{values[space]:.0f}" for space in SPACES)


def write(results: Path, second: Path, bakeoff: Path) -> None:
    """Write README.md beside the results."""
    write_page(results, page(results, second, bakeoff))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    scoring = verbs.add_parser("score", help="measure the candidates of what has a gFID")
    scoring.add_argument("runs", type=Path, help="folder of the two studies' models")
    page = verbs.add_parser("page", help="write README.md beside the JSON files")
    for verb in (scoring, page):
        verb.add_argument("results", type=Path, help="folder of one JSON file for each autoencoder")
        verb.add_argument("second", type=Path, help="results of second_phases.py")
        verb.add_argument("bakeoff", type=Path, help="results of post_training_bakeoff.py")
    scoring.set_defaults(do=lambda a: score(a.runs, a.results, a.second, a.bakeoff, Size()))
    page.set_defaults(do=lambda a: write(a.results, a.second, a.bakeoff))
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    chosen = parser.parse_args(argv)
    chosen.do(chosen)


if __name__ == "__main__":
    main()
