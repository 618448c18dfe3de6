import pytest
import torch

from robustok.evaluation.features.extractor import Outputs
from robustok.evaluation.features.registry import extractor
from robustok.evaluation.metrics.fid import FeatureStats
from robustok.evaluation.metrics.inception_score import ClassStats
from robustok.evaluation.scores.feature_stream import FeatureStream, extracted, feature_stream
from robustok.runtime.seeding import mixed


def filled(features: torch.Tensor, batch: int, keep: int) -> FeatureStream:
    stream = FeatureStream({}, keep)
    for part in features.split(batch):
        stream.add(part)
    return stream


@pytest.mark.parametrize("batch", [1, 7, 64, 100])
def test_keeps_the_same_images_whatever_the_batches(batch):
    features = torch.arange(100.0)[:, None].repeat(1, 2)
    stream = filled(features, batch, keep=30)
    assert torch.equal(stream.sample, features[mixed(torch.arange(100)).argsort()[:30].sort().values])
    assert stream.count == 100
    torch.testing.assert_close(stream.stats.scatter, FeatureStats.of(features).scatter)


ORDERS = {  # images and classes -> the class of each image
    "classes in turn": lambda count, classes: torch.arange(count) % classes,
    "one class after the other": lambda count, classes: torch.arange(count) * classes // count,
    "pairs of a class in turn": lambda count, classes: torch.arange(count) // 2 % classes,
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("classes", [2, 10, 64, 125, 987, 1000])
@pytest.mark.parametrize("count", [2500, 5000, 8192, 50_000])
def test_the_sample_has_all_classes_as_if_drawn(order, classes, count):
    """Each as often as of images drawn without replacement: chi-square has a mean of `classes` - 1."""
    labels = ORDERS[order](count, classes)
    sample = filled(labels.double()[:, None], 4096, keep=2000).sample[:, 0].long()
    assert len(sample) == 2000
    expected = labels.bincount(minlength=classes) * 2000 / count
    found = sample.bincount(minlength=classes)
    spread = float(((found - expected).square() / expected).sum() / (1 - 2000 / count))
    assert spread < classes - 1 + 5 * (2 * classes) ** 0.5 + 5
    if expected.min() >= 20:  # each is missed with a chance below 2e-9
        assert (found > 0).all()


def test_keeps_all_of_few():
    features = torch.rand(30, 2)
    assert torch.equal(filled(features, 8, keep=30).sample, features)


def test_from_batches_of_pixels():
    pixels = torch.randint(256, (10, 3, 4, 4), dtype=torch.uint8)
    stream = feature_stream(pixels.split(3), values := lambda batch: batch.flatten(1).float())
    assert torch.equal(stream.sample, pixels.flatten(1).float())
    assert stream.space == {"features": extractor(values).name}


def test_refuses_to_score_nothing():
    with pytest.raises(ValueError, match="no images to score"):
        _ = feature_stream([], lambda batch: batch.flatten(1).float()).stats


def numbered(count: int) -> torch.Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(0)) + torch.arange(count)[:, None]


@pytest.mark.parametrize("shares", [1, 2, 5])
def test_neither_order_nor_sharing_changes_a_stream(shares):
    features = numbered(100)
    once = filled(features, 100, keep=30)
    batches = torch.randperm(100, generator=torch.Generator().manual_seed(1)).split(9)
    streams = []
    for share in range(shares):
        stream = FeatureStream({}, 30)
        for at in batches[share::shares]:
            stream.add(features[at], at)
        streams.append(stream)
    merged = sum(streams[1:], streams[0])
    assert torch.equal(merged.sample, once.sample)
    assert merged.count == 100
    torch.testing.assert_close(merged.stats.mean, once.stats.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(merged.stats.scatter, once.stats.scatter, rtol=1e-11, atol=0)


def test_a_process_without_images_adds_nothing():
    stream = filled(numbered(10), 5, keep=30)
    for merged in (stream + FeatureStream({}, 30), FeatureStream({}, 30) + stream):
        assert torch.equal(merged.stats.scatter, stream.stats.scatter)
        assert torch.equal(merged.sample, stream.sample)


def test_all_that_a_space_gives_is_kept():
    logits, spatial = numbered(40) / 20, numbered(40)[:, :2]
    stream = FeatureStream({})
    for at in torch.arange(40).split(7):
        stream.add(Outputs(numbered(40)[at], logits[at], spatial[at]))
    torch.testing.assert_close(stream.spatial.scatter, FeatureStats.of(spatial).scatter)
    assert stream.classes.score() == pytest.approx(
        ClassStats.of(logits.double().softmax(dim=1), torch.arange(len(logits))).score()
    )
    assert filled(numbered(10), 5, 30).spatial is None
    assert filled(numbered(10), 5, 30).classes is None


class Meeting:
    """Each image's mean color, and how many images were there."""

    name, batch_size = "meeting", 8

    def __init__(self):
        self.sizes: set[int] = set()

    def __call__(self, pixels):
        self.sizes.add(len(pixels))
        return pixels.float().mean(dim=(2, 3))

    def describe(self):
        return {"features": self.name}


@pytest.mark.parametrize("batch", [1, 3, 8, 50])
def test_an_extractor_sees_batches_of_one_size(batch):
    """A network may add up in another order for another batch size; it gets only one, so no image sees its company."""
    pixels = torch.randint(256, (30, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    extract = Meeting()
    stream = feature_stream(pixels.split(batch), extract)
    assert extract.sizes == {8}
    assert torch.equal(stream.sample, pixels.float().mean(dim=(2, 3)))
    assert torch.equal(extracted(extract, pixels).features, stream.sample)


def test_refuses_an_extractor_that_makes_more_features_of_some_images():
    widths = iter((3, 2))
    extract = extractor(lambda pixels: pixels.float().mean(dim=(2, 3))[:, : next(widths)])
    with pytest.raises(ValueError, match="an extractor made 2 and 3 features"):
        extracted(extract, torch.zeros(60, 3, 4, 4, dtype=torch.uint8))


def test_images_of_several_sizes_are_not_mixed():
    small, large = torch.zeros(5, 3, 4, 4, dtype=torch.uint8), torch.ones(5, 3, 6, 6, dtype=torch.uint8)
    stream = feature_stream([small, large, small], Meeting())
    assert stream.sample[:, 0].tolist() == [0] * 5 + [1] * 5 + [0] * 5


def test_memory_does_not_grow_with_the_number_of_images():
    def kept_bytes(count: int) -> int:
        stream = FeatureStream({}, 100)
        for _ in range(count // 50):
            stream.add(torch.randn(50, 8))
        tensors = [stream.stats.mean, stream.stats.scatter, *(tensor for pair in stream._kept for tensor in pair)]
        return sum(
            {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}.values()
        )

    few, many = kept_bytes(500), kept_bytes(20_000)
    assert many <= 1.3 * few  # between 100 and 125 images are in memory


def test_refuses_to_keep_nothing():
    with pytest.raises(ValueError, match="keep is 0; keep the features of at least one image"):
        FeatureStream({}, 0)
