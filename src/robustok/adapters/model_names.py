"""Models by name: a file or folder on this machine, or `owner/repository[:file][@revision]` of the Hugging Face hub."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robustok.runtime.places import home
from robustok.runtime.weights import cache_folder, sha256
from robustok.runtime.words import reason

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")  # of files that hold weights
WHOLE = ("model.safetensors", "diffusion_pytorch_model.safetensors")  # the weights of a folder with a config.json
NAME = re.compile(r"(?P<repository>[\w-][\w.-]*/[\w.-]+)(?::(?P<file>[^@:]+))?(?:@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class Source:
    """The place that a model came from."""

    path: Path  # a file, or a folder
    repository: str | None = None  # owner/name on the hub; None: it was given as a path
    revision: str | None = None  # commit that the hub gave; None: a copy on this machine
    weights: str | None = None  # of several sets of weights in a file, the key of those that were read, such as ema

    def sha256(self) -> str | None:
        """The hash of the file, which is read for it; None for a folder."""
        return sha256(self.path) if self.path.is_file() else None


def located(name: str | Path) -> Source:
    """The file or folder of a name, downloaded if need be. Raises ValueError that says what to fetch where it fails."""
    if not isinstance(name, str | os.PathLike):
        raise ValueError(f"{name!r} is no name of a model; give a file, a folder or owner/repository:file")
    path = home(name)
    if path.exists():
        return Source(path)
    match = NAME.fullmatch(str(name))
    if match is None:
        raise ValueError(f"there is no {name}; give a file, a folder or owner/repository:file of the Hugging Face hub")
    repository, file, revision = match["repository"], match["file"], match["revision"]
    copy = cache_folder() / repository.replace("/", "--")
    if revision is None and (copy / file if file else copy / "config.json").is_file():
        return Source(copy / file if file else copy, repository)
    try:
        path = _download(repository, file, revision)
    except ImportError as error:
        raise ValueError(f"there is no {name} here; pip install 'robustok[hub]', or {_by_hand(match, copy)}") from error
    except Exception as error:  # offline, no such repository or file, no room: of several libraries' own kinds
        why = reason(error)
        raise ValueError(f"there is no {name} here, nor from the hub ({why}); {_by_hand(match, copy)}") from error
    commit = re.search(r"[/\\]snapshots[/\\](\w+)", str(path))
    return Source(path, repository, commit[1] if commit else revision)


def _by_hand(match: re.Match[str], copy: Path) -> str:
    address = f"https://huggingface.co/{match['repository']}"
    if match["file"] is None:
        return f"put the files of {address} into {copy}"
    return f"download {address}/resolve/{match['revision'] or 'main'}/{match['file']} to {copy / match['file']}"


def _download(repository: str, file: str | None, revision: str | None) -> Path:
    """A file with the config.json beside it, if there is one; without a file, what the repository is."""
    from huggingface_hub import hf_hub_download, list_repo_files, snapshot_download

    if file is None:
        files = list_repo_files(repository, revision=revision)
        if "model_index.json" in files:
            patterns = ["*.json", "vae/*.safetensors", "transformer/*.safetensors", "vqvae/*.safetensors"]
            return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
        file = _only_weights(repository, files)
    path = Path(hf_hub_download(repository, file, revision=revision))
    config = str(Path(file).with_name("config.json").as_posix())
    try:
        hf_hub_download(repository, config, revision=revision)
    except (OSError, ValueError):
        return path  # most files have none
    return path.parent if path.name in WHOLE else path


def _only_weights(repository: str, files: Sequence[str]) -> str:
    """The file of a repository that is meant when none is named. Raises ValueError when several could be."""
    whole = [file for file in files if file in WHOLE]
    weights = whole[:1] or [file for file in files if file.endswith(SUFFIXES)]
    if len(weights) != 1:
        raise ValueError(
            f"{repository} holds {len(weights)} files of weights ({', '.join(weights[:8]) or 'none'}); "
            f"name one: {repository}:{weights[0] if weights else 'file'}"
        )
    return weights[0]
