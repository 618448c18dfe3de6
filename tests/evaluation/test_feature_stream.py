import pytest
import torch

from robustok.evaluation.feature_stream import FeatureStream, feature_stream
from robustok.evaluation.fid import FeatureStats


def filled(features: torch.Tensor, batch: int, keep: int) -> FeatureStream:
    stream = FeatureStream({}, keep)
    for part in features.split(batch):
        stream.add(part)
    return stream


@pytest.mark.parametrize("batch", [1, 7, 64, 100])
def test_keeps_evenly_spaced_images_whatever_the_batches(batch):
    features = torch.arange(100.0)[:, None].repeat(1, 2)
    stream = filled(features, batch, keep=30)
    assert torch.equal(stream.sample, features[::4])
    assert stream.count == 100
    torch.testing.assert_close(stream.stats.scatter, FeatureStats.of(features).scatter)


def test_keeps_all_of_few():
    features = torch.rand(30, 2)
    assert torch.equal(filled(features, 8, keep=30).sample, features)


def test_from_batches_of_pixels():
    pixels = torch.randint(256, (10, 3, 4, 4), dtype=torch.uint8)
    stream = feature_stream(pixels.split(3), lambda batch: batch.flatten(1).float())
    assert torch.equal(stream.sample, pixels.flatten(1).float())
    assert stream.space == {"features": "<lambda>"}


def test_refuses_to_score_nothing():
    with pytest.raises(ValueError, match="no images to score"):
        _ = feature_stream([], lambda batch: batch.flatten(1).float()).stats
