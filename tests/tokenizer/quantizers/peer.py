"""Numbers of vector-quantize-pytorch 1.32.0, which `test_peer.py` holds ours to.

    pip install vector-quantize-pytorch==1.32.0 && python tests/tokenizer/quantizers/peer.py

writes them anew, beside this file: inputs, codes and what the package makes of them.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FILE = Path(__file__).with_suffix(".json")
CODES, WIDTH, STEPS, LEVELS, DECAY = 6, 3, 4, 3, 0.9


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain(value: Any) -> Any:
    """Tensors as lists, of seven digits."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [plain(part) for part in value]
    if isinstance(value, Tensor):
        return plain(value.tolist())
    return float(f"{value:.8g}") if isinstance(value, float) else value


def sim_vq(rotation: bool) -> dict[str, Any]:
    from vector_quantize_pytorch import SimVQ

    torch.manual_seed(0)
    model = SimVQ(WIDTH, CODES, rotation_trick=rotation)
    x, weights = random(2, 5, WIDTH, seed=1).requires_grad_(), random(2, 5, WIDTH, seed=2)
    codes, tokens, loss = model(x)
    (loss + (codes * weights).sum()).backward()
    return {
        "frozen": model.frozen_codebook,
        "map": model.code_transform.weight,
        "x": x,
        "weights": weights,
        "tokens": tokens,
        "codes": codes,
        "loss": loss,
        "x_grad": x.grad,
        "map_grad": model.code_transform.weight.grad,
    }


def moving_averages(cosine: bool) -> dict[str, Any]:
    from vector_quantize_pytorch import VectorQuantize

    torch.manual_seed(1)
    model = VectorQuantize(
        WIDTH, CODES, decay=DECAY, use_cosine_sim=cosine, rotation_trick=False, commitment_weight=0.25
    ).train()
    book, steps = model._codebook, []
    start = book.embed[0].clone()
    for step in range(STEPS):
        x = random(2, 5, WIDTH, seed=10 + step)
        codes, tokens, loss = model(x)
        after = {"book": book.embed[0], "counts": book.cluster_size[0], "sums": book.embed_avg[0]}
        steps.append(plain({"x": x, "codes": codes, "tokens": tokens, "loss": loss} | after))
    return {"start": start, "steps": steps}


def residual() -> dict[str, Any]:
    """A codebook for each level, with averages that the codes follow."""
    from vector_quantize_pytorch import ResidualVQ

    torch.manual_seed(2)
    model = ResidualVQ(dim=WIDTH, num_quantizers=LEVELS, codebook_size=CODES, decay=DECAY, rotation_trick=False).train()
    start, steps = model.codebooks.clone(), []
    for step in range(STEPS):
        x = random(2, 5, WIDTH, seed=20 + step)
        codes, tokens, losses = model(x)
        steps.append(plain({"x": x, "codes": codes, "tokens": tokens, "losses": losses, "books": model.codebooks}))
    return {"start": start, "steps": steps}


def residual_gradients(shared: bool) -> dict[str, Any]:
    """Codebooks that learn by the gradient of the loss, in which both sides move."""
    from vector_quantize_pytorch import ResidualVQ

    torch.manual_seed(3)
    how = {"learnable_codebook": True, "ema_update": False, "rotation_trick": False}
    model = ResidualVQ(dim=WIDTH, num_quantizers=LEVELS, codebook_size=CODES, shared_codebook=shared, **how).train()
    x = random(2, 5, WIDTH, seed=30).requires_grad_()
    codes, tokens, losses = model(x)
    losses.sum().backward()  # of the losses alone: their codes pass gradients on once for each level
    books = [layer._codebook.embed for layer in model.layers[: 1 if shared else LEVELS]]
    return {
        "books": [book[0] for book in books],
        "x": x,
        "tokens": tokens,
        "codes": codes,
        "losses": losses,
        "x_grad": x.grad,
        "book_grads": [book.grad[0] for book in books],
    }


if __name__ == "__main__":
    numbers = {
        "sim_vq": sim_vq(False),
        "sim_vq rotation": sim_vq(True),
        "averages": moving_averages(False),
        "averages on the sphere": moving_averages(True),
        "residual": residual(),
        "residual gradients": residual_gradients(False),
        "residual gradients shared": residual_gradients(True),
    }
    FILE.write_text(json.dumps(plain(numbers), separators=(",", ":")) + "\n", encoding="utf-8")
