"""`robustok export`: a model as its authors' code, or diffusers, loads it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from robustok.cli.arguments import Fields, GeneratorName, TokenizerName
from robustok.cli.options import Option, Verbose


@dataclass(frozen=True, kw_only=True)
class Export(Verbose):
    """A model of another family, as its authors' code loads it.

    Reads a tokenizer or a generator that is not robustok's own, such as one whose decoder was tuned.

    Writes one file in the original layout, or for models of diffusers a folder; nothing is overwritten.
    """

    group = "Use"

    tokenizer: TokenizerName | None = None
    fields: Fields = ()
    generator: GeneratorName | None = None
    out: Annotated[Path, Option("PATH")]  # file to write (.safetensors, or a torch file), or folder

    def run(self) -> None:
        """A file in the authors' layout, or a folder of diffusers."""
        import torch

        from robustok.cli.models import generator_named, tokenizer_named
        from robustok.runtime.places import check_writable

        if (self.tokenizer is None) == (self.generator is None):
            raise ValueError("export takes one model; give either --tokenizer or --generator")
        if self.out.exists() or self.out.is_symlink():
            raise ValueError(f"{self.out} is already there, and is not overwritten; give another --out")
        check_writable(self.out, "file")
        cpu = torch.device("cpu")
        if self.generator is not None:
            model = generator_named(self.generator, cpu, None)
        elif self.tokenizer is not None:
            model = tokenizer_named(self.tokenizer, cpu, self.fields)
        if hasattr(model, "to_checkpoint"):
            model.to_checkpoint(self.out)
            how = "in the layout of its authors"
        elif hasattr(model, "to_diffusers"):
            model.to_diffusers().save_pretrained(self.out)
            how = "as diffusers writes it"
        else:
            raise ValueError(
                f"{type(model).__name__} is robustok's own, and its folder is what loads it everywhere; "
                "export is for models of other families"
            )
        self.say(f"{type(model).__name__} {how}: {self.out}")
