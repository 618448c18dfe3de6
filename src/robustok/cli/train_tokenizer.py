"""`robustok train-tokenizer`."""

from dataclasses import dataclass, replace
from typing import Annotated, Any

from robustok.cli.arguments import CHECKS, Checks, Count, Images, Model, which
from robustok.cli.training import Training, run_named
from robustok.names import RUNS, TOKENIZERS


@dataclass(frozen=True, kw_only=True)
class TrainTokenizer(Training):
    """Stage 1: a tokenizer, with latent perturbation.

    Main training. Reads images; with --tokenizer, a tokenizer of any family with a codebook, which is trained further.

    Writes model.safetensors, config.json, metrics.jsonl, previews/, discriminator/ and best/ into --out.

    Folders are taken in color: tokenizer.channels is 3 for them unless it is set.

    The preset demo leaves the paper in some points, see robustok demo --help; robustok_imagenet256 does not.
    """

    preset: Annotated[str, which(TOKENIZERS, positional=True)]
    images: Images
    # train this one further: a folder of a tokenizer, or another family's file, folder, or
    # owner/repository[:file][@revision] on the hub
    tokenizer: Model | None = None
    # other images, whose rFID, pFID and PSNR are watched, and by whose pFID best/ is chosen
    validation: Images | None = None
    checks: Checks = CHECKS
    pfid_images: Count = 500  # of --check-images, those of pFID, each decoded 15 times

    @staticmethod
    def start(preset: str = "demo") -> Any:
        """Main training as a preset has it."""
        from robustok.presets import recipes

        return run_named(preset).main if preset in RUNS else recipes.recipe(preset, recipes.TOKENIZERS)

    def run(self) -> None:
        """Main training on the images, of a new tokenizer or of one that is given."""
        from robustok.cli.images import EMBEDDED, device_of, images_of
        from robustok.cli.models import tokenizer_of
        from robustok.cli.validation import of_tokenizer
        from robustok.tokenizer.protocol import codebook_of
        from robustok.training.tokenizer_training import train_tokenizer

        self.check_apart()
        device = device_of(self.device)
        preset = self.chosen()
        given = None
        if self.tokenizer is not None:
            given = tokenizer_of(self.tokenizer, device, self.fields)
            if preset.has_codebook != (codebook_of(given) is not None):
                kinds = ("has a codebook", "demo or smoke"), ("has no codebook", "continuous or continuous-smoke")
                kind, names = kinds[preset.has_codebook]
                raise ValueError(f"{self.tokenizer} {kind}; take the preset {names} to train it further")
            preset = replace(preset, tokenizer=None)
        elif self.images != EMBEDDED:
            preset = replace(preset, tokenizer=replace(preset.tokenizer, channels=3))
        config = self.settings(preset)
        size = (given or config.tokenizer).image_size
        images = images_of(self.images, size, self.view)
        checks = of_tokenizer(self.validation, size, config.loop.steps, self.checks, self.pfid_images, self.view)
        train_tokenizer(config, images, self.out, tokenizer=given, device=device, quiet=self.quiet, **checks)
        self.say(f"tokenizer: {self.out}")
