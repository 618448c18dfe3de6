"""What a release says of itself agrees, and everything that the package reads is packed."""

import re
import tomllib
from pathlib import Path

import robustok

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_version_is_the_same_everywhere():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^version: (\S+)$", citation, re.MULTILINE)[1] == robustok.__version__
    assert re.search(r"^## (\S+)", changes, re.MULTILINE)[1] == robustok.__version__


def test_every_file_beside_the_code_is_packed():
    """A data file that no pattern names would be missing from the wheel, where no test of the checkout sees it."""
    package = ROOT / "src" / "robustok"
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["robustok"]
    packed = {path for pattern in patterns for path in package.glob(pattern)}
    beside = {
        path
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
    }
    assert beside <= packed, beside - packed


def test_every_license_beside_data_is_named():
    named = {path for pattern in PROJECT["project"]["license-files"] for path in ROOT.glob(pattern)}
    assert named == {ROOT / "LICENSE", *(ROOT / "src").rglob("LICENSE")}


def test_every_extra_has_pinned_versions():
    """So that `make` installs what the tests ran with; trackers of others are installed by who uses them."""
    pinned = {
        re.split("==", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    project = PROJECT["project"]
    extras = {name: packages for name, packages in project["optional-dependencies"].items() if name not in NOT_PINNED}
    wanted = {
        re.split(r"[^\w.-]", package)[0].lower().replace("_", "-")
        for packages in (project["dependencies"], *extras.values())
        for package in packages
    }
    assert wanted - {"robustok"} <= pinned


NOT_PINNED = ("wandb", "trackio")
