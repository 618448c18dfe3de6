"""The grids of the report: what went in, what came out, and what post-training changed."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from robustok.data.images import ImageSet
from robustok.evaluation.evaluate import decoded
from robustok.runtime.checkpoint import write_bytes, write_json
from robustok.runtime.seeding import stream
from robustok.shapes import Pixels, Tokens, to_pixels
from robustok.tokenizer.perturbation import neighbours, perturb
from robustok.tokenizer.tokenizer import Tokenizer

ROWS = 4  # images of each class in a grid
CHANGED = 20  # images that post-training changed most


def write_pictures(
    folder: Path,
    *,
    real: ImageSet,
    before: Tokenizer,
    after: Tokenizer,
    tokens: Tokens,
    labels: Tensor,
    alpha: float,
    delta: int,
    seed: int,
) -> None:
    """Write the grids and `images.json`, which tells the report what each shows.

    `tokens` are generated ones with their `labels`; `before` and `after` decode them.
    """
    classes = len(real.classes)
    shown = one_of_each(real.labels, classes, ROWS)
    originals = to_pixels(real.images(shown))
    own = before.quantize(before.encode(real.images(shown))).tokens
    near = neighbours(before.codebook, delta)
    noisy = perturb(own, near, alpha, 1.0, generator=stream(seed, "pictures"))
    generated = tokens[one_of_each(labels, classes, ROWS)]
    grids = [
        ("real", "Real", "Validation images, one class in each column.", originals),
        ("reconstructed", "Reconstructed", "Encoded and decoded by the tokenizer.", pixels(before, own)),
        (
            "perturbed",
            "Perturbed",
            f"{alpha:.0%} of the tokens replaced by one of the {delta} nearest codes, then decoded.",
            pixels(before, noisy),
        ),
        ("generated_before", "Generated, before", "Sampled by class, original decoder.", pixels(before, generated)),
        ("generated_after", "Generated, after", "The same tokens, post-trained decoder.", pixels(after, generated)),
    ]
    entries = [
        write_grid(folder, name, title, caption, images, group="overview", columns=classes, labels=real.classes)
        for name, title, caption, images in grids
    ]
    first, second = pixels(before, tokens), pixels(after, tokens)
    few = one_of_each(labels, classes, 1)
    pairs = torch.cat([first[few], second[few]])
    entries.append(
        write_grid(
            folder,
            "pairs",
            "The same tokens, both decoders",
            "Upper row: original decoder. Lower row: post-trained decoder.",
            pairs,
            group="pairs",
            columns=classes,
            labels=real.classes,
        )
    )
    change = (first.float() - second.float()).square().flatten(1).mean(dim=1)
    most = change.topk(min(CHANGED, len(change))).indices
    for start in range(0, len(most), CHANGED // 2):
        part = most[start : start + CHANGED // 2]
        entries.append(
            write_grid(
                folder,
                f"changed_{start:02d}",
                "Changed most by post-training" if start == 0 else "Changed most, continued",
                f"Of {len(change)} generated images, by mean squared pixel difference. Upper row: before. "
                "Lower row: after.",
                torch.cat([first[part], second[part]]),
                group="changed",
                columns=len(part),
            )
        )
    write_json(folder / "images.json", {"grids": entries})


def one_of_each(labels: Tensor, classes: int, rows: int) -> Tensor:
    """Indices of the first `rows` images of each class, row by row with one class in each column."""
    columns = [(labels == c).nonzero().flatten()[:rows] for c in range(classes)]
    shortest = min(len(column) for column in columns)
    return torch.stack([column[:shortest] for column in columns], dim=1).flatten()


@torch.no_grad()
def pixels(tokenizer: Tokenizer, tokens: Tokens) -> Pixels:
    """What a tokenizer decodes tokens to."""
    return torch.cat(list(decoded(tokenizer, tokens)))


def write_grid(
    folder: Path,
    name: str,
    title: str,
    caption: str,
    images: Pixels,
    *,
    group: str,
    columns: int,
    labels: Sequence[str] = (),
) -> dict[str, Any]:
    """Write images as one PNG without gaps, row by row; returns its entry in `images.json`."""
    b, c, h, w = images.shape
    rows = -(-b // columns)
    cells = torch.zeros(rows * columns, c, h, w, dtype=torch.uint8)
    cells[:b] = images
    sheet = cells.view(rows, columns, c, h, w).permute(0, 3, 1, 4, 2).reshape(rows * h, columns * w, c)
    data = io.BytesIO()
    Image.fromarray(sheet.numpy()).save(data, "PNG")
    write_bytes(folder / f"{name}.png", data.getvalue())
    return {
        "file": f"{name}.png",
        "title": title,
        "caption": caption,
        "group": group,
        "columns": columns,
        "cell": w,
        "labels": list(labels),
    }
