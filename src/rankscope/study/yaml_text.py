"""The one reader and writer of YAML: text to plain values with the line of each, and plain values to text.

YAML 1.2's core schema: `2e-4` is a number; `no`, `=`, `<<` and `2026-11-25` are text. Tags make nothing but what the
schema has, aliases are copies, and size, depth and number of values are bounded. What is written reads back equal, here
and with readers of YAML 1.1: a text that either could take for something else stands in quotes.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.representer import SafeRepresenter
from ruamel.yaml.resolver import VersionedResolver
from ruamel.yaml.tag import Tag

from rankscope.study.problems import Document, InputProblems, Place, Problem, dotted, show

_MAX_BYTES = 1_000_000
_MAX_VALUES = 20_000
_MAX_DEPTH = 50
_TAG = "tag:yaml.org,2002:"
_DIGITS = r"[0-9](?:_?[0-9])*"
_CORE_SCHEMA = {
    "null": re.compile(r"~|null|Null|NULL|"),
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "int": re.compile(rf"[-+]?{_DIGITS}|0o[0-7]+|0x[0-9a-fA-F]+"),
    "float": re.compile(
        rf"[-+]?(?:\.[0-9]+|{_DIGITS}(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
    ),
}
"""What a plain scalar is that is no text (with single underscores between digits, as in Python)."""
_KINDS = {"bool": "true or false", "int": "a whole number", "float": "a number", "null": "null"}
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


# ---- reading --------------------------------------------------------------------------------------------------------


def read_text(path: Path, expected: str, option: str = "") -> str:
    """A file's UTF-8 text, of at most 1 MB.

    Raises InputProblems with one line, which says that `expected` was expected and names the `option` of the command
    line that the file was given by.
    """

    def refused(found: str, place: str = option) -> InputProblems:
        return InputProblems([Problem(str(path), place, found, expected)])

    try:
        if path.is_dir():
            raise refused("a folder")
        if path.exists() and not path.is_file():
            raise refused("something that is no regular file")
        with path.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise refused("no such file") from error
    except OSError as error:
        raise refused(error.strerror or str(error)) from error
    except ValueError as error:
        raise refused("a path that no system allows") from error
    if not data.strip():
        raise refused("an empty file")
    if b"\0" in data[:8192]:
        raise refused("a binary file")
    if len(data) > _MAX_BYTES:
        raise refused("a file of more than 1 MB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise refused(f"the byte 0x{data[error.start]:02x}, which is no UTF-8 text", f"line {line}") from error


def parse_yaml(text: str, file: str, expected: str = "a study in YAML") -> Document:
    """The values of one YAML document and their lines, with every problem of its form: not YAML, a key twice, a tag.

    `file` is how messages name it, `expected` what they say of a text that is no YAML at all; `value` is then None.
    """
    document = Document(file)
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.Resolver, yaml.Composer, yaml.max_depth = _CoreSchema, _BoundedComposer, _MAX_DEPTH
    yaml.composer.warn_double_anchors = False
    try:
        node = yaml.compose(text)
        if node is not None:
            document.value = _Walker(document).value(node, ())
    except _TooLarge:
        document.value, document.problems = None, [Problem(file, "", f"more than {_MAX_VALUES} values", expected)]
    except (YAMLError, RecursionError, ValueError, AssertionError) as error:
        document.problems = [_no_yaml(error, text, file, expected)]
    return document


def load_yaml(text: str, file: str, expected: str) -> Any:
    """The plain values of a YAML document. Raises InputProblems with every problem of its form."""
    document = parse_yaml(text, file, expected)
    if document.problems:
        raise InputProblems(document.problems)
    return document.value


def _no_yaml(error: Exception, text: str, file: str, expected: str) -> Problem:
    if isinstance(error, ReaderError):
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else 1
        return Problem(file, f"line {line}", "a control character", "plain text")
    if not isinstance(error, MarkedYAMLError):
        return Problem(file, "", "no valid YAML", expected)
    mark = error.problem_mark or error.context_mark
    place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    if "maximum depth" in str(error.problem):
        return Problem(file, place, f"more than {_MAX_DEPTH} levels of nested values", expected)
    return Problem(file, place, f"no valid YAML ({error.problem or error.context})", expected)


class _CoreSchema(VersionedResolver):
    """What a plain scalar means; ruamel.yaml's own rules have dates and YAML 1.1's `=` and `<<`."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        """The tag of a node without one."""
        if kind is ScalarNode and implicit[0]:
            found = next((name for name, pattern in _CORE_SCHEMA.items() if pattern.fullmatch(value)), "str")
            return Tag(suffix=_TAG + found)
        return {MappingNode: self.DEFAULT_MAPPING_TAG, SequenceNode: self.DEFAULT_SEQUENCE_TAG}.get(
            kind, self.DEFAULT_SCALAR_TAG
        )


class _TooLarge(Exception):
    """More values than any study has, as written or when aliases are unfolded."""


class _BoundedComposer(Composer):
    """Stops at a number of nodes, before a large file takes minutes."""

    _count = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """The next node of the document. Raises _TooLarge."""
        self._count += 1
        if self._count > 2 * _MAX_VALUES:  # keys are nodes too
            raise _TooLarge
        return super().compose_node(parent, index)


class _Walker:
    """Turns nodes into plain values, and notes their lines and what is wrong with them."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self._count = 0
        self._open: set[int] = set()

    def value(self, node: Node, place: Place) -> Any:
        self._count += 1
        if self._count > _MAX_VALUES:
            raise _TooLarge
        self.document.lines.setdefault(place, node.start_mark.line + 1)
        if id(node) in self._open:
            return self._refuse(place, "an alias to what it stands in", "a value")
        if len(place) > _MAX_DEPTH:
            return self._refuse(place[:1], f"more than {_MAX_DEPTH} levels of nested values", "a value")
        self._open.add(id(node))
        try:
            if isinstance(node, ScalarNode):
                return self._scalar(node, place)
            if str(node.tag) not in (_TAG + "map", _TAG + "seq"):
                return self._refuse(place, f"the tag {node.tag}", "a plain value")
            if isinstance(node, MappingNode):
                return self._mapping(node, place)
            return [self.value(item, (*place, i)) for i, item in enumerate(node.value)]
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: MappingNode, place: Place) -> dict[str, Any]:
        values: dict[str, Any] = {}
        first_lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, ScalarNode):
                self.document.lines.setdefault((*place, "?"), line)
                self._refuse((*place, "?"), "a list or mapping as a key", "a name")
                continue
            key = str(key_node.value)
            child = (*place, key)
            if key in values:
                found = f"the key `{key}` again (first on line {first_lines[key]})"
                where = f"line {line}, {dotted(child)}"
                self.document.problems.append(Problem(self.document.file, where, found, "each key once"))
                continue
            first_lines[key] = self.document.lines[child] = line
            if _CONTROL.search(key):
                self._refuse(child, "a control character in a key", "plain text")
            values[key] = self.value(value_node, child)
        return values

    def _scalar(self, node: ScalarNode, place: Place) -> Any:
        text = str(node.value)
        kind = str(node.tag).removeprefix(_TAG)
        if kind == "str":
            if _CONTROL.search(text):
                return self._refuse(place, "a control character, or half of a surrogate pair", "plain text")
            return text
        try:
            if kind == "null":
                return None
            if kind == "bool":
                return {"true": True, "false": False}[text.lower()]
            if kind == "int":
                return int(text.replace("_", ""), {"0o": 8, "0x": 16}.get(text[:2], 10))
            if kind == "float":
                return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
        except (KeyError, ValueError):
            return self._refuse(place, f"{show(text[:20])} marked as {kind}", _KINDS[kind])
        return self._refuse(place, f"the tag {node.tag}", "a plain value")

    def _refuse(self, place: Place, found: str, expected: str) -> None:
        self.document.problems.append(self.document.refuse(place, found, expected))


