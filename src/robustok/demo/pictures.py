"""The grids of the report: what went in, what came out, and what post-training changed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustok.data.images import ImageSet
from robustok.demo.compared import Compared
from robustok.demo.effects import Seen
from robustok.evaluation.decoding import decoded, encoded
from robustok.evaluation.metrics.memorization import nearest
from robustok.evaluation.metrics.pfid import grid
from robustok.report.text import percent, signed_percent
from robustok.runtime.checkpoint import write_json
from robustok.runtime.pictures import sheet, write_png
from robustok.runtime.seeding import stream
from robustok.shapes import Pixels, to_pixels
from robustok.tokenizer.latent_perturbation import channel_std, interpolate_noise
from robustok.tokenizer.perturbation import chosen_tokens, neighbors, perturb
from robustok.tokenizer.protocol import books_of, codebook_of

ROWS, COLUMNS = 4, 8  # images in a column of a grid, and columns where there are fewer classes
CLASSES = 10  # that a grid shows at most
SHOWN = 6  # images that came nearest to real ones by post-training, and as many that went away from them
WIDE = 40  # side in pixels up to which two such images share a row, and pairs one of every class
ALIKE = 10  # images most like training images
NOISE = (0.5, 0.2)  # fraction of the latents that are disturbed in the picture, and the noise's in each


class Album:
    """Grids of images in a folder, and `images.json`, which tells the report what each shows.

    Each column of a grid is of one class; of many classes some are shown, and a few have several columns each.
    """

    def __init__(self, folder: Path, classes: Sequence[str]):
        count = len(classes)
        shown = [i * count // min(count, CLASSES) for i in range(min(count, CLASSES))]
        self.columns = [label for label in shown for _ in range(max(1, COLUMNS // len(shown)))]
        self.folder, self.classes, self.entries = folder, [classes[i] for i in self.columns], list[dict[str, Any]]()

    def add(
        self, name: str, title: str, caption: str, images: Pixels, *, group: str = "overview", columns: int = 0
    ) -> None:
        """Images row by row, `columns` in each; 0: those of `self.columns`."""
        shown = columns or len(self.classes)
        write_png(self.folder / f"{name}.png", sheet(images, shown))
        about = {"file": f"{name}.png", "title": title, "caption": caption, "group": group}
        labels = [] if columns else self.classes
        self.entries.append(about | {"columns": shown, "cell": images.shape[-1], "labels": labels})

    def write(self) -> None:
        """Write `images.json`, of the grids that there are."""
        write_json(self.folder / "images.json", {"grids": self.entries})


def write_reconstructions(folder: Path, real: ImageSet, tokenizer: Any, seed: int) -> Album:
    """Write what there is to see of a tokenizer alone."""
    album = Album(folder, real.classes)
    originals = real.images(in_columns(real.labels, album.columns, ROWS))
    own = encoded(tokenizer, originals)
    noisy, how = disturbed(tokenizer, own, seed)
    album.add("real", "Real", "Validation images, one class in each column.", to_pixels(originals))
    album.add("reconstructed", "Reconstructed", "Encoded and decoded by the tokenizer.", pixels(tokenizer, own))
    album.add("perturbed", "Perturbed", f"{how}, then decoded.", pixels(tokenizer, noisy))
    album.write()
    return album


def write_pictures(folder: Path, compared: Compared, seen: Seen | None) -> None:
    """Write all pictures of a finished demo; `seen` tells, if anything, what post-training brought nearer."""
    album = write_reconstructions(folder, compared.images.scored, compared.tokenizer, compared.config.seed)
    add_generated(album, compared)
    if seen is not None and "after" not in compared.kept:  # else nothing came nearer
        add_changed(album, compared, seen)
    add_copies(album, compared)
    album.write()


def add_generated(album: Album, compared: Compared) -> None:
    """Images of each class by the original decoder and by that after post-training, and pairs of these."""
    before, after = (compared.decoders[name] for name in ("before", "after"))
    columns, drawn, side = len(album.columns), compared.drawn, compared.images.scored.size
    same = "The same latents" if drawn.is_floating_point() else "The same tokens"
    some = drawn[in_columns(compared.labels, album.columns, ROWS)]
    album.add("generated_before", "Generated, before", "Sampled by class, original decoder.", pixels(before, some))
    album.add("generated_after", "Generated, after", f"{same}, {compared.after}.", pixels(after, some))
    few = drawn[in_columns(compared.labels, album.columns, 1)]
    lines = 2 if side > WIDE and columns % 2 == 0 else 1
    pair = torch.stack([pixels(model, few).unflatten(0, (lines, -1)) for model in (before, after)], dim=1).flatten(0, 2)
    upper, lower = ("First and third row", "Below each") if lines > 1 else ("Upper row", "Lower row")
    rows = f"{upper}: original decoder. {lower}: {compared.after}."
    album.add("pairs", f"{same}, both decoders", rows, pair, group="pairs", columns=columns // 2 if lines > 1 else 0)


def add_changed(album: Album, compared: Compared, seen: Seen) -> None:
    """The images that came nearest to real ones by post-training, and those that went farthest from them."""
    order, real = (seen.after - seen.before).argsort(), compared.images.scored
    for name, title, some in (
        ("nearer", "Came nearest to real images", order[:SHOWN]),
        ("farther", "Went farthest from them", order.flip(0)[:SHOWN]),
    ):
        both = (pixels(compared.decoders[name], compared.drawn[some]) for name in ("before", "after"))
        triplets = torch.stack([*both, to_pixels(real.images(seen.nearest[some]))], dim=1).flatten(0, 1)
        caption = f"Before, after, and the real image nearest to it in {seen.space}, in which nothing was trained. "
        moved = (seen.after[some] / seen.before[some].clamp_min(1e-12) - 1).tolist()
        caption += f"{len(order):,} were looked at; the distance of these to the nearest real image changed by "
        caption += ", ".join(map(signed_percent, moved)) + "."
        album.add(name, title, caption, triplets, group="changed", columns=6 if real.size <= WIDE else 3)


def add_copies(album: Album, compared: Compared) -> None:
    """The generated images that are most like a training image, and that image: is there a copy?"""
    alike, found = most_alike(compared)
    caption = f"Of {len(compared.drawn):,} generated images those whose latents are nearest to a training image's, of "
    caption += f"all {len(compared.images.train):,}. Upper row: {compared.after}. Lower row: the training image."
    made = pixels(compared.decoders["after"], compared.drawn[alike])
    both = torch.cat([made, to_pixels(compared.images.train.images(found))])
    album.add("nearest", "Nearest training images", caption, both, group="nearest", columns=len(alike))


def most_alike(compared: Compared, count: int = ALIKE) -> tuple[Tensor, Tensor]:
    """Indices of the generated images that are nearest to a training image, and of these.

    By the distance of latents, or of the codes of tokens, which are there of all training images; the most alike first.
    """
    own = compared.codes(compared.drawn)
    found = nearest(own, compared.known)
    order = (own - compared.known[found]).square().sum(dim=1).argsort()[:count]
    return order, found[order]


def in_columns(labels: Tensor, columns: Sequence[int], rows: int) -> Tensor:
    """Indices of images row by row, each column of a class; as many rows as there are images for, `rows` at most."""
    left = {label: iter((labels == label).nonzero().flatten().tolist()) for label in columns}
    found = []
    for _ in range(rows):
        row = [next(left[label], None) for label in columns]
        if None in row:
            break
        found += row
    return torch.tensor(found, dtype=torch.long)


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
