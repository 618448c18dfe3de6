"""The stand-in for a second device: it refuses what CUDA refuses, and does what CUDA does."""

import pytest
import torch

from tests.standin import OnStandin, needed, setup

pytestmark = needed


@pytest.fixture
def device() -> torch.device:
    return torch.device(setup())


def test_the_device_refuses_what_cuda_refuses(device):
    here, there = torch.arange(3, device=device), torch.arange(3)
    for mixed in (
        lambda: here + there,
        lambda: there[here],
        lambda: torch.equal(here, there),
        lambda: torch.cat([here, there]),
        lambda: torch.stack([here.sum(), there.sum()]),
        lambda: torch.zeros(()).add_(here.sum()),
        lambda: torch.rand(3, device=device, generator=torch.Generator()),
        lambda: here.numpy(),
    ):
        with pytest.raises(RuntimeError, match="same device|device type|Expected|not supported|invalid gradient"):
            mixed()


def test_the_device_does_what_cuda_does(device):
    here, there = torch.arange(3, device=device), torch.arange(3)
    assert here.device == torch.device("standin", 0)
    assert here.cpu().device == there.device
    for moved in (here + 1, here * there.sum(), here[there], torch.zeros_like(here), here.new_ones(2), here.flip(0)):
        assert isinstance(moved, OnStandin)
    assert here.tolist() == there.tolist()
    assert float(here.sum()) == 3
    weight = torch.eye(3, device=device).requires_grad_()
    (weight @ here.float()).square().sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad.cpu(), 2 * torch.outer(there, there).float())
    here[1:] += 5  # views share what they look at
    assert here.tolist() == [0, 6, 7]
