"""The house: no circle of imports, no file and no function too long, no name that stands for two files."""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from tests.test_imports import SOURCE, modules

LINES, BODY = 400, 80  # of a file; of a function


def dotted(path: Path) -> str:
    """cli/options.py as cli.options, cli/__init__.py as cli."""
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


@cache
def graph() -> dict[str, set[str]]:
    """What each file imports of robustok, at its top and inside of functions."""
    files = {dotted(path): path for path, _ in modules()}
    return {name: set(imported(path, files)) - {name} for name, path in files.items()}


def imported(path: Path, files: Iterable[str]) -> Iterator[str]:
    """The files that a file imports: `from robustok.data import order` is data.order and not the package."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "robustok":
            home = node.module.removeprefix("robustok").removeprefix(".")
            for alias in node.names:
                part = f"{home}.{alias.name}".removeprefix(".")
                yield part if part in files else home


def circles(edges: dict[str, set[str]]) -> Iterator[tuple[str, ...]]:
    """Groups of files each of which imports, over others, itself (Tarjan 1972 by reachability, for few files)."""
    reach = {name: set(targets) for name, targets in edges.items()}
    for via in reach:
        for targets in reach.values():
            if via in targets:
                targets |= reach[via]
    seen: set[str] = set()
    for name in sorted(reach):
        if name in reach[name] and name not in seen:
            group = {other for other in reach[name] if name in reach[other]}
            seen |= group
            yield tuple(sorted(group))


def functions() -> Iterator[tuple[str, int]]:
    """Every function and method, and how many lines it has."""
    for path, _ in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{dotted(path)}.{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1


def test_a_circle_is_found():
    edges = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"e2"}, "e2": {"e"}}
    assert list(circles(edges)) == [("b", "c"), ("e", "e2")]


def test_no_circle_of_imports_anywhere():
    assert not list(circles(graph()))


def test_arrows_between_the_rooms_of_evaluation_point_down():
    rooms = {name: {t.split(".")[1] for t in ts if t.startswith("evaluation.")} for name, ts in graph().items()}
    for below, above in (("metrics", {"features", "scores"}), ("features", {"metrics", "scores"})):
        for name in (name for name in rooms if name.startswith(f"evaluation.{below}")):
            assert not rooms[name] & above, f"{name} must not import {rooms[name] & above}"


def names() -> Iterator[tuple[str, str]]:
    """Every class and function at the top of a file that is not private to it, and that file."""
    for path, _ in modules():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                yield node.name, dotted(path)


def test_a_name_stands_for_one_thing():
    """But for what `import robustok` offers, verbs called as what they make, and one thing on two levels."""
    files: dict[str, list[str]] = {}
    for name, file in names():
        files.setdefault(name, []).append(file)
    on_two_levels = {"five_crops", "load_generator", "load_tokenizer", "page"}
    several = {name for name, there in files.items() if len([f for f in there if f != "api" and f[:4] != "cli."]) > 1}
    assert several == on_two_levels


def test_no_file_is_too_long():
    files = [*SOURCE.rglob("*.py"), *Path(__file__).parent.rglob("*.py")]
    assert not {path for path in files if len(path.read_text(encoding="utf-8").splitlines()) > LINES}


def test_no_function_is_too_long():
    assert not {name for name, lines in functions() if lines > BODY}


def test_tests_lie_where_what_they_test_lies():
    """tests/a/b/test_c.py is of src/robustok/a/b/c.py, or of the whole folder a/b."""
    tests = Path(__file__).parent
    own = {"benchmarks", "fuzz"}
    for path in tests.rglob("test_*.py"):
        folder = path.parent.relative_to(tests)
        assert folder.parts[:1] == () or folder.parts[0] in own or (SOURCE / folder).is_dir(), f"{path}: no such folder"
    for path in SOURCE.rglob("*.py"):
        home = tests / path.parent.relative_to(SOURCE)
        wrong = [other for other in tests.rglob(f"test_{path.stem}.py") if other.parent != home]
        twins = [other for other in (*SOURCE.rglob(path.name), *SOURCE.rglob(path.stem)) if other != path]
        assert not wrong or twins or path.stem == "__init__", f"{wrong} should lie in {home}"
