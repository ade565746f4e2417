"""The arrows between the parts: who may import whom, lazy imports too."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "rankscope"

ALLOWED = {
    "study": {"study"},
    "records": {"records", "study"},
    "assets": {"assets"},
    "plan": {"plan", "study", "records"},
    "data": {"data", "study", "records", "assets"},
    "model": {"model", "data", "plan", "study", "records", "assets"},
    "train": {"train", "model", "data", "plan", "study", "records"},
    "evaluate": {"evaluate", "model", "data", "plan", "study", "records"},
    "analyse": {"analyse", "model", "data", "plan", "study", "records"},
    "decide": {"decide", "study", "records"},
    "report": {"report", "study", "records"},
    "edges": {"edges", "study", "plan", "records"},
    # Inside one process and around all processes: the two places that know the stages.
    "jobs": {"jobs", "evaluate", "analyse", "train", "decide", "model", "data", "edges", "plan", "study", "records"},
    "pipeline": {
        "jobs",
        "results",
        "evaluate",
        "decide",
        "train",
        "data",
        "model",
        "edges",
        "plan",
        "study",
        "records",
    },
    "results": {"results", "decide", "report", "model", "edges", "plan", "study", "records"},
    "tools": {"tools", "evaluate", "analyse", "decide", "model", "data", "edges", "plan", "study", "records"},
    "cli": {"cli", "tools", "pipeline", "results", "report", "edges", "plan", "study", "records"},
    "__init__": {"results"},
    "__main__": {"cli"},
}


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    """Parts of rankscope that a file imports anywhere, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [node.module] if node.module != "rankscope" else [f"rankscope.{a.name}" for a in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("rankscope.")}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_file_imports_only_what_its_part_may(path: Path) -> None:
    part = part_of(path)
    assert part in ALLOWED, f"{part} is a new part: give it its arrows here and in the README"
    forbidden = imported_parts(path) - ALLOWED[part] - {"__version__"}
    assert not forbidden, f"{part} may not import {sorted(forbidden)}"


def test_there_is_no_cycle_between_files() -> None:
    graph = {}
    for path in modules():
        name = ".".join(("rankscope", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
        graph[name] = {
            target
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom) and node.module
            for target in (node.module, *(f"{node.module}.{a.name}" for a in node.names))
            if target.startswith("rankscope.")
        }
    done: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name in done:
            return
        for target in graph[name] & graph.keys():
            walk(target, (*trail, name))
        done.add(name)

    for name in graph:
        walk(name, ())


def test_there_is_no_cycle_between_rooms() -> None:
    """No room imports another that, over any way, imports it. `study` is what `records` are of."""
    graph: dict[str, set[str]] = {}
    for path in modules():
        graph.setdefault(part_of(path), set()).update(imported_parts(path) - {part_of(path)})
    rooms = {room: targets & graph.keys() for room, targets in graph.items() if not room.startswith("__")}
    while rooms:
        ends = {room for room, targets in rooms.items() if not targets & rooms.keys()}
        assert ends, f"a cycle among {sorted(rooms)}"
        rooms = {room: targets for room, targets in rooms.items() if room not in ends}


def test_only_capture_uses_hooks() -> None:
    users = {p.name for p in modules() if "register_forward" in p.read_text(encoding="utf-8")}
    assert users <= {"capture.py"}
