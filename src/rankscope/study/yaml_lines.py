"""YAML to plain values that know their lines. Plain scalars follow YAML 1.2: `2e-4` is a number and `no` a text."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from rankscope.study.problems import Problem

Path = tuple[str | int, ...]
"""Where a value stands: keys and list positions from the top."""

_MAX_VALUES = 20_000
_TAG = "tag:yaml.org,2002:"
_INT = r"[0-9](?:_?[0-9])*"


class _Loader(yaml.SafeLoader):
    """Safe, and with its own rules for plain scalars: PyYAML's are YAML 1.1's (`2e-4` is text, `no` is false)."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own protocol


for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", rf"[-+]?{_INT}", list("-+0123456789")),
    ("float", rf"[-+]?(?:\.[0-9]+|{_INT}(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.")),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})$"), _first)


@dataclass
class Document:
    """A parsed study file: its values, their lines, and which of them came from `--set`."""

    file: str
    value: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    overridden: set[Path] = field(default_factory=set)
    one_model: bool = False
    """`model` was no list when it was read, though the types have a list."""

    def problem(self, path: Path, found: str, expected: str) -> Problem:
        """A problem with the value at `path`, named by file, line and dotted path."""
        if self.one_model and path[:2] == ("model", 0):
            path = ("model", *path[2:])
        for end in range(len(path), -1, -1):
            if path[:end] in self.overridden:
                return Problem("--set", dotted(path), found, expected)
        line = next((self.lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self.lines), None)
        place = dotted(path)
        return Problem(self.file, f"line {line}, {place}" if line and place else place, found, expected)

    def get(self, *path: str | int) -> Any:
        """The value at `path`, None where there is none."""
        value = self.value
        for key in path:
            if not holds(value, key):
                return None
            value = value[key]
        return value


def holds(value: Any, key: str | int) -> bool:
    """Whether a parsed value is a mapping with this key or a list with this position."""
    if isinstance(value, dict):
        return key in value
    return isinstance(value, list) and isinstance(key, int) and key < len(value)


def dotted(path: Path) -> str:
    """`("arms", "lora", "ranks", 1)` as `arms.lora.ranks[1]`."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return " ".join(text.removeprefix(".").split())


def parse_yaml(text: str, file: str) -> tuple[Document, list[Problem]]:
    """One YAML document with the problems of its form: not YAML, a key twice, a tag, an alias that holds itself."""
    document = Document(file)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        return document, [Problem(file, place, f"no valid YAML ({error.problem or error.context})", "a study in YAML")]
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else 1
        return document, [Problem(file, f"line {line}", "a control character", "plain text")]
    except RecursionError:
        return document, [Problem(file, "", "hundreds of nested brackets", "a study in YAML")]
    if node is None:
        return document, []
    walker = _Walker(document)
    try:
        document.value = walker.value(node, ())
    except _TooLarge:
        return document, [Problem(file, "", f"more than {_MAX_VALUES} values", "a study in YAML")]
    return document, walker.problems


class _TooLarge(Exception):
    """Aliases may unfold to more values than any study has."""


class _Walker:
    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []
        self._count = 0
        self._open: set[int] = set()

    def value(self, node: Node, path: Path) -> Any:
        self._count += 1
        if self._count > _MAX_VALUES:
            raise _TooLarge
        self.document.lines.setdefault(path, node.start_mark.line + 1)
        if id(node) in self._open:
            self._add(path, "an alias to what it stands in", "a value")
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, MappingNode):
                return self._mapping(node, path)
            if isinstance(node, SequenceNode):
                return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
            return self._scalar(node, path)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        first_lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, ScalarNode):
                self.document.lines.setdefault((*path, "?"), line)
                self._add((*path, "?"), "a list or mapping as a key", "a name")
                continue
            key = str(key_node.value)
            child = (*path, key)
            if key in values:
                found = f"the key `{key}` again (first on line {first_lines[key]})"
                place = f"line {line}, {dotted(child)}"
                self.problems.append(Problem(self.document.file, place, found, "each key once"))
                continue
            first_lines[key] = self.document.lines[child] = line
            values[key] = self.value(value_node, child)
        return values

    def _scalar(self, node: Node, path: Path) -> Any:
        text = str(node.value)
        kind = str(node.tag).removeprefix(_TAG)
        if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
            self._add(path, "half of a surrogate pair", "valid Unicode text")
            return None
        if kind == "str":
            return text
        if kind == "null":
            return None
        try:
            if kind == "bool":
                return {"true": True, "false": False}[text.lower()]
            if kind == "int":
                return int(text.replace("_", ""))
            if kind == "float":
                return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
        except (KeyError, ValueError):
            self._add(path, f'"{text[:20]}" marked as {kind}', f"a {kind}")
            return None
        self._add(path, f"the tag {node.tag}", "a plain value")
        return None

    def _add(self, path: Path, found: str, expected: str) -> None:
        self.problems.append(self.document.problem(path, found, expected))
