"""`robustok train-generator`."""

from dataclasses import dataclass, replace
from typing import Annotated, Any

from robustok.cli.arguments import Folder, GeneratorValidation, Images, ReferenceName, TokenizerName, which
from robustok.cli.kinds import Training
from robustok.names import GENERATORS, RUNS


@dataclass(frozen=True, kw_only=True)
class TrainGenerator(GeneratorValidation, Training):
    """Stage 2: a generator of a tokenizer's tokens or latents.

    Reads a tokenizer, and images or a cache of them; encodes images once into OUT/tokens or OUT/latents, then trains on
    those: an autoregressive or masked transformer on tokens, a diffusion transformer on latents where there is no
    codebook.

    Writes model.safetensors, config.json, metrics.jsonl, previews/ and best/ into --out; with --gfid-below also
    steps_to_gfid.json, records for compare and the page.

    generator.codebook_size, .tokens and .channels follow from the tokenizer, generator.classes from the images.
    """

    preset: Annotated[str, which(GENERATORS, positional=True)]
    tokenizer: TokenizerName
    images: Images | None = None
    # instead of images: a folder that encode wrote for this tokenizer
    cache: Folder | None = None
    # real images, or statistics of such as for evaluate, to which gFID is watched, by which best/ is chosen; {features}
    # in a file's name stands for the feature space
    reference: ReferenceName | None = None

    @staticmethod
    def start(preset: str = "demo") -> Any:
        """Generator training as a preset has it."""
        from robustok.presets.recipes import stage

        return stage(preset, "generator")

    def run(self) -> None:
        """Tokens or latents of the images, then a generator of them."""
        from robustok.cli.images import cache_at, images_of
        from robustok.cli.models import fitting
        from robustok.cli.validation import of_generator
        from robustok.data.latent_cache import encode_images
        from robustok.generators.generate import plain_sampling
        from robustok.presets.recipes import stage
        from robustok.runtime.locking import alone_in
        from robustok.runtime.logging import Progress
        from robustok.tokenizer.protocol import kind_of
        from robustok.training.generator_training import MODELS, train_generator

        if (self.images is None) == (self.cache is None):
            raise ValueError("a generator is trained on images, or on a cache of them; give either --images or --cache")
        self.check_given()
        for option, given in (("gfid-below", self.gfid_below), ("fdr", self.fdr)):
            if given and self.reference is None:
                raise ValueError(f"--{option} is about validations of the generator, so give a --reference for these")
        device, tokenizer, _ = self.opened()
        preset = self.chosen()
        cache: Any = None if self.cache is None else cache_at(self.cache, tokenizer)
        images = None if self.images is None else images_of(self.images, tokenizer.image_size, self)
        classes = int(cache.labels.max()) + 1 if images is None else len(images.classes)
        config = self.settings(replace(preset, generator=fitting(preset.generator, tokenizer, classes)))
        sampling = plain_sampling(MODELS[type(config.generator)])
        if self.preset in RUNS and type(of_preset := stage(self.preset, "post").sampling) is type(sampling):
            sampling = of_preset
        validating = of_generator(self.reference, tokenizer, sampling, config.loop.steps, self)
        with alone_in(self.out):
            if images is not None:
                with Progress("encoding", len(images), quiet=self.quiet) as progress:
                    cache = encode_images(tokenizer, images, self.out / kind_of(tokenizer), progress=progress.update)
            train_generator(config, cache, self.out, device=device, quiet=self.quiet, **validating)
        self.say(f"generator: {self.out}")
        if self.gfid_below:
            self._tell_steps(config.loop.batch_size, len(cache.labels), validating["validate_every"])

    def _tell_steps(self, batch_size: int, images: int, every: int) -> None:
        """Say, and write as records, at which steps the log first has a gFID as low as --gfid-below."""
        from robustok.evaluation.scores.score import Score, scores_in
        from robustok.runtime.checkpoint import write_json
        from robustok.runtime.distributed import is_main
        from robustok.runtime.logging import MetricsLog
        from robustok.training.saving import BEST
        from robustok.training.validation import STEPS_FILE, first_at_or_below, steps_to

        if not is_main():
            return
        kept = self.out / BEST / "scores.json"
        known = scores_in(kept) if kept.is_file() else []
        unknown = Score(metric="gfid", value=0.0, images=self.validate_images, protocol={})  # where none is kept
        gfid = next((score for score in known if score.metric == "gfid"), unknown)
        rows = [row for row in MetricsLog(self.out).rows() if "gfid" in row]
        records: list[Score] = []
        if not rows:
            self.say(f"no validation is in the log of {self.out}, which was trained without one, so no gFID is known")
            return
        for value in self.gfid_below or ():
            if reached := first_at_or_below(rows, value):
                steps, epochs = steps_to(reached, value, gfid, batch_size=batch_size, images=images, every=every)
                records += [steps, epochs]
                told = f"first at {value:g} or below at step {reached.step:,} ({epochs.value:.3g} epochs), "
                self.say(f"gFID {told}where it was {reached.value:.4g}; validated every {every:,} steps")
            else:
                low = min(rows, key=lambda row: float(row["gfid"]))
                self.say(f"gFID never at {value:g} or below; lowest {low['gfid']:.4g}, at step {low['step']:,}")
        if records:
            write_json(self.out / STEPS_FILE, [score.to_plain() for score in records])
