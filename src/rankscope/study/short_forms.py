"""Before the types are checked: short forms are written out, and what a later version builds is refused by name."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from rankscope.study.methods import METHODS
from rankscope.study.problems import Problem, show
from rankscope.study.setting_descriptions import (
    HARNESS_KEYS,
    HUB_KEYS,
    LATER_METHODS,
    LATER_OPTIMIZERS,
    ROW_KEYS,
    SECTIONS,
    WORDS,
    known_keys,
)
from rankscope.study.yaml_lines import Document

NOT_BUILT = "which is not built yet"


def write_out(document: Document) -> list[Problem]:
    """Change `document.value` in place to the one form that the types know, and refuse what is not built.

    Refused parts are taken out, so that they are reported once. `document.value` is a mapping.
    """
    study: dict[str, Any] = document.value
    for name in SECTIONS:
        if name in study and study[name] is None:  # every line of it commented out
            del study[name]
    problems = _top_level(document, study)
    _models(document, study)
    for section in ("train", "suites"):
        sources = study.get(section)
        for name, source in sources.items() if isinstance(sources, dict) else ():
            if isinstance(source, dict):
                problems += _source(document, section, name, source)
    arms = study.get("arms")
    if isinstance(arms, dict):
        for label in list(arms):
            problems += _arm(document, arms, label)
    return problems


def _models(document: Document, study: dict[str, Any]) -> None:
    models = study.get("model")
    if models is None:
        return
    if isinstance(models, list):
        study["model"] = [{"id": model} if isinstance(model, str) else model for model in models]
        return
    document.one_model = True
    if isinstance(models, str):
        study["model"] = [{"id": models}]
    elif isinstance(models, dict):
        study["model"] = [models]


def _top_level(document: Document, study: dict[str, Any]) -> list[Problem]:
    problems = []
    if isinstance(study.get("optimizer"), str):
        study["optimizer"] = {"name": study["optimizer"]}
    optimizer = study.get("optimizer")
    named = optimizer.get("name") if isinstance(optimizer, dict) else None
    if isinstance(named, str) and named.lower() in LATER_OPTIMIZERS:
        found = f"the optimizer {named}, {NOT_BUILT}"
        problems.append(document.problem(("optimizer",), found, WORDS["optimizer"]))
        del study["optimizer"]
    return problems


def _source(document: Document, section: str, name: str, source: dict[str, Any]) -> list[Problem]:
    """Keys that belong to another origin than the one given. A key set to null is as if it were not there."""
    problems = []
    harness = section == "suites" and source.get("harness") is not None
    owned = [(key, source.get("hub") is not None, "hub", "the data set") for key in HUB_KEYS]
    if section == "suites":
        owned += [(key, harness, "harness", "the task") for key in HARNESS_KEYS]
    for key, belongs, owner, what in owned:
        if not belongs and source.pop(key, None) is not None:
            expected = f"it only with `{owner}`, {what} that it belongs to"
            problems.append(document.problem((section, name, key), f"`{key}` without `{owner}`", expected))
    for key, default in ROW_KEYS.items() if harness else ():
        if source.get(key, default) not in (default, None):
            del source[key]
            expected = "no such key: a task of lm-eval brings its own"
            problems.append(document.problem((section, name, key), f"`{key}` without rows of its own", expected))
    return problems


def _arm(document: Document, arms: dict[str, Any], label: str) -> list[Problem]:
    """The method is the label unless given. An arm without a method that is built is taken out."""
    entry = arms[label] if arms[label] is not None else {}
    if not isinstance(entry, dict):
        problem = document.problem(("arms", label), show(entry), WORDS["arms.*"])
        del arms[label]
        return [problem]
    given = entry.get("method")
    method = label if given is None else given
    if isinstance(method, str) and method in METHODS:
        arms[label] = {**entry, "method": method}
        return []
    del arms[label]
    place = ("arms", label) if given is None else ("arms", label, "method")
    if isinstance(method, str) and method.lower().replace("_", "-").replace(" ", "-") in LATER_METHODS:
        return [document.problem(place, f"the method {method}, {NOT_BUILT}", WORDS["arms.*.method"])]
    near = get_close_matches(str(method).lower().replace("_", "-"), METHODS, n=1)
    expected = "`method:` " * (given is None) + WORDS["arms.*.method"]
    if near:
        expected += f"; did you mean `{near[0]}`?"
    found = f"no method, and the label `{label}` is not the name of one" if given is None else show(given)
    return [document.problem(place, found, expected)]


def unknown_key(document: Document, path: tuple[str | int, ...]) -> Problem:
    """A key that nobody reads, with the nearest that somebody does."""
    parent, key = path[:-1], str(path[-1])
    known = known_keys(parent)
    if len(parent) == 2 and parent[0] == "arms":
        method = METHODS.get(document.get(*parent, "method"))
        known = [name for name in known if method is None or name in method.entry.model_fields]
    near = get_close_matches(key, known, n=1, cutoff=0.6)
    hint = f"; did you mean `{near[0]}`?" if near else ""
    return document.problem(path, f"the unknown key `{key}`", f"one of {', '.join(known)}{hint}")
