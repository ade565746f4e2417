"""Reads a config file of a fine-tuning tool: tells the tool by its keys, and gives what it says in our words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rankscope.study.configs import ConfigTool, config_tools
from rankscope.study.configs.config_keys import ConfigKeys
from rankscope.study.configs.config_record import TrainingConfig
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.yaml_text import load_yaml, read_text

ADAPTER_CONFIG = "adapter_config.json"
EXPECTED = "a config of axolotl, LLaMA-Factory, TRL, unsloth, torchtune or PEFT"
LEAST_MARKS = 4
"""Marks below which a file is nobody's config."""
_DEFAULTS = {"studies", "arms", "default"}


def load_config(path: Path) -> Any:
    """The plain values of a YAML or JSON file; of a folder its adapter_config.json. Raises InputProblems."""
    if path.is_dir() and (path / ADAPTER_CONFIG).is_file():
        path = path / ADAPTER_CONFIG
    if path.suffix in (".py", ".ipynb"):
        found = "a Python program, which is not run"
        expected = 'its arguments as JSON: {"from_pretrained": {...}, "get_peft_model": {...}, "SFTConfig": {...}}'
        raise InputProblems([Problem(str(path), "--from", found, expected)])
    return _parsed(path, EXPECTED, "--from")


def _parsed(path: Path, expected: str, option: str = "") -> Any:
    """The values of a file in JSON, by its ending, or in YAML. Raises InputProblems."""
    text = read_text(path, expected, option)
    if path.suffix.lower() != ".json":
        return load_yaml(text, str(path), expected)
    try:
        return json.loads(text)
    except RecursionError:
        raise InputProblems([Problem(str(path), option, "JSON that is nested too deeply", expected)]) from None
    except ValueError as error:
        place = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else option
        raise InputProblems([Problem(str(path), place, "no valid JSON", expected)]) from None


def is_defaults(values: Any) -> bool:
    """Whether this is what `rankscope defaults` writes."""
    return isinstance(values, dict) and values.keys() >= _DEFAULTS


def is_data_file(path: Path) -> bool:
    """Whether a file holds rows and no settings: by its ending, and a .json by whether it is a list or lines."""
    if path.suffix.lower() in (".jsonl", ".csv", ".tsv", ".parquet", ".pq", ".ndjson"):
        return True
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as stream:
        start = stream.read(1_000_000).lstrip()
    if start.startswith("["):
        return True
    first, _, rest = start.partition("\n")
    try:
        return isinstance(json.loads(first), dict) and rest.lstrip().startswith("{")
    except ValueError:
        return False


def read_config(values: Any, file: str, folders: Sequence[Path], tool: str | None = None) -> TrainingConfig:
    """What the config says. `folders`: where files that it names are looked for; `tool`: whose it is, else told by its
    keys.

    Raises InputProblems for what is no config, is two tools' alike, or has values of a wrong type.
    """
    if not isinstance(values, dict) or not values:
        raise InputProblems([Problem(file, "--from", _what(values), EXPECTED)])
    plain = {str(key): value for key, value in values.items()}
    chosen = _named(tool) if tool is not None else _recognised(plain, file)
    resolved = {key: _interpolated(value, plain) for key, value in plain.items()}
    return chosen.read(ConfigKeys(resolved, file), lambda name: _beside(name, folders))


def _what(values: Any) -> str:
    return "a list" if isinstance(values, list) else "nothing" if values in (None, {}) else "one value"


def _named(tool: str) -> ConfigTool:
    found = config_tools().get(tool)
    if found is None:
        raise InputProblems([Problem("init", "--tool", tool, f"one of {', '.join(config_tools())}")])
    return found


def _recognised(values: Mapping[str, Any], file: str) -> ConfigTool:
    likeness = {name: tool.likeness(values) for name, tool in config_tools().items()}
    most = max(likeness.values())
    best = [name for name, marks in likeness.items() if marks == most]
    if most < LEAST_MARKS:
        keys = ", ".join(list(values)[:8])
        raise InputProblems([Problem(file, "--from", f"the keys {keys}", f"{EXPECTED}, or --tool with its name")])
    if len(best) > 1:
        found = f"keys of {' and '.join(best)} alike"
        raise InputProblems([Problem(file, "--from", found, f"--tool with one of {', '.join(best)}")])
    return config_tools()[best[0]]


def _interpolated(value: Any, top: Mapping[str, Any]) -> Any:
    """A text `${a.b}` as what stands there, as OmegaConf has it; anything else as it is."""
    if isinstance(value, dict):
        return {str(key): _interpolated(one, top) for key, one in value.items()}
    if isinstance(value, list):
        return [_interpolated(one, top) for one in value]
    if not isinstance(value, str) or not (value.startswith("${") and value.endswith("}")):
        return value
    found: Any = top
    for key in value[2:-1].split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return value if found is None or isinstance(found, dict | list) else found


def _beside(name: str, folders: Sequence[Path]) -> Any:
    """The JSON in a file that a config names; None where there is none."""
    path = next((found for folder in folders if (found := folder / name).is_file()), None)
    return None if path is None else _parsed(path, "JSON")
