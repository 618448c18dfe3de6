"""The shape of the code: who may import whom, what is imported at all, and what no file may name."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "robustok"

ONE = {"layers", "inference", "shapes", "backbones", "runtime"}
TWO = {"tokenizer", "losses", "generators"}
THREE = {"evaluation", "data"}
FOUR = {"training", "adapters"}
BELOW = {
    "__init__": {"api", "data", "evaluation"},  # for type checkers; names load on first use
    "shapes": set(),
    "runtime": set(),
    "names": set(),  # of presets and feature spaces, which help lists without torch
    "layers": {"shapes"},
    "inference": set(),
    "backbones": {"layers", "shapes"},
    **dict.fromkeys(TWO, ONE - {"runtime"}),
    **dict.fromkeys(THREE, ONE | TWO | {"names"}),
    **dict.fromkeys(FOUR, ONE | TWO | THREE),
    "report": ONE | TWO | THREE | FOUR,
    "analysis": ONE | TWO | THREE | FOUR | {"report"},
    "models": ONE | TWO | {"adapters"},
    "publishing": {"evaluation", "runtime"},
    "demo": ONE | TWO | THREE | FOUR | {"models", "report"},
    "presets": ONE | TWO | THREE | FOUR | {"demo", "names", "report"},
    "api": ONE | TWO | THREE | FOUR | {"models", "presets", "publishing"},
    "cli": ONE | TWO | THREE | FOUR | {"models", "publishing", "report", "analysis", "demo", "names", "presets", "api"},
    "__main__": {"cli"},
}
# pFID perturbs as training does, from a stream of its own: which numbers it draws belongs to its definition.
PURE = {f"robustok.{name}" for name in ("shapes", "runtime.seeding")}
PURE |= {f"robustok.tokenizer.{name}" for name in ("perturbation", "latent_perturbation")}
# A model can save and load itself, so the maths may use files; of seeds, ranks and logs it knows nothing.
FILES = {"checkpoint", "configs", "pretrained", "renaming", "tensor_files", "weights"}
FILES = {f"robustok.runtime.{name}" for name in FILES}


def modules() -> Iterator[tuple[Path, str]]:
    """Every source file and its home: the folder or file directly under robustok that it belongs to."""
    for path in sorted(SOURCE.rglob("*.py")):
        yield path, path.relative_to(SOURCE).parts[0].removesuffix(".py")


@cache
def imports(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, at its top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import {'.' * node.level}{node.module or ''} by its full name"
            deeper = node.module in ("robustok", "torch")
            names |= {f"{node.module}.{alias.name}" for alias in node.names} if deeper else {str(node.module)}
    return names


def imports_on_load(path: Path) -> set[str]:
    """Packages that importing a file imports: those named outside of its functions."""
    names = set()
    nodes: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).split(".")[0])
        elif not isinstance(node, ast.FunctionDef):
            nodes += ast.iter_child_nodes(node)
    return names


def targets(path: Path, but: Iterable[str] = ()) -> set[str]:
    """Homes within robustok that a file imports from, `but` for some modules."""
    return {name.split(".")[1] for name in imports(path) - set(but) if name.startswith("robustok.")}


def test_imports_only_point_down():
    for path, home in modules():
        allowed = FILES if home in TWO | {"backbones"} else set()
        for target in targets(path, but=allowed):
            assert target == home or target in BELOW[home], f"{path} must not import {target}"


def test_only_its_verb_knows_of_the_analysis():
    users = [path for path, home in modules() if home != "analysis" and "analysis" in targets(path)]
    assert users == [SOURCE / "cli" / "analyze.py"]


def test_metrics_import_only_shapes():
    for path in sorted((SOURCE / "evaluation" / "metrics").glob("*.py")):
        extra = {n for n in imports(path) if n.startswith("robustok.")} - PURE
        extra = {name for name in extra if not name.startswith("robustok.evaluation.metrics")}
        assert not extra, f"{path} must not import {extra}"


def test_one_file_knows_of_other_processes():
    users = [path for path, _ in modules() if any(n.startswith("torch.distributed") for n in imports(path))]
    assert users == [SOURCE / "runtime" / "distributed.py"]


def test_only_core_dependencies_are_imported():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def packages(lines: Iterable[str]) -> set[str]:
        return {re.split("[<>=!;]", line)[0].strip().replace("-", "_") for line in lines}

    core = packages(project["dependencies"]) | {"PIL", "markupsafe", "yaml"}  # of pillow, jinja2 and pyyaml
    extras = packages(chain(*(lines for extra, lines in project["optional-dependencies"].items() if extra != "dev")))
    own = set(sys.stdlib_module_names) | {"robustok"}
    for path, _ in modules():
        foreign = {name.split(".")[0] for name in imports(path)} - own
        assert foreign <= core | extras, f"{path} imports {foreign - core - extras}, not listed in pyproject.toml"
        at_once = imports_on_load(path) - own
        assert at_once <= core, f"{path} imports the extra {at_once - core} at its top; import it where it is used"


def test_no_file_names_a_place_of_its_own():
    """Absolute places on the machine that wrote a file, or the host of a package registry."""
    place = re.compile(r"""(?<![\w.])/(work|root|home)/|\b(pypi|pythonhosted|debian|npmjs)\.org|download\.pytorch""")
    tops = [
        "src",
        "tests",
        "docs",
        "benchmarks",
        ".ci",
        "Makefile",
        "pyproject.toml",
        "constraints.txt",
        "README.md",
        "CHANGELOG.md",
    ]
    files = [file for top in tops for file in [ROOT / top, *sorted((ROOT / top).rglob("*"))] if file.is_file()]
    for file in files:
        if file.suffix in (
            ".py",
            ".md",
            ".toml",
            ".txt",
            ".html",
            ".css",
            ".js",
            "",
        ) and "egg-info" not in str(file):
            found = place.search(file.read_text(encoding="utf-8"))
            assert not found, f"{file} names {found[0]}"
