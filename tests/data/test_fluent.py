"""Scenes in color: the sprites are those that were made, no emoji is of both parts, scenes have the pixels they had."""

import hashlib
import re
import zipfile
from io import BytesIO
from pathlib import Path

import fluent_sprites
import numpy as np
import pytest
import torch

from robustok.data import FluentEmoji, hold_out
from robustok.data.fluent import ONE, TURNS, SceneNumbers, bilinear, color, pyramid, sprite_file
from robustok.data.images import DRAWS, ImageSet
from robustok.shapes import to_pixels

SCENES = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 39_999])


def test_the_sprites_are_those_that_were_made():
    readme = (Path(str(sprite_file())).parent / "README.md").read_text()
    (size, digest) = re.search(r"`sprites\.zip` \| (\d+) \| `(\w+)`", readme).groups()
    content = sprite_file().read_bytes()
    assert (str(len(content)), hashlib.sha256(content).hexdigest()) == (size, digest)


def test_no_emoji_is_of_training_and_of_validation():
    parts = {"train": set(), "validation": set()}
    with zipfile.ZipFile(BytesIO(sprite_file().read_bytes())) as archive:
        for name in archive.namelist():
            part, label, file = name.split("/")
            assert label in FluentEmoji.classes
            points = tuple(int(point, 16) for point in file.removesuffix(".webp").split("-"))
            assert not any(point in fluent_sprites.TONES for point in points)
            parts[part].add(fluent_sprites.base(points))
    assert not parts["train"] & parts["validation"]
    assert 0.2 < len(parts["validation"]) / sum(map(len, parts.values())) < 0.3


def test_variants_have_one_base():
    woman_astronaut, astronaut = (0x1F469, 0x200D, 0x1F680), (0x1F9D1, 0x200D, 0x1F680)
    assert fluent_sprites.base(woman_astronaut) == fluent_sprites.base(astronaut)
    assert fluent_sprites.base((0x1F3C3, 0x200D, 0x2640)) == fluent_sprites.base((0x1F3C3,))
    assert fluent_sprites.base((0x1F550,)) == fluent_sprites.base((0x1F567,)) != fluent_sprites.base((0x1F680,))


def test_scenes_have_the_pixels_that_they_had():
    """On every machine: caches and models of earlier runs are of these."""
    assert scene_hash(FluentEmoji("train")) == "a22fb8049a487c6d"
    assert scene_hash(FluentEmoji("validation"), SCENES[:-1]) == "3af7d8725347f371"


def scene_hash(images: FluentEmoji, which: torch.Tensor = SCENES) -> str:
    return hashlib.sha256(to_pixels(images.images(which)).numpy().tobytes()).hexdigest()[:16]


def test_a_scene_is_a_function_of_seed_and_number():
    first, again, other = FluentEmoji("train"), FluentEmoji("train"), FluentEmoji("train", seed=1)
    assert isinstance(first, ImageSet)
    one_by_one = torch.cat([again.images(torch.tensor([i])) for i in reversed(SCENES.tolist())]).flip(0)
    assert torch.equal(first.images(SCENES), one_by_one)
    assert not torch.equal(first.images(SCENES), other.images(SCENES))
    assert first.describe()["hash"] != other.describe()["hash"] != FluentEmoji("validation").describe()["hash"]
    assert first.describe() == again.describe()


def test_scenes_are_kept_only_as_long_as_there_is_room(monkeypatch):
    monkeypatch.setattr("robustok.data.fluent.KEPT", 2 * 3 * 64 * 64)
    images = FluentEmoji("train")
    assert torch.equal(images.images(SCENES), FluentEmoji("train").images(SCENES))
    assert len(images._kept) == 2


def test_classes_come_in_turn_and_every_part_of_them_is_balanced():
    images = FluentEmoji("validation")
    assert images.labels.bincount().tolist() == [1250] * 8
    _, held = hold_out(images, 800)
    assert held.labels.bincount().tolist() == [100] * 8


