"""What all our own generators of tokens are, whatever they predict: their sizes are those of their config."""

from robustok.runtime.pretrained import Pretrained


class TokenModel(Pretrained):
    """A model of an image's tokens whose config has `codebook_size`, `tokens` and `classes`."""

    @property
    def codebook_size(self) -> int:
        """Codes that it knows."""
        return int(self.config.codebook_size)

    @property
    def tokens_per_image(self) -> int:
        """Tokens of an image."""
        return int(self.config.tokens)

    @property
    def null_class(self) -> int:
        """The label of an image of unknown class."""
        return int(self.config.classes)
