"""Scores of a tokenizer without a codebook."""

import pytest
import torch
from tests.evaluation.scored import Blocks, Grays, Noise, shades

from robustok.evaluation.metrics.fid import FeatureStats, frechet_distance
from robustok.evaluation.metrics.latent_pfid import NOISE_GRID, ChannelStats, noised_by_cells
from robustok.evaluation.metrics.pfid import BLOCK
from robustok.evaluation.scores import tokenizer_scores
from robustok.evaluation.scores.score import Score
from robustok.evaluation.scores.tokenizer_scores import score_tokenizer
from robustok.runtime.seeding import spread
from robustok.shapes import to_images, to_pixels

COUNT = BLOCK + 10  # images of pFID


@pytest.fixture(scope="module")
def images() -> Noise:
    return Noise(2 * BLOCK + 20)


@pytest.fixture(scope="module")
def scores(images) -> list[Score]:
    return score_tokenizer(Grays(), images, shades, pfid_images=COUNT)


def value(scores: list[Score], metric: str) -> float:
    (score,) = (score for score in scores if score.metric == metric)
    return score.value


def chosen(images: Noise) -> torch.Tensor:
    return images.pixels[spread(COUNT, len(images))]


def distance(pixels: torch.Tensor, latents: torch.Tensor) -> float:
    return frechet_distance(
        FeatureStats.of(shades(pixels)), FeatureStats.of(shades(to_pixels(Grays().decode(latents))))
    )


def test_one_score_for_each_metric_and_cell(scores):
    names = ["rfid", "rfid_pfid_images", "pfid", *["pfid_cell"] * 15, "ifid", "psnr", "ssim"]
    assert [score.metric for score in scores] == names


def test_rfid_is_the_distance_of_all_reconstructions(scores, images):
    whole = images.images(torch.arange(len(images)))
    assert value(scores, "rfid") == pytest.approx(distance(images.pixels, Grays().encode(whole)), rel=1e-9)


def test_pfid_cells_are_distances_of_noisy_reconstructions(scores, images):
    """By hand: the channel measured over the images of pFID, latents disturbed block by block."""
    latents = Grays().encode(to_images(chosen(images)))
    channels = ChannelStats.of(latents)
    by_block = [list(noised_by_cells(part, channels, seed=0, block=i)) for i, part in enumerate(latents.split(BLOCK))]
    cells = [score for score in scores if score.metric == "pfid_cell"]
    for number, cell in enumerate(NOISE_GRID):
        noisy = torch.cat([block[number][1] for block in by_block])
        assert cells[number].value == pytest.approx(distance(chosen(images), noisy), rel=1e-6)
        assert (cells[number].protocol["alpha"], cells[number].protocol["strength"]) == tuple(cell)
    assert value(scores, "pfid") == pytest.approx(sum(cell.value for cell in cells) / 15)
    assert value(scores, "pfid") > value(scores, "rfid")


def test_ifid_is_the_distance_of_midpoints(scores, images):
    latents = Grays().encode(to_images(chosen(images)))
    apart = torch.cdist(latents.double().flatten(1), latents.double().flatten(1)).fill_diagonal_(torch.inf)
    midpoints = (latents + latents[apart.argmin(dim=1)]) / 2
    assert value(scores, "ifid") == pytest.approx(distance(chosen(images), midpoints), rel=1e-6)


def test_protocol_says_how(scores):
    by_metric = {score.metric: score for score in scores}
    assert by_metric["pfid"].protocol["kind"] == by_metric["pfid_cell"].protocol["kind"] == "latent noise"
    assert by_metric["ifid"].protocol["neighbors_among"] == COUNT
    assert by_metric["ifid"].protocol["neighbor_weight"] == 0.5
    assert "kind" not in by_metric["rfid"].protocol
    assert (by_metric["pfid"].seeds, by_metric["ifid"].seeds) == ((0,), ())
    for metric in ("pfid", "ifid"):
        assert by_metric[metric].images == COUNT
        low, high = by_metric[metric].interval
        assert low < by_metric[metric].value < high


