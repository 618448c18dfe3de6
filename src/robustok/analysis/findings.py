"""What an analysis found, in sentences."""

from robustok.analysis.imitation import JOINT, Imitation, Target
from robustok.analysis.tokens import Analysis
from robustok.evaluation.metrics.pfid import Cell
from robustok.report.text import ALPHA, DELTA, MINUS, number, percent

VIEW = JOINT


def findings(analysis: Analysis) -> list[str]:
    """One sentence or two for each part, the numbers beside their floors."""
    return [_tokens(analysis), _codes(analysis), *_imitation(analysis), *_images(analysis)]


def cell_name(cell: Cell) -> str:
    """`alpha 0.7, delta 10`, in Greek."""
    return f"{ALPHA} {cell.alpha:.2g}, {DELTA} {cell.delta}"


def standing(imitation: Imitation, target: Target) -> tuple[int, int, int]:
    """How many of pFID's cells are nearer to real images than the target, as far, and farther."""
    counts = [0, 0, 0]
    values = imitation.from_real[target.view]
    for in_pfid, as_far, value in zip(imitation.in_pfid, target.as_far, values, strict=True):
        if in_pfid:
            counts[1 if as_far else 0 if value < target.to_real else 2] += 1
    return counts[0], counts[1], counts[2]


def _tokens(analysis: Analysis) -> str:
    forced, free, other = analysis.forced.sampled, analysis.free[0], analysis.other_real
    codes = analysis.protocol["codebook_size"]
    far = "" if forced.rank is None else f", half of these beyond the {forced.rank:.0f} nearest of {codes} codes"
    return (
        f"Given the real tokens before it, the generator draws another token than the real one in "
        f"{percent(forced.alpha)} of the places{far}. From the label alone it departs from a real image in "
        f"{percent(free.alpha)}; another real image of the class does in {percent(other.alpha)}."
    )


def _codes(analysis: Analysis) -> str:
    usage = analysis.code_usage
    return (
        f"Generated images use the codes with a Jensen-Shannon divergence of {usage.js:.4f} nats from real ones (other "
        f"real ones: {usage.js_floor:.4f}) and a perplexity of {usage.perplexity_generated:.0f} (real: "
        f"{usage.perplexity_real:.0f})."
    )


def _imitation(analysis: Analysis) -> list[str]:
    target = analysis.imitation.target("generated", VIEW)
    if target.gain_interval[0] > 0:
        closed = min(target.gain / target.to_unperturbed, 1.0)
        nearest = (
            f"Of all perturbations, {cell_name(target.best)} is nearest to the generated latents ({ALPHA} "
            f"{target.alphas[0]:g} to {target.alphas[1]:g} and {DELTA} {target.deltas[0]} to {target.deltas[1]} in "
            f"95 % of random halves of the images); it closes {percent(closed, 0)} of the distance to unperturbed ones."
        )
    else:
        nearest = (
            "No perturbation is nearer to the generated latents than none at all, beyond the noise: what sets this "
            f"generator apart is not that its tokens scatter about real ones (nearest: {cell_name(target.best)})."
        )
    nearer, as_far, farther = standing(analysis.imitation, target)
    grid = (
        f"Distance to real latents of pFID's {nearer + as_far + farther} cells, beside that of the generated ones: "
        f"{nearer} nearer, {as_far} as far within the noise, {farther} farther."
    )
    return [nearest, grid]


def _images(analysis: Analysis) -> list[str]:
    by_name = {(effect.images, effect.decoder): effect.values for effect in analysis.effects}
    real, own, made = (by_name[key] for key in (("real", ""), ("reconstructed", "original"), ("generated", "original")))
    sentences = [
        f"{percent(made['outside'])} of the generated images lie off the real ones ({percent(own['outside'])} of the "
        f"reconstructed, {percent(real['outside'])} of other real ones); the power of their "
        f"finest octave is {number(made['fine_db'])} dB of the real one (reconstructed: {number(own['fine_db'])} dB); "
        f"their colors are {number(made['color'], 2)} Delta E away (other real images: {number(real['color'], 2)})."
    ]
    change = next((change for change in analysis.changes if change.images == "generated"), None)
    if change is not None:
        names = {"outside": "images off the real ones", "color": "color", "detail": "detail"}
        parts = []
        for name, text in names.items():
            low, high = change.intervals[name]
            verdict = "within the noise" if low <= 0 <= high else "better" if change.values[name] < 0 else "worse"
            shown = f"{100 * change.values[name]:+.1f} points" if name == "outside" else f"{change.values[name]:+.2g}"
            parts.append(f"{text} {verdict} ({shown.replace('-', MINUS)})")
        sentences.append(f"After post-training, on the same tokens: {'; '.join(parts)}.")
    return sentences
