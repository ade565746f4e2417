"""The keys of one config as they are read: each is taken once with its type checked, and what nobody took is told."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from rankscope.study.problems import InputProblems, Problem, did_you_mean, show

_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off", "none", "null", "")


class ConfigKeys:
    """A mapping of a config. What is asked for is taken; a null, an empty text, list or mapping says nothing.

    `not_carried` gets a line for all that a study cannot say; sections write into their owner's. A value of another
    type than was asked for is a problem, told by `check` with all others.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        file: str,
        place: str = "",
        owner: ConfigKeys | None = None,
    ) -> None:
        self.file, self._values, self._place = file, values, place
        self._taken: set[str] = set()
        self.problems: list[Problem] = owner.problems if owner is not None else []
        self.not_carried: list[str] = owner.not_carried if owner is not None else []
        self._sections: list[ConfigKeys] = []
        if owner is not None:
            owner._sections.append(self)

    # ---- taking -----------------------------------------------------------------------------------------------------

    def has(self, key: str) -> bool:
        """Whether the key says something; it stays to be taken."""
        return not _is_nothing(self._values.get(key))

    def take(self, *keys: str) -> Any:
        """The value of the first of these keys that says something, None where none does; all of them are taken."""
        self._taken.update(keys)
        return next((self._values[key] for key in keys if self.has(key)), None)

    def text(self, *keys: str) -> str | None:
        """A text; a number is taken as it is written."""
        value = self.take(*keys)
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return str(value)
        return None if value is None else self._wrong(keys, value, "a text")

    def number(self, *keys: str) -> float | None:
        """A finite number, or a text that is one, such as 2e-4 where YAML 1.1 reads a text."""
        value = self.take(*keys)
        if value is None:
            return None
        try:
            found = float(value) if not isinstance(value, bool) else math.nan
        except (TypeError, ValueError):
            found = math.nan
        return found if math.isfinite(found) else self._wrong(keys, value, "a number")

    def count(self, *keys: str) -> int | None:
        """A whole number."""
        value = self.number(*keys)
        if value is None:
            return None
        return int(value) if value == int(value) else self._wrong(keys, value, "a whole number")

    def flag(self, *keys: str, default: bool = False) -> bool:
        """True or false, in any of YAML's spellings."""
        value = self.take(*keys)
        if value is None:
            return default
        word = str(value).lower()
        if isinstance(value, bool) or word in (*_TRUE, *_FALSE):
            return word in _TRUE
        self._wrong(keys, value, "true or false")
        return default

    def names(self, *keys: str) -> tuple[str, ...] | None:
        """A list of texts, or one text with commas."""
        value = self.take(*keys)
        if value is None:
            return None
        listed = value.split(",") if isinstance(value, str) else value
        if isinstance(listed, list) and all(isinstance(name, str) for name in listed):
            return tuple(name.strip() for name in listed if name.strip())
        return self._wrong(keys, value, "a list of names")

    def section(self, key: str) -> ConfigKeys:
        """A mapping inside; an empty one where there is none."""
        value = self.take(key)
        if value is not None and not isinstance(value, dict):
            self._wrong((key,), value, "a mapping")
        return ConfigKeys(value if isinstance(value, dict) else {}, self.file, self.name(key), self)

    def sections(self, *keys: str) -> list[ConfigKeys]:
        """A list of mappings, or one mapping; a text in it is a mapping with a `path`."""
        key = next((key for key in keys if self.has(key)), keys[0])
        value = self.take(*keys)
        listed = [] if value is None else value if isinstance(value, list) else [value]
        found = []
        for number, one in enumerate(listed):
            place = f"{self.name(key)}[{number}]" if isinstance(value, list) else self.name(key)
            if not isinstance(one, dict | str):
                self.problems.append(Problem(self.file, place, show(one), "a mapping"))
                continue
            found.append(ConfigKeys({"path": one} if isinstance(one, str) else one, self.file, place, self))
        return found

    # ---- telling ----------------------------------------------------------------------------------------------------

    def name(self, key: str) -> str:
        """The key with the place of its section before it."""
        return f"{self._place}.{key}" if self._place else key

    def lost(self, key: str, why: str) -> None:
        """Say that a key which says something is not carried over; nothing where it says nothing or is false."""
        value = self._values.get(key)
        self._taken.add(key)
        if not _is_nothing(value) and value is not False and value != 0:
            self.not_carried.append(f"{self.name(key)}: {show(value)}: {why}")

    def lose(self, reasons: Mapping[str, str]) -> None:
        """`lost` for many keys."""
        for key, why in reasons.items():
            self.lost(key, why)

    def note(self, line: str) -> None:
        """Say anything else that differs in the study."""
        self.not_carried.append(line)

    def finish(self, no_matter: Iterable[str], known: Iterable[str] = ()) -> None:
        """Tell of every key that nobody took: those that decide no result here (`no_matter`: names, or beginnings that
        end with `*`) on one line, all others as keys that are not known, each with the nearest of those that
        its section was asked for, at the top of the `known` ones too. Raises InputProblems with what was wrong."""
        plain: list[str] = []
        unknown: list[str] = []
        names, at_top = tuple(no_matter), tuple(known)
        for keys in self._all():
            asked = (*sorted(keys._taken), *(at_top if keys is self else ()))
            for key in keys._values:
                if key in keys._taken or not keys.has(key):
                    continue
                if _is_among(key, names):
                    plain.append(keys.name(key))
                else:
                    unknown.append(f"{keys.name(key)}: not known here{did_you_mean(key, asked)}")
        if plain:
            self.not_carried.append(f"of no effect on what a study measures: {', '.join(plain)}")
        self.not_carried += unknown
        self.check()

    def check(self) -> None:
        """Raises InputProblems with every value of a wrong type."""
        if self.problems:
            raise InputProblems(self.problems)

    def wrong(self, key: str, expected: str) -> None:
        """A problem with the value of a key; `check` raises it."""
        self.problems.append(Problem(self.file, self.name(key), show(self._values.get(key)), expected))

    def _wrong(self, keys: Iterable[str], value: Any, expected: str) -> Any:
        """A problem with a value that was taken; None, which stands for it."""
        key = next(key for key in keys if self.has(key))
        self.problems.append(Problem(self.file, self.name(key), show(value), expected))
        return None

    def _all(self) -> list[ConfigKeys]:
        return [self, *(inner for section in self._sections for inner in section._all())]


def _is_nothing(value: Any) -> bool:
    return value is None or value in ("", [], {})


def _is_among(key: str, names: tuple[str, ...]) -> bool:
    return any(key == name or (name.endswith("*") and key.startswith(name[:-1])) for name in names)
