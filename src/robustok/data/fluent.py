"""The embedded set in color: scenes of one to three emoji on a gradient or a pattern.

The emoji are Microsoft's Fluent set in 3D, MIT; see `fluent_emoji/README.md`. Scene i is a function of the seed and i.
Everything is whole numbers, so a scene has the same pixels on every machine.
"""

import hashlib
import math
import zipfile
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from io import BytesIO
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from robustok.data.images import Draws, FashionMNIST, ImageSet, Indices
from robustok.runtime.checkpoint import short_hash
from robustok.runtime.whole_numbers import whole_number, whole_numbers
from robustok.shapes import Images, to_images

Array: TypeAlias = NDArray[np.int32]
Pyramid: TypeAlias = list[Array]  # a sprite at 64, 32 and 16 pixels: (side + 2, side + 2, 4), alpha multiplied in

SPRITE = 64  # side of an embedded sprite in pixels
COUNTS = {"train": 40_000, "validation": 10_000}
SCENES = 2  # raised when a scene of the same seed and number becomes another
KEPT = 2**30  # bytes of scenes that a set keeps once they are composed
ONE = 1 << 8  # 1 in fixed point: of blending weights and of places within a pixel
TURNS = [(round(math.cos(math.radians(a)) * ONE), round(math.sin(math.radians(a)) * ONE)) for a in range(360)]


class FluentEmoji(ImageSet):
    """The embedded set in color: 8 classes of emoji, 40,000 scenes to train on and 10,000 to score on.

    A scene is one to three sprites, each of random place, size, turn and mirroring, on two colors that are a gradient,
    stripes, checks or rings. Its class is that of the largest sprite, which lies on top: smileys, people, animals ...
    in turn. Training and validation have different emoji; the variants of one emoji are in the same part.

    `size` is the side in pixels: the same scenes at any, but above 64 the sprites are enlarged. The training view is
    the scene or its mirror image, half of the time each.
    """

    flip = True
    known_range = True  # 0 is black
    classes: tuple[str, ...] = (
        *("smileys", "people", "animals", "food", "travel", "activities", "objects", "symbols"),
    )

    def __init__(self, split: Literal["train", "validation"], size: int = SPRITE, *, seed: int = 0):
        if split not in COUNTS:
            raise ValueError(f"split is {split!r}; choose 'train' or 'validation'")
        side = whole_number(size)
        if side is None or side < 16:
            raise ValueError(f"size is {size!r}; ask for 16 pixels or more, a whole number")
        self.split, self.size, self.seed = split, side, seed
        self.labels = torch.arange(COUNTS[split]) % len(self.classes)
        self._sprites, digest = _read_sprites(split)
        self.hash = short_hash(digest.encode(), repr((SCENES, seed, len(self))).encode())
        self._kept: dict[int, Tensor] = {}

    def images(self, indices: Indices) -> Images:
        return to_images(torch.stack([self._scene(i) for i in whole_numbers(indices, "indices").tolist()]))

    def training_images(self, indices: Indices, draws: Draws) -> Images:
        images, mirrored = self.images(indices), draws[:, -1] < 0.5
        return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)

    def describe(self) -> dict[str, Any]:
        """The entries that scores and caches record: the hash is of the sprites and of what the scenes are made by."""
        about = {"name": "fluent", "split": self.split, "view": f"composed at {self.size}"}
        return {**about, "count": len(self), "hash": self.hash}

    def _scene(self, i: int) -> Tensor:
        """Scene i as bytes (3, size, size): composed once, as long as there is room."""
        if i not in self._kept:
            scene = torch.from_numpy(self._compose(i).astype(np.uint8)).permute(2, 0, 1).contiguous()
            if len(self._kept) * scene.numel() >= KEPT:
                return scene
            self._kept[i] = scene
        return self._kept[i]

    def _compose(self, i: int) -> Array:
        draw = SceneNumbers(self.seed, "scene", self.split, i)
        scene = background(self.size, draw)
        others = max(0, draw(4) - 1)
        for other in range(others, -1, -1):  # the main one last, so on top
            label = draw(len(self.classes)) if other else int(self.labels[i])
            of_class = self._sprites[self.classes[label]]
            paste(scene, of_class[draw(len(of_class))], draw, main=other == 0)
        return scene


class SceneNumbers:
    """Random whole numbers of one purpose and place, the same on every machine and in every version of everything."""

    def __init__(self, *place: object):
        self.numbers = iter(np.frombuffer(hashlib.shake_256(repr(place).encode()).digest(256), "<u2").tolist())

    def __call__(self, n: int) -> int:
        """A number from 0 to n - 1."""
        number: int = next(self.numbers) * n >> 16
        return number


