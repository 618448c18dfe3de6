"""The demo itself, read from top to bottom: tokenizer, scores, generator, post-training and its controls, report."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustok.data.images import ImageSet
from robustok.data.latent_cache import LatentCache, encode_images
from robustok.demo.compared import Compared
from robustok.demo.config import Demo, DemoImages
from robustok.demo.effects import see
from robustok.demo.pictures import write_pictures, write_reconstructions
from robustok.demo.plan import NAMES, plan_in_words, planned
from robustok.demo.run_state import RunState
from robustok.demo.scores import (
    SPACES,
    copy_scores,
    demo_spaces,
    generation_scores,
    how_generated,
    reconstruction_scores,
    reference_of,
    trained_in,
)
from robustok.evaluation.features.extractor import Extractor
from robustok.evaluation.features.spaces.embedded import lite0
from robustok.evaluation.scores.image_scores import score_images
from robustok.evaluation.scores.reference import Reference
from robustok.evaluation.scores.score import Score, of_system
from robustok.generators.diffusion_transformer import DiffusionTransformer
from robustok.generators.masked import Masked
from robustok.generators.sampling import balanced_labels
from robustok.report.page import write_report
from robustok.runtime.checkpoint import write_json
from robustok.runtime.configs import to_plain
from robustok.runtime.locking import alone_in_its
from robustok.runtime.logging import MetricsLog, clock
from robustok.runtime.seeding import derive
from robustok.tokenizer.protocol import kind_of
from robustok.training.decoder_stage import TrainedDecoder
from robustok.training.generator_training import train_generator
from robustok.training.held_out import HeldOut
from robustok.training.post_training import clean, post_train
from robustok.training.shared_sampling import sampled
from robustok.training.tokenizer_training import train_tokenizer
from robustok.training.validation import sample_preview

DECODERS = {"post_training": "after", "control": "control"}  # stage: what its decoder is called in scores
OUTLINE = """robustok demo, seed {seed}: the whole method on {pictures}.
  1. a {tokenizer} is trained {how}
  2. rFID and pFID tell how well it will carry a generator
  3. {generator} is trained on its {latents}
  4. samples are drawn
  5. the tokenizer's decoder is tuned for the generator, and once more on clean latents, as a control
  6. the same samples are decoded before and after, and scored
