"""The house stays one that can be entered: files of one size, names that stand once, few parameters, docstrings."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from slow_order import LONGEST_FIRST

SOURCE = Path(__file__).resolve().parents[1] / "src" / "rankscope"
FILES = sorted(path for path in SOURCE.rglob("*.py") if path.name != "__init__.py")
EVERY = sorted(SOURCE.rglob("*.py"))

MOST_LINES = 300
MOST_PARAMETERS = 8
MOST_FUNCTION_LINES = 60
LEAST_MEAN_LINES = 120

LIBRARY_SIGNATURES = {
    "layout_attention": "an attention function of transformers' registry",
    "__init__ of RankscopeLM": "lm-eval calls it with the names of its own command line",
}


def named(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            yield node


def test_no_two_files_have_the_same_name() -> None:
    counts = Counter(path.name for path in FILES)
    assert not {name: count for name, count in counts.items() if count > 1}


def test_files_are_neither_a_maze_nor_too_long() -> None:
    lines = {named(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {name: count for name, count in lines.items() if count > MOST_LINES}
    assert sum(lines.values()) / len(lines) >= LEAST_MEAN_LINES


def test_the_slow_files_that_run_first_are_there() -> None:
    """And `make test-slow` keeps their order."""
    root = Path(__file__).resolve().parents[1]
    assert not [name for name in LONGEST_FIRST if not (root / "tests" / name).is_file()]
    assert '--no-loadscope-reorder -m "slow' in (root / "Makefile").read_text(encoding="utf-8")


def test_a_test_lies_where_its_source_is() -> None:
    """tests/ROOM/test_SOURCE.py, with an aspect behind it where a source has several; `adding_...`: a stranger's."""
    tests = Path(__file__).resolve().parent
    lost = []
    for path in tests.rglob("test_*.py"):
        room = path.parent.relative_to(tests)
        if str(room) in (".", "cuda", "faults", "scripts"):
            continue
        name = path.stem.removeprefix("test_")
        sources = {one.stem for one in (SOURCE / room).glob("*.py")} | {room.name}
        if not name.startswith("adding_") and not any(name.startswith(source) for source in sources):
            lost.append(str(path.relative_to(tests)))
    assert not lost


@pytest.mark.parametrize("path", EVERY, ids=named)
def test_functions_are_short_and_take_few_parameters(path: Path) -> None:
    """Commands have as many parameters as they have options; what overrides a library's method has the library's."""
    too_many, too_long = {}, {}
    for function in functions(path):
        given = function.args
        count = len([a for a in (*given.posonlyargs, *given.args, *given.kwonlyargs) if a.arg not in ("self", "cls")])
        name = "__init__ of RankscopeLM" if path.name == "language_model.py" else function.name
        if count > MOST_PARAMETERS and "cli" not in path.parts and name not in LIBRARY_SIGNATURES:
            too_many[function.name] = count
        length = (function.end_lineno or 0) - function.lineno + 1
        if length > MOST_FUNCTION_LINES and "cli" not in path.parts:
            too_long[function.name] = length
    assert not too_many
    assert not too_long


@pytest.mark.parametrize("path", EVERY, ids=named)
def test_every_file_and_what_it_offers_is_described(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "the file says nothing of itself"
    missing = [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert not missing
