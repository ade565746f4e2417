"""Single fields of a record, checked: what every shape of row reads its texts with."""

from __future__ import annotations

from collections.abc import Mapping

from rankscope.study.problems import show


class Refused(Exception):
    """A record that cannot be read: the field (empty: the whole record), what was found and what was expected."""

    def __init__(self, field: str, found: str, expected: str) -> None:
        super().__init__(field)
        self.field, self.found, self.expected = field, found, expected


def is_clean(value: str) -> bool:
    """Whether the text has UTF-8 bytes: JSON can hold half of a surrogate pair, which has none."""
    return not any("\ud800" <= letter <= "\udfff" for letter in value)


def given(record: Mapping[object, object], field: str) -> bool:
    """Whether the field says anything: null, an empty text and an empty list do not."""
    return record.get(field) not in (None, "", [])


def needed(record: Mapping[object, object], field: str, *, strip: bool = True) -> str:
    """The field's text, or Refused where it says nothing."""
    value = text(record, field, strip=strip)
    if value is None:
        raise Refused(field, show(record.get(field)), "text that is not empty")
    return value


def text(record: Mapping[object, object], field: str, *, strip: bool = True) -> str | None:
    """The field's text, None where it says nothing."""
    value = record.get(field)
    if value is None or value == []:
        return None
    return checked(value, field, strip) or None


def checked(value: object, field: str, strip: bool) -> str:
    """A value that must be text; a text of nothing but white space becomes empty."""
    if not isinstance(value, str):
        raise Refused(field, show(value), "text")
    if not is_clean(value):
        raise Refused(field, f"half of a surrogate pair in {show(value)}", "text that can be written as UTF-8")
    return value.strip() if strip or not value.strip() else value


def texts(record: Mapping[object, object], field: str) -> tuple[str, ...]:
    """A list of texts, empty ones left out."""
    value = record.get(field)
    if value is None or value == "":
        return ()
    if not isinstance(value, list):
        raise Refused(field, show(value), "a list of texts")
    return tuple(stripped for part in value if (stripped := checked(part, field, True)))
