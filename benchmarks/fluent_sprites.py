"""The embedded sprites of `robustok.data.fluent`, made from the packages they come from.

    npm pack @lobehub/fluent-emoji-3d@1.1.0 unicode-emoji-json@0.9.0
    python benchmarks/fluent_sprites.py lobehub-fluent-emoji-3d-1.1.0.tgz unicode-emoji-json-0.9.0.tgz

The first has the pictures, the second Unicode's group of each emoji, which is its class. The same version of Pillow
writes the same bytes every time, to the folder of `robustok.data.fluent` unless told. Left out are skin tones, second
files of one emoji, and flags, whose pictures are not Microsoft's. Pictures go from 256 to 64 pixels.
"""

import argparse
import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from PIL import Image

from robustok.data.fluent import SPRITE, sprite_file
from robustok.runtime.checkpoint import write_bytes

Points: TypeAlias = tuple[int, ...]  # the code points of an emoji

CLASSES = {
    "Smileys & Emotion": "smileys",
    "People & Body": "people",
    "Animals & Nature": "animals",
    "Food & Drink": "food",
    "Travel & Places": "travel",
    "Activities": "activities",
    "Objects": "objects",
    "Symbols": "symbols",
}
TONES = range(0x1F3FB, 0x1F400)
SELECTOR = 0xFE0F  # "as a picture, not as text", which one file name has and another has not
# What varies a base emoji: joiners, signs of gender, hair, "facing right"; a man or a woman in the place of a person.
VARIES = {0x200D, 0x2640, 0x2642, 0x27A1, *range(0x1F9B0, 0x1F9B4)}
PERSON = {0x1F468: 0x1F9D1, 0x1F469: 0x1F9D1}
ALIKE = (range(0x1F550, 0x1F568), range(0x1F311, 0x1F319))  # clocks at every half hour, phases of the moon
VALIDATION = 4  # one base emoji of each class in so many is of validation


def base(points: Points) -> Points:
    """The emoji that this one is a variant of: variants look alike and belong to one part."""
    alike = {point: same[0] for same in ALIKE for point in same}
    return tuple(alike.get(p, PERSON.get(p, p)) for p in points if p not in VARIES)


def parts(classes: dict[Points, str]) -> dict[Points, str]:
    """The part of each base emoji, from their classes: the first ones of each by a hash are of validation."""
    drawn = sorted(classes, key=lambda points: hashlib.sha256(repr(points).encode()).digest())
    found = {}
    for name in CLASSES.values():
        of_class = [points for points in drawn if classes[points] == name]
        for rank, points in enumerate(of_class):
            found[points] = "validation" if rank < len(of_class) // VALIDATION else "train"
    return found


def groups(package: Path) -> dict[Points, str]:
    """Unicode's group of each emoji."""
    with tarfile.open(package) as tar:
        file = tar.extractfile("package/data-by-emoji.json")
        assert file is not None
        content = json.load(file)
    return {
        tuple(point for point in map(ord, emoji) if point != SELECTOR): entry["group"]
        for emoji, entry in content.items()
    }


def sprites(package: Path, group: dict[Points, str]) -> dict[str, bytes]:
    """WebP files by the names that they have in the archive: part/class/code points."""
    found: dict[Points, bytes] = {}
    with tarfile.open(package) as tar:
        for member in sorted(tar.getmembers(), key=lambda member: member.name):
            path = PurePosixPath(member.name)
            if path.suffix != ".webp":
                continue
            points = tuple(int(p, 16) for p in path.stem.replace("_", "-").split("-") if int(p, 16) != SELECTOR)
            if group.get(points) in CLASSES and not any(point in TONES for point in points):
                file = tar.extractfile(member)
                assert file is not None
                found[points] = small(file.read())
    classes = {points: CLASSES[group[points]] for points in found}
    part = parts({base(points): classes[points] for points in found})
    return {
        f"{part[base(points)]}/{classes[points]}/{'-'.join(f'{point:x}' for point in points)}.webp": content
        for points, content in sorted(found.items())
    }


def small(content: bytes) -> bytes:
    """A picture at the side of a sprite."""
    target = io.BytesIO()
    image = Image.open(io.BytesIO(content)).convert("RGBA").resize((SPRITE, SPRITE), Image.Resampling.HAMMING)
    image.save(target, "WEBP", quality=92, alpha_quality=90, method=6)
    return target.getvalue()


def archive(files: dict[str, bytes]) -> bytes:
    """A zip of them, stored as they are, without a date."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as out:
        for name, content in files.items():
            out.writestr(zipfile.ZipInfo(name), content)
    return target.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the embedded sprites of the set fluent.")
    parser.add_argument("emoji", type=Path, help="the package of pictures, a tgz")
    parser.add_argument("unicode", type=Path, help="the package of Unicode's groups, a tgz")
    parser.add_argument("--out", type=Path, default=Path(str(sprite_file())), help="file to write")
    args = parser.parse_args()
    write_bytes(args.out, archive(sprites(args.emoji, groups(args.unicode))))


if __name__ == "__main__":
    main()
