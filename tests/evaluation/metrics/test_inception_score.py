import numpy as np
import pytest
import torch

from robustok.evaluation.metrics.inception_score import SPLIT, ClassStats, InceptionScore


def inception_score(probabilities: torch.Tensor, *, split_size: int = SPLIT) -> InceptionScore:
    """Of rows of probabilities, in splits of consecutive images."""
    return ClassStats.of(probabilities, torch.arange(len(probabilities)), split_size).score()


def test_certain_and_varied_is_the_number_of_classes():
    score = inception_score(torch.eye(10).repeat(3, 1))
    assert score.mean == pytest.approx(10)
    assert score.std == 0


def test_undecided_or_unvaried_is_one():
    assert inception_score(torch.full((6, 4), 0.25)).mean == pytest.approx(1)
    assert inception_score(torch.eye(4)[:1].repeat(6, 1)).mean == pytest.approx(1)


def test_values_of_the_accepted_evaluators(parity):
    _, io = parity("fid_reference")
    # 1e-6 would ask more than ADM's float32 sums give
    assert inception_score(io["softmax_probs"]).mean == pytest.approx(io["is_adm_split5000"].item(), rel=1e-6)
    by_200 = inception_score(io["softmax_probs"], split_size=200).mean
    assert by_200 == pytest.approx(io["is_adm_split200"].item(), rel=1e-6)
    probabilities = io["logits"].double().softmax(dim=1)
    tenths = inception_score(probabilities, split_size=70)
    assert tenths.mean == pytest.approx(io["is_torch_fidelity_10_noshuffle"].item(), rel=1e-9)
    assert tenths.std == pytest.approx(io["is_torch_fidelity_10_noshuffle_std"].item(), rel=1e-9)
    shuffled = probabilities[np.random.RandomState(2020).permutation(700)]
    score = inception_score(shuffled, split_size=70).mean
    assert score == pytest.approx(io["is_torch_fidelity_10_shuffle2020"].item(), rel=1e-9)


def test_refuses_what_is_no_probability():
    with pytest.raises(ValueError, match="not 1; give thousands"):
        inception_score(torch.eye(1))
    for wrong in (torch.randn(5, 4), torch.full((5, 4), torch.nan), torch.ones(5, 4)):
        with pytest.raises(ValueError, match="softmax outputs"):
            inception_score(wrong)


def probabilities(count: int) -> torch.Tensor:
    return torch.randn(count, 7, generator=torch.Generator().manual_seed(0)).mul(3).double().softmax(dim=1)


def test_neither_batches_nor_order_change_the_score():
    p = probabilities(47)
    order = torch.randperm(47, generator=torch.Generator().manual_seed(1))
    batches = [ClassStats.of(p[at], at, 20) for at in order.split(6)]
    once, merged = inception_score(p, split_size=20), sum(batches[1:], batches[0]).score()
    assert merged == pytest.approx(once, rel=1e-12)
    by_split = [inception_score(part).mean for part in p.split(20)]
    assert once == pytest.approx((np.mean(by_split), np.std(by_split)), rel=1e-12)


def test_splits_that_nobody_saw_do_not_count():
    p = probabilities(20)
    assert ClassStats.of(p, torch.arange(40, 60), 20).score() == pytest.approx(inception_score(p), rel=1e-12)
