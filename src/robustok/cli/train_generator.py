"""`robustok train-generator`."""

from dataclasses import dataclass, replace
from typing import Annotated, Any

from robustok.cli.arguments import Count, Folder, Images, ReferenceName, TokenizerName, ValidationOptions, which
from robustok.cli.kinds import Training
from robustok.names import GENERATORS, RUNS


@dataclass(frozen=True, kw_only=True)
class TrainGenerator(ValidationOptions, Training):
    """Stage 2: a generator of a tokenizer's tokens or latents.

    Reads a tokenizer, and images or a cache of them; encodes images once into OUT/tokens or OUT/latents, then trains on
    those: an autoregressive or masked transformer on tokens, a diffusion transformer on latents where there is no
    codebook.

    Writes model.safetensors, config.json, metrics.jsonl, previews/ and best/ into --out.

    generator.codebook_size, .tokens and .channels follow from the tokenizer, generator.classes from the images.
    """

    preset: Annotated[str, which(GENERATORS, positional=True)]
    tokenizer: TokenizerName
    images: Images | None = None
    # instead of images: a folder that encode wrote for this tokenizer
    cache: Folder | None = None
    # real images, or statistics of such as for evaluate, to which gFID is watched, by which best/ is chosen
    reference: ReferenceName | None = None
    validate_images: Count = 1000  # images of a validation

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

        self.check_apart()
        device, tokenizer, _ = self.opened()
        preset = self.chosen()
        if (self.images is None) == (self.cache is None):
            raise ValueError("a generator is trained on images, or on a cache of them; give either --images or --cache")
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
