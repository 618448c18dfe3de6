"""From what was typed to the validation of a model while it trains."""

from typing import Any

from robustok.cli.arguments import ValidationOptions
from robustok.cli.images import images_of, is_npz, is_statistics, scored_images
from robustok.evaluation.features.registry import extractor
from robustok.evaluation.scores.reference import Reference, read_reference
from robustok.generators.generate import AnySampling
from robustok.training.validation import generator_validation, sample_preview, tokenizer_validation

VALIDATIONS = 10  # of a model while it trains, unless --validate-every says otherwise


def of_tokenizer(name: str | None, size: int, steps: int, typed: ValidationOptions, pfid_images: int) -> dict[str, Any]:
    """The validation of a tokenizer of that image size on the images of a name, how often; nothing without a name."""
    if name is None:
        return {}
    images = images_of(name, size, typed.scored(own_labels=False), split="validation")
    validate = tokenizer_validation(
        images,
        count=typed.validate_images,
        pfid_images=min(pfid_images, typed.validate_images),
        features=typed.validate_features or "lite0",
    )
    return {"validate": validate, "validate_every": _every(typed, steps)}


def of_generator(
    name: str | None, tokenizer: Any, sampling: AnySampling, steps: int, typed: ValidationOptions
) -> dict[str, Any]:
    """Samples to look at, and with the name of a reference the validation of a generator and how often.

    `sampling` is how the generator is sampled.
    """
    preview: dict[str, Any] = {"preview": sample_preview(tokenizer, sampling=sampling)}
    if name is None:
        return preview
    extract = extractor(typed.validate_features or usual_space(name), tokenizer.device)
    if is_statistics(name):
        reference = read_reference(name, extract)
    else:
        size = None if is_npz(name) else tokenizer.image_size
        reference = Reference.of(scored_images(name, size, typed.scored(own_labels=False)), extract)
    validate = generator_validation(
        tokenizer, reference, sampling=sampling, count=typed.validate_images, features=extract
    )
    return {"validate": validate, "validate_every": _every(typed, steps), **preview}


def usual_space(reference: str | None) -> str:
    """The feature space to score in unless told: that of a file of statistics, else the embedded one."""
    if reference is None or not is_statistics(reference):
        return "lite0"
    return str(Reference.load(reference).space["features"]) if reference.endswith(".safetensors") else "inception"


def _every(validating: ValidationOptions, steps: int) -> int:
    return validating.validate_every or max(1, steps // VALIDATIONS)
