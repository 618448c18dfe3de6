"""Images in, by index: the embedded sets, folders, tar shards, parquet files and Hugging Face datasets."""

from robustok.data.fluent import FluentEmoji
from robustok.data.image_files import ImageFiles
from robustok.data.images import FashionMNIST, ImageSet, Subset, hold_out
from robustok.data.sources import ImageFolder, open_images

__all__ = ["FashionMNIST", "FluentEmoji", "ImageFiles", "ImageFolder", "ImageSet", "Subset", "hold_out", "open_images"]
