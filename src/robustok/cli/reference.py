"""`robustok reference`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from robustok.cli.arguments import A_SPACE, Count, Device, Features, OutFile, ScoredName, View
from robustok.cli.help import table
from robustok.cli.options import Option, Shared
from robustok.runtime.words import counted, listed


@dataclass(frozen=True, kw_only=True)
class Reference(Features, View, Shared):
    """Statistics of real images, to score others against.

    Reads images. Writes one file with the mean and covariance of their features and a sample of them, and says what it
    is of. A file that holds another reference is left alone.
    """

    group = "Measure"

    # a folder of images, tar shards ('*.tar'), an npz (arr_0: uint8, images x height x width x 3), fashion-mnist or
    # fluent (the validation part)
    images: ScoredName
    out: OutFile  # file to write, .safetensors
    features: Annotated[str, Option(help=f"space to compute them in: {A_SPACE}")] = "lite0"
    # side of the center crops of a folder in pixels: 256, of fashion-mnist 32, of fluent 64, unless given
    size: Count | None = None
    sample_size: Count = 2000  # images whose features are kept, at most
    overwrite: bool = False  # replace a file that holds another reference, and no other file
    device: Device | None = None

    def run(self) -> None:
        """The reference that images are, in a file; what was there and is another one stays, unless told otherwise."""
        from robustok.cli.images import SIZE, SIZES, check_outside, check_reading, device_of, is_npz, scored_images
        from robustok.cli.scoring import told
        from robustok.evaluation.features.registry import extractor
        from robustok.evaluation.scores.reference import Reference as Statistics
        from robustok.evaluation.scores.reference import is_reference
        from robustok.runtime.distributed import is_main
        from robustok.runtime.weights import sha256

        out = self.out
        if out.suffix != ".safetensors":  # by which evaluate knows it from images
            raise ValueError(
                f"{out} does not end in .safetensors, by which it is known as a reference; give another --out"
            )
        check_outside(out, self, "images")
        check_reading(self, self.images)
        if out.is_file() and not is_reference(out):
            raise ValueError(f"{out} is there already and is no reference; choose another file")
        compiled = "inductor" if self.compile else None
        extract = extractor(self.features, device_of(self.device), dtype=self.dtype, compile=compiled)
        size = self.size or (None if is_npz(self.images) else SIZES.get(self.images, SIZE))
        images = scored_images(self.images, size, self.scored())
        about, space, sample = images.describe(), extract.describe(), min(len(images), self.sample_size)
        there = out.exists() and not self.overwrite
        if there:
            _check_same(out, {"images": about, "features": space, "sample": counted(sample, "image")})
        else:
            with told("reference", quiet=self.quiet) as bar:
                made = Statistics.of(images, extract, keep=self.sample_size, progress=bar.tell)
            if is_main():
                made.save(out)
        if not self.quiet:
            file = f"{out}, SHA-256 {sha256(out)[:16]}" + ", as it was" * there
            held = f"{counted(sample, 'image')}, for precision, recall and kernel distances"
            print(table([("file", file), ("images", listed(about)), ("features", listed(space)), ("sample", held)]))


def _check_same(out: Path, wanted: Mapping[str, Any]) -> None:
    """Refuse, by a ValueError, a file that is not the reference that is wanted."""
    from robustok.evaluation.scores.reference import Reference as Statistics

    remedy = "choose another file, or add --overwrite"
    try:
        there = Statistics.load(out)
    except ValueError as error:
        raise ValueError(f"{out} is there already and is no whole reference; {remedy}") from error
    found = {"images": there.images, "features": there.space, "sample": counted(len(there.sample), "image")}
    for name, value in found.items():
        if value != wanted[name]:
            text = listed(value) if isinstance(value, Mapping) else value
            raise ValueError(f"{out} is there already and holds another reference ({name}: {text}); {remedy}")
