"""Writes docs/study-file.md from the types of a study: every setting, what it takes, its default, what it means.

    python scripts/study_page.py

A test compares the page with what this makes; run it after a setting or its description changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rankscope.study.graders import GRADERS
from rankscope.study.json_schema import first_sentence, study_schema
from rankscope.study.methods import METHODS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "study-file.md"

INTRO = """\
# The study file

Every setting of a study, written by `scripts/study_page.py` from the types that read it. `rankscope init` writes a
commented file to start from, `rankscope schema` prints a JSON Schema for editors, and any setting can be changed for
one command with `--set budget.epochs=1`. A setting that is not listed here is refused, and every problem of a file is
reported at once.

The file is YAML 1.2: `2e-4` is a number, `no` and `2026-11-25` are texts, and a text that looks like a number or like
`true` stands in quotes. A section that is left empty means its defaults. Relative paths start at the study file.
"""

PARTS = {
    "model": (
        "ModelSpec",
        "The id alone will do: `model: bundled`. A list compares several base models, each with a verdict.",
    ),
    "train": ("TrainSource", "One mapping for each training set, by a name of its own. `domain` is needed."),
    "suites": (
        "SuiteSource",
        "One mapping for each suite, by a name of its own: the keys of a training set, and these.",
    ),
    "seeds": ("AdaptiveSeeds", "A list, such as `[0, 1, 2]`, or a mapping of these:"),
}
"""The settings that are no plain section: the type of what stands inside, and what to know of it."""


def page() -> str:
    """The text of docs/study-file.md."""
    schema = study_schema()
    definitions: Mapping[str, Any] = schema["$defs"]
    parts = [INTRO, "## The whole\n", _table(schema["properties"], schema["required"])]
    for key, setting in schema["properties"].items():
        if key == "arms":
            parts += [f"## {key}\n", *_arms(definitions)]
            continue
        name, about = PARTS.get(key, (_definition(setting), ""))
        if name is None:
            continue
        definition = definitions[name]
        shown = definition["properties"]
        if key == "suites":
            shown = {k: v for k, v in shown.items() if v != definitions["TrainSource"]["properties"].get(k)}
        parts += [f"## {key}\n", about or definition["description"], "", _table(shown, definition.get("required", []))]
        if key == "suites":
            parts += _graders(definitions)
    return "\n".join(parts).rstrip() + "\n"


def _graders(definitions: Mapping[str, Any]) -> Iterator[str]:
    """What `grade` may be: the names that stand alone, then the graders with settings."""
    yield (
        "### grade\n\nA name, such as `grade: f1`, or a mapping with the grader's own key, such as "
        '`grade: {regex: "answer is (.+)"}`. [data.md](data.md) says more.\n'
    )
    yield "| grade | gives |\n| --- | --- |"
    for name, grader in sorted(GRADERS.items()):
        entry = f"`{name}`" if not grader.model_fields else f"`{{{name}: ...}}`"
        yield f"| {entry} | {_cell(' '.join((grader.__doc__ or '').split()))} |"
    yield ""
    for name, grader in sorted(GRADERS.items()):
        if grader.model_fields:
            definition = definitions[grader.__name__]
            yield f"#### {name}\n\n{_table(definition['properties'], definition.get('required', []))}"
            for key, setting in definition["properties"].items():
                inner = definitions.get(setting.get("$ref", "").removeprefix("#/$defs/"))
                if inner is not None:
                    yield f"The keys of `{key}`:\n\n{_table(inner['properties'], inner.get('required', []))}"
                    yield from _long_defaults(inner["properties"])


def _long_defaults(settings: Mapping[str, Any]) -> Iterator[str]:
    """The defaults that are texts of several lines, which no table holds."""
    for key, setting in settings.items():
        if "\n" in str(setting.get("default")):
            yield f"`{key}`, unless given:\n\n```text\n{setting['default']}\n```\n"


def _definition(setting: Mapping[str, Any]) -> str | None:
    """The type of a section, by the reference to it."""
    refs = [branch["$ref"] for branch in setting.get("anyOf", ()) if "$ref" in branch]
    return refs[0].removeprefix("#/$defs/") if refs else None


def _arms(definitions: Mapping[str, Any]) -> Iterator[str]:
    """A table of what every arm has and one of what the methods have of their own."""
    entries = {name: definitions[method.entry.__name__] for name, method in METHODS.items()}
    common = set.intersection(*(set(entry["properties"]) for entry in entries.values()))
    any_entry = next(iter(entries.values()))["properties"]
    yield (
        "One entry for each label. The label is the method unless `method` is given; an entry with several sizes "
        "makes an arm of each.\n"
    )
    learning_rate = {key: setting for key, setting in any_entry.items() if key in common and key != "method"}
    methods = ", ".join(f"`{name}`" for name in entries)
    yield f"{_table(learning_rate, [])}| `method` | one of {methods} | the label | What is trained; see below. |\n"
    for key in ("retain", "replay"):
        definition = definitions[key.capitalize()]
        yield f"### {key}\n\n{definition['description']}\n"
        yield _table(definition["properties"], [])
    for name, entry in entries.items():
        yield f"### {name}\n\n{entry['description']}\n"
        own = {key: setting for key, setting in entry["properties"].items() if key not in common}
        if own:
            yield _table(own, entry.get("required", []))


def _table(settings: Mapping[str, Any], required: list[str]) -> str:
    lines = ["| setting | takes | default | meaning |", "| --- | --- | --- | --- |"]
    for key, setting in settings.items():
        description = setting["description"]
        takes = first_sentence(description)
        meaning = description[len(takes) :].lstrip(". ")
        lines.append(f"| `{key}` | {_cell(takes)} | {_default(key, setting, required)} | {_cell(meaning)} |")
    return "\n".join(lines) + "\n"


def _default(key: str, setting: Mapping[str, Any], required: list[str]) -> str:
    if key in required:
        return "needed"
    default = setting.get("default")
    if isinstance(default, dict):
        return "see below"
    if default is None or default == []:
        return "none"
    if isinstance(default, str) and "\n" in default:
        return "below"
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
