"""`robustok encode`: the tokens or latents of images, for any number of generators to be trained on."""

from dataclasses import dataclass

from robustok.cli.arguments import Count, Images, OutFolder, TokenizerName, View
from robustok.cli.kinds import Models
from robustok.cli.options import Shared


@dataclass(frozen=True, kw_only=True)
class Encode(Models, View, Shared):
    """The tokens or latents of images, for generators to be trained on.

    Reads a tokenizer and images. Says how much it will write, and writes shards of tokens (2 bytes each) or of latents
    (float16) into --out, which train-generator takes as --cache.

    Any number of processes may share the work: start it under torchrun, or the same command several times, also on
    several machines that share the folder.
    """

    group = "Use"
    resumes = True

    tokenizer: TokenizerName
    images: Images
    out: OutFolder
    ten_crop: bool = False  # five crops of each image and their mirror images, as LlamaGen trains on
    batch_size: Count = 256  # images that the tokenizer encodes at once

    def run(self) -> None:
        """A cache of every image's tokens, or of its latents if the tokenizer has no codebook."""
        from robustok.cli.images import check_outside, check_reading, images_of
        from robustok.data.latent_cache import encode_images
        from robustok.runtime.logging import Progress
        from robustok.runtime.words import counted
        from robustok.tokenizer.protocol import kind_of

        check_outside(self.out, self, "images")
        check_reading(self, self.images)
        _, tokenizer, _ = self.opened()
        images = images_of(self.images, tokenizer.image_size, self)

        def announce(size: int) -> None:
            self.say(f"{counted(len(images), 'image')}, {size / 1e9:.2g} GB of {kind_of(tokenizer)} to {self.out}")

        with Progress("encoding", len(images), quiet=self.quiet) as progress:
            cache = encode_images(
                tokenizer,
                images,
                self.out,
                crops=5 if self.ten_crop else 1,
                batch_size=self.batch_size,
                announce=announce,
                progress=progress.update,
            )
        self.say(f"{counted(len(cache), 'image')} in {counted(cache.views, 'view')}: {self.out}")
