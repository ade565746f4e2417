"""The JSON Schema: it agrees with what reading a study takes, and says what every setting means."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from made_facts import STUDY
from wrong_studies import SECTIONS

from rankscope.study.init_file import study_template
from rankscope.study.json_schema import first_sentence, study_schema
from rankscope.study.yaml_text import load_yaml

FINITE = [case for case in SECTIONS if ".nan" not in case[1] and ".inf" not in case[1]]
"""A schema cannot refuse what JSON does not have."""


def valid(text: str) -> bool:
    value = load_yaml(text, "study.yaml", "a study")
    return bool(jsonschema.Draft202012Validator(study_schema()).is_valid(value))


def references(schema: Any) -> set[str]:
    if isinstance(schema, dict):
        own = {schema["$ref"]} if "$ref" in schema else set()
        return own.union(*(references(value) for value in schema.values()))
    return set().union(*(references(value) for value in schema)) if isinstance(schema, list) else set()


def test_the_schema_is_one_and_its_references_lead_to_all_its_definitions() -> None:
    schema = study_schema()
    assert jsonschema.validators.validator_for(schema, default=None) is jsonschema.Draft202012Validator
    jsonschema.Draft202012Validator.check_schema(schema)
    assert references(schema) == {f"#/$defs/{name}" for name in schema["$defs"]}


@pytest.mark.parametrize(
    "text",
    [
        STUDY,
        study_template(),
        STUDY.replace("full: {learning_rate: 1e-5}", "full:"),
        STUDY.replace("full:", "all: {method: full}\n  full:"),
        STUDY.replace("model: bundled", "model: [{id: org/a, dtype: float32}, org/b]"),
        STUDY + "budget:\n",
        STUDY + "optimizer: adamw_8bit\n",
        STUDY + "optimizer: {name: adamw_8bit, clip_norm: 1}\n",
        STUDY.replace("path: law.jsonl", "hub: org/x, config: main, split: test, columns: {choices: [a, b]}"),
        STUDY.replace("model: bundled", "model: {id: org/a, chat: never, system_prompt: Be brief.}"),
        STUDY.replace("path: law.jsonl", "harness: arc_easy, num_fewshot: 5, metric: acc_norm"),
        STUDY.replace("path: law.jsonl, domain: legal", "held_out: medical, share: 0.2"),
        STUDY.replace("law: {path: law.jsonl, domain: legal, kind: recall}", "general: auto"),
        STUDY.replace("path: law.jsonl, domain: legal, kind: recall", "auto: ready, limit: 100"),
        STUDY.replace("full: {learning_rate: 1e-5}", "theirs: {adapters: [a, b, c]}"),
        STUDY.replace("full: {learning_rate: 1e-5}", "full: {models: [a, b, c], dial: 0.7}"),
    ],
)
def test_the_schema_takes_what_can_be_read(text: str) -> None:
    assert valid(text)


@pytest.mark.parametrize(
    "text",
    [
        STUDY.replace("seeds: [0, 1, 2]", "seeds: []"),
        STUDY.replace("seeds: [0, 1, 2]", ""),
        STUDY.replace("[4, 8]", "[0]"),
        STUDY.replace("full: {", "mine: {"),
        STUDY.replace("path: law.jsonl", "harness: arc_easy, path: law.jsonl"),
        STUDY.replace("path: law.jsonl", "hub: org/x, path: law.jsonl"),
        STUDY.replace("domain: legal", "domian: legal"),
        STUDY.replace("path: law.jsonl, domain: legal", "held_out: medical, share: 1"),
        STUDY.replace("model: bundled", "model: []"),
        STUDY + "optimizer: sgd\n",
        *[f"{STUDY}{section}:\n  {setting}\n" for section, setting, _ in FINITE],
    ],
)
def test_the_schema_refuses_what_cannot(text: str) -> None:
    assert not valid(text)


def test_every_setting_says_what_may_stand_there_and_what_it_means() -> None:
    schema = study_schema()
    for name, definition in [("", schema), *schema["$defs"].items()]:
        for key, setting in definition["properties"].items():
            description = setting.get("description", "")
            assert first_sentence(description), f"{name}.{key}"
            assert not first_sentence(description).endswith("."), f"{name}.{key}"
            assert description[0].islower() or description[0] in "`", f"{name}.{key} follows `expected` in messages"
