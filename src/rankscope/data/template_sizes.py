"""How long the results of a template's operations can be, told before they are made; sizes in characters or places."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, MappingView, Sequence
from typing import Any

import jinja2

LARGEST_COUNT = 100_000
"""The largest number by which a template may pad, indent, repeat or group."""

_MOST_PARTS = 1_000_000
_CONTAINERS = (list, tuple, set, frozenset, dict, range)
_SIZED = (str, bytes, *_CONTAINERS)
_UNLISTED: tuple[type[Any], ...] = (Generator, MappingView, type(reversed([])), map, filter, zip)
_TEXT_METHODS = {
    "replace",
    "join",
    "ljust",
    "rjust",
    "center",
    "zfill",
    "format",
    "format_map",
    "expandtabs",
    "translate",
}
_NUMBER_METHODS = {"to_bytes", "__format__"}
_LIST_FILTERS = {
    "abs", "attr", "batch", "count", "counted", "d", "default", "dictsort", "first", "float", "groupby", "int", "items",
    "last", "length", "list", "map", "max", "min", "random", "reject", "rejectattr", "reverse", "round", "select",
    "selectattr", "slice", "sort", "unique",
}  # fmt: skip
"""Filters that do not look into the parts of what they are given; all others may write them out as text."""
_NUMERAL = re.compile("[0-9]+")
_WIDTH_FROM_VALUE = re.compile(r"\*|\{[^}]*\{")


class TooCostly(jinja2.TemplateError):
    """A template that does not end, or makes more text than any row needs."""


def size(value: object) -> int:
    """The length of a text or list, without its parts; 0 of anything else."""
    return len(value) if isinstance(value, _SIZED) else 0


def deep_size(value: object) -> int:
    """The characters of a value written out. Raises TooCostly for one of a million parts or more."""
    if not isinstance(value, _CONTAINERS):
        return size(value)
    total, parts = 0, 0
    waiting: list[object] = [value]
    while waiting:
        one = waiting.pop()
        total += size(one) + 2
        if isinstance(one, _CONTAINERS):
            parts += len(one)
            if parts > _MOST_PARTS:
                raise TooCostly(f"a list of more than {_MOST_PARTS:,} parts as text")
            waiting += [*one.keys(), *one.values()] if isinstance(one, dict) else one
    return total


def listed(value: Any) -> Any:
    """What a generator or the view of a mapping yields, as a list that has a length; any other value as it is."""
    return list(value) if isinstance(value, _UNLISTED) else value


def method_size(owner: str | bytes | float, name: str, given: Sequence[Any]) -> int:
    """How long the result of a text's or number's method may be. Raises TooCostly for a count that is too large."""
    if name not in (_TEXT_METHODS if isinstance(owner, str | bytes) else _NUMBER_METHODS):
        return 0
    if name in ("format", "format_map"):
        return formatted_size(owner, given)
    _check_counts(given)
    if not isinstance(owner, str | bytes):
        return 0
    if name == "replace" and len(given) >= 2:
        return _replaced_size(owner, given[0], given[1])
    if name == "join" and given:
        return deep_size(given[0]) + len(owner) * size(given[0])
    if name == "translate" and given and isinstance(given[0], Mapping):
        return len(owner) * (1 + max(map(size, given[0].values()), default=0))
    count = max((one for one in given if isinstance(one, int)), default=8)
    tabs = owner.count("\t" if isinstance(owner, str) else b"\t")  # type: ignore[arg-type]
    return len(owner) + max(0, count) * (tabs if name == "expandtabs" else 1)


def filter_size(name: str, given: Sequence[Any], named: Mapping[str, Any]) -> int:
    """How long the result of a filter may be. Raises TooCostly for a count that is too large."""
    if not given:
        return 0
    value, more = given[0], [*given[1:], *named.values()]
    if name == "format":
        return formatted_size(str(value), more)
    _check_counts(more)
    if name in _LIST_FILTERS:
        return 0
    whole = deep_size(value)
    if name == "replace" and len(more) >= 2 and isinstance(value, str):
        return _replaced_size(value, more[0], more[1])
    counts = [one for one in more if isinstance(one, int)]
    if name == "tojson" and any(count > 16 for count in counts):
        raise TooCostly("JSON that is indented by more than 16")
    lines = value.count("\n") + 1 if isinstance(value, str) else 1
    between = max(map(size, more), default=0)
    if name == "join":
        return whole + between * size(value)
    return whole + lines * (max(counts, default=0) + between) + (between * size(value) if name == "wordwrap" else 0)


def formatted_size(text: Any, given: Sequence[Any]) -> int:
    """How long a text with places for values (`%s` or `{}`) becomes, each place as wide as any of its numbers says."""
    if not isinstance(text, str):
        text = text.decode("latin-1") if isinstance(text, bytes) else ""
    width = max((int(found[:12]) for found in _NUMERAL.findall(text)), default=0)
    values = [part for one in given for part in (one if isinstance(one, tuple | list) else [one])]
    if _WIDTH_FROM_VALUE.search(text):
        width = max([width, *(abs(one) for one in values if isinstance(one, int))])
    return len(text) + (text.count("%") + text.count("{")) * (width + 32 + sum(map(deep_size, given)))


def _replaced_size(text: Any, old: Any, new: Any) -> int:
    if not isinstance(old, type(text)):
        return len(text)
    times = text.count(old) if old else len(text) + 1
    return int(len(text) + times * size(new))


def _check_counts(values: Sequence[Any]) -> None:
    if any(isinstance(one, int) and abs(one) > LARGEST_COUNT for one in values):
        raise TooCostly(f"a number above {LARGEST_COUNT:,} to pad, indent or group by")
