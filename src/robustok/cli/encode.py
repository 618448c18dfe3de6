"""`robustok encode`: the tokens or latents of images, for any number of generators to be trained on."""

from pathlib import Path

from robustok.cli.images import device_of, images_of, view_of
from robustok.cli.models import tokenizer_of
from robustok.cli.options import Command
from robustok.data.latents import LatentCache, encode_latents
from robustok.data.shards import MANIFEST
from robustok.data.tokens import TokenCache, encode_tokens
from robustok.runtime.distributed import is_main, processes
from robustok.runtime.logging import Progress
from robustok.runtime.words import counted
from robustok.tokenizer.tokenizer import AnyTokenizer, ContinuousTokenizer


def encode(command: Command) -> None:
    """A cache of every image's tokens, or of its latents if the tokenizer has no codebook."""
    with processes():
        tokenizer = tokenizer_of(command.tokenizer, device_of(command.device), command.fields)
        images = images_of(command.images, tokenizer.image_size, **view_of(command))
        quiet = command.quiet or not is_main()
        kind = "tokens" if isinstance(tokenizer, AnyTokenizer) else "latents"

        def announce(size: int) -> None:
            if not quiet:
                print(f"{counted(len(images), 'image')}, {size / 1e9:.2g} GB of {kind} to {command.out}")

        with Progress("encoding", len(images), quiet=quiet) as progress:
            make = encode_tokens if isinstance(tokenizer, AnyTokenizer) else encode_latents
            cache: TokenCache | LatentCache = make(
                tokenizer,
                images,
                command.out,
                crops=5 if command.ten_crop else 1,
                batch_size=command.batch_size,
                announce=announce,
                progress=progress.update,
            )
        if not quiet:
            print(f"{counted(len(cache), 'image')} in {counted(cache.views, 'view')}: {command.out}")


def cache_at(folder: Path, tokenizer: ContinuousTokenizer) -> TokenCache | LatentCache:
    """The cache that `encode` or `train-generator` left in a folder. Raises ValueError where there is none of its."""
    kind = "tokens" if isinstance(tokenizer, AnyTokenizer) else "latents"
    place = folder if (folder / MANIFEST).is_file() else folder / kind
    if not (place / MANIFEST).is_file():
        raise ValueError(f"there is no cache of {kind} in {folder}; make one with robustok encode --out {folder}")
    return TokenCache(place, tokenizer) if isinstance(tokenizer, AnyTokenizer) else LatentCache(place, tokenizer)