Everything goes to {out}; {out}/report.html shows what is there so far, anew after every stage.
Stop it whenever you like: the same command goes on."""


@alone_in_its("out")
def run_demo(config: Demo, out: str | Path, *, control: bool = True, quiet: bool = False) -> list[Score]:
    """Run the demo, or what is left of it, and return its scores.

    Writes `scores.json`, `report.html`, the pictures, and a folder for every stage into `out`. `control` also
    tunes the decoder for as many steps on clean latents (sigma = 1), to tell what the generator's latents bought.
    """
    out = Path(out)
    state = RunState(out, {"demo": to_plain(config), "control": control}, quiet, lambda: show(state, out))
    called = words(config)
    state.say(OUTLINE.format(seed=config.seed, out=out, **called))
    write_json(out / "config.json", to_plain(config))
    images, extract = DemoImages.of(config), lite0()
    tell_plan(state, config, images, out, control)

    with state.stage("tokenizer", f"1/6 Main training of the tokenizer, {called['how']}"):
        tokenizer = train_demo_tokenizer(config, images, state, out, quiet=quiet)
    with state.stage("tokenizer_scores", "2/6 Scores of the tokenizer: rFID, pFID and its 15 cells"):
        reference = reference_of(images, out, extract)
        state.scores("floor", lambda: [floor(config, images, reference, extract)])
        scores = state.scores("tokenizer", lambda: reconstruction_scores(config, tokenizer, images, extract))
        tell(state, scores, "rfid", "rfid_pfid_images", "pfid", "ifid", "codebook_use", "psnr")
    with state.stage("generator", f"3/6 Training of the generator on the tokenizer's {called['latents']}"):
        cache = encode_images(tokenizer, images.train, out / kind_of(tokenizer))
        generator = train_demo_generator(config, tokenizer, cache, out / "generator", quiet=quiet)
    with state.stage("sampling", "4/6 Sampling"):
        labels = balanced_labels(config.scored, len(images.train.classes))
        drawn = samples_to_score(generator, labels, config, out / "samples.safetensors", quiet)
    tuned = dict[str, TrainedDecoder[Any]]()
    held_out: ImageSet | HeldOut = images.held_out
    posts = {"post_training": config.post} | ({"control": clean(config.post)} if control else {})
    for name, post in posts.items():
        title = "clean latents, as a control" if name == "control" else "the generator's latents"
        with state.stage(name, f"5/6 Post-training of the decoder on {title} (sigma = {post.sigma})"):
            result = post_train(
                post,
                tokenizer,
                generator,
                images.train,
                out / name,
                held_out=held_out,
                cache=cache,
                discriminator=out / "tokenizer" / "discriminator",
                features=extract,
                quiet=quiet,
            )
            tuned[name], held_out = result.tuned, result.held_out  # the same samples decide for both
            state.say(f"{name}: {result.tuned.in_words()}")
    with state.stage("generation_scores", "6/6 The same samples, decoded before and after, and scored"):
        by_name = {DECODERS[stage]: result for stage, result in tuned.items()}
        compared = Compared(
            config=config,
            images=images,
            cache=cache,
            decoders={"before": tokenizer} | {name: result.tokenizer for name, result in by_name.items()},
            kept={name for name, result in by_name.items() if result.step == 0},
            drawn=drawn,
            labels=labels,
            how=how_generated(config, out / "samples.safetensors", tokenizer),
        )
        scores = state.scores("generation", lambda: generation_scores(compared, demo_spaces(images, out)))
        if missing := demo_spaces(images, out, scores):  # in the folder of a version that scored in fewer spaces
            scores += state.scores("held_out", lambda: generation_scores(compared, missing))
        tell(state, scores, "gfid_before", "gfid_control", "gfid_after")
        state.scores("copies", lambda: copy_scores(compared))
        # Computed after the pictures are written, so where these scores are the pictures are.
        state.scores("effects", lambda: see_and_show(compared, out / "images"))
    all_scores = of_system(state.all_scores(), tokenizer=tokenizer, generator=generator)
    page = show(state, out, all_scores)
    quoted = "\n".join(quotable(scores, set(SPACES) - trained_in(config), compared.after))
    picture = out / "images" / "pairs.png"
    state.say(f"\n{quoted}\npicture: {picture}\nscores: {out / 'scores.json'}\nreport: {page}")
    return all_scores


def see_and_show(compared: Compared, folder: Path) -> list[Score]:
    """Write the pictures of a finished demo, and return the scores of what an eye would say of them, if it is asked."""
    seen = see(compared)
    write_pictures(folder, compared, seen)
    return [] if seen is None else seen.scores


def show(state: RunState, out: Path, scores: list[Score] | None = None) -> Path:
    """Write the scores, unless given those that there are so far, and the page of all that is there; return its path.

    A demo whose scores are complete already, and that goes on, leaves them alone meanwhile.
    """
    if scores is not None or not state.has("generation"):
        write_json(out / "scores.json", [score.to_plain() for score in scores or state.all_scores()])
    return write_report(out)


def train_demo_tokenizer(config: Demo, images: DemoImages, state: RunState, out: Path, *, quiet: bool) -> Any:
    """Train the tokenizer; at each tenth of the way pictures of what it makes of images go to the page."""

    def look(tokenizer: Any, step: int) -> dict[str, float]:
        if not state.has("generation"):
            write_reconstructions(out / "images", images.scored, tokenizer, config.seed)
        show(state, out)
        return {}

    tenth = max(1, config.main.loop.steps // 10)
    return train_tokenizer(
        config.main, images.train, out / "tokenizer", validate=look, validate_every=tenth, quiet=quiet
    )


def words(config: Demo) -> dict[str, str]:
    """Names of the parts of a demo."""
    off = config.main.perturbation.beta == 0
    generators: dict[Any, str] = {DiffusionTransformer: "a diffusion transformer", Masked: "a masked generator"}
    return {
        "tokenizer": "tokenizer" if config.main.has_codebook else "continuous tokenizer",
        "generator": generators.get(type(config.generator.generator), "a generator"),
        "latents": "tokens" if config.main.has_codebook else "latents",
        "pictures": {
            "fashion-mnist": "28 x 28 pictures of clothes (Fashion-MNIST)",
            "fluent": "scenes in color (Fluent emoji)",
        }.get(config.images, f"the images in {config.images}"),
        "how": "without latent perturbation" if off else "with latent perturbation",
    }


def train_demo_generator(config: Demo, tokenizer: Any, cache: LatentCache, folder: Path, *, quiet: bool) -> Any:
    """The generator; what it was after each quarter of its training stays in `folder/step_N`.

    Its codes and tokens are those of the tokenizer, whatever quantizer that has.
    """
    training, network = config.generator, config.generator.generator
    assert network is not None, "the demo trains a generator of its own"
    if cache.codebook_size is not None:
        sizes: dict[str, Any] = {"codebook_size": cache.codebook_size, "tokens": cache.tokens_per_image}
        training = replace(training, generator=replace(network, **sizes))
    preview = sample_preview(tokenizer, sampling=config.post.sampling, seed=derive(config.seed, "preview"))

    def keep(model: Any, step: int) -> dict[str, float]:
        model.save_pretrained(folder / f"step_{step}")
        return {}

    quarter = max(1, training.loop.steps // 4)
    return train_generator(training, cache, folder, validate=keep, validate_every=quarter, preview=preview, quiet=quiet)


def floor(config: Demo, images: DemoImages, reference: Reference, extract: Extractor) -> Score:
    """The distance of as many training images as will be generated: what a perfect generator would score."""
    real = images.train.subset(torch.arange(min(config.scored, len(images.train))))
    return score_images(real, reference, extract, metric="fd_floor")


def samples_to_score(generator: Any, labels: Tensor, config: Demo, path: Path, quiet: bool) -> Tensor:
    """Freely sampled tokens or latents, one image per label, drawn once and then read back."""
    post = config.post
    how: dict[str, Any] = {"precision": post.sampling_precision, "quiet": quiet, "purpose": "scored samples"}
    return sampled(path, generator, labels, post.sampling, config.seed, **how)


def tell(state: RunState, scores: list[Score], *metrics: str) -> None:
    """Print some scores on a line."""
    values = {score.metric: score.value for score in reversed(scores)}  # the first of a name counts
    state.say("   ".join(f"{name} {values[name]:.4g}" for name in metrics if name in values))


def tell_plan(state: RunState, config: Demo, images: DemoImages, out: Path, control: bool) -> None:
    """Print how long the stages will take here that are not over, and remember it."""
    there = {"tokenizer_scores": state.has("tokenizer"), "generation_scores": state.has("generation")}
    there["sampling"] = (out / "samples.safetensors").exists()
    over = {name for name in NAMES if there.get(name) or (out / name / "model.safetensors").exists()}
    if state.quiet or {name for name in NAMES if control or name != "control"} <= over:
        return
    state.say("Timing a few steps of each kind on this machine ...", style="dim")
    began = time.monotonic()
    plan = {name: seconds for name, seconds in planned(config, images, control).items() if name not in over}
    for name, loop in (("tokenizer", config.main.loop), ("generator", config.generator.loop)):
        if name in plan and (rows := MetricsLog(out / name).rows()):
            plan[name] *= max(0.0, 1 - rows[-1]["step"] / loop.steps)
    state.plan = plan
    state.say(f"At their pace, which took {clock(time.monotonic() - began)} to measure: {plan_in_words(plan)}.")


def quotable(scores: list[Score], held_out: set[str], after: str) -> list[str]:
    """The lines to quote: before, after with that decoder in words, and each space in which nothing was trained."""
    said = {
        score.protocol["features"]: score.protocol["in_words"]
        for score in scores
        if score.metric == "gfid_difference" and (score.protocol["from"], score.protocol["to"]) == ("before", "after")
    }
    before = next(score for score in scores if score.metric == "gfid_before")
    first = before.protocol["features"]
    return [
        f"before: gFID {before.value:.4g} with the original decoder, in {first}, of {before.images} generated images",
        f"after: {said[first]}, with the {after}",
        *(f"held out, in {name}, where nothing was trained: {said[name]}" for name in said if name in held_out),
    ]
