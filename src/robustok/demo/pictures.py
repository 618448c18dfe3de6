"""The grids of the report: what went in, what came out, and what post-training changed."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from robustok.data.images import ImageSet
from robustok.data.latent_cache import LatentCache
from robustok.demo.effects import Seen
from robustok.demo.scores import training_codes
from robustok.evaluation.decoding import decoded, encoded
from robustok.evaluation.metrics.memorization import nearest
from robustok.evaluation.metrics.pfid import grid
from robustok.report.text import percent, signed_percent
from robustok.runtime.checkpoint import write_bytes, write_json
from robustok.runtime.seeding import stream
from robustok.shapes import Pixels, to_pixels
from robustok.tokenizer.latent_perturbation import channel_std, interpolate_noise
from robustok.tokenizer.perturbation import chosen_tokens, neighbors, perturb
from robustok.tokenizer.protocol import books_of, codebook_of, codes_of

ROWS = 4  # images of each class in a grid
SHOWN = 6  # images that came nearest to real ones by post-training, and as many that went away from them
WIDE = 40  # side in pixels up to which two such images share a row, and pairs one of every class
ALIKE = 10  # images most like training images
NOISE = (0.5, 0.2)  # fraction of the latents that are disturbed in the picture, and the noise's in each


def write_pictures(
    folder: Path,
    *,
    real: ImageSet,
    before: Any,
    seed: int,
    after: Any = None,
    drawn: Tensor | None = None,
    labels: Tensor | None = None,
    seen: Seen | None = None,
    train: ImageSet | None = None,
    cache: LatentCache | None = None,
) -> None:
    """Write the grids and `images.json`, which tells the report what each shows.

    `drawn` are generated tokens or latents with their `labels`; the tokenizers `before` and `after` decode them. While
    there are none yet, the grids are of real images. `seen` tells which of them post-training brought nearest to real
    ones. `train` are the images that the generator was trained on, `cache` their tokens or latents: beside generated
    images the most like them are shown.
    """
    classes, entries = len(real.classes), list[dict[str, Any]]()

    def add(name: str, title: str, caption: str, images: Pixels, group: str = "overview", columns: int = 0) -> None:
        how: dict[str, Any] = {"columns": columns} if columns else {"columns": classes, "labels": real.classes}
        entries.append(write_grid(folder, name, title, caption, images, group=group, **how))

    shown = one_of_each(real.labels, classes, ROWS)
    originals = real.images(shown)
    own = encoded(before, originals)
    noisy, how = disturbed(before, own, seed)
    add("real", "Real", "Validation images, one class in each column.", to_pixels(originals))
    add("reconstructed", "Reconstructed", "Encoded and decoded by the tokenizer.", pixels(before, own))
    add("perturbed", "Perturbed", f"{how}, then decoded.", pixels(before, noisy))
    if drawn is None or labels is None:
        write_json(folder / "images.json", {"grids": entries})
        return
    generated = drawn[one_of_each(labels, classes, ROWS)]
    same = "The same latents" if drawn.is_floating_point() else "The same tokens"
    add("generated_before", "Generated, before", "Sampled by class, original decoder.", pixels(before, generated))
    add("generated_after", "Generated, after", f"{same}, post-trained decoder.", pixels(after, generated))
    few = drawn[one_of_each(labels, classes, 1)]
    lines = 2 if originals.shape[-1] > WIDE and classes % 2 == 0 else 1
    pair = torch.stack([pixels(model, few).unflatten(0, (lines, -1)) for model in (before, after)], dim=1).flatten(0, 2)
    rows = "Upper row: original decoder. Lower row: post-trained decoder."
    if lines > 1:
        rows = "First and third row: original decoder. Below each: post-trained decoder."
    add("pairs", f"{same}, both decoders", rows, pair, group="pairs", columns=classes // lines if lines > 1 else 0)
    if seen is not None:
        order = (seen.after - seen.before).argsort()
        for name, title, some in (
            ("nearer", "Came nearest to real images", order[:SHOWN]),
            ("farther", "Went farthest from them", order.flip(0)[:SHOWN]),
        ):
            of_real = to_pixels(real.images(seen.nearest[some]))
            both = pixels(before, drawn[some]), pixels(after, drawn[some])
            triplets = torch.stack([*both, of_real], dim=1).flatten(0, 1)
            caption = f"Before, after, and the real image nearest to it in {seen.space}, in which nothing was trained. "
            moved = (seen.after[some] / seen.before[some].clamp_min(1e-12) - 1).tolist()
            caption += f"{len(order):,} were looked at; the distance of these to the nearest real image changed by "
            caption += ", ".join(map(signed_percent, moved)) + "."
            columns = 6 if originals.shape[-1] <= WIDE else 3
            add(name, title, caption, triplets, group="changed", columns=columns)
    if train is not None and cache is not None:
        alike, nearest_images = most_alike(before, drawn, train, cache)
        caption = f"Of {len(drawn):,} generated images those whose latents are nearest to a training image's, of all "
        caption += f"{len(train):,}. Upper row: post-trained decoder. Lower row: the training image."
        pairs = torch.cat([pixels(after, drawn[alike]), nearest_images])
        add("nearest", "Nearest training images", caption, pairs, group="nearest", columns=len(alike))
    write_json(folder / "images.json", {"grids": entries})


def most_alike(
    tokenizer: Any, drawn: Tensor, train: ImageSet, cache: LatentCache, count: int = ALIKE
) -> tuple[Tensor, Pixels]:
    """Indices of the generated images that are nearest to a training image, and these: is there a copy?

    By the distance of latents, or of the codes of tokens, which are there of all training images; the most alike first.
    """
    own = codes_of(tokenizer, drawn).flatten(1).cpu()
    known = training_codes(tokenizer, cache)
    found = nearest(own, known)
    order = (own - known[found]).square().sum(dim=1).argsort()[:count]
    return order, to_pixels(train.images(found[order]))


def one_of_each(labels: Tensor, classes: int, rows: int) -> Tensor:
    """Indices of the first `rows` images of each class, row by row with one class in each column."""
    columns = [(labels == c).nonzero().flatten()[:rows] for c in range(classes)]
    shortest = min(len(column) for column in columns)
    return torch.stack([column[:shortest] for column in columns], dim=1).flatten()


@torch.no_grad()
def disturbed(tokenizer: Any, own: Tensor, seed: int) -> tuple[Tensor, str]:
    """Tokens or latents of images disturbed as a middling cell of pFID does it, and how, in words."""
    generator = stream(seed, "pictures")
    if (codebook := codebook_of(tokenizer)) is not None:
        cell = grid(len(codebook) // books_of(tokenizer))[-2]
        noisy = perturb(own, neighbors(codebook, cell.delta, books_of(tokenizer)), cell.alpha, 1.0, generator=generator)
        return noisy, f"{percent(cell.alpha, 0)} of the tokens replaced by one of the {cell.delta} nearest codes"
    alpha, strength = NOISE
    chosen = chosen_tokens(len(own), own.shape[1], alpha, 1.0, generator=generator)
    noise = channel_std(own) * torch.randn(own.shape, generator=generator)
    noisy = interpolate_noise(own, noise, chosen, torch.full((len(own),), strength))
    return noisy, f"{percent(alpha, 0)} of the latents mixed with {percent(strength, 0)} of noise"


def pixels(tokenizer: Any, drawn: Tensor) -> Pixels:
    """Decode tokens or latents."""
    return torch.cat(list(decoded(tokenizer, drawn)))


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
