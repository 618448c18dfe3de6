"""One paragraph that says what a run did, with its numbers."""

from robustok.report.curves import chosen_step
from robustok.report.run import Run
from robustok.report.text import change, count, decimals, duration, number, percent, signed_percent


def summary(run: Run) -> str:
    """Sentence by sentence, as far as the run has come; what is not known is left out."""
    parts = (_main_training(run), _generator_training(run), _post_training(run), _outcome(run), _cost(run))
    return " ".join(sentence for sentence in parts if sentence)


def _main_training(run: Run) -> str | None:
    steps = run.steps("tokenizer")
    if steps is None:
        return None
    codes, tokens = run.setting("codebook_size"), run.setting("tokens_per_image", "generator.tokens")
    shape = f" with {count(codes)} codes" if codes else ""
    shape += f" and {count(tokens)} tokens an image" if codes and tokens else ""
    images = run.setting("train_images")
    said = f"A tokenizer{shape} was trained for {count(steps)} steps" + (
        f" on {count(images)} images" if images else ""
    )
    return said + _perturbation(run) + "."


def _perturbation(run: Run) -> str:
    """What main training did to tokens or latents, where it did anything."""
    alpha, beta, delta, strength = (run.setting(f"perturbation.{n}") for n in ("alpha", "beta", "delta", "strength"))
    neighbors = run.setting("perturbation.neighbors", "perturbation.neighbours")  # as older runs spell it
    if not (alpha and beta and (delta or strength)):
        return ""
    done = (
        f"were replaced by one of their {count(delta)} nearest codes"
        if delta
        else f"were moved up to {percent(strength, 0)} of the way to one of the {count(neighbors)} nearest"
        if neighbors
        else f"gave up to {percent(strength, 0)} of their place to noise"
    )
    return (
        f"; in {percent(beta, 0)} of the images of a batch, {percent(alpha, 0)} of the {run.latents} {done} (latent"
        " perturbation)"
    ) + _second_phase(run)


def _second_phase(run: Run) -> str:
    """When it did so, where encoder and codes were finished first."""
    if run.setting("perturbation.latent_space") != "frozen":
        return ""
    share = 1 - float(run.setting("perturbation.freeze_from"))
    return f" in the last {percent(share, 0)} of the steps, in which only the decoder still learned"


def _generator_training(run: Run) -> str | None:
    steps = run.steps("generator")
    return f"A generator learned its {run.latents} in {count(steps)} steps." if steps else None


def _post_training(run: Run) -> str | None:
    steps, sigma = run.steps("post_training"), run.setting("post_training.sigma", "sigma")
    if not steps:
        return None
    pairs = "" if sigma is None else f" from tokens of which the generator had resampled {percent(1 - sigma, 0)}"
    if sigma is not None and run.latents == "latents":
        pairs = f" from latents that the generator had sampled back from noise level {1 - sigma:.2g}"
    said = f"Then the decoder alone learned for {count(steps)} more steps to restore real images{pairs}"
    return said + (f", and as a control as long from clean {run.latents}." if run.steps("control") else ".")


def _outcome(run: Run) -> str | None:
    before, control, after = (run.value(f"gfid_{name}") for name in ("before", "control", "after"))
    moved = change(after, before)
    if moved is None or before is None or after is None:
        return None
    places = decimals(max(before, after))
    if chosen_step(run, "post_training") == 0:
        return (
            f"No step of it passed the held-out check, so the original decoder was kept: gFID {number(after, places)}."
        )
    move = "fell" if moved < 0 else "rose"
    said = f"On the same generated {run.latents} gFID {move} from {number(before, places)} to {number(after, places)}"
    said += f" ({signed_percent(moved)})"
    return said + (f"; the control reached {number(control, places)}." if control is not None else ".")


def _cost(run: Run) -> str | None:
    seconds, memory = run.value("seconds_total"), run.value("peak_rss_gib")
    if seconds is None:
        return None
    return f"All of it took {duration(seconds)}" + (f" and {number(memory)} GiB of memory." if memory else ".")
