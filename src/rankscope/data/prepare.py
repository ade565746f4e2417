"""All rows of a study for one base model: loaded, checked and encoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from transformers import PreTrainedTokenizerBase

from rankscope.config.problems import InputProblems, Problem
from rankscope.config.study import Source, Study
from rankscope.data.build import TrainingSet, build_suite, build_training, check_relations
from rankscope.data.encode import Encoder
from rankscope.data.source import Rows, load_rows
from rankscope.records import Suite, SuiteFacts

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

    def gather(make: Callable[[], _T]) -> _T | None:
        try:
            return make()
        except InputProblems as error:
            problems.extend(error.problems)
            return None

    def load(sources: dict[str, Source], section: str) -> dict[str, Rows]:
        loaded = {
            n: gather(lambda s=s, n=n: load_rows(s, base=folder, name=f"{section}.{n}")) for n, s in sources.items()
        }  # type: ignore[misc]
        return {name: rows for name, rows in loaded.items() if rows is not None}

    train_rows = load(dict(study.train), "train")
    suite_rows = load(dict(study.suites), "suites")
    encoder = Encoder(tokenizer, context_tokens=context_tokens, system_prompt=system_prompt)
    suites = {
        name: built
        for name, rows in suite_rows.items()
        if (built := gather(lambda n=name, r=rows: build_suite(n, study.suites[n], r, encoder)))  # type: ignore[misc]
    }
    training = {
        name: built
        for name, rows in train_rows.items()
        if (built := gather(lambda n=name, r=rows: _training(study, n, r, encoder, suite_rows)))  # type: ignore[misc]
    }
    if not problems:
        facts = [built.facts for built in training.values()]
        gather(lambda: check_relations(facts, [facts for _, facts in suites.values()], study.name))
    if problems:
        raise InputProblems(problems)
    return Prepared(training=training, suites=suites)


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
