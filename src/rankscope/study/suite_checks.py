"""Suites without rows of their own, held out of a training set or chosen by us: what a study file may say of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rankscope.study.problems import Document, Problem, did_you_mean, show
from rankscope.study.source_settings import AUTO, READY

_OF_THE_ROWS = {"columns": None, "bad_rows": "refuse", "world_seed": 0}
"""What is said of the rows where they are read, and its default, which a resolved study writes out."""


def check_held_out(document: Document) -> list[Problem]:
    """The training set is there, its rows are read as it says, and the suite is of its domain."""
    problems = []
    sets, suites = (_mapping(document.get(section)) for section in ("train", "suites"))
    for name, suite in suites.items():
        asked = _mapping(suite).get("held_out")
        if not isinstance(asked, str):
            continue
        if asked not in sets:
            expected = f"a training set of the study: {', '.join(sets) or 'none'}{did_you_mean(asked, list(sets))}"
            problems.append(document.refuse(("suites", name, "held_out"), show(asked), expected))
            continue
        for key, default in _OF_THE_ROWS.items():
            if suite.get(key, default) not in (default, None):
                expected = f"it in train.{asked}, whose rows these are"
                problems.append(document.refuse(("suites", name, key), f"`{key}` beside `held_out`", expected))
        domain, own = suite.get("domain"), _mapping(sets[asked]).get("domain")
        if domain is not None and own is not None and domain != own:
            expected = f"{show(own)}, the domain of train.{asked}, or no `domain`"
            problems.append(document.problem(("suites", name, "domain"), show(domain), expected))
    return problems


def check_auto(document: Document, base: Path, *, files: bool) -> list[Problem]:
    """Beside `auto` stands at most `limit`, since what is chosen says how it is asked; its folder is there."""
    problems = []
    for name, suite in _mapping(document.get("suites")).items():
        folder = _mapping(suite).get(AUTO)
        for key in suite if folder is not None else ():
            if key not in (AUTO, "limit") and suite[key] is not None:
                expected = "`limit` or nothing: what is chosen brings its own settings"
                problems.append(document.refuse(("suites", name, key), f"`{key}` beside `auto`", expected))
        named = folder if files and isinstance(folder, str) and folder != READY else None
        if named is not None and not os.path.isdir(os.path.join(base, os.path.expanduser(named))):
            expected = f"{READY}, or a folder with files of rows; relative paths start at {base}"
            problems.append(document.problem(("suites", name, AUTO), f"{show(folder)}, where no folder is", expected))
    return problems


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
