"""Weights of a vision transformer for another grid of patches, or for patches of another size."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def resampled(positions: Float[Tensor, "n d"], grid: int, extra: int) -> Float[Tensor, "m d"]:
    """Position embeddings of grid x grid patches; the first `extra` ones, of the class token, stay.

    Bicubic with antialiasing, as timm does it.
    """
    first, patches = positions[:extra].float(), positions[extra:].float()
    old = round(len(patches) ** 0.5)
    if old == grid:
        return positions
    plane = patches.T.reshape(1, -1, old, old)
    plane = F.interpolate(plane, (grid, grid), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([first, plane.flatten(2)[0].T])


def resampled_patches(kernel: Float[Tensor, "c k p p"], patch: int) -> Float[Tensor, "c k q q"]:
    """The patch embedding for patches of another side: of a resized patch it makes what the old one made of the patch.

    FlexiViT (Beyer et al. 2023, arXiv 2212.08013, sec. 3.4): with B the bicubic, antialiased resizing of a patch as a
    matrix, the kernel is multiplied by the pseudo-inverse of B'. Exact where patches grow, least squares where they
    shrink. So timm does it, and with it the released tokenizer (qiuk2/RobusTok) from 14 to 16 pixels.
    """
    c, k, old, _ = kernel.shape
    if old == patch:
        return kernel
    pixels = torch.eye(old**2, dtype=torch.float64, device=kernel.device).view(-1, 1, old, old)
    resize = F.interpolate(pixels, (patch, patch), mode="bicubic", antialias=True, align_corners=False)
    inverse = torch.linalg.pinv(resize.flatten(1))  # of B', which is (old pixels, new pixels): (new pixels, old pixels)
    return (kernel.double().reshape(c, k, old**2) @ inverse.T).view(c, k, patch, patch).float()
