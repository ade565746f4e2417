"""What the documentation tells people to type: every command exists with its options, and the guides run as printed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from table_of_docs import table
from test_import_law import ALLOWED

from rankscope.cli import app

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
SOURCE = ROOT / "src" / "rankscope"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"`((?:\S*/)?rankscope [^`\n]+)`")


def blocks(path: Path) -> list[tuple[str, str]]:
    """(language, text) of every fenced block."""
    return [(found[1], found[2]) for found in BLOCK.finditer(path.read_text(encoding="utf-8"))]


def commands(path: Path) -> list[str]:
    """Every line that calls rankscope: in blocks, and between backticks in the text."""
    text = path.read_text(encoding="utf-8")
    lines = [line.strip() for _, block in blocks(path) for line in block.splitlines()]
    found = [line for line in lines if re.match(r"(\S*/)?rankscope [-a-z]", line)]
    return found + COMMAND.findall(BLOCK.sub("", text))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_and_option_exists(path: Path) -> None:
    group = typer.main.get_command(app)
    for line in commands(path):
        words = shlex.split(line, comments=True)[1:]
        if words[0].startswith("-"):
            assert words[0] in ("--version", "--install-completion", "--show-completion", "--help"), line
            continue
        command = group.commands.get(words[0])  # type: ignore[attr-defined]
        assert command is not None, line
        if words[0] == "harness":
            continue  # lm-eval's own options
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_there_is_something_to_check() -> None:
    assert sum(len(commands(path)) for path in DOCUMENTS) > 30


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_to_a_file(path: Path) -> None:
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []


# ---- what the map says of the house ----------------------------------------------------------------------------------


def named_paths(path: Path) -> list[str]:
    """Paths in backticks, but for those with a placeholder (NAME, ID, HASH, <module>) and those of a study folder."""
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    found = re.findall(r"`((?:[\w.*-]+/)+[\w.*-]*|[a-z][\w-]*\.(?:py|toml|txt|md))`", text)
    left_out = re.compile(r"[A-Z]{2,}|^(runs|base|tables|tokens|adapter|model|analysis)/")
    return [name for name in found if not left_out.search(name)]


@pytest.mark.parametrize("name", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_every_path_that_is_named_exists(name: str) -> None:
    paths = named_paths(ROOT / name)
    assert len(paths) > 5
    missing = [path for path in paths if not any(list(start.glob(path)) for start in (ROOT, SOURCE, ROOT / "docs"))]
    assert missing == []


def test_the_map_has_the_import_law() -> None:
    told = {
        room: set(row["may import"].split(", ")) - {"none"} for room, row in table("architecture.md", "room").items()
    }
    assert told == {
        room: allowed - {room, "assets"}
        for room, allowed in ALLOWED.items()
        if room not in ("assets", "__init__", "__main__")
    }


def test_the_readme_s_tree_names_every_room() -> None:
    tree = next(text for _, text in blocks(ROOT / "README.md") if text.startswith("src/rankscope/"))
    rooms = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").is_file()}
    assert {line.split()[0].rstrip("/") for line in tree.splitlines() if line.startswith("  ") and line[2] != " "} == {
        *rooms,
        "pipeline.py",
    }
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= set(re.findall(r"([\w-]+)\.md", tree))


@pytest.mark.guide
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("name", ["tutorial.md", "own-data.md"])
def test_a_guide_runs_as_printed(name: str, tmp_path: Path) -> None:
    """Its `sh` and `python` blocks, one after another in an empty folder; only `verdict` may end with 3."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment["PYTHONPATH"] = str(ROOT / "src")
    for language, text in blocks(ROOT / "docs" / name):
        lines = [line for line in text.splitlines() if line.strip()] if language == "sh" else [text]
        for line in lines if language in ("sh", "python") else []:
            call = ["bash", "-c", line] if language == "sh" else [sys.executable, "-c", line]
            done = subprocess.run(
                call, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=2000, check=False
            )
            allowed = (0, 3) if line.startswith("rankscope verdict ") else (0,)
            assert done.returncode in allowed, f"{line}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "adapter" / "README.md").is_file()
