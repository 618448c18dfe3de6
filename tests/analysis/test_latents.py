"""The analysis of a generator of latents whose errors are known in closed form."""

import json
from dataclasses import asdict

import pytest
import torch
from tests.analysis.erring import Patches, Templates
from torch import Tensor

from robustok.analysis import latents
from robustok.analysis.latents import GRID, LEVELS, LatentAnalysis, analyze_latents
from robustok.cli import main
from robustok.evaluation.metrics.latent_pfid import NOISE_GRID, ChannelStats, NoiseCell
from robustok.generators.diffusion_transformer import DiffusionTransformer, DiffusionTransformerModel
from robustok.generators.flow import FlowSampling
from robustok.tokenizer.autoencoder import Autoencoder, AutoencoderConfig
from robustok.tokenizer.bottleneck import Plain
from robustok.tokenizer.encoder import Conv

CELLS = tuple(NoiseCell(*cell) for cell in ((0.5, 0.2), (1.0, 0.05), (1.0, 0.2), (1.0, 0.5)))


class Colors:
    """The erring tests' tokenizer without its codebook: latents are mean colors."""

    device, image_size, tokens_per_image = torch.device("cpu"), 16, 16
    encode, decode, contrast = Patches.encode, Patches.decode, 1.0


class Missing:
    """Knows each class's one latent z, and makes m + (1 - s) (z - m) + s k e of it, with the noise e it starts from.

    Its paths are straight: x = (1 - t) (base + s k e) + t e, so e - base - s k e is the velocity everywhere.
    """

    latent_shape, null_class, device = (16, 3), 20, torch.device("cpu")

    def __init__(self, latents: Tensor, s: float):
        stats = ChannelStats.of(latents)
        mean, spread = stats.mean.float(), stats.std.float()
        self.base, self.width = mean + (1 - s) * (latents - mean), s * spread

    def velocity(self, latents: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        t, base = t[:, None, None], torch.cat([self.base, self.base[:1]])[labels]
        noise = (latents - (1 - t) * base) / ((1 - t) * self.width + t)
        return noise - base - self.width * noise

    def fingerprint(self) -> str:
        return "missing"


def analysis(s: float, *, classes: bool = True) -> LatentAnalysis:
    images = Templates(Patches())
    if not classes:
        pictures = images.images(torch.arange(len(images)))
        images.images = lambda indices: pictures[indices]
        images.labels = torch.full_like(images.labels, Missing.null_class)
    first = torch.arange(20) * 12
    generator = Missing(Colors().encode(images.images(first)), s)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latents, "GRID", CELLS)
        return analyze_latents(Colors(), generator, images, sampling=FlowSampling(steps=4), count=120)


@pytest.fixture(scope="module")
def found() -> LatentAnalysis:
    return analysis(0.2)


def test_the_noise_that_the_generator_leaves_is_found(found):
    imitated = found.imitation.target("generated")
    assert imitated.best == NoiseCell(1.0, 0.2)
    assert imitated.gain_interval[0] > 0
    assert imitated.gain == pytest.approx(imitated.to_unperturbed, rel=0.2)  # it closes all of the distance
    assert found.imitation.in_pfid == (True, False, False, False)


def test_images_of_no_class_are_asked_for_where_the_real_ones_tell_none(found):
    assert analysis(0.2, classes=False).floor == pytest.approx(found.floor, rel=2)


def test_the_grid_holds_pfids():
    assert set(NOISE_GRID) < set(GRID)
    assert len(set(GRID)) == len(GRID) == 35


def test_a_perfect_generator_is_imitated_by_nothing():
    found = analysis(0.0)
    imitated = found.imitation.target("generated")
    assert imitated.best.strength == 0.05
    assert imitated.gain_interval[0] <= 0
    assert all(back.std == pytest.approx(1, abs=0.05) for back in found.returns if back.how == "sampled")


def test_what_comes_back_in_closed_form(found):
    """The generator's latents are off the image's own by s (e - (z - m) / k), whose mean square is 2 s^2."""
    assert [(back.how, back.level) for back in found.returns] == [
        (how, level) for how in ("one pass", "sampled") for level in LEVELS
    ]
    generated = found.returns[-1]
    assert generated.own == pytest.approx(2**0.5 * 0.2, rel=0.05)
    assert generated.std == pytest.approx((0.8**2 + 0.2**2) ** 0.5, rel=0.05)
    assert generated.apart > 4 * abs(found.floor)
    assert generated.apart_interval[0] < generated.apart < generated.apart_interval[1]
    assert max(found.std_floor) == pytest.approx(1, abs=0.02)
    assert max(map(abs, found.shift)) < 0.1
    assert generated.nearest > 1


def test_analysis_survives_json(found):
    assert json.loads(json.dumps(asdict(found)))["imitation"]["targets"][0]["best"] == [1.0, 0.2]


def test_a_channel_without_spread_is_refused():
    class Flat(Colors):
        def encode(self, images):
            return 0 * Patches.encode(self, images)

    images = Templates(Patches())
    with pytest.raises(ValueError, match="a channel of the latents is the same everywhere"):
        analyze_latents(Flat(), Missing(torch.randn(20, 16, 3), 0.1), images, count=120)


def test_the_verb(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    part = Conv(stem=4, channels=(8, 8), blocks=1, attention=False)
    tokenizer = Autoencoder(AutoencoderConfig(image_size=16, encoder=part, decoder=part, bottleneck=Plain(width=4)))
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    n, d = tokenizer.latent_shape
    config = DiffusionTransformer(tokens=n, channels=d, classes=20, width=32, depth=1, heads=1)
    DiffusionTransformerModel(config).save_pretrained(tmp_path / "generator")
    monkeypatch.setattr(latents, "GRID", CELLS)
    monkeypatch.setattr("robustok.cli.analyze.Analyze._images", lambda *asked: Templates(Patches()))
    words = ["--tokenizer", str(tmp_path / "tokenizer"), "--generator", str(tmp_path / "generator"), "--images", "x"]
    words = ["analyze", *words, "--out", str(tmp_path / "out"), "--device", "cpu", "--count", "60", "--steps", "2"]
    assert main(words) == 0
    assert len(json.loads((tmp_path / "out" / "analysis.json").read_text())["returns"]) == 10
    printed = capsys.readouterr().out
    assert "sampled, noise level 1" in printed
    assert "Channels of generated latents" in printed
    assert main([*words, "--tuned", str(tmp_path / "tokenizer")]) == 2
    assert "of latents the decoder changes nothing" in capsys.readouterr().err
