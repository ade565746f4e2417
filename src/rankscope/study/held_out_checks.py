"""Suites that are held out of a training set: what a study file may say of them."""

from __future__ import annotations

from typing import Any

from rankscope.study.problems import Document, Problem, nearest, show

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
            expected = f"a training set of the study: {', '.join(sets) or 'none'}{nearest(asked, list(sets))}"
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


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
