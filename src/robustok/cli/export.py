"""`robustok export`: a model as its authors' code, or diffusers, loads it."""

import torch

from robustok.cli.models import generator_of, tokenizer_of
from robustok.cli.options import Command
from robustok.runtime.places import check_writable


def export(command: Command) -> None:
    """A file in the authors' layout, or a folder of diffusers."""
    if (command.tokenizer is None) == (command.generator is None):
        raise ValueError("export takes one model; give either --tokenizer or --generator")
    if command.out.exists() or command.out.is_symlink():
        raise ValueError(f"{command.out} is already there, and is not overwritten; give another --out")
    check_writable(command.out, "file")
    cpu = torch.device("cpu")
    if command.tokenizer is not None:
        model = tokenizer_of(command.tokenizer, cpu, command.fields)
    else:
        model = generator_of(command.generator, cpu, None)
    if hasattr(model, "to_checkpoint"):
        model.to_checkpoint(command.out)
        how = "in the layout of its authors"
    elif hasattr(model, "to_diffusers"):
        model.to_diffusers().save_pretrained(command.out)
        how = "as diffusers writes it"
    else:
        raise ValueError(
            f"{type(model).__name__} is robustok's own, and its folder is what loads it everywhere; "
            "export is for models of other families"
        )
    if not command.quiet:
        print(f"{type(model).__name__} {how}: {command.out}")
