"""Every case's study is planned, once its model and data are swapped for small ones that are here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from config_cases import NAMES, beside, study
from tiny_models import save_tiny_model

from rankscope.edges.machine import look_at_machine
from rankscope.edges.study_folder import StudyFolder
from rankscope.jobs.planning import StudyPlanner
from rankscope.study.read_study import read_study
from rankscope.study.yaml_text import load_yaml

SHAPES: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Which oak is {i}?"}, {"role": "assistant", "content": "It is oak {i}."}],
    "conversations": [{"from": "human", "value": "Which elm is {i}?"}, {"from": "gpt", "value": "It is elm {i}."}],
}
"""What a field holds where it is no text."""


def rows_for(path: Path, columns: dict[str, str] | None) -> None:
    """Rows of its own that have the columns that a source reads; conversations where it names none."""
    fields = columns or {"messages": "messages"}
    with path.open("w") as stream:
        for i in range(40):
            row = {column: SHAPES.get(field, f"{field} {{i}}") for field, column in fields.items()}
            stream.write(json.dumps(row).replace("{i}", f"{path.stem} {i}") + "\n")


def swapped(text: str, folder: Path) -> Path:
    """The study with a tiny model, rows of its columns, ranks that fit, and a general suite of the bundled world."""
    values = load_yaml(text, "study.yaml", "a study")
    kept = {key: value for key, value in _mapping(values["model"]).items() if key in ("chat", "chat_template")}
    values["model"] = {"id": "model", "dtype": "float32", **kept}
    for name, source in values["train"].items():
        rows_for(folder / f"{name}.jsonl", source.get("columns"))
        left = {key: source[key] for key in ("columns", "template", "limit", "domain") if key in source}
        values["train"][name] = {"path": f"{name}.jsonl", **left}
    for name, suite in values["suites"].items():
        if isinstance(suite, dict) and suite.keys() & {"hub", "path"}:
            rows_for(folder / f"{name}.jsonl", suite.get("columns"))
            left = {key: value for key, value in suite.items() if key not in ("hub", "split", "config")}
            values["suites"][name] = {**left, "path": f"{name}.jsonl"}
    values["suites"]["general"] = {"world": "general/known/test", "kind": "recall", "limit": 20}
    for arm in values["arms"].values():
        arm.update({"ranks": [1, 2, 4]} if "ranks" in arm else {"layers": [1]} if "layers" in arm else {})
    values["budget"] = {**values.get("budget", {}), "max_sequence_tokens": 512}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def _mapping(model: Any) -> dict[str, Any]:
    return model if isinstance(model, dict) else {"id": model}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_case_is_planned(tmp_path: Path, name: str) -> None:
    save_tiny_model(tmp_path / "model")
    path = swapped(study(name, beside(tmp_path)).text, tmp_path)
    settings = read_study(path)
    with StudyPlanner(settings, tmp_path) as planner:
        plan = planner.plan(look_at_machine(tmp_path, measure=False), StudyFolder.open(str(tmp_path / "none")))
    assert {run.train_set for run in plan.runs} == set(settings.train)
    assert {run.seed for run in plan.runs} == set(settings.seeds)  # type: ignore[arg-type]
    assert all(run.step_count > 0 for run in plan.runs)