def test_the_training_view_is_the_scene_or_its_mirror_image():
    images = FluentEmoji("train")
    draws = torch.zeros(2, DRAWS, dtype=torch.float64)
    draws[:, -1] = torch.tensor([0.49, 0.5])
    plain, seen = images.images(SCENES[:2]), images.training_images(SCENES[:2], draws)
    assert torch.equal(seen[0], plain[0].flip(-1))
    assert torch.equal(seen[1], plain[1])


def test_scenes_are_the_same_at_any_size():
    """One at 32 pixels is near the mean of the same at 64, and far from the mean of others."""
    large = torch.nn.functional.avg_pool2d(FluentEmoji("train").images(SCENES), 2)
    small = FluentEmoji("train", 32).images(SCENES)
    distances = (large[:, None] - small[None]).abs().flatten(2).mean(-1)
    assert distances.diagonal().max() < 0.12
    assert distances.argmin(1).tolist() == list(range(len(SCENES)))


def test_scenes_are_in_color():
    pixels = to_pixels(FluentEmoji("train").images(torch.arange(64))).float()
    assert (pixels.amax(1) - pixels.amin(1)).mean() > 30  # of 255: the chroma of a gray image is 0


@pytest.mark.usefixtures("unchecked")
def test_what_it_has_not_is_refused():
    with pytest.raises(ValueError, match="split is 'test'; choose 'train' or 'validation'"):
        FluentEmoji("test")  # type: ignore[arg-type]
    for size in (15, 64.0):
        with pytest.raises(ValueError, match=rf"size is {size}; ask for 16 pixels or more, a whole number"):
            FluentEmoji("train", size)  # type: ignore[arg-type]


def test_draws_are_uniform():
    numbers = [SceneNumbers("test", i)(10) for i in range(5000)]
    counts = np.bincount(numbers, minlength=10)
    assert len(counts) == 10
    assert ((counts - 500) ** 2 / 500).sum() < 27.9  # chi square of 9 degrees of freedom: one seed in 1,000 is above


def test_a_texture_is_read_between_its_pixels():
    texture = np.arange(4 * 4, dtype=np.int32).reshape(4, 4, 1) * 10
    places = np.array([[ONE, 3 * ONE // 2]], np.int32)
    assert bilinear(texture, places, np.full_like(places, ONE)).flatten().tolist() == [50, 55]
    assert bilinear(texture, places, np.full_like(places, ONE // 2)).flatten().tolist() == [30, 35]


def test_a_sprite_has_its_colors_times_alpha_at_every_side():
    with zipfile.ZipFile(BytesIO(sprite_file().read_bytes())) as archive:
        levels = pyramid(archive.read(archive.namelist()[0]))
    assert [level.shape for level in levels] == [(66, 66, 4), (34, 34, 4), (18, 18, 4)]
    for level in levels:
        assert (level[..., :3] <= level[..., 3:] + 1).all()
        assert not level[0].any()
        assert not level[:, -1].any()
        assert level[1:-1, 1:-1].mean((0, 1)) == pytest.approx(levels[0][1:-1, 1:-1].mean((0, 1)), abs=1)


def test_turns_are_rounded_far_from_a_tie():
    """So cosines that differ in their last bit from one machine to another make the same turns."""
    exact = np.cos(np.deg2rad(np.arange(360))) * ONE
    ties = np.abs(exact % 1 - 0.5)
    assert ties[np.arange(360) % 60 != 0].min() > 1e-4  # at 60 degrees it is ONE / 2, a whole number
    assert TURNS[60] == (ONE // 2, 222)


def test_colors_are_bytes_of_every_hue():
    colors = np.array([color(SceneNumbers("color", i), hue) for i, hue in enumerate(range(6 * ONE))])
    assert colors.min() >= 0
    assert colors.max() <= 255
    assert set(colors.argmax(1)) == {0, 1, 2}
    assert (colors.max(1) >= 120).all()
