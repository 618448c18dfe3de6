"""What `make` would run, told by `make --dry-run` with another Python: nothing is installed here."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def dry_run(target: str, folder: Path) -> str:
    """The commands for a target in a fresh clone, or in one where the environment has been made."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        if not (folder / name).exists():
            shutil.copy(ROOT / name, folder / name)
    words = ["make", "--dry-run", "--no-print-directory", "PYTHON=some-python", target]
    # A `make` above this one, as in `make test`, hands its own options down in the environment.
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
def test_the_demo_installs_the_core_and_tests_add_the_rest_once(tmp_path):
    demo, test = dry_run("demo", tmp_path), dry_run("test", tmp_path)
    assert demo.count("some-python -m venv") == test.count("some-python -m venv") == 1
    assert "install -c constraints.txt -e ." in demo
    assert "[dev]" not in demo
    assert test.index("install -c constraints.txt -e .\n") < test.index("-e '.[dev]'") < test.index("-m pytest")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "core").touch()
    assert "install" not in dry_run("demo", tmp_path)
    after_demo = dry_run("test", tmp_path)
    assert "some-python -m venv" not in after_demo
    assert "-e '.[dev]'" in after_demo
    (tmp_path / ".venv" / "installed").touch()
    assert "install" not in dry_run("test", tmp_path)
