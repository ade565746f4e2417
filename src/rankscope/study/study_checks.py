"""What types cannot say of a study: files that exist, domains that meet, names and arms that stand once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rankscope.study.graders import read_grade
from rankscope.study.json_schema import expected_at
from rankscope.study.methods import METHODS, Method, arm_label, method_named
from rankscope.study.problems import Document, Place, Problem, did_you_mean, show
from rankscope.study.remedy_checks import check_remedies
from rankscope.study.source_settings import as_its_set
from rankscope.study.study import Arm, Study, is_task_file
from rankscope.study.study_settings import is_name
from rankscope.study.suite_checks import check_auto, check_held_out

RESERVED_LABEL = "base"
"""How tables name the base model, which is the reference of every arm and never an arm."""

_NOT_BUILT = "which is not built yet"
_LATER_METHODS = frozenset({"qlora", "adalora"})
_LATER_OPTIMIZERS = frozenset({"paged_adamw_8bit", "adafactor", "muon", "sgd"})

_NEEDS = {
    "config": ("hub", "data set"), "split": ("hub", "data set"), "revision": ("hub", "data set"),
    "num_fewshot": ("harness", "task"), "share": ("held_out", "training set"),
}  # fmt: skip
"""Settings of a source that belong to another one, and what that is."""
_OF_ROWS = {
    "columns": None, "choices": "text", "template": None, "bad_rows": "refuse", "max_new_tokens": 256, "grade": None,
    "trust_code": False,
}  # fmt: skip
"""What only rows have, and its default, which a resolved study writes out: a task brings its own prompts and limits."""


def check_values(document: Document, base: Path, *, files: bool = True) -> list[Problem]:
    """Checks on the values as written, which hold for the sound parts even where others are not sound.

    `base` is the folder that relative paths start at; with `files` what is named must be there. What is refused for
    good is marked in the document.
    """
    return [
        *_check_methods(document),
        *_check_optimizer(document),
        *_check_owners(document),
        *_check_graders(document),
        *check_held_out(document),
        *check_auto(document, base, files=files),
        *_check_domains(document),
        *(_check_files(document, base) if files else ()),
        *(_check_models(document, base) if files else ()),
        *_check_quantization(document),
        *_check_seeds(document),
        *_check_labels(document),
    ]


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _models(document: Document) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Where each base model stands and its settings, short forms written out."""
    given = document.get("model")
    places: list[Place] = [("model", i) for i in range(len(given))] if isinstance(given, list) else [("model",)]
    for place in places:
        model = document.get(*place)
        yield place, {"id": model} if isinstance(model, str) else _mapping(model)


def _sources(document: Document) -> Iterator[tuple[Place, dict[str, Any]]]:
    for section in ("train", "suites"):
        for name, source in _mapping(document.get(section)).items():
            yield (section, name), _mapping(source)


def _method(document: Document, label: str) -> Method | None:
    """The method of an entry, which its label names unless it is given; None where there is no such method."""
    name = method_named(label, _mapping(document.get("arms", label)))
    return METHODS.get(name) if isinstance(name, str) else None


def _check_methods(document: Document) -> list[Problem]:
    """Every entry has a method that is built; others are refused as a whole."""
    problems = []
    for label, entry in _mapping(document.get("arms")).items():
        if not isinstance(entry, dict | None) or _method(document, label) is not None:
            continue
        method = _mapping(entry).get("method")
        is_label = method is None
        method = label if is_label else method
        document.refused.add(("arms", label))
        place = ("arms", label) if is_label else ("arms", label, "method")
        *most, last = (name for name, known in METHODS.items() if known.trained)
        words = f"{', '.join(most)} or {last}"
        plain = str(method).lower().replace("_", "-").replace(" ", "-")
        if plain in _LATER_METHODS:
            problems.append(document.problem(place, f"the method {method}, {_NOT_BUILT}", words))
            continue
        found = f"no method, and the label `{label}` is not the name of one" if is_label else show(method)
        problems.append(
            document.problem(place, found, "`method:` " * is_label + words + did_you_mean(plain, list(METHODS)))
        )
    return problems


