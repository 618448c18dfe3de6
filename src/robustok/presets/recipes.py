"""Every run by name, and the table of the full-scale ones in docs/recipes.md.

A name alone is the paper's size; `-one_gpu` and `-smoke` behind it are the other two.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import torch

from robustok import names
from robustok.presets import decoders, embedded, generators, tokenizers
from robustok.report.table import Column, Table
from robustok.tokenizer.autoencoder import Autoencoder, AutoencoderConfig
from robustok.tokenizer.tokenizer import Tokenizer, TokenizerConfig
from robustok.training.generator_training import GeneratorTraining, build_generator
from robustok.training.post_training import PostTraining
from robustok.training.tokenizer_training import TokenizerTraining

Recipe: TypeAlias = Callable[..., Any]

EMBEDDED: Mapping[str, Recipe] = {name: getattr(embedded, name.replace("-", "_")) for name in names.RUNS}
TOKENIZERS: Mapping[str, Recipe] = {name: getattr(tokenizers, name) for name in names.TOKENIZERS}
GENERATORS: Mapping[str, Recipe] = {name: getattr(generators, name) for name in names.GENERATORS}
DECODERS: Mapping[str, Recipe] = {name: getattr(decoders, name) for name in names.DECODERS}
STAGES = {"main": TOKENIZERS, "generator": GENERATORS, "post": DECODERS}  # as a demo calls them


def stage(name: str, part: Literal["main", "generator", "post"]) -> Any:
    """One stage's config in the run of a name, of the embedded images or of ImageNet. Raises ValueError."""
    return getattr(EMBEDDED[name](), part) if name in EMBEDDED else recipe(name, STAGES[part])


def recipe(name: str, recipes: Mapping[str, Recipe]) -> Any:
    """The config of a name, such as rar_b or rar_b-one_gpu. Raises ValueError for any other."""
    known = names.scaled(tuple(recipes))
    if name not in known:
        raise ValueError(f"there is no run {name!r}; there are {', '.join(known)}")
    run, _, scale = name.partition("-")
    return recipes[run](scale or "paper")


def recipes_table() -> str:
    """All runs in Markdown: what is trained, for how long, what was reached."""
    numbers = ("trained", "steps x images", "micro-batches on one GPU", "learning rate")
    cost, reached = Column("cost", left=True), Column("what it reached", left=True)
    columns = ("run", Column("what it is", left=True), *numbers, cost, reached)
    rows = [row(name, make) for recipes in STAGES.values() for name, make in recipes.items()]
    return Table(columns=columns, rows=rows).to_markdown()


def row(name: str, make: Recipe) -> tuple[str, ...]:
    """One run: its docstring, and what its config says."""
    summary, cost, reached = docstring_parts(make)
    config = make("paper")
    one = make("one_gpu")
    millions = f"{parameters(config) / 1e6:.0f} M"
    length = f"{config.loop.steps:,} x {config.loop.batch_size:,}"
    return name, summary, millions, length, str(one.optim.micro_batches), f"{config.optim.lr:g}", cost, reached


def docstring_parts(make: Recipe) -> tuple[str, str, str]:
    """(what a run is, what it costs, what it reached): the first and the last paragraph of its docstring.

    Costs are counted (`benchmarks/training_cost.py`), not measured: floating-point operations, and hours of one H100
    at 40 % of its 989 TFLOP/s in bfloat16.
    """
    first, *_, last = (" ".join(part.split()) for part in (inspect.getdoc(make) or "").replace("`", "").split("\n\n"))
    cost, reached = last.removeprefix("Cost: ").split(". ", 1)
    return first.rstrip("."), cost, reached.rstrip(".")


def build(config: TokenizerConfig | AutoencoderConfig) -> Tokenizer | Autoencoder:
    """A new tokenizer of either kind."""
    return Tokenizer(config) if isinstance(config, TokenizerConfig) else Autoencoder(config)


def trained_parameters(config: TokenizerTraining | GeneratorTraining | PostTraining) -> int:
    """Weights that a run trains, without those of a discriminator and a semantic head; a decoder is RobusTok's."""
    network: torch.nn.Module
    with torch.device("meta"):
        match config:
            case TokenizerTraining(tokenizer=part) if part is not None:
                network = build(part)
            case GeneratorTraining(generator=part) if part is not None:
                network = build_generator(part)
            case PostTraining():
                tokenizer = tokenizers.robustok_imagenet256().tokenizer
                assert tokenizer is not None
                network = build(tokenizer).decoder
            case _:
                raise ValueError("a run that trains a given model has no number of parameters of its own")
    return sum(weight.numel() for weight in network.parameters())


if __name__ == "__main__":
    print(recipes_table(), end="")
