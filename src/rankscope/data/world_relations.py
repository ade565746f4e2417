"""The relations of the bundled world, read from `assets/world.yaml`: what can be said of a thing, and in which words.

Each relation has five phrasings as a question and three as a statement. `{e}` stands for the thing, `{a}` for the
answer. Names of things and of cities, rivers, judges and conditions are made up by `world_facts` from the seed; the
listed pools are common words, so that answers of one token and of several tokens both occur.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

import rankscope.assets

QUESTION_PHRASINGS = 5
STATEMENT_PHRASINGS = 3


@dataclass(frozen=True)
class Relation:
    """One relation: its domain, the kind of thing it is about, the pool its answers come from, and its wordings."""

    domain: str
    kind: str
    key: str
    answer_type: str
    questions: tuple[str, ...]
    statements: tuple[str, ...]


@cache
def relations() -> tuple[Relation, ...]:
    """Every relation, in the file's order."""
    entries: list[dict[str, Any]] = [
        {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
        for entry in _file()["relations"]
    ]
    return tuple(Relation(**entry) for entry in entries)


@cache
def listed_pools() -> dict[str, tuple[str, ...]]:
    """Answer type -> its answers, for the types whose answers are common words."""
    return {answer_type: tuple(answers) for answer_type, answers in _file()["pools"].items()}


@cache
def _file() -> dict[str, Any]:
    path = Path(rankscope.assets.__file__).parent / "world.yaml"
    content: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    return content
