"""Checks every shape annotation of robustok while its tests run, and finds the parity fixtures."""

import atexit
import gc
import json
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jaxtyping import config, install_import_hook

from tests import checking, standin

gc.set_threshold(10_000, 20, 20)  # a tenth of all time went into looking for garbage among what was imported
checking.install()  # before any module of robustok is imported
# The numeric tower (PEP 484): an int will do where a float is wanted.
install_import_hook("robustok", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")
# What a test's processes would each import and read is there when the forkserver forks them.
multiprocessing.get_context("forkserver").set_forkserver_preload(["tests.forked"])
config.update("jaxtyping_remove_typechecker_stack", True)

if standin.SETUP is not None:
    standin.setup()  # before the first backward pass, which counts the devices there are

_DATA = tempfile.TemporaryDirectory(prefix="robustok")  # else indices of shards would be left in the user's cache
atexit.register(_DATA.cleanup)
os.environ["ROBUSTOK_DATA"] = _DATA.name

PARITY = Path(os.environ.get("ROBUSTOK_PARITY", Path(__file__).parents[2] / "shared" / "parity"))


def pytest_collection_finish() -> None:
    """What was imported stays, so the collector need not walk through it again and again."""
    gc.freeze()


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Annotations go unchecked, as for users: lets a test read our own error about a wrong choice."""
    monkeypatch.setattr(config, "jaxtyping_disable", True)


@pytest.fixture
def parity() -> Callable[[str], tuple[dict[str, Any], dict[str, Any]]]:
    """`parity("rar")` is (meta, inputs and outputs) of a fixture made with the original implementation.

    The test is skipped where the folder is absent: it is not part of robustok.
    """

    def load(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        from safetensors.torch import load_file

        folder = PARITY / name
        if not folder.is_dir():
            pytest.skip(f"no parity fixture {folder}; set ROBUSTOK_PARITY to the folder that holds {name}")
        return json.loads((folder / "meta.json").read_text()), load_file(folder / "io.safetensors")

    return load


@pytest.fixture
def parity_weights() -> Callable[[str], dict[str, Any]]:
    """`parity_weights("rar")`: the original module's state_dict, in float32."""

    def load(name: str) -> dict[str, Any]:
        from safetensors.torch import load_file

        path = PARITY / name / "weights.safetensors"
        if not path.is_file():
            pytest.skip(f"no parity fixture {path}; set ROBUSTOK_PARITY to the folder that holds {name}")
        return {k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()}

    return load


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Ctrl-C interrupts, here and in what tests start, although a shell in the background would ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