def background(size: int, draw: SceneNumbers) -> Array:
    """Two colors as a gradient, stripes, checks or rings: (size, size, 3)."""
    hue = draw(6 * ONE)
    first, second = (np.array(color(draw, hue + draw(ONE)), np.int32) for _ in range(2))
    y, x = np.indices((size, size), np.int32) * ONE // size  # from 0 to 1 in fixed point
    y, x = y - draw(ONE), x - draw(ONE)
    cos, sin = TURNS[draw(360)]
    u, v = (x * cos + y * sin) // ONE, (y * cos - x * sin) // ONE
    distance = np.sqrt(np.float64(x * x + y * y)).astype(np.int32)  # IEEE rounds a root in one way only
    period = ONE // 5 + draw(ONE // 4)
    kind = (0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 3, 4)[draw(12)]
    waves = [np.abs(a % period * 4 - 2 * period) - period for a in (u, v, distance)]  # from -period to period
    weight = (
        u + ONE // 2,
        distance,
        waves[0] * 2 + ONE // 2,
        waves[0] * waves[1] * 4 // period + ONE // 2,
        waves[2] * 2 + ONE // 2,
    )[kind].clip(0, ONE)[..., None]
    mixed: Array = (first * (ONE - weight) + second * weight) // ONE
    return mixed


def color(draw: SceneNumbers, hue: int) -> tuple[int, int, int]:
    """A hue (6 ONE is once around), from white to half saturated, from medium to bright: each color from 0 to 255."""
    saturation, value = draw(ONE * 2 // 3), ONE // 2 + draw(ONE // 2)
    ramps = [abs((hue + shift * ONE) % (6 * ONE) - 3 * ONE) - ONE for shift in (0, 4, 2)]
    red, green, blue = (
        255 * value * (ONE - saturation * (ONE - min(max(ramp, 0), ONE)) // ONE) // ONE**2 for ramp in ramps
    )
    return red, green, blue


def paste(scene: Array, sprite: Pyramid, draw: SceneNumbers, *, main: bool) -> None:
    """Lay a sprite over a scene: the main one 65 to 85 % of the scene wide and near the middle, others 25 to 40 %."""
    size = len(scene)
    percent = (65 if main else 25) + draw(21 if main else 16)
    middle = [size * ((42 + draw(17)) if main else draw(101)) * ONE // 100 for _ in range(2)]
    cos, sin = TURNS[draw(31) - 15]
    mirror = 1 - 2 * draw(2)
    level = sum(size * percent * 7 * 2**k < SPRITE * 500 for k in range(2))  # of at most 1.4 of its pixels to one
    texture = sprite[level]
    side = len(texture) - 2
    reach = size * percent * 3 // 400 + 2  # half of the sprite's diagonal
    (top, left), (bottom, right) = ([min(max(m // ONE + r, 0), size) for m in middle] for r in (-reach, reach))
    y, x = np.indices((bottom - top, right - left), np.int64)
    y, x = (y + top) * ONE + ONE // 2 - middle[0], (x + left) * ONE + ONE // 2 - middle[1]
    scale = size * percent * ONE
    u, v = (
        (a * side * 100 // scale + (side + 1) * ONE // 2).clip(0, (side + 1) * ONE - 1).astype(np.int32)
        for a in ((x * cos + y * sin) * mirror, y * cos - x * sin)
    )
    blended = bilinear(texture, u, v)
    under = scene[top:bottom, left:right]
    scene[top:bottom, left:right] = blended[..., :3] + (under * (255 - blended[..., 3:]) + 127) // 255


def bilinear(texture: Array, u: Array, v: Array) -> Array:
    """A texture at places in fixed point, from the middle of its first pixel on."""
    x, y, a, b = u // ONE, v // ONE, (u % ONE)[..., None], (v % ONE)[..., None]
    upper = texture[y, x] * (ONE - a) + texture[y, x + 1] * a
    lower = texture[y + 1, x] * (ONE - a) + texture[y + 1, x + 1] * a
    return ((upper * (ONE - b) + lower * b + ONE * ONE // 2) // (ONE * ONE)).astype(np.int32, copy=False)


def sprite_file() -> Traversable:
    """The archive of sprites: WebP files by part, class and code points."""
    return resources.files("robustok.data") / "fluent_emoji" / "sprites.zip"


@cache
def _read_sprites(split: str) -> tuple[dict[str, list[Pyramid]], str]:
    """The sprites of one part by class, in the order of their names, and a hash of their files."""
    found: dict[str, list[Pyramid]] = {}
    digest = hashlib.sha256()
    with zipfile.ZipFile(BytesIO(sprite_file().read_bytes())) as archive:
        for name in archive.namelist():
            part, label, _ = name.split("/")
            if part == split:
                content = archive.read(name)
                digest.update(content)
                found.setdefault(label, []).append(pyramid(content))
    return found, digest.hexdigest()


def pyramid(content: bytes) -> Pyramid:
    """A sprite at each of its sides, with an empty pixel around it; its colors are multiplied by its alpha."""
    rgba = np.asarray(Image.open(BytesIO(content)).convert("RGBA"), np.int32)
    rgba = np.concatenate([(rgba[..., :3] * rgba[..., 3:] + 127) // 255, rgba[..., 3:]], axis=-1)
    levels = [rgba]
    for _ in range(2):
        a = levels[-1]
        levels.append((a[::2, ::2] + a[1::2, ::2] + a[::2, 1::2] + a[1::2, 1::2] + 2) // 4)
    return [np.pad(level, ((1, 1), (1, 1), (0, 0))) for level in levels]


EMBEDDED = {"fashion-mnist": FashionMNIST, "fluent": FluentEmoji}  # sets that are in the package, by the name typed
