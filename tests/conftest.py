"""Checks every shape annotation of robustok while its tests run."""

from jaxtyping import install_import_hook

install_import_hook("robustok", "beartype.beartype")
