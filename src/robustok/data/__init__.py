"""Images in, by index: the embedded set, folders, tar shards, parquet files and Hugging Face datasets."""

from robustok.data.folder import ImageFolder
from robustok.data.hub import HubImages
from robustok.data.images import FashionMNIST, ImageSet, Subset, hold_out
from robustok.data.parquet import ParquetImages
from robustok.data.sources import open_images
from robustok.data.tars import TarImages

__all__ = [
    "FashionMNIST",
    "HubImages",
    "ImageFolder",
    "ImageSet",
    "ParquetImages",
    "Subset",
    "TarImages",
    "hold_out",
    "open_images",
]
