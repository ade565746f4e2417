"""What types cannot say of a study: files that exist, domains that meet, names and arms that stand once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rankscope.study.methods import METHODS, arm_label
from rankscope.study.problems import Problem, show
from rankscope.study.setting_descriptions import WORDS
from rankscope.study.study import Arm, Study, is_task_file
from rankscope.study.yaml_lines import Document

RESERVED_LABEL = "base"
"""How tables name the base model, which is the reference of every arm and never an arm."""


def check_values(document: Document, base: Path) -> list[Problem]:
    """Checks on the values as written, which hold for the sound parts even where others are not sound."""
    return [
        *_check_domains(document),
        *_check_files(document, base),
        *_check_tasks(document, base),
        *_check_models(document, base),
        *_check_quantization(document),
        *_check_seeds(document),
        *_check_labels(document),
    ]


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _check_domains(document: Document) -> list[Problem]:
    """Every training set has a domain, and a suite of that domain with a kind: what the gain is the mean of."""
    problems = []
    suites = [suite for suite in _mapping(document.get("suites")).values() if isinstance(suite, dict)]
    for name, source in _mapping(document.get("train")).items():
        if not isinstance(source, dict):
            continue
        domain = source.get("domain")
        if domain is None:
            expected = "`domain`: the suites with the same one are its in-domain suites"
            problems.append(document.problem(("train", name), "no domain", expected))
            continue
        same = [suite for suite in suites if suite.get("domain") == domain]
        if suites and not any(suite.get("kind") is not None for suite in same):
            found = f"no suite with the domain {show(domain)}" + (" and a kind" if same else "")
            expected = f"at least one in-domain suite: `domain: {domain}` and `kind: recall` or `kind: reasoning`"
            problems.append(document.problem(("train", name), found, expected))
    return problems


def _check_files(document: Document, base: Path) -> list[Problem]:
    problems = []
    for section in ("train", "suites"):
        for name, source in _mapping(document.get(section)).items():
            given = _mapping(source).get("path")
            if not isinstance(given, str):
                continue
            found = None
            path = os.path.join(base, os.path.expanduser(given))
            if given == "" or os.path.isdir(path):
                found = f"{show(given)}, which is a folder" if given else "an empty path"
            elif not os.path.exists(path):
                found = f"{show(given)}, which does not exist"
            elif not os.access(path, os.R_OK):
                found = f"{show(given)}, which may not be read"
            if found is not None:
                expected = f"a file of rows; relative paths start at {base}"
                problems.append(document.problem((section, name, "path"), found, expected))
    return problems


def _check_tasks(document: Document, base: Path) -> list[Problem]:
    """A suite's `harness` that is a YAML file is there."""
    problems = []
    for name, source in _mapping(document.get("suites")).items():
        given = _mapping(source).get("harness")
        if isinstance(given, str) and is_task_file(given):
            path = os.path.join(base, os.path.expanduser(given))
            if not os.path.isfile(path):
                expected = f"the YAML file of an lm-eval task; relative paths start at {base}"
                found = f"{show(given)}, where no file is"
                problems.append(document.problem(("suites", name, "harness"), found, expected))
    return problems


def _check_models(document: Document, base: Path) -> list[Problem]:
    """Folders that are named as such exist, and no two models have the same name in tables."""
    problems = []
    models = document.get("model")
    names: dict[str, str] = {}
    for i, model in enumerate(models if isinstance(models, list) else []):
        id_ = _mapping(model).get("id")
        if not isinstance(id_, str) or not id_:
            continue
        if id_.startswith((".", "/", "~")) and not os.path.isdir(os.path.join(base, os.path.expanduser(id_))):
            found = f"{show(id_)}, where no folder is"
            problems.append(document.problem(("model", i), found, "a model folder, or a hub id"))
        name = id_.rstrip("/").split("/")[-1]
        if name in names:
            expected = "models whose last part of the path or id differs: it names them in tables"
            problems.append(document.problem(("model", i), f"{show(id_)} beside {show(names[name])}", expected))
        names.setdefault(name, id_)
    return problems


def _check_quantization(document: Document) -> list[Problem]:
    """A base in 4 bits is frozen for good: arms that train or decompose its own weights have nothing to work on."""
    models = document.get("model")
    quantized = [
        _mapping(model).get("id")
        for model in (models if isinstance(models, list) else [])
        if _mapping(model).get("quantization") == "nf4"
    ]
    problems = []
    for key, entry in _mapping(document.get("arms")).items() if quantized else ():
        method = METHODS.get(str(_mapping(entry).get("method")))
        if method is not None and not method.on_quantized:
            found = f"{method.name} on {show(quantized[0])}, whose weights are quantized"
            expected = "arms that leave the base's weights alone, such as lora, or a base without `quantization`"
            problems.append(document.problem(("arms", key), found, expected))
    return problems


def _check_seeds(document: Document) -> list[Problem]:
    seeds = document.get("seeds")
    start, most = _mapping(seeds).get("start"), _mapping(seeds).get("max")
    if type(start) is int and type(most) is int and 0 < most <= start:
        return [document.problem(("seeds", "max"), show(most), WORDS["seeds.max"])]
    if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds):
        return []
    return [
        document.problem(("seeds", i), f"the seed {seed} again", "each seed once")
        for i, seed in enumerate(seeds)
        if seed in seeds[:i]
    ]


def _check_labels(document: Document) -> list[Problem]:
    """Labels are unique after an entry became one arm for each of its sizes, and none is `base`."""
    problems = []
    owners: dict[str, str] = {}
    for key, entry in _mapping(document.get("arms")).items():
        method = METHODS.get(str(_mapping(entry).get("method")))
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
    """No two arms with the same settings: they would be one run under two labels."""
    problems = []
    seen: dict[Arm, str] = {}
    for key in study.arms:
        for arm in study.arms_of(key):
            settings = arm.model_copy(update={"label": ""})
            if settings in seen:
                found = f"`{arm.label}` with the settings of `{seen[settings]}`"
                problems.append(document.problem(("arms", key), found, "arms that differ"))
            seen.setdefault(settings, arm.label)
    return problems
