"""From what was typed to the validation of a model while it trains."""

from typing import Any

from robustok.cli.arguments import GeneratorValidation, ValidationOptions
from robustok.cli.images import images_of
from robustok.cli.scoring import extractors_of, references_of
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
    return {"validate": validate, "validate_every": typed.validate_every or max(1, steps // VALIDATIONS)}


def of_generator(
    name: str | None, tokenizer: Any, sampling: AnySampling, steps: int, typed: GeneratorValidation
) -> dict[str, Any]:
    """Samples to look at, and with the name of a reference the validation of a generator and how often.

    `sampling` is how the generator is sampled.
    """
    preview: dict[str, Any] = {"preview": sample_preview(tokenizer, sampling=sampling)}
    if name is None:
        return preview
    extracts = extractors_of(typed.validate_features, name, tokenizer.device, fdr=typed.fdr)
    view = typed.scored(own_labels=False)
    validate = generator_validation(
        tokenizer,
        references_of(name, extracts, tokenizer.image_size, view),
        sampling=sampling,
        count=typed.validate_images,
        features=extracts,
        fdr=typed.fdr,
    )
    return {"validate": validate, "validate_every": typed.validate_every or max(1, steps // VALIDATIONS), **preview}
