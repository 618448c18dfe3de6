"""`robustok post-train`."""

from dataclasses import dataclass, replace
from typing import Annotated, Any

from robustok.cli.arguments import GeneratorName, Images, TokenizerName, which
from robustok.cli.training import Training, run_named
from robustok.names import DECODERS, RUNS

OTHERS_SIGMA = 0.9  # for decoders that were trained without perturbation (arXiv 2509.12474, sec. 4.3)
HELD_OUT = 10  # of a small set of images, one in so many is held out


@dataclass(frozen=True, kw_only=True)
class PostTrain(Training):
    """Stage 3: a tokenizer's decoder, tuned for one generator.

    Reads a tokenizer, a generator trained on its tokens, and the images both were trained on. The generator draws all
    but a share sigma of each image's tokens anew; the decoder learns to give the image back. Some of the images, of
    every class alike, are left out and decide which decoder is kept, which may be the original.

    Writes the tuned tokenizer, metrics.jsonl, tokens/ and pairs/ into --out, and with --control a second one, tuned as
    long on clean latents, into OUT/control.

    pairs and held_out, unless set, are as many as the images allow; sigma is 0.7, or 0.9 for tokenizers of other
    families; other families are sampled as published, where that is known.

    The usual presets have a tenth of main training's learning rate, an L1 and a Frechet term; the paper has half of
    that rate and neither term. post_robustok is as the paper.
    """

    preset: Annotated[str, which(DECODERS)] = "demo"
    tokenizer: TokenizerName
    generator: GeneratorName
    images: Images
    control: bool = False  # also tune as long on clean latents, to see what the generator's latents bought
    # feature space in which held-out images decide; lite0 at the images' own size, 64 to 224 pixels, unless given
    features: str | None = None

    @staticmethod
    def start(preset: str = "demo") -> Any:
        """Post-training as a preset has it."""
        from robustok.presets import recipes
        from robustok.training.tuning import DecoderTuning

        if preset not in RUNS:
            return recipes.recipe(preset, recipes.DECODERS)
        run = run_named(preset)
        return DecoderTuning(
            post=run.post, sampling=run.sampling, sigma=run.sigma, pairs=run.pairs, held_out=run.held_out
        )

    def run(self) -> None:
        """Pairs, then a decoder tuned on them; and the control on clean latents, if asked for."""
        from robustok import presets
        from robustok.adapters.published_generators import default_sampling
        from robustok.cli.images import device_of, images_of
        from robustok.cli.models import generator_of, tokenizer_of
        from robustok.generators.autoregressive import AutoregressiveModel
        from robustok.generators.diffusion_transformer import DiffusionTransformerModel
        from robustok.generators.flow import FlowSampling
        from robustok.generators.sampling import Sampling
        from robustok.tokenizer.autoencoder import Autoencoder
        from robustok.tokenizer.tokenizer import Tokenizer
        from robustok.training.tuning import tune_decoder

        self.check_apart()
        device = device_of(self.device)
        preset = self.chosen()
        tokenizer = tokenizer_of(self.tokenizer, device, self.fields)
        generator = generator_of(self.generator, device, tokenizer)
        own = {Sampling: AutoregressiveModel, FlowSampling: DiffusionTransformerModel}
        if type(generator) is not own[type(preset.sampling)]:  # one of another family may derive from it
            preset = replace(preset, sampling=default_sampling(generator))
        if self.preset in RUNS:
            preset = replace(preset, post=presets.looking_at(tokenizer.image_size, preset.post))
            if not isinstance(tokenizer, Tokenizer | Autoencoder):
                preset = replace(preset, sigma=OTHERS_SIGMA)
        images = images_of(self.images, tokenizer.image_size, self.view)
        held_out = min(preset.held_out, max(2, len(images) // HELD_OUT))
        discriminator = self.tokenizer / "discriminator"
        tuned = tune_decoder(
            self.settings(replace(preset, held_out=held_out)),
            tokenizer,
            generator,
            images,
            self.out,
            discriminator=discriminator if discriminator.is_dir() else None,
            control=self.control,
            features=self.features,
            quiet=self.quiet,
        )
        for folder, result in ((self.out, tuned.touched), (self.out / "control", tuned.control)):
            if result is not None:
                kept = f"of step {result.step}" if result.step else "the original one, for none was better"
                change = f"{result.before:.4g} -> {result.after:.4g}"
                self.say(f"{folder}: held-out distance {change}, decoder kept: {kept}")
