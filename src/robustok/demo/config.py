"""The config of a demo, and the one purpose of each of its images."""

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from robustok.data.fluent import EMBEDDED
from robustok.data.image_files import Errors, FileView
from robustok.data.images import ImageSet, evenly_ordered
from robustok.data.sources import open_images
from robustok.tokenizer.perturbation import Perturbation
from robustok.training.generator_training import GeneratorTraining
from robustok.training.post_training import PostTraining
from robustok.training.tokenizer_training import TokenizerTraining


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Main training, generator, post-training and all scores, on embedded images or on one's own."""

    main: TokenizerTraining  # of the tokenizer, with a codebook or without
    generator: GeneratorTraining  # of the generator
    post: PostTraining  # of the decoder; the generator is sampled for scores as it is for post-training
    images: str = "fashion-mnist"  # that all of it is about: that, fluent, or what `open_images` takes
    labels: str | None = None  # what tells the classes of one's own images, as `open_images` takes it
    flip: bool = True  # whether one's own images may be mirrored
    upscale: bool = False  # whether those of one's own that are too small are enlarged, or else refused
    broken: Errors | None = None  # what becomes of those that cannot be read, as `ImageFiles` takes it
    train_images: int = 55_000  # images that everything is trained on, the first ones; of one's own, at most
    reference: int = 10_000  # validation images that generated images are scored against
    scored: int = 5_000  # generated images that are scored, and validation images that are reconstructed
    pfid_images: int = 2_000  # of those, how many each cell of pFID perturbs

    def with_seed(self, seed: int) -> "Demo":
        """The same with everything random derived from another seed."""
        stages = {name: getattr(self, name) for name in ("main", "generator", "post")}
        return replace(self, **{n: replace(stage, loop=replace(stage.loop, seed=seed)) for n, stage in stages.items()})

    def without_perturbation(self) -> "Demo":
        """The same with nothing perturbed in main training."""
        p: Any = self.main.perturbation
        off = Perturbation(beta=0.0) if self.main.has_codebook else replace(p, beta=0.0, latent_space="joint")
        main = replace(self.main, perturbation=off)
        return replace(self, main=main)

    @property
    def seed(self) -> int:
        """The seed that everything random derives from."""
        return self.main.loop.seed


class DemoImages(NamedTuple):
    """The images, each used for one purpose only."""

    train: ImageSet  # everything is trained on these
    held_out: ImageSet  # these decide which decoder is kept
    reference: ImageSet  # generated images are scored against these; nothing is trained or chosen by them
    scored: ImageSet  # those of the reference that are reconstructed

    @classmethod
    def of(cls, config: Demo) -> "DemoImages":
        assert config.main.tokenizer is not None, "the demo trains a tokenizer of its own"
        size = config.main.tokenizer.image_size
        train, validation = _of_purposes(config, size)
        _check_counts(config, validation)
        first_held_out = len(train) - config.post.held_out  # the last ones, which nothing is trained on
        if config.train_images > first_held_out and config.images in EMBEDDED:
            raise ValueError(
                f"{config.train_images} images to train on and {config.post.held_out} held out are more than the "
                f"{len(train)} there are; lower train_images or post.held_out"
            )
        reference = validation.subset(torch.arange(config.reference))
        return cls(
            train=train.subset(torch.arange(min(config.train_images, first_held_out))),
            held_out=train.subset(torch.arange(first_held_out, len(train))),
            reference=reference,
            scored=reference.subset(torch.arange(config.scored)),
        )


def _of_purposes(config: Demo, size: int) -> tuple[ImageSet, ImageSet]:
    """Images to train on, and to score on: those of an embedded set, or, of one's own, all others and the first."""
    if config.images in EMBEDDED:
        return EMBEDDED[config.images]("train", size), EMBEDDED[config.images]("validation", size)
    view: FileView = {"flip": config.flip, "upscale": config.upscale, "errors": config.broken}
    images = evenly_ordered(open_images(config.images, size, labels=config.labels, **view))
    if config.reference >= len(images):
        raise ValueError(
            f"reference is {config.reference}, and there are {len(images)} images in {config.images}; take fewer, for "
            "the others are trained on"
        )
    return images.subset(torch.arange(config.reference, len(images))), images.subset(torch.arange(config.reference))


def _check_counts(config: Demo, validation: ImageSet) -> None:
    """Raises ValueError for numbers of images with which a demo would end once it has trained."""
    batch = max(stage.loop.batch_size for stage in (config.main, config.generator, config.post))
    for name, least, most in (
        ("train_images", batch, math.inf),  # the largest batch of a stage
        ("reference", 2, len(validation)),
        ("scored", 2, config.reference),
        ("pfid_images", 2, math.inf),
    ):
        count = getattr(config, name)
        if not least <= count <= most:
            raise ValueError(f"{name} is {count}; choose {least}" + (f" to {most}" if most < math.inf else " or more"))
    seen = len(validation.labels[: config.scored].unique())
    if seen < len(validation.classes):
        raise ValueError(
            f"scored is {config.scored}, and so many validation images are of {seen} of the {len(validation.classes)} "
            "classes, each of which is shown; take more, or leave out classes of few images"
        )
