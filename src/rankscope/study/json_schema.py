"""The JSON Schema of a study file, for editors, and what it says of one setting, for messages and docs."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

from rankscope.study.methods import METHODS, method_named
from rankscope.study.problems import Document, Place, holds
from rankscope.study.source_settings import ORIGINS
from rankscope.study.study import Study

Schema = dict[str, Any]


def study_schema() -> Schema:
    """The schema that `rankscope schema` prints (draft 2020-12). What no schema can say, `read_study` checks."""
    schema = copy.deepcopy(_typed())
    definitions: dict[str, Schema] = schema["$defs"]
    for name in ("TrainSource", "SuiteSource"):
        known = definitions[name]["properties"]
        definitions[name]["oneOf"] = [{"required": [key]} for key in ORIGINS if key in known]
    for setting in schema["properties"].values():  # pydantic does not refuse the names that match no pattern
        for pattern in setting.get("patternProperties", ()):
            setting["propertyNames"]["pattern"] = pattern
    schema["properties"]["arms"] = _arms(schema["properties"]["arms"], definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **_without_titles(schema),
        "title": "rankscope study",
        "description": "Which LoRA rank, or full fine-tuning, and what will the model forget?",
    }


@cache
def _typed() -> Schema:
    """The schema that pydantic makes of the types."""
    return Study.model_json_schema(by_alias=True)


def _arms(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """An arm named after its method needs no `method`, nor does what was trained elsewhere; other labels need one."""
    (entry,) = schema.pop("patternProperties").values()
    methods: dict[str, str] = entry["discriminator"]["mapping"]
    own: dict[str, Schema] = {}
    named: list[Schema] = []
    for method, ref in methods.items():
        definition = definitions[ref.removeprefix("#/$defs/")]
        definition["properties"]["method"]["description"] = f"{method}. Needed where the label is another word."
        needed = definition.get("required", [])
        own[method] = {"anyOf": [{"$ref": ref}] if needed else [{"$ref": ref}, {"type": "null"}]}
        named.append({"$ref": ref, "required": [*(["method"] if METHODS[method].trained else []), *needed]})
    for one in own.values():
        one["anyOf"] += named
    return {**schema, "properties": own, "additionalProperties": {"anyOf": named}}


def _without_titles(schema: Any) -> Any:
    """Without pydantic's generated titles, which only repeat the keys."""
    if isinstance(schema, dict):
        return {
            key: _without_titles(value)
            for key, value in schema.items()
            if not (key == "title" and isinstance(value, str))
        }
    return [_without_titles(item) for item in schema] if isinstance(schema, list) else schema


# ---- one setting ----------------------------------------------------------------------------------------------------


def expected_at(document: Document, place: Place) -> str:
    """What may stand at a place of a study file: the first sentence of its description, or of what it stands in."""
    for end in range(len(place), 0, -1):
        for schema in _schemas_at(document.value, place[:end]):
            if "description" in schema:
                return first_sentence(schema["description"])
    *most, last = _typed()["required"]
    return f"a mapping with {', '.join(most)} and {last}"


def known_keys(document: Document, place: Place) -> list[str]:
    """The keys that may stand in the mapping at `place`, in the order of the types."""
    label = str(place[-1]) if place else ""
    found = _branches(_schemas_at(document.value, place), document.get(*place), label)
    return list(dict.fromkeys(key for schema in found for key in schema.get("properties", {})))


def first_sentence(description: str) -> str:
    """Of a description: what may stand there, without the full stop."""
    return description.split(". ")[0].removesuffix(".")


def _schemas_at(value: Any, place: Place) -> list[Schema]:
    """The parts of the schema that may describe what stands at `place` of a study of this `value`."""
    found, label = [_typed()], ""
    for key in place:
        found = [inner for schema in _branches(found, value, label) for inner in _inside(schema, key)]
        value, label = (value[key] if holds(value, key) else None), str(key)
    return found


def _branches(schemas: list[Schema], value: Any, label: str) -> Iterator[Schema]:
    """Schemas without references and alternatives; of entries that a method tells apart, the one of `value`."""
    for schema in schemas:
        yield schema
        if "$ref" in schema:
            yield from _branches([_typed()["$defs"][schema["$ref"].removeprefix("#/$defs/")]], value, label)
        if "discriminator" in schema:
            ref = schema["discriminator"]["mapping"].get(method_named(label, value if isinstance(value, dict) else {}))
            yield from _branches([{"$ref": ref}] if ref is not None else schema["oneOf"], value, label)
        else:
            yield from _branches([*schema.get("anyOf", ()), *schema.get("oneOf", ())], value, label)


def _inside(schema: Schema, key: str | int) -> list[Schema]:
    """What a schema says of one key or list position."""
    if isinstance(key, int):
        return [schema["items"]] if "items" in schema else []
    if key in schema.get("properties", {}):
        return [schema["properties"][key]]
    more = [*schema.get("patternProperties", {}).values(), schema.get("additionalProperties")]
    return [inner for inner in more if isinstance(inner, dict)]
