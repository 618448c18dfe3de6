"""A generator that errs in a known way, and a tokenizer and images to go with it."""

from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from robustok.tokenizer.perturbation import neighbors
from robustok.tokenizer.quantizer import Quantized, nearest_code


class Erring:
    """Knows each label's one image, and replaces a fraction alpha of it by one of the delta nearest codes."""

    device = torch.device("cpu")

    def __init__(self, images: Tensor, codebook: Tensor, alpha: float, delta: int, blocks: tuple[int, ...] = ()):
        self.images, self.codebook_size, self.null_class = images, len(codebook), len(images)
        self.tokens_per_image, self.blocks = images.shape[1], blocks or (1,) * images.shape[1]
        p = torch.zeros(len(codebook), len(codebook)).scatter(1, neighbors(codebook, delta), alpha / delta)
        self.logits = (p + (1 - alpha) * torch.eye(len(codebook)) + 1e-12).log()

    def predictor(self, labels: Tensor):
        images = torch.cat([self.images, self.images[:1]])[labels]
        sizes, read = dict(zip(accumulate((0, *self.blocks)), self.blocks, strict=False)), [0]

        def predict(tokens: Tensor | None) -> Tensor:
            assert tokens is None or len(tokens) == len(labels)
            read[0] += 0 if tokens is None else tokens.shape[1]
            return self.logits[images[:, read[0] : read[0] + sizes[read[0]]]]

        return predict

    def fingerprint(self) -> str:
        return "erring"


class Patches:
    """A token for the mean color of each 4 x 4 pixels of a 16 x 16 image; a decoder may lose contrast."""

    device, image_size, tokens_per_image = torch.device("cpu"), 16, 16

    def __init__(self, contrast: float = 1.0, seed: int = 0):
        self.codebook = 2 * torch.rand(128, 3, generator=torch.Generator().manual_seed(seed)) - 1
        self.contrast = contrast

    def encode(self, images: Tensor) -> Tensor:
        return F.avg_pool2d(images, 4).flatten(2).mT

    def quantize(self, latents: Tensor) -> Quantized:
        tokens = nearest_code(latents, self.codebook)
        return Quantized(self.codebook[tokens], tokens, latents.new_zeros(()))

    def lookup(self, tokens: Tensor) -> Tensor:
        return self.codebook[tokens]

    def decode(self, codes: Tensor) -> Tensor:
        return self.contrast * F.interpolate(codes.mT.unflatten(2, (4, 4)), scale_factor=4.0)


class Templates:
    """Twelve images of each of 20 classes: one picture of codes, under a faint chessboard that is each image's own."""

    classes = tuple(map(str, range(20)))

    def __init__(self, tokenizer: Patches):
        draw = torch.Generator().manual_seed(5)
        self.tokens = torch.randint(128, (20, 16), generator=draw)
        self.labels = torch.arange(240) // 12
        self.classes = [str(label) for label in range(20)]
        self.faint = 0.03 * torch.rand(240, 1, 1, 1, generator=draw)
        self.board = 1 - 2 * (torch.arange(16)[:, None] + torch.arange(16)).remainder(2).float()
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Tensor) -> Tensor:
        pictures = self.tokenizer.decode(self.tokenizer.lookup(self.tokens[self.labels[indices]]))
        return pictures + self.faint[indices] * self.board

    def describe(self) -> dict:
        return {"name": "templates", "count": len(self), "hash": "0"}
