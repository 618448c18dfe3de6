"""`robustok analyze`."""

import io
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from PIL import Image

from robustok.adapters.published import default_sampling
from robustok.analysis.findings import findings
from robustok.analysis.latents import LatentAnalysis, analyze_latents
from robustok.analysis.page import page
from robustok.analysis.tables import NUMBERS, ways
from robustok.analysis.tokens import Result
from robustok.analysis.tokens import analyze as analyze_tokens
from robustok.cli.images import device_of, images_of, view_of
from robustok.cli.models import generator_of, tokenizer_of
from robustok.cli.options import Command, table
from robustok.data.images import ImageSet
from robustok.evaluation.features import extractor
from robustok.generators.flow import LatentGenerator
from robustok.generators.sampling import TokenGenerator
from robustok.report.run import Grid
from robustok.report.text import ALPHA, percent
from robustok.runtime.checkpoint import write_bytes, write_json
from robustok.runtime.logging import Progress
from robustok.shapes import Pixels
from robustok.tokenizer.tokenizer import AnyTokenizer


def analyze(command: Command) -> None:
    """Numbers in `analysis.json`, the main ones printed; of tokens also `analysis.html`, with charts and images."""
    device = device_of(command.device)
    tokenizer = tokenizer_of(command.tokenizer, device, command.fields)
    generator = generator_of(command.generator, device, tokenizer)
    tuned = tokenizer_of(command.tuned, device, command.fields) if command.tuned else None
    images = _images(command, tokenizer.image_size, generator.no_label)
    asked: dict[str, Any] = {
        "sampling": command.over(default_sampling(generator)),
        "count": command.count,
        "seed": command.seed,
        "progress": _Steps(command.quiet),
    }
    html: Callable[[], str] | None = None
    if isinstance(generator, LatentGenerator) and not isinstance(tokenizer, AnyTokenizer):
        if tuned is not None:
            raise ValueError("of latents the decoder changes nothing; compare decoders by robustok evaluate --against")
        analysis = analyze_latents(tokenizer, generator, images, **asked)
        plain, text = analysis.to_plain(), of_latents(analysis)
    elif isinstance(generator, TokenGenerator) and isinstance(tokenizer, AnyTokenizer):
        features = extractor(command.features, device)
        result = analyze_tokens(tokenizer, generator, images, tuned=tuned, features=features, **asked)
        plain, text = result.analysis.to_plain(), in_tables(result)
        html = partial(_page, result)
    else:
        raise ValueError(
            "analyze takes a tokenizer with a codebook and a generator of tokens, or one without and a generator of "
            "latents; give two that belong together"
        )
    _finish(command, text, plain, html)


def _page(result: Result) -> str:
    return page(result, grids(result))


def _finish(command: Command, text: str, numbers: Any, page: Callable[[], str] | None) -> None:
    """Print the tables, then write the files; without a page, that of an earlier analysis goes away.

    Where a file cannot be written, the tables are printed in any case.
    """
    told = not command.quiet
    if told:
        print(text, flush=True)
    html = command.out / "analysis.html"
    try:
        write_json(command.out / "analysis.json", numbers)
        if page is None:
            html.unlink(missing_ok=True)
        else:
            write_bytes(html, page().encode())
    except OSError:
        if not told:
            print(text, flush=True)
        raise
    if told:
        print(f"\nnumbers: {command.out / 'analysis.json'}" + (f"\npage: {html}" if page else ""))


def _images(command: Command, size: int, no_label: int) -> ImageSet:
    """The real images. Those without classes get the label that stands for none, and a warning says so.

    Raises ValueError for images of more classes than the generator knows.
    """
    view = view_of(command) | {"window": None}  # an analysis has no epochs
    try:
        images, why = images_of(command.images, size, split="validation", **view), "they are of one class"
    except ValueError as error:
        if command.labels is not None:
            raise
        images, why = images_of(command.images, size, split="validation", **view | {"labels": "none"}), str(error)
    if len(images.classes) == 1 < no_label:
        warnings.warn(f"the generator is asked for images of no class: {why}", stacklevel=2)
        images.labels.fill_(no_label)
    elif len(images.classes) > no_label:
        raise ValueError(
            f"the generator knows {no_label} classes, and the images in {command.images} have {len(images.classes)}; "
            "give images of the classes that it was trained on, or add --labels none"
        )
    return images


