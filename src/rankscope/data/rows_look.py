"""Looks through a source's rows for how they are best asked, where nobody says it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rankscope.data.prompts import form_of
from rankscope.data.sources import RowReader
from rankscope.study.study import Kind, SuiteSource


@dataclass(frozen=True)
class RowsLook:
    """`kind`: reasoning where every answer is a number, else not known. `questions`: whether every row has one."""

    kind: Kind | None
    questions: bool


def look_at_rows(source: SuiteSource, *, base: Path, name: str) -> RowsLook:
    """What all rows of a source show. Raises InputProblems where they cannot be read."""
    numbers = questions = True
    reader = RowReader(source.model_copy(update={"kind": "reasoning"}), base=base, name=name)
    for batch in reader.batches():
        numbers &= all(form_of(row, reasoning=True) == "number" for row in batch)
        questions &= all(row.question is not None for row in batch)
    return RowsLook("reasoning" if numbers else None, questions)
