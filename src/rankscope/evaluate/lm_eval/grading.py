"""Grades answers to a task of lm-eval from what a token file holds of it: no data set is opened, nothing downloaded.

The metrics of multiple choice and of log-likelihoods are computed here, and are lm-eval 0.4.13's (Ref.: `lm_eval/api/
task.py`, `ConfigurableTask.process_results`; tests compare them). For anything else (generated text, filters, functions
or classes of a task's own) the task is built again from its configuration, with the kept documents for its data, and
grades them itself. The code of functions that lie beside a task's YAML file is part of what is kept.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from rankscope.records import Graded, Grading, Item

if TYPE_CHECKING:
    from lm_eval.api.task import Task

SCORES = {
    "multiple_choice": ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match"),
    "loglikelihood": ("acc",),
}
"""Metrics that are 1 or 0 for each item, by output type; generated text may have any that is from 0 to 1."""

_FUNCTION = "!function"
_OF_THE_DATA = {
    "dataset_path", "dataset_name", "dataset_kwargs", "custom_dataset", "training_split", "validation_split",
    "test_split", "fewshot_split", "fewshot_config", "process_docs", "num_fewshot", "description",
    "tag", "group", "task_list",
}  # fmt: skip
"""What a configuration says of documents and examples, which are there already when answers are graded."""


def grading_of(task: Task, metric: str, filter_name: str, stops: tuple[str, ...]) -> Grading:
    """How the items of a loaded task are graded, as plain data."""
    output_type, known = str(task.OUTPUT_TYPE), list(task._metric_fn_list)
    kept: dict[str, Any] = {
        "name": str(task.task_name), "output_type": output_type, "metric": metric, "filter": filter_name,
        "normalized": "acc_norm" in known, "mutual_information": "acc_mutual_info" in known,
    }  # fmt: skip
    if not _is_plain(task):
        config, modules, paths = _configuration(task)
        kept |= {"config": config, "modules": modules, "paths": paths}
        kept |= {name: int(getattr(task, name, 0)) for name in ("multiple_input", "multiple_target")}
    greedy = output_type == "loglikelihood" or metric == "exact_match" or bool(task.config.process_results)
    return Grading(stops=stops, needs_greedy=greedy, task=kept)


def document_of(task: Task, doc: Any) -> str:
    """What grading needs of a document, in JSON. Raises TypeError for what JSON cannot hold."""
    if not _is_plain(task):
        return json.dumps(doc, default=_plain)
    target = task.doc_to_target(doc)
    right = task.doc_to_text(doc) if getattr(task, "multiple_input", 0) else target
    several = bool(getattr(task, "multiple_target", 0))
    return json.dumps({"right": right, "several": several, "target": target}, default=_plain)


def grade(grading: Grading, items: Sequence[Item], responses: Sequence[Sequence[Any]]) -> list[Graded]:
    """Each item's score from the model's response to each of its requests: (log-likelihood in nats, is greedy) for each
    choice, or the text written until one of the grading's `stops`.

    Raises ValueError where the metric has no value from 0 to 1 for a single document.
    """
    if "config" in grading.task:
        return _graded_by_task(grading.task, items, responses)
    if grading.task["output_type"] == "loglikelihood":
        targets = [str(json.loads(item.document or "")["target"]) for item in items]
        return [
            Graded(float(found[0][1]), None, None, target) for target, found in zip(targets, responses, strict=True)
        ]
    return [_choice(grading.task, item, found) for item, found in zip(items, responses, strict=True)]


def _is_plain(task: Task) -> bool:
    """Whether the scores are those of a metric that is computed here."""
    from lm_eval.api.task import ConfigurableTask

    own = type(task) is not ConfigurableTask or task.config.process_results or task.config.filter_list
    return not own and task.OUTPUT_TYPE in SCORES


def _choice(task: dict[str, Any], item: Item, responses: Sequence[tuple[float, bool]]) -> Graded:
    """A multiple-choice item, as lm-eval scores it."""
    document, choices = json.loads(item.document or ""), item.choice_texts
    values = np.array([value for value, _ in responses])
    greedy = [is_greedy for _, is_greedy in responses]
    mutual = 2 * len(choices) == len(values) and task["mutual_information"]
    conditional = values[: len(choices)] if mutual else values
    right = document["right"]
    if isinstance(right, list):
        right = [i if i < len(choices) else -100 for i in right]
    elif isinstance(right, int):
        right = right if right < len(choices) else -100
    elif isinstance(right, str):
        right = choices.index(right) if right in choices else -100

    def hit(scores: np.ndarray) -> float:
        best = int(np.argmax(scores))
        return float(best in right if document["several"] else best == right)

    with np.errstate(divide="ignore", invalid="ignore"):
        normalized = hit(conditional / np.array([float(len(choice)) for choice in choices]))
        by_byte = hit(conditional / np.array([float(len(choice.encode())) for choice in choices]))
    if document["several"]:
        exact = any(greedy[i] if i != -100 else False for i in right)
    else:
        exact = greedy[right] if right != -100 else False
    scores = {"acc": hit(conditional), "acc_norm": normalized, "acc_bytes": by_byte, "exact_match": float(exact)}
    if mutual:
        scores["acc_mutual_info"] = float(int(np.argmax(conditional - values[len(choices) :])) == right)
    target = document["target"]
    target = choices[target] if isinstance(target, int) and target < len(choices) else target
    predicted = choices[int(np.argmax(values[: len(choices)]))]
    return Graded(scores[task["metric"]], normalized if task["normalized"] else None, predicted, str(target))


# ---- by the task itself ---------------------------------------------------------------------------------------------


def _graded_by_task(kept: dict[str, Any], items: Sequence[Item], responses: Sequence[Sequence[Any]]) -> list[Graded]:
    from lm_eval.api.instance import Instance

    documents = [json.loads(item.document or "") for item in items]
    task = _build(kept, documents)
    kind = "generate_until" if kept["output_type"] == "generate_until" else "loglikelihood"
    asked = [
        [
            Instance(kind, doc, ("", ""), i, (kept["name"], int(item.item_id), 1), resps=[response])
            for i, response in enumerate(found)
        ]
        for item, doc, found in zip(items, documents, responses, strict=True)
    ]
    task._instances = [instance for instances in asked for instance in instances]
    task.apply_filters()
    graded = []
    for doc, instances in zip(documents, asked, strict=True):
        held = [instance.filtered_resps[kept["filter"]] for instance in instances]
        graded.append(_from_values(task, kept, doc, held))
    return graded


def _from_values(task: Task, kept: dict[str, Any], doc: Any, held: Sequence[Any]) -> Graded:
    values = task.process_results(doc, held)
    score = values.get(kept["metric"])
    if not isinstance(score, int | float | np.number) or not 0 <= score <= 1:
        raise ValueError(f"{kept['name']}: {kept['metric']} of one document is {score!r}, not a number from 0 to 1")
    target = task.doc_to_target(doc)
    choices = list(task.doc_to_choice(doc)) if task.config.doc_to_choice else None
    if kept["output_type"] == "multiple_choice" and choices is not None:
        predicted = choices[int(np.argmax([value for value, _ in held[: len(choices)]]))]
        target = choices[target] if isinstance(target, int) and target < len(choices) else target
    else:
        predicted = held[0] if isinstance(held[0], str) else None
    normalized = values.get("acc_norm")
    return Graded(float(score), None if normalized is None else float(normalized), predicted, str(target))


class _Documents(list[Any]):
    """The documents as lm-eval looks at a data set: with the names of their fields."""

    @property
    def features(self) -> dict[str, None]:
        return {name: None for doc in self for name in doc}


class _WithDocuments:
    """Mixed into a task's class: its data are the documents at hand."""

    documents: _Documents

    def download(self, *_: Any, **__: Any) -> None:
        self.dataset = {"test": self.documents}

    def has_training_docs(self) -> bool:
        return False

    def has_validation_docs(self) -> bool:
        return False

    def has_test_docs(self) -> bool:
        return True

    def test_docs(self) -> _Documents:
        return self.documents

    def fewshot_docs(self) -> None:
        return None


