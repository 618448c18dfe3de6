"""Which demo is run by what was typed: of a masked generator, of a frozen encoder."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import arange

from robustok import presets
from robustok.cli import main
from robustok.demo.config import DemoImages
from robustok.generators.masked import Masked
from robustok.generators.unmasking import MaskedSampling
from robustok.tokenizer.autoencoder import AutoencoderConfig
from robustok.tokenizer.encoder import Conv
from robustok.tokenizer.frozen_encoder import FrozenLite0


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    seen: list[Any] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("robustok.demo.run.run_demo", lambda config, out, **how: seen.append((config, out)))
    return seen


@pytest.mark.parametrize(
    ("words", "wanted", "out"),
    [
        ("--generator masked", presets.masked, "runs/masked"),
        ("--generator masked --preset smoke", presets.masked_smoke, "runs/masked"),
        ("--generator autoregressive", presets.demo, "runs/demo"),
        ("--latent rae --preset short", presets.rae_short, "runs/rae"),
        ("--latent rae --preset smoke", presets.rae_smoke, "runs/rae"),
    ],
)
def test_a_demo_of_a_name(words: str, wanted: Any, out: str, ran: list[Any]):
    assert main(["demo", *words.split()]) == 0
    assert ran == [(wanted(), Path(out))]


def test_settings_of_a_masked_generator(ran: list[Any]):
    words = "--generator masked --generator.generator.depth 2 --post.sampling.steps 5 --images fluent"
    assert main(["demo", *words.split()]) == 0
    config, out = ran[0]
    assert isinstance(config.generator.generator, Masked)
    assert (config.generator.generator.depth, config.generator.generator.classes) == (2, 8)
    assert isinstance(config.post.sampling, MaskedSampling)
    assert (config.post.sampling.steps, out) == (5, Path("runs/masked-fluent"))


def test_in_color_a_frozen_encoder_stays(ran: list[Any]):
    assert main(["demo", "--latent", "rae", "--images", "fluent"]) == 0
    tokenizer = ran[0][0].main.tokenizer
    assert isinstance(tokenizer, AutoencoderConfig)
    assert (tokenizer.encoder, tokenizer.image_size) == (FrozenLite0(side=64, stages=3), 64)
    assert isinstance(tokenizer.decoder, Conv)


@pytest.fixture
def photos(ran: list[Any]) -> None:
    """120 images of 70 pixels, of the classes ant and bee, 70 and 50, in a folder `my photos` here."""
    for i in range(120):
        path = Path("my photos") / ("ant" if i < 70 else "bee") / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (70, 90), (2 * i, 0, 0)).save(path)


def test_a_demo_on_own_images(photos: None, ran: list[Any]):
    assert main(["demo", "--images", "my photos", "--no-flip"]) == 0
    config, out = ran[0]
    assert out == Path("runs/demo-my-photos")
    assert (config.images, config.flip, config.generator.generator.classes) == ("my photos", False, 2)
    assert (config.train_images, config.post.held_out, config.reference, config.scored) == (84, 12, 24, 24)
    images = DemoImages.of(config)
    assert [len(part) for part in images] == [84, 12, 24, 24]
    assert [part.labels.bincount().tolist() for part in images] == [[49, 35], [7, 5], [14, 10], [14, 10]]
    reds = [
        round(float(image[0].mean() + 1) * 127.5) for part in images[:3] for image in part.images(arange(len(part)))
    ]
    assert sorted(reds) == list(range(0, 240, 2)), "each image has one purpose"
    assert (images.train.size, images.train.flip) == (64, False)


@pytest.mark.parametrize("labels", ["none", "classes.csv"])
def test_what_tells_the_classes_of_own_images(labels: str, photos: None, ran: list[Any]):
    folder = Path("my photos")
    for path in sorted(folder.glob("*/*.png")):
        path.rename(folder / path.name)
    (folder / "ant").rmdir()
    (folder / "bee").rmdir()
    Path("classes.csv").write_text("".join(f"{i:03}.png,class {i % 3}\n" for i in range(120)))
    assert main(["demo", "--images", "my photos", "--labels", labels]) == 0
    images = DemoImages.of(ran[0][0])
    assert images.reference.labels.bincount().tolist() == ([24] if labels == "none" else [8, 8, 8])


@pytest.mark.parametrize("upscale", [True, False])
def test_own_images_that_are_too_small(upscale: bool, photos: None, ran: list[Any]):
    for path in Path("my photos").glob("ant/*.png"):
        Image.new("RGB", (50, 40)).save(path)
    assert main(["demo", "--images", "my photos", *["--upscale"] * upscale]) == 0
    if upscale:
        assert DemoImages.of(ran[0][0]).train.images(arange(84)).shape == (84, 3, 64, 64)
    else:
        with pytest.raises(
            ValueError, match="70 images in my photos are smaller than the crop of 64 pixels: .*upscale=True"
        ):
            DemoImages.of(ran[0][0])


def test_own_images_that_are_too_few_or_would_be_mixed_with_pictures(photos: None, ran: list[Any], capsys: Any):
    assert main(["demo", "--images", "my photos", "--out", "my photos/run"]) == 2
    assert "--out my photos/run lies in --images my photos, so what is written would be" in capsys.readouterr().err
    assert main(["demo", "--images", "my photos/ant"]) == 2
    assert "70 images in my photos/ant are too few to train, choose and score on; give at least 100" in (
        capsys.readouterr().err
    )
    assert main(["demo", "--images", "fluent", "--no-flip"]) == 2
    assert "fluent is taken without --no-flip; leave that out" in capsys.readouterr().err
    assert not ran


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--generator masked --latent continuous", "a masked generator fills in tokens; leave out --generator masked"),
        ("--generator masked --corners", "--corners is of both kinds, discrete and continuous; leave out --generator"),
        ("--latent continuous --corners", "--corners is of both kinds, discrete and continuous; leave out --generator"),
        ("--latent rae --corners", "--corners is of both kinds, discrete and continuous; leave out --generator and"),
        ("--generator diffusion", "argument --generator: invalid choice: 'diffusion'"),
    ],
)
def test_what_does_not_go_together_is_refused(words: str, message: str, ran: list[Any], capsys: Any):
    assert main(["demo", *words.split()]) == 2
    assert message in capsys.readouterr().err
    assert not ran
