"""Images in, by index: the embedded set, folders, tar shards, parquet files and Hugging Face datasets."""

from robustok.data.image_files import ImageFiles
from robustok.data.images import FashionMNIST, ImageSet, Subset, hold_out
from robustok.data.sources import ImageFolder, open_images

__all__ = [
    "FashionMNIST",
    "ImageFiles",
    "ImageFolder",
    "ImageSet",
    "Subset",
    "hold_out",
    "open_images",
]
