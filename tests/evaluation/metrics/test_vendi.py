import numpy as np
import pytest
import scipy.linalg
import torch

from robustok.evaluation.metrics.vendi import vendi_score


def cloud(count: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + 1


def by_definition(features: torch.Tensor, q: float = 1) -> float:
    """exp of the entropy of the eigenvalues of the n x n matrix of cosines over n, as the authors' package has it."""
    x = features.double().numpy()
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    p = scipy.linalg.eigvalsh(x @ x.T / len(x))
    p = p[p > 1e-12]
    entropy = -(p * np.log(p)).sum() if q == 1 else -np.log(p.max()) if q == np.inf else np.log((p**q).sum()) / (1 - q)
    return float(np.exp(entropy))


@pytest.mark.parametrize("width", [3, 40])
def test_images_that_are_all_alike_count_as_one(width):
    assert vendi_score(cloud(1, width).repeat(20, 1)) == pytest.approx(1, abs=1e-9)
    lengths = torch.arange(1, 21)[:, None]
    assert vendi_score(lengths * cloud(1, width)) == pytest.approx(1, abs=1e-9), "the length of features is no variety"


@pytest.mark.parametrize("q", [0, 0.5, 1, 2, float("inf")])
def test_orthogonal_images_count_each(q):
    assert vendi_score(torch.eye(12, 30) * 7, q=q) == pytest.approx(12)
    assert vendi_score(torch.eye(12).repeat(3, 1), q=q) == pytest.approx(12), "and their copies do not"


def test_two_kinds_of_which_one_is_rare():
    few = torch.eye(2).repeat_interleave(torch.tensor([9, 1]), dim=0)
    assert vendi_score(few) == pytest.approx(np.exp(-0.9 * np.log(0.9) - 0.1 * np.log(0.1)))
    assert vendi_score(few, q=float("inf")) == pytest.approx(1 / 0.9)


@pytest.mark.parametrize(("count", "width"), [(30, 8), (8, 30), (20, 20)])
@pytest.mark.parametrize("q", [1, 2, float("inf")])
def test_either_side_of_the_kernel_gives_the_published_definition(count, width, q):
    features = cloud(count, width)
    assert vendi_score(features, q=q) == pytest.approx(by_definition(features, q), rel=1e-9)


def test_what_has_no_cosine_is_refused():
    with pytest.raises(ValueError, match="no features to count the variety of"):
        vendi_score(cloud(1, 3)[:0])
    with pytest.raises(ValueError, match="of 2 images are all zero"):
        vendi_score(torch.tensor([[0.0, 0], [1, 0], [0, 0]]))
    with pytest.raises(ValueError, match="hold NaN or infinity"):
        vendi_score(cloud(3, 3) * torch.nan)
    with pytest.raises(ValueError, match="q is -1; the order of an entropy is 0 or more"):
        vendi_score(cloud(3, 3), q=-1)