def _build(kept: dict[str, Any], documents: list[Any]) -> Task:
    from lm_eval.api.task import ConfigurableTask

    config = _resolved(kept["config"], kept["modules"], kept["paths"])
    own = config.pop("class", None) or ConfigurableTask
    stored = type(own.__name__, (_WithDocuments, own), {"documents": _Documents(documents)})
    task = stored(config=config) if "config" in inspect.signature(own.__init__).parameters else stored()
    for name in ("multiple_input", "multiple_target"):  # decided by a first document, which may be another now
        setattr(task, name, kept[name])
    return task


def _configuration(task: Task) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
    """The task's configuration with functions as `!function` entries; of the modules that hold these, by a hash, the
    code and where it lay."""
    from lm_eval.tasks._yaml_loader import load_yaml

    path = task.config.metadata["config_source"]
    modules: dict[str, str] = {}
    paths: dict[str, str] = {}

    def kept(value: Any, named: Any) -> Any:
        if isinstance(value, dict):
            return {key: kept(one, named[key]) for key, one in value.items()}
        if isinstance(value, list):
            return [kept(one, name) for one, name in zip(value, named, strict=True)]
        if not callable(value):
            return value
        # `named` is FOLDER/module.function
        module, _, function = Path(named).name.rpartition(".")
        file = Path(named).parent / f"{module.replace('.', '/')}.py"
        if file.is_file():
            code = file.read_text(encoding="utf-8")
            module = hashlib.sha256(code.encode()).hexdigest()[:16]
            modules[module], paths[module] = code, str(file)
        return {_FUNCTION: [module, function]}

    both = (load_yaml(path, resolve_func=resolve) for resolve in (True, False))
    loaded, names = ({k: v for k, v in one.items() if k not in _OF_THE_DATA} for one in both)
    return kept(loaded, names), modules, paths


def _resolved(value: Any, modules: dict[str, str], paths: dict[str, str]) -> Any:
    """The configuration with its functions."""
    if isinstance(value, dict) and set(value) == {_FUNCTION}:
        module, function = value[_FUNCTION]
        if module in modules:
            return getattr(_module(modules[module], paths[module]), function)
        return getattr(__import__(module, fromlist=[function]), function)
    if isinstance(value, dict):
        return {key: _resolved(one, modules, paths) for key, one in value.items()}
    return [_resolved(one, modules, paths) for one in value] if isinstance(value, list) else value


@lru_cache(maxsize=32)
def _module(code: str, path: str) -> ModuleType:
    """A module of this code, named as lm-eval names the one at `path`."""
    _, packaged, inside = path.rpartition("/lm_eval/tasks/")
    name = f"lm_eval.tasks.{inside}" if packaged else path
    module = ModuleType(name.removesuffix(".py").replace("/", ".") if packaged else name.removesuffix(".py"))
    module.__file__, module.__package__ = path, module.__name__.rpartition(".")[0] if packaged else ""
    sys.modules.setdefault(module.__name__, module)  # where dataclasses and pickles look for it
    exec(compile(code, path, "exec"), module.__dict__)
    return module


def _plain(value: Any) -> Any:
    """Numbers of numpy as Python's."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} in it")
