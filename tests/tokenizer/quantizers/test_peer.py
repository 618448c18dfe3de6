"""Our quantizers against the numbers of vector-quantize-pytorch, step by step; `peer.py` makes these."""

import json
from typing import Any

import pytest
import torch
from tests.tokenizer.quantizers.peer import CODES, DECAY, FILE, LEVELS, WIDTH
from torch import Tensor

from robustok.tokenizer.quantizer import EMAVQ, LearnedCodes, ResidualVQ, SimVQ, build_quantizer

SIZES = {"codebook_size": CODES, "width": WIDTH}
NUMBERS = json.loads(FILE.read_text(encoding="utf-8"))


def of(case: str) -> dict[str, Any]:
    return {name: value if name == "steps" else tensor(value) for name, value in NUMBERS[case].items()}


def tensor(value: Any) -> Tensor:
    return torch.tensor(value)


def close(ours: Tensor, theirs: Any) -> None:
    theirs = theirs if isinstance(theirs, Tensor) else torch.tensor(theirs)
    torch.testing.assert_close(ours.detach(), theirs, atol=1e-6, rtol=1e-5)


def coarse_to_fine(tokens: Any, *, own_books: bool) -> Tensor:
    """Their (b n levels), each level numbered from 0, as our one axis."""
    offset = CODES * torch.arange(LEVELS) * own_books
    return (torch.as_tensor(tokens) + offset).transpose(1, 2).flatten(1)


@pytest.mark.parametrize(("case", "gradient"), [("sim_vq", "straight-through"), ("sim_vq rotation", "rotation")])
def test_sim_vq(case, gradient):
    theirs, ours = of(case), build_quantizer(SimVQ(**SIZES, gradient=gradient))
    ours.load_state_dict({"frozen": theirs["frozen"], "map.weight": theirs["map"]})
    x = theirs["x"].requires_grad_()
    quantized = ours(x)
    assert torch.equal(quantized.tokens, theirs["tokens"])
    close(quantized.codes, theirs["codes"])
    close(quantized.loss, theirs["loss"])
    (quantized.loss + (quantized.codes * theirs["weights"]).sum()).backward()
    close(x.grad, theirs["x_grad"])
    close(ours.map.weight.grad, theirs["map_grad"])
    assert [name for name, _ in ours.named_parameters()] == ["map.weight"]  # the codes themselves stay


@pytest.mark.parametrize(("case", "normalized"), [("averages", False), ("averages on the sphere", True)])
def test_codes_that_follow_averages(case, normalized):
    theirs = of(case)
    ours = build_quantizer(EMAVQ(**SIZES, normalized=normalized, decay=DECAY))
    begun(ours, theirs["start"])
    for step in theirs["steps"]:
        x = tensor(step["x"])
        quantized = ours(x)
        assert quantized.tokens.tolist() == step["tokens"]
        close(quantized.codes, step["codes"])
        close(quantized.loss, step["loss"])
        ours.follow(*ours.clusters(quantized.tokens, x))
        close(ours.codebook, step["book"])
        close(ours.averages.counts, step["counts"])
        close(ours.averages.sums, step["sums"])


def test_residual_codes_that_follow_averages():
    theirs, ours = of("residual"), build_quantizer(ResidualVQ(**SIZES, levels=LEVELS, shared=False, decay=DECAY))
    begun(ours, theirs["start"].flatten(0, 1))
    for step in theirs["steps"]:
        x = tensor(step["x"])
        quantized = ours(x)
        assert torch.equal(quantized.tokens, coarse_to_fine(step["tokens"], own_books=True))
        close(quantized.codes, step["codes"])
        close(quantized.loss, 0.25 * torch.tensor(step["losses"]).mean())  # they weigh it by 1
        ours.follow(*ours.clusters(quantized.tokens, x))
        close(ours.codebook, torch.tensor(step["books"]).flatten(0, 1))


@pytest.mark.parametrize("shared", [False, True])
def test_residual_codes_that_learn_by_gradients(shared):
    theirs = of("residual gradients shared" if shared else "residual gradients")
    ours = build_quantizer(ResidualVQ(**SIZES, levels=LEVELS, shared=shared, commitment=1.0))
    begun(ours, theirs["books"].flatten(0, 1))
    x = theirs["x"].requires_grad_()
    quantized = ours(x)
    assert torch.equal(quantized.tokens, coarse_to_fine(theirs["tokens"], own_books=not shared))
    close(quantized.codes, theirs["codes"])
    close(quantized.loss, 2 * theirs["losses"].mean())  # once for the codes, once for the latents
    (LEVELS * quantized.loss).backward()
    close(x.grad, theirs["x_grad"])
    close(ours.embedding.grad, theirs["book_grads"].flatten(0, 1))


@torch.no_grad()
def begun(quantizer: LearnedCodes, codes: Tensor) -> None:
    """The codes put there, each as the average of one latent."""
    quantizer.embedding.copy_(codes)
    if quantizer.averages is not None:
        quantizer.averages.begin(slice(None), codes)
