"""`robustok sample`."""

import math
from dataclasses import dataclass
from pathlib import Path

from robustok.cli.arguments import DRAWN, GRID, SAMPLES, Count, GeneratorName, Numbers, OutFolder, TokenizerName
from robustok.cli.kinds import Sampled
from robustok.cli.options import Shared
from robustok.runtime.places import CLAIM, PARTIAL
from robustok.runtime.words import counted

SHOWN = 400  # images in the grid, at most


@dataclass(frozen=True, kw_only=True)
class Sample(Sampled, Shared):
    """Images from a generator and a tokenizer.

    Reads a generator and a tokenizer.

    Writes grid.png and samples.npz (arr_0: uint8, images x height x width x 3, as ADM's; arr_1: labels) into --out.
    Image i depends on the seed and i alone.

    Settings say how tokens are drawn: --temperature, --top-k, --top-p, --guidance, --schedule, --power, by a masked
    generator also --steps, --choice-temperature, --mask-schedule, --noise-on, --temperature-annealing; or how latents
    are: --steps, --method, --guidance, --guidance-high, --shift, --latent-noise. Unless set, as published if that is
    known.
    """

    group = "Use"

    generator: GeneratorName
    tokenizer: TokenizerName
    out: OutFolder
    # classes by number, taken in turn; all unless given
    labels: Numbers | None = None
    count: Count = 100  # how many images
    # compile the step of a generator that draws token by token: a minute or more to begin with, for many images
    compile: bool = False
    png: bool = False  # also write every image as a PNG of its own, into OUT/images

    def run(self) -> None:
        """A grid, an npz and, if asked for, a PNG of each image."""
        import numpy as np
        import torch
        from PIL import Image

        from robustok.evaluation.decoding import decoded
        from robustok.runtime.checkpoint import replacing
        from robustok.runtime.distributed import is_main
        from robustok.runtime.logging import Progress
        from robustok.runtime.pictures import sheet, write_png
        from robustok.training.shared_sampling import sample_together

        _, tokenizer, generator = self.opened()
        sampling = self.sampling(generator)
        classes = self.labels or range(generator.null_class)
        labels = torch.tensor([classes[i % len(classes)] for i in range(self.count)])
        former = self._former_images()
        with Progress("sampling", len(labels), quiet=self.quiet) as progress:
            how = "inductor" if self.compile else None
            tokens = sample_together(generator, labels, sampling, self.seed, progress.update, compile=how)
        if not is_main():
            return
        pixels = torch.cat(list(decoded(tokenizer, tokens)))
        columns = len(classes) if len(classes) <= 20 else math.isqrt(min(len(pixels), SHOWN))
        write_png(self.out / GRID, sheet(pixels[:SHOWN], min(columns, len(pixels))))
        images = pixels.permute(0, 2, 3, 1).numpy()
        for former_image in former:
            former_image.unlink()
        with replacing(self.out / SAMPLES) as partial, partial.open("wb") as file:  # tens of GB, perhaps
            np.savez(file, np.ascontiguousarray(images), labels.numpy())
        for number, image in enumerate(images if self.png else ()):
            write_png(self.out / DRAWN / _png(number), Image.fromarray(image))
        self.say(f"grid: {self.out / GRID}\nimages: {self.out / SAMPLES}")

    def _former_images(self) -> list[Path]:
        """The pictures in OUT/images, each of which this run draws anew. Raises ValueError where there are others.

        Those of an earlier run would be scored with those of this one, and what is not ours is not to be lost.
        """
        folder = self.out / DRAWN
        there = sorted(folder.iterdir()) if folder.is_dir() else []
        drawn = [_png(number) for number in range(self.count)] if self.png else []
        left = (PARTIAL, PARTIAL + CLAIM)  # by a run that was killed while it wrote
        ours = {*drawn, *(name + ending for name in drawn for ending in left)}
        sampled = (self.out / SAMPLES).is_file()
        if there and sampled and self.png and {file.name for file in there} <= ours:
            return there
        if there and (self.png or sampled):
            raise ValueError(
                f"{folder} holds {counted(len(there), 'file')} that this run would not replace, such as "
                f"{there[-1].name}; they would be taken for its images, so delete that folder or give another --out"
            )
        return []


def _png(number: int) -> str:
    return f"{number:06d}.png"
