"""Sentences on what an analysis found."""

from robustok.analysis.imitation import Target
from robustok.analysis.latents import LatentAnalysis
from robustok.analysis.tokens import Analysis
from robustok.evaluation.metrics.latent_pfid import NoiseCell
from robustok.evaluation.metrics.pfid import Cell
from robustok.report.text import ALPHA, DELTA, MINUS, number, percent


def findings(analysis: Analysis | LatentAnalysis) -> list[str]:
    """One sentence or two for each part, the numbers beside their floors."""
    target = analysis.imitation.target("generated")
    if isinstance(analysis, LatentAnalysis):
        return [_nearest(target)]
    return [_tokens(analysis), _codes(analysis), _nearest(target), _grid(analysis, target), *_images(analysis)]


def cell_name(cell: Cell | NoiseCell) -> str:
    """`alpha 0.7, delta 10`, in Greek; or with the strength `s` of noise."""
    return f"{ALPHA} {cell.alpha:.2g}, {DELTA if isinstance(cell, Cell) else 's'} {cell[1]:g}"


def range_names(target: Target) -> tuple[str, str]:
    """The ends of the range that the nearest cells cover."""
    low, high = (cell_name(type(target.best)(*ends)) for ends in zip(*target.ranges, strict=True))
    return low, high


def standing(analysis: Analysis, target: Target) -> tuple[int, int, int]:
    """Numbers of pFID's cells that are nearer to real images than the target, as far, and farther."""
    counts = [0, 0, 0]
    values = analysis.imitation.from_real[target.view]
    for in_pfid, as_far, value in zip(analysis.imitation.in_pfid, target.as_far, values, strict=True):
        if in_pfid:
            counts[1 if as_far else 0 if value < target.to_real else 2] += 1
    return counts[0], counts[1], counts[2]


def _tokens(analysis: Analysis) -> str:
    forced, free, other = analysis.forced.sampled, analysis.free[0], analysis.other_real
    codes = analysis.protocol["codebook_size"]
    far = "" if forced.rank is None else f", half of these beyond the {forced.rank:.0f} nearest of {codes} codes"
    return (
        f"Given the real tokens before it, the generator draws another token than the real one in "
        f"{percent(forced.alpha)} of the positions{far}. From the label alone it departs from a real image in "
        f"{percent(free.alpha)}; another real image of the class does in {percent(other.alpha)}."
    )


def _codes(analysis: Analysis) -> str:
    made, other, real = (analysis.code_usage[name] for name in ("generated", "other real images", "real images"))
    return (
        f"Generated images use the codes with a Jensen-Shannon divergence of {made.js:.4f} nats from real ones (other "
        f"real ones: {other.js:.4f}) and a perplexity of {made.perplexity:.0f} (real: {real.perplexity:.0f})."
    )


def _nearest(target: Target) -> str:
    if target.gain_interval[0] <= 0:
        return (
            "No perturbation is nearer to the generated latents than none at all, beyond chance: this generator does "
            f"not merely scatter about real images (nearest: {cell_name(target.best)})."
        )
    low, high = range_names(target)
    wins, closed = percent(target.wins, 0), percent(min(target.gain / target.to_unperturbed, 1.0), 0)
    return (
        f"Of all perturbations, {cell_name(target.best)} is nearest to the generated latents ({low} to {high} in 95 % "
        f"of random halves of the images, itself in {wins}); it closes {closed} of the distance to real ones as they "
        "are."
    )


def _grid(analysis: Analysis, target: Target) -> str:
    nearer, as_far, farther = standing(analysis, target)
    return (
        f"Distance to real latents of pFID's {nearer + as_far + farther} cells, beside that of the generated ones: "
        f"{nearer} nearer, {as_far} as far within the noise, {farther} farther."
    )


def _images(analysis: Analysis) -> list[str]:
    by_name = {(effect.images, effect.decoder): effect.values for effect in analysis.effects}
    real, own, made = (by_name[key] for key in (("real", ""), ("reconstructed", "original"), ("generated", "original")))
    sentences = [
        f"{percent(made['outside'])} of the generated images lie off the real ones ({percent(own['outside'])} of the "
        f"reconstructed, {percent(real['outside'])} of other real ones); the power of their "
        f"finest octave is {number(made['fine_db'])} dB of the real one (reconstructed: {number(own['fine_db'])} dB); "
        f"their colors are {number(made['color'], 2)} Delta E away (other real images: {number(real['color'], 2)})."
    ]
    for change in (change for change in analysis.changes if change.images == "generated"):
        if not any(change.values.values()):
            sentences.append("Post-training kept the original decoder: the images are the same.")
            continue
        parts = []
        for name, text in {"outside": "images off the real ones", "color": "color", "detail": "detail"}.items():
            low, high = change.intervals[name]
            verdict = "within the noise" if low <= 0 <= high else "better" if change.values[name] < 0 else "worse"
            shown = f"{100 * change.values[name]:+.1f} points" if name == "outside" else f"{change.values[name]:+.2g}"
            parts.append(f"{text} {verdict} ({shown.replace('-', MINUS)})")
        sentences.append(f"After post-training, on the same tokens: {'; '.join(parts)}.")
    return sentences
