"""JSON Schema of a study file, for editors: the file's short forms, and a description of every setting."""

from __future__ import annotations

from typing import Any, get_args

from rankscope.study.methods import METHODS
from rankscope.study.setting_descriptions import SECTIONS, WORDS
from rankscope.study.study import OptimizerName, Study

Schema = dict[str, Any]

_PLACES = {"ModelSpec": "model[]", "TrainSource": "train.*", "SuiteSource": "suites.*", "AdaptiveSeeds": "seeds"} | {
    section.capitalize(): section for section in SECTIONS
}


def study_schema() -> Schema:
    """The schema that `rankscope schema` prints (draft 2020-12). What no schema can say, `read_study` checks."""
    schema = Study.model_json_schema(by_alias=True)
    definitions: dict[str, Schema] = schema["$defs"]
    for name, place in _PLACES.items():
        _describe(definitions[name], place)
    for name in ("TrainSource", "SuiteSource"):
        origins = ["path", "hub", "world", *(["harness"] if name == "SuiteSource" else [])]
        definitions[name]["oneOf"] = [{"required": [key]} for key in origins]
    for method in METHODS.values():
        _describe(definitions[method.entry.__name__], "arms.*")
    _describe(schema, "")
    schema["properties"]["model"] = _models()
    schema["properties"]["arms"] = _arms(definitions)
    for section in SECTIONS:  # a section whose every line is a comment means its defaults
        definition = schema["properties"][section]
        schema["properties"][section] = {"anyOf": [{"$ref": definition["$ref"]}, {"type": "null"}]}
        schema["properties"][section]["description"] = WORDS[section]
    schema["properties"]["optimizer"]["anyOf"].append({"enum": list(get_args(OptimizerName))})  # its name alone
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **_without_titles(schema),
        "title": "rankscope study",
        "description": "Which LoRA rank, or full fine-tuning, and what will the model forget?",
    }


def _describe(schema: Schema, place: str) -> None:
    """Put each setting's words beside it."""
    for key, setting in schema["properties"].items():
        words = WORDS.get(f"{place}.{key}".removeprefix("."))
        if words is not None:
            setting["description"] = words


def _models() -> Schema:
    one = {"anyOf": [{"type": "string", "minLength": 1}, {"$ref": "#/$defs/ModelSpec"}]}
    many = {"type": "array", "minItems": 1, "items": one}
    return {"description": WORDS["model"], "anyOf": [*one["anyOf"], many]}


def _arms(definitions: dict[str, Schema]) -> Schema:
    """An arm named after its method needs no `method`; any other label needs one."""
    own: dict[str, Schema] = {}
    named: list[Schema] = []
    for name, method in METHODS.items():
        ref = {"$ref": f"#/$defs/{method.entry.__name__}"}
        size = method.size
        own[name] = {"anyOf": [ref] if size else [ref, {"type": "null"}]}
        named.append({**ref, "required": ["method", *([size.key] if size else [])]})
    for schema in own.values():
        schema["anyOf"] += named
    names = _name_schema(definitions)
    return {
        "description": WORDS["arms"],
        "type": "object",
        "minProperties": 1,
        "properties": own,
        "propertyNames": names,
        "additionalProperties": {"anyOf": named},
    }


def _name_schema(definitions: dict[str, Schema]) -> Schema:
    """The schema of a name, as the settings have it."""
    for part in definitions["TrainSource"]["properties"]["domain"]["anyOf"]:
        if "pattern" in part:
            return {key: part[key] for key in ("pattern", "maxLength") if key in part}
    return {"type": "string"}


def _without_titles(schema: Any) -> Any:
    """Without pydantic's generated titles, which only repeat the keys."""
    if isinstance(schema, dict):
        return {
            key: _without_titles(value)
            for key, value in schema.items()
            if not (key == "title" and isinstance(value, str))
        }
    return [_without_titles(item) for item in schema] if isinstance(schema, list) else schema
