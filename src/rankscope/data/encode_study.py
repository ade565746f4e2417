"""Encodes all rows of a study for one base model's tokenizer: each training set and each suite into one token file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

from rankscope.data.encode_replay import SuitePrompts, encode_replays
from rankscope.data.encode_sets import Encoding, encode_training
from rankscope.data.encode_suite import encode_suite
from rankscope.data.encoder import Encoder
from rankscope.data.held_out import HeldOut, HeldOutRows
from rankscope.data.sources import Progress, RowReader, TaskRows
from rankscope.records import SuiteFacts, TrainFacts
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.study import Study, SuiteSource, TrainSource

_S = TypeVar("_S")
_T = TypeVar("_T")


class LoadTask(Protocol):
    """Loads the task of lm-eval that a suite is, as `evaluate.lm_eval.load_task` does. Raises InputProblems."""

    def __call__(self, source: SuiteSource, *, base: Path, name: str) -> TaskRows: ...


@dataclass(frozen=True)
class Encoded:
    """Facts of the training sets and suites by name; each token file is named by their `content_sha256`."""

    training: dict[str, TrainFacts]
    suites: dict[str, SuiteFacts]


def encode_study(
    study: Study,
    folder: Path,
    encoder: Encoder,
    into: Path,
    *,
    load_task: LoadTask,
    progress: Progress = lambda *_: None,
    suite_prompts: SuitePrompts | None = None,
) -> Encoded:
    """Read every source of the study once and write its token file into the folder `into`, which is made.

    Relative paths start at `folder`; `suite_prompts` gives the prompts of suites that arms replay from. The
    encoder's `context_tokens` are the room that rows have in the model's context.
    Suites come first, since training rows that they ask are not trained on. A source of any size is read in pieces, in
    bounded memory.

    Raises InputProblems, with the problems of all sources at once.
    """
    into.mkdir(parents=True, exist_ok=True)
    by = Encoding(encoder, into, progress=progress, base=folder)
    problems: list[Problem] = []
    train_rows = _each(study.train, problems, lambda n, source: RowReader(source, base=folder, name=f"train.{n}"))
    suite_rows = _each(study.suites, problems, lambda n, _: _open_suite_rows(n, study, folder, load_task))
    by = replace(by, held_out=HeldOut.of(study.suites, suite_rows))
    suites = _each(suite_rows, problems, lambda n, rows: encode_suite(n, _as_asked(study.suites[n], rows), rows, by))
    if not problems:
        check_relations(study.train, list(suites.values()), study.name)
    training = _each(
        train_rows,
        problems,
        lambda n, rows: encode_training(
            n, study.train[n], rows, by, validation=study.validation,
            max_sequence_tokens=study.budget.max_sequence_tokens,
        ),
    )  # fmt: skip
    if problems and any(entry.replay is not None and entry.replay.asks_suites for entry in study.arms.values()):
        raise InputProblems(problems)  # what suites ask is not known
    try:
        replays = encode_replays(study, folder, by, suites, suite_prompts)
    except InputProblems as error:
        problems += error.problems
    if problems:
        raise InputProblems(list(dict.fromkeys(problems)))  # of a set that a suite holds rows of they are found twice
    beside = {name: {"replays": replays[name]} for name in training}
    return Encoded({name: facts.model_copy(update=beside[name]) for name, facts in training.items()}, suites)


def open_suite_rows(source: SuiteSource, folder: Path, name: str, load_task: LoadTask) -> RowReader | TaskRows:
    """The rows of a suite, or its task of lm-eval. Raises InputProblems."""
    if source.harness is not None:
        return load_task(source, base=folder, name=name)
    return RowReader(source, base=folder, name=name)


def _open_suite_rows(name: str, study: Study, folder: Path, load_task: LoadTask) -> RowReader | TaskRows:
    """The rows of a suite of this study, or its task of lm-eval. Raises InputProblems."""
    source = study.suites[name]
    if source.held_out is not None:
        return HeldOutRows(name, source, study, folder)
    return open_suite_rows(source, folder, f"suites.{name}", load_task)


def _as_asked(source: SuiteSource, rows: RowReader | TaskRows) -> SuiteSource:
    """Held-out rows without a question are judged by their loss where the study says nothing else: of an instruction no
    single answer is the right one."""
    unsaid = source.metric is None and source.grade is None
    if isinstance(rows, HeldOutRows) and unsaid and not rows.all_questions:
        return source.model_copy(update={"metric": "loss"})
    return source


def check_relations(training: Mapping[str, TrainSource], suites: Sequence[SuiteFacts], file: str) -> None:
    """Raise InputProblems for each training set whose gain cannot be measured (no suite of its domain that has right
    and wrong answers), and for each suite of a single item, which says nothing of others."""
    problems = [
        Problem(file, f"suites.{suite.name}", "a single item", "at least two: one says nothing of others")
        for suite in suites
        if suite.form != "text" and suite.item_count == 1
    ]
    for name, source in training.items():
        forms = {suite.form for suite in suites if suite.domain is not None and suite.domain == source.domain}
        if not forms - {"text"}:
            found = "only plain text" if forms else "no suite"
            expected = "at least one suite with answers"
            problems.append(Problem(file, f"suites of domain {source.domain}, for train.{name}", found, expected))
    if problems:
        raise InputProblems(problems)


def _each(given: Mapping[str, _S], problems: list[Problem], make: Callable[[str, _S], _T]) -> dict[str, _T]:
    """`make` of every entry that has no problems; those of the others are added to `problems`."""
    made: dict[str, _T] = {}
    for name, value in given.items():
        try:
            made[name] = make(name, value)
        except InputProblems as error:
            problems.extend(error.problems)
    return made