def _check_optimizer(document: Document) -> list[Problem]:
    given = document.get("optimizer")
    named = _mapping(given).get("name", given)
    if not isinstance(named, str) or named.lower() not in _LATER_OPTIMIZERS:
        return []
    expected = expected_at(document, ("optimizer", "name"))
    return [document.refuse(("optimizer",), f"the optimizer {named}, {_NOT_BUILT}", expected)]


def _check_owners(document: Document) -> list[Problem]:
    """Keys that belong to another origin of rows than the one given. A key set to null is as if it were not there."""
    problems = []
    for place, source in _sources(document):
        for key, (owner, what) in _NEEDS.items():
            known = owner == "hub" or place[0] == "suites"
            if known and source.get(key) is not None and source.get(owner) is None:
                expected = f"it only with `{owner}`, the {what} that it belongs to"
                problems.append(document.refuse((*place, key), f"`{key}` without `{owner}`", expected))
        if place[0] != "suites":
            continue
        if source.get("harness") is None:
            if source.get("metric") not in (None, "loss"):
                expected = "loss; other metrics are those of a task, with `harness`"
                problems.append(document.refuse((*place, "metric"), show(source["metric"]), expected))
            continue
        for key, default in _OF_ROWS.items():
            if source.get(key, default) not in (default, None):
                expected = "no such key: a task of lm-eval brings its own"
                problems.append(document.refuse((*place, key), f"`{key}` without rows of its own", expected))
    return problems


def _check_graders(document: Document) -> list[Problem]:
    """A suite is judged in one way, by its grader or by the loss; what a grader needs is there, and code of the user's
    own runs by consent only."""
    problems = []
    for place, source in _sources(document):
        grade = source.get("grade") if place[0] == "suites" else None
        if grade is not None and source.get("metric") == "loss":
            expected = "one of them: a loss needs no grader"
            problems.append(document.refuse((*place, "grade"), "`grade` beside `metric: loss`", expected))
        grader = read_grade(grade) if isinstance(grade, dict) else None
        if grader is not None and grader.driver == "worker" and source.get("trust_code") is not True:
            expected = "`trust_code: true` beside it, where you trust that code"
            problems.append(document.problem((*place, "grade"), "code of your own without consent", expected))
    return problems


def _check_domains(document: Document) -> list[Problem]:
    """Every training set has a domain, and a suite of that domain: what the gain is the mean of."""
    problems = []
    sets = _mapping(document.get("train"))
    suites = [suite for suite in _mapping(document.get("suites")).values() if isinstance(suite, dict)]
    suites = [suite if suite.get("held_out") is None else as_its_set(suite, sets) for suite in suites]
    for name, source in sets.items():
        if not isinstance(source, dict):
            continue
        domain = source.get("domain")
        if domain is None:
            expected = "`domain`: the suites with the same one are its in-domain suites"
            problems.append(document.problem(("train", name), "no domain", expected))
            continue
        if not isinstance(domain, str) or not is_name(domain):
            continue  # told already: no suite can have it
        if suites and not any(suite.get("domain") == domain for suite in suites):
            expected = f"at least one in-domain suite: one with `domain: {domain}`"
            problems.append(document.problem(("train", name), f"no suite with the domain {show(domain)}", expected))
    return problems


def _check_files(document: Document, base: Path) -> list[Problem]:
    """Files of rows and of lm-eval tasks are there."""
    problems = []
    for place, source in _sources(document):
        given = source.get("path")
        if isinstance(given, str):
            path, found = os.path.join(base, os.path.expanduser(given)), None
            if given == "" or os.path.isdir(path):
                found = f"{show(given)}, which is a folder" if given else "an empty path"
            elif not os.path.exists(path):
                found = f"{show(given)}, which does not exist"
            elif not os.access(path, os.R_OK):
                found = f"{show(given)}, which may not be read"
            if found is not None:
                expected = f"a file of rows; relative paths start at {base}"
                problems.append(document.problem((*place, "path"), found, expected))
        grade = source.get("grade") if place[0] == "suites" else None
        grader = read_grade(grade) if isinstance(grade, dict) else None
        if grader is not None and (wrong := grader.problem(base)) is not None:
            problems.append(document.problem((*place, "grade"), *wrong))
        task = source.get("harness") if place[0] == "suites" else None
        if not isinstance(task, str) or not is_task_file(task):
            continue
        if not os.path.isfile(os.path.join(base, os.path.expanduser(task))):
            expected = f"the YAML file of an lm-eval task; relative paths start at {base}"
            problems.append(document.problem((*place, "harness"), f"{show(task)}, where no file is", expected))
    return problems


