"""Published weights by name: found on this machine, or downloaded once and checked.

A file is looked for in `cache_folder()` (ROBUSTOK_WEIGHTS, else ~/.cache/robustok) and where `torch.hub` keeps its
downloads; a model of the Hugging Face hub also in that hub's own cache. What is read are tensors, never pickled code.
"""

import hashlib
import os
import re
import shutil
import urllib.request
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor

from robustok.runtime.places import home, user_cache
from robustok.runtime.tensor_files import read_tensors
from robustok.runtime.words import reason

CHUNK = 1 << 20  # bytes read at a time
TIMEOUT = 30  # seconds without a byte until a download is given up
TENSORS = ("model.safetensors", "pytorch_model.bin")  # of a hub model; the first one that is there


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """One published file, known by its hash."""

    title: str  # what it holds
    names: tuple[str, ...]  # that it is published under; it is saved under the first
    url: str
    sha256: str | None  # None: unknown, so that only names and shapes of what it holds can be checked
    size: int  # bytes, roughly where the hash is unknown
    license: str = "unknown"

    def located(self) -> Path | None:
        """The file on this machine; None when it is not here."""
        folders = (cache_folder(), Path(torch.hub.get_dir()) / "checkpoints")
        paths = [folder / name for folder in folders for name in self.names]
        return next((path for path in paths if path.is_file()), None)

    def remedy(self) -> str:
        """Words on getting it by hand."""
        return f"download {self.url} ({self.size / 1e6:.3g} MB) to {cache_folder() / self.names[0]}"

    def about(self) -> str:
        """Words that tell it apart, and under which license it is."""
        return f"SHA-256 {self.sha256 or 'unknown'}, license {self.license}"

    def path(self) -> Path:
        """The file, downloaded if need be. Raises ValueError when it cannot be had, or is not the published one."""
        path = self.located() or self._download()
        if self.sha256 is not None and sha256(path) != self.sha256:
            raise ValueError(
                f"{path} is not {self.title}: its SHA-256 is {sha256(path)[:16]}..., not {self.sha256[:16]}...; "
                f"remove it, then {self.remedy()}"
            )
        return path

    def _download(self) -> Path:
        """Download to a neighbor, renamed when it is whole: whoever stops it leaves no half a file."""
        path = cache_folder() / self.names[0]
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with urllib.request.urlopen(self.url, timeout=TIMEOUT) as source, partial.open("wb") as file:
                shutil.copyfileobj(source, file, CHUNK)
            if self.sha256 is not None and sha256(partial) != self.sha256:
                raise OSError(f"what came has the SHA-256 {sha256(partial)[:16]}..., not {self.sha256[:16]}...")
            os.replace(partial, path)
        except (OSError, HTTPException) as error:  # no network, no such address, no room
            raise ValueError(f"{self.title} could not be downloaded ({reason(error)}); {self.remedy()}") from error
        finally:
            partial.unlink(missing_ok=True)
        return path


@dataclass(frozen=True, kw_only=True)
class HubModel:
    """A model on the Hugging Face hub: its `config.json` and its tensors."""

    title: str  # what it is
    repository: str  # owner/name
    license: str = "unknown"

    def located(self) -> Path | None:
        """The folder that it lies in on this machine; None when it does not."""
        if tensor_file(self._folder()):
            return self._folder()
        try:
            from huggingface_hub import try_to_load_from_cache
        except ImportError:
            return None
        found = [try_to_load_from_cache(self.repository, name) for name in TENSORS]
        return next((Path(path).parent for path in found if isinstance(path, str)), None)

    def remedy(self) -> str:
        """Words on getting it by hand."""
        return (
            f"download config.json and {TENSORS[0]} (or {TENSORS[1]}) of https://huggingface.co/{self.repository} "
            f"to {self._folder()}"
        )

    def about(self) -> str:
        """The license under which it is; the hub's client checks what it downloads."""
        return f"license {self.license}"

    def path(self) -> Path:
        """The folder, downloaded if need be. Raises ValueError when it cannot be had."""
        located = self.located()
        if located is not None:
            return located
        try:
            from huggingface_hub import hf_hub_download
            from huggingface_hub.errors import EntryNotFoundError
        except ImportError as error:
            raise ValueError(f"{self.title} is not here; pip install 'robustok[hub]', or {self.remedy()}") from error
        try:
            hf_hub_download(self.repository, "config.json")
            try:
                return Path(hf_hub_download(self.repository, TENSORS[0])).parent
            except EntryNotFoundError:
                return Path(hf_hub_download(self.repository, TENSORS[1])).parent
        except (OSError, ValueError) as error:  # offline, no such repository, no room
            raise ValueError(f"{self.title} could not be downloaded ({reason(error)}); {self.remedy()}") from error

    def _folder(self) -> Path:
        return cache_folder() / self.repository.replace("/", "--")


def cache_folder() -> Path:
    """The folder of weights: ROBUSTOK_WEIGHTS, else ~/.cache/robustok."""
    return home(os.environ.get("ROBUSTOK_WEIGHTS") or user_cache())


def tensor_file(folder: Path) -> Path | None:
    """The file of a model folder that holds its tensors; None when there is none."""
    return next((folder / name for name in TENSORS if (folder / name).is_file()), None)


def weights_at(source: str, published: WeightFile) -> dict[str, Tensor]:
    """The tensors of a source: `published`, a file, a folder with one, or owner/name on the Hugging Face hub.

    Raises ValueError, with what to do, where they cannot be had.
    """
    if source == "published":
        return read_tensors(published.path())
    path = Path(source)
    if not path.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        path = HubModel(title=source, repository=source).path()
    return read_tensors((tensor_file(path) or path) if path.is_dir() else path)


def sha256(path: str | Path) -> str:
    """The hash of a file's bytes."""
    path = Path(path)
    return _sha256(path, path.stat().st_size, path.stat().st_mtime_ns)


@cache
def _sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
