"""`robustok post-train`."""

from dataclasses import dataclass
from typing import Annotated, Any

from robustok.cli.arguments import GeneratorName, Images, TokenizerName, which
from robustok.cli.kinds import Training
from robustok.names import DECODERS


@dataclass(frozen=True, kw_only=True)
class PostTrain(Training):
    """Stage 3: a tokenizer's decoder, tuned for one generator.

    Reads a tokenizer, a generator trained on its tokens, and the images both were trained on. The generator draws all
    but a share sigma of each image's tokens anew; the decoder learns to give the image back. Some of the images, of
    every class alike, are left out and decide which decoder is kept, which may be the original.

    Writes the tuned tokenizer, metrics.jsonl, tokens/ and pairs/ into --out, and with --control a second one, tuned as
    long on clean latents, into OUT/control.

    Without --preset, robustok's own tokenizers of less than 128 pixels are tuned for some minutes of a CPU, and all
    others as in the paper: up to 10 epochs of up to 200,000 pairs in batches of 1,024, which wants a GPU and two
    networks of other people (robustok doctor; embedded ones where these cannot be had). Sigma is then found by short
    tries, unless given. Other families are sampled as published, where that is known. One image in ten is held out, up
    to the preset's number.

    demo and continuous have half of main training's learning rate, as the paper, but also an L1 and a Frechet term;
    smoke has a tenth of it.
    """

    preset: Annotated[str, which(DECODERS)] | None = None
    tokenizer: TokenizerName
    generator: GeneratorName
    images: Images
    # also tune on clean latents, as long or until nothing better is found, to see what the generator's latents bought
    control: bool = False
    # feature space in which held-out images decide; lite0 at the images' own size, 64 to 224 pixels, unless given
    features: str | None = None

    @staticmethod
    def start(preset: str | None = None) -> Any:
        """Post-training as a preset has it."""
        from robustok.presets.defaults import post_training_preset

        return post_training_preset(preset)

    def run(self) -> None:
        """Pairs, then a decoder tuned on them; and the control on clean latents, if asked for."""
        from robustok.cli.images import images_of
        from robustok.presets.defaults import post_training_for, with_networks_at_hand
        from robustok.training.choosing_sigma import chosen
        from robustok.training.post_training import post_train

        self.check_given()
        _, tokenizer, generator = self.opened()
        images = images_of(self.images, tokenizer.image_size, self)
        config = post_training_for(tokenizer, generator, len(images), name=self.preset, over=self.settings)
        config = config if self.preset else with_networks_at_hand(config)
        discriminator = self.tokenizer / "discriminator"
        result = post_train(
            config,
            tokenizer,
            generator,
            images,
            self.out,
            discriminator=discriminator if discriminator.is_dir() else None,
            control=self.control,
            features=self.features,
            quiet=self.quiet,
        )
        if result.tries:
            said = ", ".join(f"{one.sigma:g} {one.distance:.4g} at step {one.steps}" for one in result.tries)
            self.say(f"held-out distance by sigma, in short tries: {said}; {chosen(result.tries).sigma:g} is taken")
        for folder, trained in ((self.out, result.tuned), (self.out / "control", result.control)):
            if trained is not None:
                self.say(f"{folder}: {trained.in_words()}")
