"""Arrays of numpy's npz files, checked, never unpickled; large ones memory-mapped rather than read."""

import math
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shutil import copyfileobj
from typing import Any

import numpy as np

from robustok.runtime.words import reason

Array = np.ndarray[Any, np.dtype[Any]]
CHUNK = 1 << 20  # bytes read at a time
LOCAL_HEADER = 30  # bytes of a zip member's header before its name


def array_names(path: str | Path) -> tuple[str, ...]:
    """Names of the arrays in the file. Raises ValueError for a file that is missing, cut short or no npz."""
    with _opened(path) as archive:
        return tuple(name.removesuffix(".npy") for name in archive.namelist())


def read_array(path: str | Path, name: str) -> Array:
    """An array in memory; its checksum has been verified. Raises ValueError as `map_array` does."""
    with _opened(path) as archive:
        size = _member(archive, path, name).file_size
        with archive.open(f"{name}.npy") as file:
            shape, _, dtype = _header(file)
            if not dtype.hasobject and math.prod(shape) * dtype.itemsize > size:  # else memory is asked for first
                raise ValueError(f"{name} is said to be {dtype} of shape {shape}, more than the file holds")
        with archive.open(f"{name}.npy") as file:
            return np.lib.format.read_array(file, allow_pickle=False)


def map_array(path: str | Path, name: str) -> Array:
    """An array on the disk, of which only what is asked for is in memory; a compressed one goes to a temporary file.

    All of it is read once, so that its checksum has been verified.
    Raises ValueError for a file that is missing, damaged or lacks the array, and for an array of Python objects.
    """
    with ExitStack() as kept, _opened(path) as archive:
        member = _member(archive, path, name)
        if member.compress_type == zipfile.ZIP_STORED:
            with archive.open(member) as whole:
                while whole.read(CHUNK):  # at its end the checksum is compared
                    pass
            file: Any = kept.enter_context(open(path, "rb"))
            file.seek(member.header_offset + LOCAL_HEADER - 4)
            lengths = np.frombuffer(file.read(4), "<u2")  # of the name and of what else is between header and data
            file.seek(int(lengths.sum()), 1)
        else:
            file = kept.enter_context(tempfile.TemporaryFile())
            with archive.open(member) as packed:
                copyfileobj(packed, file)
            file.seek(0)
        shape, fortran, dtype = _header(file)
        if dtype.hasobject:
            raise ValueError(f"{name} in {path} holds Python objects, which may run code; save it as numbers")
        return np.memmap(file, dtype, "r", file.tell(), shape, "F" if fortran else "C")


def center_square(images: Array) -> Array:
    """The middle of images (count, height, width, ...) that are not square, as `data.decoding.center_crop` cuts files.

    A network that makes squares of all images would squash them.
    """
    side = min(images.shape[1:3])
    top, left = ((length - side) // 2 for length in images.shape[1:3])
    return images[:, top : top + side, left : left + side]


def checksum(path: str | Path, name: str) -> str:
    """A name for the array's contents: the checksum that the file keeps, and the number of bytes."""
    with _opened(path) as archive:
        member = _member(archive, path, name)
        return f"{member.CRC:08x}-{member.file_size}"


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, True for Fortran's order, and type of an npy file at its beginning, which is then at its numbers."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)


@contextmanager
def _opened(path: str | Path) -> Iterator[zipfile.ZipFile]:
    """The archive; whatever is wrong with it while it is open is a ValueError."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except Exception as error:  # damaged files make zipfile, zlib and numpy raise nearly anything
        if str(path) in str(error) and isinstance(error, ValueError):
            raise
        why = "it holds Python objects, which may run code" if "allow_pickle" in str(error) else reason(error)
        raise ValueError(
            f"{path} cannot be read as an npz file ({why}); give a whole file of numbers that numpy.savez wrote"
        ) from error


def _member(archive: zipfile.ZipFile, path: str | Path, name: str) -> zipfile.ZipInfo:
    if f"{name}.npy" not in archive.namelist():
        found = ", ".join(entry.removesuffix(".npy") for entry in archive.namelist()) or "nothing"
        raise ValueError(f"{path} has no array {name}, only {found}; give a file that holds it")
    return archive.getinfo(f"{name}.npy")
