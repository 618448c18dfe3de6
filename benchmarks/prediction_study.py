r"""Which score, computed without a finished generator, ranks tokenizers as the gFID of one does?

    python benchmarks/prediction_study.py run runs/prediction docs/studies/prediction
    python benchmarks/prediction_study.py spaces runs/prediction docs/studies/prediction vgg-hed lite2
    python benchmarks/prediction_study.py score runs/prediction docs/studies/prediction \
        --also runs/main_training docs/studies/main_training  # the candidates; vgg-hed lite2: there, too
    python benchmarks/prediction_study.py page docs/studies/prediction docs/studies/main_training

`run` trains and measures, one after another, the tokenizers of the list that the second folder has no JSON file of yet;
`spaces` and `score` add to what is there. Models, sampled tokens and unfinished measurements stay in the first folder,
so that more can be measured later. Candidates, and how they are judged, were fixed before: they are in candidates.md.
"""

import argparse
import os
from dataclasses import dataclass, replace
from pathlib import Path

import main_training_more
import prediction_page
import prediction_scores
import torch
from main_training_arms import ARMS, TWO_PHASES, Arm, Size, file_name, main_training
from main_training_scores import Judge, Notes
from main_training_study import WORK, circumstances, finish_arm

from robustok.runtime.configs import to_plain
from robustok.runtime.locking import claim
from robustok.tokenizer.perturbation import Perturbation
from robustok.tokenizer.quantizer import BSQ, FSQ, VQ
from robustok.training.tokenizer_training import TokenizerTraining

SEED = 0


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What the new tokenizers differ in; the main-training study adds its own."""

    quantizer: VQ | FSQ | BSQ
    perturbation: Perturbation = ARMS["none"].perturbation
    share: float = 1.0  # of the steps of training


def vq(size: int, width: int = 16) -> VQ:
    return VQ(codebook_size=size, width=width)


KINDS = {  # diverse ones first, so that a part of them says something, too
    "VQ 256": Kind(quantizer=vq(256)),
    "FSQ 1000": Kind(quantizer=FSQ(levels=(8, 5, 5, 5))),
    "VQ 4096": Kind(quantizer=vq(4096)),
    "BSQ 10 bits": Kind(quantizer=BSQ(bits=10)),
    "VQ 1024 short": Kind(quantizer=vq(1024), share=0.25),
    "FSQ 4375": Kind(quantizer=FSQ(levels=(7, 5, 5, 5, 5))),
    "VQ 1024 narrow": Kind(quantizer=vq(1024, width=4)),
    "BSQ 12 bits": Kind(quantizer=BSQ(bits=12)),
    "VQ 256 paper": Kind(quantizer=vq(256), perturbation=replace(ARMS["paper"].perturbation, delta=6)),
    "VQ 4096 two phases": Kind(quantizer=vq(4096), perturbation=replace(TWO_PHASES, delta=160)),
    "VQ 1024 wide": Kind(quantizer=vq(1024, width=64)),
    "BSQ 8 bits": Kind(quantizer=BSQ(bits=8)),
}


def training(kind: Kind, size: Size) -> TokenizerTraining:
    """The main-training study's, but for what the kind differs in."""
    config = main_training(Arm(perturbation=kind.perturbation), size, SEED, kind.quantizer)
    steps = max(1, round(kind.share * size.tokenizer_steps))
    return replace(config, loop=replace(config.loop, steps=steps, keep_last=1))


def run(runs: Path, results: Path, size: Size, kinds: dict[str, Kind]) -> None:
    """Train and measure what is left, leaving to others what they work on."""
    results.mkdir(parents=True, exist_ok=True)
    judge = Judge(size, runs)
    for name, kind in kinds.items():
        folder = runs / file_name(name, SEED)
        if (results / f"{folder.name}.json").exists():
            continue
        with claim(folder / WORK) as free:
            if free:
                print(f"{name}, seed {SEED}", flush=True)
                config, notes = training(kind, size), Notes(folder / "measured.json")
                notes.add("circumstances", circumstances())
                notes.once("settings", lambda config=config: to_plain(config))
                finish_arm({"arm": name, "seed": SEED}, config, judge, runs, results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    running = verbs.add_parser("run", help="train and measure the tokenizers that are left")
    running.add_argument("runs", type=Path, help="folder of models and samples, which stays out of the repository")
    running.add_argument("results", type=Path, help="folder of one JSON file for each tokenizer")
    running.set_defaults(do=lambda a: run(a.runs, a.results, Size(), KINDS))
    adding = verbs.add_parser("spaces", help="measure gFID of the new tokenizers in other feature spaces")
    scoring = verbs.add_parser("score", help="measure the candidates of finished tokenizers")
    for verb in (adding, scoring):
        verb.add_argument("runs", type=Path)
        verb.add_argument("results", type=Path)
    adding.add_argument("spaces", nargs="+", help="their names, such as vgg-hed")
    adding.set_defaults(do=lambda a: main_training_more.score(a.runs, a.results, Size(), a.spaces))
    scoring.add_argument("spaces", nargs="*", help="names of feature spaces; none: the study's own")
    scoring.add_argument("--also", nargs=2, type=Path, default=(), help="runs and results of the main-training study")
    scoring.set_defaults(do=lambda a: prediction_scores.score(a.runs, a.results, a.also, Size(), a.spaces))
    page = verbs.add_parser("page", help="write README.md beside the JSON files")
    page.add_argument("results", type=Path)
    page.add_argument("others", type=Path, help="results of the main-training study")
    page.set_defaults(do=lambda a: prediction_page.write(a.results, a.others, list(KINDS), SEED))
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    chosen = parser.parse_args()
    chosen.do(chosen)


if __name__ == "__main__":
    main()
