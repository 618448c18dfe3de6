"""Images in tar shards, as WebDataset and Hugging Face keep them: read where they lie, nothing is unpacked."""

import io
import tarfile
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from robustok.data import decoding
from robustok.data.folder import SUFFIXES
from robustok.data.images import Indices, short_hash
from robustok.shapes import Images, to_images


class Member(NamedTuple):
    """An image in a shard."""

    shard: Path
    name: str
    offset: int  # of its first byte
    size: int  # in bytes


class TarImages:
    """The images of tar files, in the order of the files' names and of their members, to be scored.

    `pattern` is one file, or several as a shell would write them: `shards/*.tar`. Members are PNG, JPEG, WebP, BMP, GIF
    or TIFF by their suffix, others (labels, texts) are passed over. Each image is ADM's center crop to `size`; with
    `upscale`, images that are smaller are enlarged rather than refused. Compressed tars are refused: they have no
    places to read from. Raises ValueError for a shard that is cut short, or without images.
    """

    def __init__(self, pattern: str | Path, size: int, *, upscale: bool = False, workers: int | None = None):
        self.size, self.upscale, self.workers, self.pattern = size, upscale, workers, str(pattern)
        self.shards = tuple(Path(name) for name in sorted(glob(self.pattern)))
        if not self.shards:
            raise ValueError(f"there is no file {pattern}; give a tar file, or a pattern such as 'shards/*.tar'")
        self.members = [member for shard in self.shards for member in _members(shard)]
        if not self.members:
            raise ValueError(f"no image found in {pattern}; wanted members that end in {', '.join(SUFFIXES)}")

    def __len__(self) -> int:
        return len(self.members)

    @property
    def side(self) -> int:
        """The shorter side of the first image in pixels."""
        return min(self._read(self.members[0]).size)

    def images(self, indices: Indices) -> Images:
        with ThreadPoolExecutor(self.workers) as pool:
            squares = list(pool.map(self._square, indices.tolist()))
        return to_images(torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).contiguous())

    def describe(self) -> dict[str, Any]:
        """What scores record. The hash is of names and byte counts, for contents take hours."""
        listing = "\n".join(f"{member.name} {member.size}" for member in self.members)
        name = self.shards[0].name if len(self.shards) == 1 else f"{len(self.shards)} shards, {self.shards[0].name} ..."
        return {
            "name": name,
            "view": f"ADM center crop to {self.size}",
            "count": len(self),
            "hash": short_hash(listing.encode()),
        }

    def _square(self, index: int) -> decoding.Square:
        member = self.members[index]
        image = self._read(member)
        if min(image.size) < self.size and not self.upscale:
            raise ValueError(
                f"{member.name} in {member.shard} is {image.width} x {image.height} pixels, less than the crop of "
                f"{self.size}; choose a smaller size, or pass upscale=True to enlarge"
            )
        return decoding.center_crop(image, self.size)

    def _read(self, member: Member) -> Image.Image:
        with member.shard.open("rb") as file:
            file.seek(member.offset)
            data = file.read(member.size)
        try:
            return decoding.read(io.BytesIO(data))
        except Exception as error:  # strangers' files make Pillow raise nearly anything
            raise ValueError(
                f"{member.name} in {member.shard} cannot be read ({error}); repair the shard, or leave the image out"
            ) from error


def _members(shard: Path) -> list[Member]:
    """The images of a shard, from its headers alone."""
    try:
        with tarfile.open(shard, "r:") as tar:
            members = [
                Member(shard, entry.name, entry.offset_data, entry.size)
                for entry in tar
                if entry.isfile() and entry.name.lower().endswith(SUFFIXES)
            ]
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"{shard} is no uncompressed tar ({error}); unpack it, or fetch it again") from error
    if members and members[-1].offset + members[-1].size > shard.stat().st_size:
        raise ValueError(f"{shard} was cut short: {members[-1].name} ends beyond it; fetch it again")
    return members