def _check_models(document: Document, base: Path) -> list[Problem]:
    """Folders that are named as such exist, and no two models have the same name in tables."""
    problems = []
    names: dict[str, str] = {}
    for place, model in _models(document):
        id_ = model.get("id")
        if not isinstance(id_, str) or not id_:
            continue
        if id_.startswith((".", "/", "~")) and not os.path.isdir(os.path.join(base, os.path.expanduser(id_))):
            found = f"{show(id_)}, where no folder is"
            problems.append(document.problem(place, found, "a model folder, or a hub id"))
        for key in ("gguf_file", "revision", "token_env"):
            if id_ == "bundled" and model.get(key) is not None:
                found = f"`{key}` of the bundled base, which comes with rankscope"
                problems.append(document.problem((*place, key), found, f"a model of yours, or no `{key}`"))
        name = id_.rstrip("/").split("/")[-1]
        if name in names:
            expected = "models whose last part of the path or id differs: it names them in tables"
            problems.append(document.problem(place, f"{show(id_)} beside {show(names[name])}", expected))
        names.setdefault(name, id_)
    return problems


def _check_quantization(document: Document) -> list[Problem]:
    """A base in 4 bits is frozen for good: arms that train or decompose its own weights have nothing to work on."""
    quantized = [model.get("id") for _, model in _models(document) if model.get("quantization") == "nf4"]
    problems = []
    for label in _mapping(document.get("arms")) if quantized else ():
        method = _method(document, label)
        if method is not None and not method.on_quantized:
            found = f"{method.name} on {show(quantized[0])}, whose weights are quantized"
            expected = "arms that leave the base's weights alone, such as lora, or a base without `quantization`"
            problems.append(document.problem(("arms", label), found, expected))
    return problems


def _check_seeds(document: Document) -> list[Problem]:
    seeds = document.get("seeds")
    if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds):
        return []
    first = {seed: i for i, seed in reversed([*enumerate(seeds)])}
    return [
        document.problem(("seeds", i), f"the seed {seed} again", "each seed once")
        for i, seed in enumerate(seeds)
        if first[seed] < i
    ]


def _check_labels(document: Document) -> list[Problem]:
    """Labels are unique after an entry became one arm for each of its sizes, and none is `base`."""
    problems = []
    owners: dict[str, str] = {}
    for key, entry in _mapping(document.get("arms")).items():
        method = _method(document, key)
        own = [key]
        if method is not None and method.size is not None:
            given = _mapping(entry).get(method.size.key)
            whole = [number for number in given if type(number) is int] if isinstance(given, list) else []
            own = [arm_label(key, method.name, number) for number in dict.fromkeys(whole)]
        for label in own:
            if label == RESERVED_LABEL:
                expected = "another label: this one names the base model"
                problems.append(document.problem(("arms", key), f"the label `{label}`", expected))
            elif label in owners:
                found = f"the arm `{label}`, which `{owners[label]}` makes too"
                problems.append(document.problem(("arms", key), found, "labels that stand once"))
            owners.setdefault(label, key)
    return problems


def check_arms(study: Study, document: Document) -> list[Problem]:
    """No two arms with the same settings (they would be one run under two labels), no dial where nothing scales, and no
    remedy that means nothing."""
    problems = check_remedies(study, document)
    seen: dict[Arm, str] = {}
    for key, entry in study.arms.items():
        if entry.dial not in (None, 1) and not METHODS[entry.method].has_dial:
            found = f"the dial {entry.dial:g} of {entry.method}, whose change cannot be scaled"
            problems.append(document.problem(("arms", key, "dial"), found, "1, or no `dial`"))
        for arm in study.arms_of(key):
            settings = arm.model_copy(update={"label": "", "dial": None})
            if settings in seen:
                found = f"`{arm.label}` with the settings of `{seen[settings]}`"
                problems.append(document.problem(("arms", key), found, "arms that differ"))
            seen.setdefault(settings, arm.label)
    return problems
