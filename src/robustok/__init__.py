"""Image tokenizers that generators can rely on: latent perturbation, pFID and decoder post-training.

Names load on first use, so that `import robustok` costs nothing. Everything else is reachable by its module.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustok import data
    from robustok.api import (
        load_generator,
        load_tokenizer,
        post_train,
        push_to_hub,
        sample,
        score_generator,
        score_tokenizer,
    )

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "data",
    "load_generator",
    "load_tokenizer",
    "post_train",
    "push_to_hub",
    "sample",
    "score_generator",
    "score_tokenizer",
]


def __getattr__(name: str) -> Any:
    if name == "data":
        return import_module("robustok.data")
    if name in __all__:
        return getattr(import_module("robustok.api"), name)
    raise AttributeError(f"module 'robustok' has no attribute {name!r}; it offers {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