def of_latents(analysis: LatentAnalysis) -> str:
    """What is printed of latents: what comes back from noise, channels, and the noise that imitates the generator."""
    returned = [
        (
            f"{back.how}, noise level {back.level:g}",
            f"own image {back.own:.3g}   nearest {back.nearest:.3g}   spread {back.spread:.3g}   "
            f"apart {back.apart:.3g} ({back.apart_interval[0]:.3g} to {back.apart_interval[1]:.3g})",
        )
        for back in analysis.returns
    ]
    channels = [
        (
            "mean, farthest off",
            f"{max(map(abs, analysis.shift)):.3g}, other real {max(map(abs, analysis.shift_floor)):.3g}",
        ),
        ("spread", f"{min(analysis.spread):.3g} to {max(analysis.spread):.3g}"),
        ("other real", f"{min(analysis.spread_floor):.3g} to {max(analysis.spread_floor):.3g}"),
    ]
    found = analysis.imitation
    best = f"{ALPHA} {found.best.alpha:g}, s {found.best.strength:g}"
    imitation = (
        f"{best} is nearest to the generated latents ({percent(found.wins)} of random halves); it closes "
        f"{percent(min(1.0, found.gain / found.undisturbed), 0)} of the distance to real ones as they are."
        if found.gain_interval[0] > 0
        else f"No noise is nearer to the generated latents than none, beyond chance (nearest: {best})."
    )
    parts = (
        (f"Latents that come back from noise (squared MMD of two real sets: {analysis.floor:.3g})", returned),
        ("Channels of generated latents, in real standard deviations", channels),
        ("Found", [("1", imitation)]),
    )
    return "\n\n".join(f"{title}\n{table(rows)}" for title, rows in parts)


def in_tables(result: Result) -> str:
    """What is printed: departures, effects, and what was found in sentences."""
    analysis = result.analysis
    departed = [
        (f"{name}, {note}", f"{percent(d.alpha):>8}   median rank {'-' if d.rank is None else f'{d.rank:.0f}'}")
        for name, note, d in ways(analysis)
    ]
    shown = ("outside", "color", "detail", "fine_db")
    effects = [
        (
            ", ".join(filter(None, (effect.images, effect.decoder))),
            "   ".join(f"{NUMBERS[name][0].lower()} {effect.values[name]:.3g}" for name in shown),
        )
        for effect in analysis.effects
    ]
    sentences = [(str(number), text) for number, text in enumerate(findings(analysis), 1)]
    parts = ("Tokens that differ from the real image's", departed), ("Images", effects), ("Found", sentences)
    return "\n\n".join(f"{title}\n{table(rows)}" for title, rows in parts)


def grids(result: Result) -> list[Grid]:
    """The example images of every set, one row each."""
    return [
        Grid(png=_png(pixels), title=name.capitalize(), columns=len(pixels), cell=pixels.shape[-1])
        for name, pixels in result.examples.items()
    ]


def _png(pixels: Pixels) -> bytes:
    """Images side by side."""
    data = io.BytesIO()
    Image.fromarray(pixels.permute(2, 0, 3, 1).flatten(1, 2).contiguous().numpy()).save(data, "PNG")
    return data.getvalue()


class _Steps:
    """Progress of one step after the other."""

    def __init__(self, quiet: bool):
        self.quiet = quiet
        self.bar: Progress | None = None

    def __call__(self, name: str, done: int, total: int) -> None:
        if self.bar is None or self.bar.name != name:
            self.bar = Progress(name, total, quiet=self.quiet).__enter__()
        self.bar.update(done)
        if done == total:
            self.bar.__exit__(None, None, None)
