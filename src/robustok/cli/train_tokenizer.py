"""`robustok train-tokenizer`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from robustok.cli.arguments import Count, Images, Model, ValidationOptions, which
from robustok.cli.kinds import Training
from robustok.names import TOKENIZERS


@dataclass(frozen=True, kw_only=True)
class TrainTokenizer(ValidationOptions, Training):
    """Stage 1: a tokenizer, with latent perturbation.

    Main training. Reads images; with --tokenizer, a tokenizer of any family, which is trained further. With
    --perturbation Rehearsed (a codebook) or RehearsedLatents (none) and --perturbation.freeze_from 0 its decoder alone
    learns, and its latents stay what they are.

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
    pfid_images: Count = 500  # of --validate-images, those of pFID, each decoded 15 times

    @staticmethod
    def start(preset: str = "demo", tokenizer: Path | None = None) -> Any:
        """Main training as a preset has it, of a new tokenizer or of one that is given."""
        from robustok.presets.recipes import stage

        main = stage(preset, "main")
        return replace(main, tokenizer=None) if tokenizer else main

    def run(self) -> None:
        """Main training on the images, of a new tokenizer or of one that is given."""
        from robustok.cli.images import images_of
        from robustok.cli.validation import of_tokenizer
        from robustok.tokenizer.protocol import codebook_of
        from robustok.training.tokenizer_training import train_tokenizer

        self.check_given()
        own = [name for name, _ in self.typed if name.split(".")[0] == "tokenizer"]
        if self.tokenizer and own:
            raise ValueError(f"a tokenizer that is given keeps its own settings; leave out --{own[0]}, or --tokenizer")
        device, given, _ = self.opened()
        preset = self.chosen()
        if given is not None:
            if preset.has_codebook != (codebook_of(given) is not None):
                kinds = ("has a codebook", "demo or smoke"), ("has no codebook", "continuous or continuous-smoke")
                kind, names = kinds[preset.has_codebook]
                raise ValueError(f"{self.tokenizer} {kind}; take the preset {names} to train it further")
        elif self.images != "fashion-mnist":  # which is gray
            preset = replace(preset, tokenizer=replace(preset.tokenizer, channels=3))
        config = self.settings(preset)
        size = (given or config.tokenizer).image_size
        images = images_of(self.images, size, self)
        validating = of_tokenizer(self.validation, size, config.loop.steps, self, self.pfid_images)
        train_tokenizer(config, images, self.out, tokenizer=given, device=device, quiet=self.quiet, **validating)
        self.say(f"tokenizer: {self.out}")
