"""Images in, by index: the embedded set and any folder."""

from robustok.data.folder import ImageFolder
from robustok.data.images import FashionMNIST, ImageSet, Subset, hold_out

__all__ = ["FashionMNIST", "ImageFolder", "ImageSet", "Subset", "hold_out"]
