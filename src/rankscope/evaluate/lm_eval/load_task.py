"""Loads the task of lm-eval that a suite's `harness` names, by the task's name or from a YAML file.

What a task asks, with which few-shot examples, is what lm-eval 0.4.13's `simple_evaluate` would ask with its default
seeds; it is scored by our scorers.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import random
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml
from jinja2 import TemplateError

from rankscope.data.hub_data import HUB_ERRORS, hub_problem
from rankscope.evaluate.lm_eval.task import LoadedTask
from rankscope.study.problems import InputProblems, Problem, show
from rankscope.study.study import SuiteSource, is_task_file

if TYPE_CHECKING:
    from lm_eval.api.task import Task

SEEDS = {"python": 0, "numpy": 1234, "fewshot": 1234}
"""Those of `lm_eval.simple_evaluate`."""


def load_task(source: SuiteSource, *, base: Path, name: str) -> LoadedTask:
    """The task that `source.harness` names, or that its YAML file defines (a relative path starts at `base`).

    `limit` keeps a seeded random sample of the documents. Raises InputProblems where lm-eval is not installed, for a
    task that is not known or cannot be loaded, and for one that nothing here can score.
    """
    assert source.harness is not None
    need_lm_eval(name)
    with _seeded():
        task = _configured(_load(source.harness, base, name), source)
        _refuse(task, source.harness, name)
        return LoadedTask(task, source, name)


def need_lm_eval(place: str) -> None:
    """Raises InputProblems with what to install, where lm-eval is not."""
    if importlib.util.find_spec("lm_eval") is None:
        raise InputProblems([Problem(place, "lm-eval", "not installed", "it: pip install 'rankscope[harness]'")])


def run_lm_eval(words: Sequence[str]) -> None:
    """`lm-eval WORDS`, as if it were typed. Raises InputProblems where lm-eval is not installed, and what lm-eval
    raises."""
    need_lm_eval("rankscope harness")
    from lm_eval.__main__ import cli_evaluate

    import rankscope.evaluate.lm_eval.language_model  # noqa: F401  (registers the model)

    before = sys.argv
    sys.argv = ["lm-eval", *words]
    try:
        cli_evaluate()
    finally:
        sys.argv = before


def _load(harness: str, base: Path, name: str) -> Task:
    from lm_eval.tasks import TaskManager

    path = base / Path(harness).expanduser() if is_task_file(harness) else _own_file(harness)
    if is_task_file(harness) and (path is None or not path.is_file()):
        raise InputProblems([Problem(harness, f"{name}.harness", "no such file", "the YAML file of an lm-eval task")])
    try:
        # Looking through all of lm-eval's tasks takes many seconds: only where the name does not say which file it is.
        manager = TaskManager(include_defaults=path is None)
        if path is None and harness not in manager.all_subtasks:
            found = "a group of tasks" if harness in manager.all_tasks else "no task of lm-eval"
            raise InputProblems([Problem(harness, f"{name}.harness", found, "one task; `lm-eval ls tasks` lists them")])
        loaded = manager.load(str(path) if path is not None else harness)["tasks"]
    except (yaml.YAMLError, TemplateError, ArithmeticError, AttributeError, IndexError, TypeError) as error:
        found = f"a task that cannot be read: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        raise InputProblems([Problem(harness, f"{name}.harness", found, "a task of lm-eval")]) from error
    except HUB_ERRORS as error:
        raise hub_problem(error, what="data set", hub_id=harness, place=f"{name}.harness") from error
    if len(loaded) != 1:
        raise InputProblems([Problem(harness, f"{name}.harness", f"{len(loaded)} tasks", "one")])
    return next(iter(loaded.values()))


def _own_file(task: str) -> Path | None:
    """lm-eval's file of a task, where the file or its folder has the task's name, as most have."""
    import lm_eval.tasks

    root = Path(lm_eval.tasks.__file__).parent
    in_folders = (path for folder in root.rglob(task) for path in sorted(folder.glob("*.yaml")))
    for path in chain(root.rglob(f"{task}.yaml"), in_folders):
        if any(line.strip() in (f"task: {task}", f'task: "{task}"') for line in path.read_text("utf-8").splitlines()):
            return path
    return None


def _configured(task: Task, source: SuiteSource) -> Task:
    """As `simple_evaluate` sets few-shot examples: a task that says 0 stays at 0."""
    given = task.get_config("num_fewshot")
    if given is None or (source.num_fewshot is not None and given != 0):
        task.set_config("num_fewshot", source.num_fewshot or 0)
    task.set_fewshot_seed(SEEDS["fewshot"])
    return task


def _refuse(task: Task, harness: str, name: str) -> None:
    found = None
    if getattr(task, "UNSAFE_CODE", False):
        found = "a task that runs what the model writes"
    elif getattr(task, "MULTIMODAL", False):
        found = "a task that shows more than text"
    elif task.OUTPUT_TYPE not in ("multiple_choice", "loglikelihood", "loglikelihood_rolling", "generate_until"):
        found = f"the output type {show(task.OUTPUT_TYPE)}"
    elif task.config.repeats not in (None, 1):
        found = f"{task.config.repeats} answers to each question"
    if found is not None:
        expected = "multiple_choice, loglikelihood, loglikelihood_rolling or generate_until, of text, once each"
        raise InputProblems([Problem(harness, f"{name}.harness", found, expected)])


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """Tasks may shuffle with the global generators: they find lm-eval's seeds, and ours are put back after. Nor do
    they talk."""
    import datasets  # slow, and only tasks need it

    logger = logging.getLogger("lm_eval")
    python, numpy, level = random.getstate(), np.random.get_state(), logger.level
    random.seed(SEEDS["python"])
    np.random.seed(SEEDS["numpy"])
    logger.setLevel(logging.ERROR)
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not bars:
            datasets.enable_progress_bars()
        random.setstate(python)
        np.random.set_state(numpy)
        logger.setLevel(level)