# ---- writing --------------------------------------------------------------------------------------------------------

_PLAIN = re.compile(r"(?:[A-Za-z_/]|\.{1,2}/)(?:[A-Za-z0-9 _./@+-]*[A-Za-z0-9_./@+-])?")
_WORDS_OF_OLD_YAML = re.compile(r"(?i:y|n|yes|no|on|off|true|false|null)")
_FLOW_CHARACTERS = 100


def dump_yaml(value: dict[str, Any]) -> str:
    """A mapping of texts, numbers, booleans, None, lists and mappings as YAML text that reads back equal.

    What is short and holds nothing nested stands on one line. Raises InputProblems for a text with control characters,
    which `parse_yaml` refuses too.
    """
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.Resolver, yaml.Representer = _CoreSchema, _Representer
    yaml.default_flow_style, yaml.width, yaml.sort_base_mapping_type_on_output = False, sys.maxsize, False
    out = io.StringIO()
    yaml.dump(_Root(value), out)
    return out.getvalue()


class _Root(dict[str, Any]):
    """The outermost mapping, which never stands on one line."""


class _Representer(SafeRepresenter):
    def ignore_aliases(self, data: Any) -> bool:
        """Equal values are written again, never as aliases."""
        return True


def _text(representer: Any, text: str) -> Any:
    if _CONTROL.search(text):
        raise InputProblems([Problem(show(text), "", "a control character, or half of a surrogate pair", "plain text")])
    style = None if _PLAIN.fullmatch(text) and not _WORDS_OF_OLD_YAML.fullmatch(text) else '"'
    lines = text.split("\n")
    tame = all(line.isprintable() and not line.endswith(" ") for line in lines)
    if len(lines) > 1 and tame and lines[0] and not lines[0].startswith(" "):
        style = "|"
    return representer.represent_scalar(_TAG + "str", text, style=style)


def _float(representer: Any, value: float) -> Any:
    """With a point and a sign of the exponent, without which readers of YAML 1.1 see a text in `2e-05`."""
    text = {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}.get(repr(value), repr(value))
    if "e" in text and "." not in text:
        text = text.replace("e", ".0e")
    return representer.represent_scalar(_TAG + "float", text)


def _is_short(values: Any) -> bool:
    """Whether a list or the values of a mapping are few scalars, or lists of them, on one line."""
    for value in values:
        if isinstance(value, dict) or (isinstance(value, list | tuple) and not _is_short(value)):
            return False
        if isinstance(value, str) and "\n" in value:
            return False
    return len(str(values)) <= _FLOW_CHARACTERS


_Representer.add_representer(str, _text)
_Representer.add_representer(float, _float)
_Representer.add_representer(_Root, lambda r, data: r.represent_mapping(_TAG + "map", data, flow_style=False))
_Representer.add_representer(
    dict, lambda r, data: r.represent_mapping(_TAG + "map", data, flow_style=_is_short(list(data.values())))
)
for _kind in (list, tuple):
    _Representer.add_representer(_kind, lambda r, data: r.represent_sequence(_TAG + "seq", data, _is_short(data)))
