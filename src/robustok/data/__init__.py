"""Images in, by index: the embedded sets, folders, tar shards, parquet files and Hugging Face datasets."""

from robustok.data.fluent import FluentEmoji
from robustok.data.image_files import ImageFiles
from robustok.data.images import FashionMNIST, ImageSet, Subset, hold_out
from robustok.data.sources import HubImages, ImageFolder, ParquetImages, TarImages, open_images

__all__ = [
    "FashionMNIST",
    "FluentEmoji",
    "HubImages",
    "ImageFiles",
    "ImageFolder",
    "ImageSet",
    "ParquetImages",
    "Subset",
    "TarImages",
    "hold_out",
    "open_images",
]
