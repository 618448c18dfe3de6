"""What is measured of finished arms afterwards: other feature spaces, and the decoder after post-training."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from main_training_arms import Size, file_name
from main_training_scores import Judge, decoded, fidelity_and_diversity, sampled, tokens_of

from robustok.evaluation.features.registry import extractor
from robustok.generators.autoregressive import AutoregressiveModel
from robustok.presets import demo
from robustok.runtime.checkpoint import read_json, write_json
from robustok.runtime.configs import to_plain
from robustok.shapes import Pixels
from robustok.tokenizer.tokenizer import Tokenizer
from robustok.training.post_training import PostTraining
from robustok.training.post_training import post_train as stage_3

OTHERS = ("vgg-hed", "lite2")  # spaces of packages, beside the study's own


class Finished(NamedTuple):
    """An arm that was measured, with what it left on this machine."""

    path: Path  # of its JSON file
    values: dict[str, Any]
    folder: Path
    tokenizer: Tokenizer
    generator: Path  # folder of the generator and of the tokens that it sampled

    def generated(self, tokenizer: Tokenizer, size: Size) -> Pixels:
        """The images that its gFID is of, decoded by this tokenizer."""
        guidance = self.values["guidance"]
        return decoded(tokenizer, sampled(self.generator, size.generator_steps, guidance, size.generated, "scored"))


def finished(runs: Path, results: Path) -> Iterator[Finished]:
    """Every arm with a result, as far as its models are still there."""
    for path in sorted(results.glob("*.json")):
        values = read_json(path)
        folder = runs / file_name(values["arm"], values["seed"])
        generator = runs / "generators" / f"{values['tokens_of']}_{values['seed']}"
        if (folder / "tokenizer" / "config.json").exists() and generator.exists():
            yield Finished(path, values, folder, Tokenizer.from_pretrained(folder / "tokenizer"), generator)


def score(runs: Path, results: Path, size: Size, names: Sequence[str]) -> None:
    """Add rFID, gFID, precision and recall in other feature spaces, of the tokens that were sampled."""
    judge = Judge(size, runs, {name: extractor(name) for name in names})
    for arm in finished(runs, results):
        if set(names) <= arm.values["gfid"].keys():
            continue
        pixels = arm.generated(arm.tokenizer, size)
        arm.values["gfid"] |= judge.distances(pixels, "validation")
        arm.values["precision_recall"] |= fidelity_and_diversity(pixels, judge)
        tokens = tokens_of(arm.tokenizer, judge.validation, judge.chosen)
        arm.values["reconstruction"]["rfid"] |= judge.distances(decoded(arm.tokenizer, tokens), "chosen")
        arm.values["spaces"] |= {name: space.describe() for name, space in judge.spaces.items()}
        write_json(arm.path, arm.values)
        print(f"{arm.path.stem}: {arm.values['gfid']}", flush=True)


def post_training(guidance: float, seed: int, steps: int, pairs: int) -> PostTraining:
    """The demo's post-training: half of main training's learning rate, half of each pair's tokens kept."""
    post = demo().post
    return replace(
        post,
        loop=replace(post.loop, steps=steps, seed=seed, save_every=max(1, steps // 2), preview_every=0, keep_last=1),
        validate_every=math.ceil(steps / 2),
        sampling=replace(post.sampling, guidance=guidance),
        pairs=pairs,
        held_out=pairs // 2,
        witnesses=(),  # what it does in other spaces is what is asked
    )


def post_train(runs: Path, results: Path, size: Size, names: Sequence[str] = ()) -> None:
    """Add what post-training makes of the same tokens, of all arms or of those named, in the spaces of their gFID."""
    judge = Judge(size, runs)
    judge.spaces |= {name: extractor(name) for name in OTHERS}
    for arm in finished(runs, results):
        if "post" in arm.values or (names and arm.values["arm"] not in names):
            continue
        pairs = min(4_000, len(judge.train) * 2 // 3)
        config = post_training(arm.values["guidance"], arm.values["seed"], max(1, size.tokenizer_steps // 4), pairs)
        tuned = stage_3(
            config,
            arm.tokenizer,
            AutoregressiveModel.from_pretrained(arm.generator / "generator"),
            judge.train.subset(torch.arange(pairs + config.held_out)),
            arm.folder / "post",
            discriminator=arm.folder / "tokenizer" / "discriminator",
            quiet=True,
        ).tuned
        pixels = arm.generated(tuned.tokenizer, size)
        arm.values["post"] = {
            "settings": to_plain(config),
            "step": tuned.step,
            "gfid": judge.distances(pixels, "validation"),
            "precision_recall": fidelity_and_diversity(pixels, judge),
        }
        write_json(arm.path, arm.values)
        print(f"{arm.path.stem}: {arm.values['post']['gfid']} at step {tuned.step}", flush=True)
