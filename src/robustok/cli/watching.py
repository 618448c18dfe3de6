"""From what was typed to what is looked at while a model trains."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from robustok.cli.images import images_of, is_npz, is_statistics, scored_images, scored_view
from robustok.cli.options import Command
from robustok.evaluation.features import extractor
from robustok.evaluation.published import read_reference
from robustok.evaluation.reference import Reference
from robustok.generators.flow import FlowSampling
from robustok.generators.sampling import Sampling
from robustok.tokenizer.tokenizer import AnyTokenizer
from robustok.training.tuning import DecoderTuning
from robustok.training.watching import generator_check, sample_preview, tokenizer_check

LOOKS = 10  # at a model while it trains, unless --check-every says otherwise


def tracked(command: Command, config: Any) -> Any:
    """The config of a stage with the trackers of --tracker, each once."""
    if not command.tracker:
        return config
    if isinstance(config, DecoderTuning):
        return replace(config, post=tracked(command, config.post))
    return replace(config, loop=replace(config.loop, tracker=tuple(dict.fromkeys(command.tracker))))


def of_tokenizer(command: Command, size: int, steps: int) -> dict[str, Any]:
    """The check of a tokenizer of that image size, and how often; nothing without --validation."""
    if command.validation is None:
        return {}
    view = scored_view(command, own_labels=False)
    images = images_of(command.validation, size, split="validation", **view)
    pfid_images = min(command.pfid_images, command.check_images)
    check = tokenizer_check(
        images, count=command.check_images, pfid_images=pfid_images, features=command.check_features or "lite0"
    )
    return {"check": check, "check_every": _every(command, steps)}


def of_generator(
    command: Command, tokenizer: Any, sampling: Sampling | FlowSampling | None, steps: int
) -> dict[str, Any]:
    """Samples to look at, and with --reference the check of a generator and how often.

    `sampling` is how a preset samples its generator. Where it says nothing, or the tokenizer takes a generator of the
    other kind, samples are drawn plainly, without guidance.
    """
    wanted = Sampling if isinstance(tokenizer, AnyTokenizer) else FlowSampling
    sampling = sampling if isinstance(sampling, wanted) else wanted()
    preview: dict[str, Callable[[Any], Any]] = {"preview": sample_preview(tokenizer, sampling=sampling)}
    if command.reference is None:
        return preview
    name = command.reference
    stored = Reference.load(name) if name.endswith(".safetensors") else None
    usual = stored.space["features"] if stored else "inception" if is_statistics(name) else "lite0"
    extract = extractor(command.check_features or usual, tokenizer.device)
    if is_statistics(name):
        reference = read_reference(name, extract)
    else:
        size = None if is_npz(name) else tokenizer.image_size
        reference = Reference.of(scored_images(name, size, **scored_view(command, own_labels=False)), extract)
    check = generator_check(tokenizer, reference, sampling=sampling, count=command.check_images, features=extract)
    return {"check": check, "check_every": _every(command, steps), **preview}


def _every(command: Command, steps: int) -> int:
    return command.check_every or max(1, steps // LOOKS)
