"""A demo in miniature, run once for all tests of demos."""

import shutil
from pathlib import Path

import pytest
from tests.demo.mini import MINI, Finished

from robustok.demo import run
from robustok.report.page import write_report


@pytest.fixture(scope="session")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """`MINI` in a folder that is to stay as it is: tests write into copies."""
    found = Finished(tmp_path_factory.mktemp("demo") / "mini", [])

    def kept(folder: Path) -> Path:
        path = write_report(folder)
        made = {model.parent.name for model in found.folder.glob("*/model.safetensors")}
        found.pages.append((path.read_text(), made))
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "write_report", kept)
        run.run_demo(MINI, found.folder, quiet=True)
    return found


@pytest.fixture(scope="module")
def finished(mini: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of its folder."""
    return Path(shutil.copytree(mini.folder, tmp_path_factory.mktemp("copy") / "mini"))
