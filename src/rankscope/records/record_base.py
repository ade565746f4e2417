"""What every record has, the versions of what is written, and how a record is read back: checked, or refused plainly.

A record is JSON with a `format_version`. A newer one is refused, an older one too: no migration exists yet, and the
message names the release that reads it. CONTRIBUTING.md says how a format is changed.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from rankscope.study.problems import InputProblems, Problem, show

FORMAT_VERSION = 2
"""The layout of a study folder, its JSON records and its tables.

1: up to rankscope 0.1. 2: tokens are files, the marker `rankscope-study.json`, source states in the plan.
"""

READ_BY = {1: "rankscope 0.1"}
"""The release that reads a folder of an older format."""

RESULTS_VERSION = 2
"""Part of every run id: raised when the same settings would give other numbers."""

_R = TypeVar("_R", bound="Record")


class Record(BaseModel):
    """A record that is written to disk as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")


CHECKSUM = "checksum_sha256"
"""The key of a record's file that tells a flipped bit from a number: SHA-256 of all the rest."""


def record_json(record: Record) -> bytes:
    """A record as the content of a file, with its checksum."""
    value = json.loads(record.model_dump_json())
    return json.dumps({**value, CHECKSUM: _checksum(value)}, indent=1, ensure_ascii=False).encode()


def _checksum(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def parse_record(kind: type[_R], content: bytes, file: str) -> _R:
    """The record in a file's content. `file` is how messages name it.

    Raises InputProblems with one line for content of another format version, and for content that is no such record
    (cut short, zeroed, of another checksum). A file without a checksum is taken as it is.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _damaged(kind, file, "no JSON" if content.strip(b"\0 \n") else "an empty file") from error
    check_format(value, file)
    if isinstance(value, dict):
        known = value.pop(CHECKSUM, None)
        if known is not None and known != _checksum(value):
            raise _damaged(kind, file, f"a content that its {CHECKSUM} does not fit")
    try:
        return kind.model_validate_json(json.dumps(value))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise _damaged(kind, file, f"{place or 'the record'}: {first['msg']}") from error


def check_format(value: object, file: str, version: int = FORMAT_VERSION) -> None:
    """Raises InputProblems where a parsed record says that it is of another format than `version`.

    Small records that live only while a study runs have no version of their own and are of the folder's.
    """
    found = value.get("format_version", version) if isinstance(value, dict) else version
    if isinstance(found, int) and found == version:
        return
    expected = f"format {version}, which this rankscope reads"
    if not isinstance(found, int):
        raise InputProblems([Problem(file, "format_version", show(found), expected)])
    if found > version:
        expected += "; a newer rankscope wrote this: upgrade"
    elif version == FORMAT_VERSION and found in READ_BY:
        expected += f"; {READ_BY[found]} reads this one: pip install '{READ_BY[found].replace(' ', '==')}.*'"
    raise InputProblems([Problem(file, "format_version", f"format {show(found)}", expected)])


def _damaged(kind: type[Record], file: str, found: str) -> InputProblems:
    expected = f"a whole {kind.__name__} as rankscope writes it; delete the file to have it made again"
    return InputProblems([Problem(file, "", found, expected)])