class Twins(Noise):
    """Every image has a twin that is nearer to it than any other image: the midpoints are known."""

    def __init__(self):
        super().__init__(60)
        grays = torch.arange(0, 240, 8, dtype=torch.uint8).repeat_interleave(2)
        grays[1::2] += 2
        self.pixels = grays[:, None, None, None].expand(60, 3, 12, 12).clone()
        self.pixels[::6, 0] += 5  # not gray, or all features would be one

    def midpoints(self) -> torch.Tensor:
        grays = self.pixels.float().mean(dim=(1, 2, 3))
        return grays.view(-1, 2).mean(dim=1).repeat_interleave(2) / 127.5 - 1


def test_midpoints_of_twins():
    images = Twins()
    midpoints = images.midpoints()[:, None, None].expand(60, 4, 1)
    assert value(score_tokenizer(Grays(), images, shades), "ifid") == pytest.approx(
        distance(images.pixels, midpoints), rel=1e-6
    )


class Scaled(Grays):
    """The same, with latents on another scale."""

    def encode(self, images):
        return 4 * super().encode(images) + 100

    def decode(self, codes):
        return super().decode((codes - 100) / 4)


def test_the_scale_of_latents_changes_nothing(scores, images):
    for one, other in zip(scores, score_tokenizer(Scaled(), images, shades, pfid_images=COUNT), strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-3), one.metric  # a pixel may round the other way


def test_batches_and_memory_do_not_change_scores(scores, images, monkeypatch):
    monkeypatch.setattr(tokenizer_scores, "HELD", 1)  # bytes: a block at a time looks for its neighbors
    seen = []
    again = score_tokenizer(
        Grays(), images, shades, pfid_images=COUNT, batch_size=33, progress=lambda *both: seen.append(both)
    )
    for one, other in zip(scores, again, strict=True):
        assert (one.metric, one.protocol) == (other.metric, other.protocol)
        assert one.value == pytest.approx(other.value, rel=1e-9)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    # all and their reconstructions; cells, scale, neighbors sought and midpoints; neighbors shown, twice
    assert seen[-1] == (2 * len(images) + 18 * COUNT + 2 * COUNT,) * 2


def test_seed_changes_only_what_is_random(scores, images):
    for one, other in zip(scores, score_tokenizer(Grays(), images, shades, pfid_images=COUNT, seed=1), strict=True):
        assert (one.value == other.value) == (not one.metric.startswith("pfid"))


def test_neighbors_in_another_set(scores, images):
    other = Noise(400, seed=5)  # of other images
    found = score_tokenizer(Grays(), images, shades, pfid_images=COUNT, neighbors_in=other)
    latents, shown = (Grays().encode(to_images(pixels)) for pixels in (chosen(images), other.pixels))
    near = shown[torch.cdist(latents.double().flatten(1), shown.double().flatten(1)).argmin(dim=1)]
    assert value(found, "ifid") == pytest.approx(distance(chosen(images), (latents + near) / 2), rel=1e-6)
    (score,) = (score for score in found if score.metric == "ifid")
    assert score.protocol["neighbors_among"] == other.describe()
    assert value(found, "pfid") == value(scores, "pfid")


def test_refuses_what_cannot_be_scored(images):
    with pytest.raises(ValueError, match="iFID is of latents, and this tokenizer makes codes; leave neighbors_in"):
        score_tokenizer(Blocks(), images, shades, neighbors_in=images)
    with pytest.raises(ValueError, match="neighbors_in are the very images, each its own neighbor; leave it out"):
        score_tokenizer(Grays(), images, shades, neighbors_in=Noise(len(images)))
    with pytest.raises(ValueError, match="1 image cannot be scored; give at least two"):
        score_tokenizer(Grays(), images, shades, neighbors_in=Noise(1))
    with pytest.raises(ValueError, match="pFID cannot be had from 1 image; take at least two"):
        score_tokenizer(Grays(), images, shades, pfid_images=1)
