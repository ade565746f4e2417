"""All rows of a study for one base model: loaded, checked and encoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from transformers import PreTrainedTokenizerBase

from rankscope.data.build_sets import TrainingSet, build_suite, build_training, check_relations
from rankscope.data.encoder import Encoder
from rankscope.data.sources import Rows, load_rows
from rankscope.evaluate.lm_eval.load_task import load_harness
from rankscope.records import Suite, SuiteFacts
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.study import Study, SuiteSource

_S = TypeVar("_S")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Prepared:
    """Training sets and suites by name, as tokens of one tokenizer."""

    training: dict[str, TrainingSet]
    suites: dict[str, tuple[Suite, SuiteFacts]]


def prepare(
    study: Study,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    context_tokens: int,
    system_prompt: str | None = None,
) -> Prepared:
    """Rows of every training set and suite; relative paths start at `folder`. Raises InputProblems, all at once.

    `system_prompt` is the model's, of the study.
    """
    problems: list[Problem] = []
    encoder = Encoder(tokenizer, context_tokens=context_tokens, system_prompt=system_prompt)
    train_rows = _each(study.train, problems, lambda n, s: load_rows(s, base=folder, name=f"train.{n}"))
    suite_rows = _each(study.suites, problems, lambda n, s: load_suite(s, folder, f"suites.{n}"))
    suites = _each(suite_rows, problems, lambda n, rows: build_suite(n, study.suites[n], rows, encoder))
    training = _each(train_rows, problems, lambda n, rows: _training(study, n, rows, encoder, suite_rows))
    if not problems:
        check_relations([t.facts for t in training.values()], [facts for _, facts in suites.values()], study.name)
    if problems:
        raise InputProblems(problems)
    return Prepared(training=training, suites=suites)


def load_suite(source: SuiteSource, folder: Path, name: str) -> Rows:
    """Rows, or a task of lm-eval with its documents. Raises InputProblems."""
    if source.harness is not None:
        return load_harness(source, base=folder, name=name)
    return load_rows(source, base=folder, name=name)


def _each(given: Mapping[str, _S], problems: list[Problem], make: Callable[[str, _S], _T]) -> dict[str, _T]:
    """`make` of every entry that has no problems; those of the others are added to `problems`."""
    made: dict[str, _T] = {}
    for name, value in given.items():
        try:
            made[name] = make(name, value)
        except InputProblems as error:
            problems.extend(error.problems)
    return made


def _training(study: Study, name: str, rows: Rows, encoder: Encoder, suites: dict[str, Rows]) -> TrainingSet:
    return build_training(
        name,
        study.train[name],
        rows,
        encoder,
        validation=study.validation,
        max_sequence_tokens=study.budget.max_sequence_tokens,
        suites=suites,
    )
