"""What `rankscope score` is asked for -> suites as tokens of the model's tokenizer."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from rankscope.data.encode_sets import Encoding
from rankscope.data.encode_study import open_suite_rows
from rankscope.data.encode_suite import encode_suite
from rankscope.data.encoder import Encoder
from rankscope.data.rows_look import look_at_rows
from rankscope.data.token_files import open_suite, token_path
from rankscope.data.world import make_world
from rankscope.evaluate.lm_eval.load_task import load_task
from rankscope.records import Suite, SuiteFacts
from rankscope.study.problems import InputProblems, Problem, show
from rankscope.study.study import ChoiceStyle, Kind, ModelSpec, SuiteSource, is_task_file

_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)=(.+)")


@dataclass(frozen=True)
class SuiteOptions:
    """How the rows of every `--suite` are asked. `kind: auto`: reasoning where every answer is a number, else recall.

    `num_fewshot` and `metric` are for tasks of lm-eval, `choices` and `max_new_tokens` for rows.
    """

    kind: Kind | Literal["auto"] = "auto"
    choices: ChoiceStyle = "text"
    limit: int | None = None
    max_new_tokens: int = 256
    num_fewshot: int | None = None
    metric: str | None = None


def model_spec(model: str, *, dtype: str, chat: str) -> ModelSpec:
    """The model as a study would name it. Raises InputProblems for what is none of the words that a setting takes."""
    _one_of({"--dtype": (dtype, ("auto", "float32", "bfloat16")), "--chat": (chat, ("auto", "never"))})
    return ModelSpec.model_validate({"id": model, "dtype": dtype, "chat": chat})


def suite_options(
    *, kind: str, choices: str, limit: int | None, max_new_tokens: int, num_fewshot: int | None, metric: str | None
) -> SuiteOptions:
    """As typed. Raises InputProblems."""
    _one_of({"--kind": (kind, ("auto", "recall", "reasoning")), "--choices": (choices, ("text", "letters"))})
    counts = {"--limit": (limit, 1), "--max-new-tokens": (max_new_tokens, 1), "--num-fewshot": (num_fewshot, 0)}
    wrong = [
        Problem("score", option, show(value), f"a whole number of {least} or more")
        for option, (value, least) in counts.items()
        if value is not None and value < least
    ]
    if wrong:
        raise InputProblems(wrong)
    return SuiteOptions(kind, choices, limit, max_new_tokens, num_fewshot, metric)  # type: ignore[arg-type]


def _one_of(given: dict[str, tuple[str, tuple[str, ...]]]) -> None:
    wrong = [
        Problem("score", option, show(value), f"one of {', '.join(known)}")
        for option, (value, known) in given.items()
        if value not in known
    ]
    if wrong:
        raise InputProblems(wrong)


def read_suites(given: Sequence[str], options: SuiteOptions, encoder: Encoder) -> dict[str, tuple[Suite, SuiteFacts]]:
    """The suites by name. Each of `given` is a file of rows, a split of the bundled world, a YAML file or the name of a
    task of lm-eval, with `NAME=` before it or not. Raises InputProblems, all at once.
    """
    problems: list[Problem] = []
    suites: dict[str, tuple[Suite, SuiteFacts]] = {}
    with TemporaryDirectory() as folder:  # what is mapped stays readable when its name is gone
        by = Encoding(encoder, Path(folder))
        for name, where in _names(given, problems):
            try:
                source = _source(name, where, options)
                facts = encode_suite(name, source, open_suite_rows(source, Path(), name, load_task), by)
                suites[name] = open_suite(token_path(by.into, facts.content_sha256), facts), facts
            except InputProblems as error:
                problems += error.problems
    if problems:
        raise InputProblems(problems)
    return suites


def _names(given: Iterable[str], problems: list[Problem]) -> list[tuple[str, str]]:
    """(name, where) of every suite: the file's name, with its folder's where two files have the same."""
    named: list[tuple[str | None, str]] = []
    for text in given:
        match = None if Path(text).exists() else _NAMED.fullmatch(text)
        named.append((match[1], match[2]) if match else (None, text))
    stems = [_clean(Path(where).stem if _is_file(where) else where) for _, where in named]
    found: dict[str, str] = {}
    for (name, where), stem in zip(named, stems, strict=True):
        twice = stems.count(stem) > 1
        name = name or (_clean(f"{Path(where).resolve().parent.name}-{stem}") if twice else stem)
        if name in found:
            expected = "suites of different names: NAME=FILE gives one"
            problems.append(Problem("--suite", name, f"{show(where)} beside {show(found[name])}", expected))
        found.setdefault(name, where)
    return list(found.items())


def _clean(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:64] or "suite"


def _is_file(where: str) -> bool:
    return Path(where).suffix != "" or Path(where).exists()


def _source(name: str, where: str, options: SuiteOptions) -> SuiteSource:
    origin = _origin(name, where)
    settings: dict[str, Any] = {"limit": options.limit, **origin}
    if "harness" in origin:
        settings |= {"num_fewshot": options.num_fewshot, "metric": options.metric}
        return SuiteSource(kind="recall" if options.kind == "auto" else options.kind, **settings)
    settings |= {"choices": options.choices, "max_new_tokens": options.max_new_tokens}
    if options.kind != "auto":
        return SuiteSource(kind=options.kind, **settings)
    return SuiteSource(kind=look_at_rows(SuiteSource(**settings), base=Path(), name=name).kind, **settings)


def _origin(name: str, where: str) -> dict[str, str]:
    if is_task_file(where):
        return {"harness": where}
    path = Path(where).expanduser()
    if path.is_file():
        return {"path": where}
    if path.is_dir():
        raise InputProblems([Problem(where, "--suite", "a folder", "a file of rows")])
    world = where.removeprefix("world:")
    if world in make_world(0).names():
        return {"world": world}
    if path.suffix or len(path.parts) > 1:
        expected = "a file of rows, or a split of the bundled world such as medical/known/test"
        raise InputProblems([Problem(where, "--suite", "no such file", expected)])
    if importlib.util.find_spec("lm_eval") is None:
        expected = "a file of rows, or a task of lm-eval where it is installed (pip install 'rankscope[harness]')"
        raise InputProblems([Problem(where, "--suite", "no such file", expected)])
    return {"harness": where}


def check_outputs(items: Path | None, confidence: float) -> None:
    """Raises InputProblems for a file that could not be written in the end, and for a confidence that is none."""
    problems = []
    if items is not None and items.suffix not in (".parquet", ".jsonl"):
        problems.append(Problem("score", "--items", show(str(items)), "a file that ends in .parquet or .jsonl"))
    if items is not None and os.path.lexists(items):
        what = "a folder" if items.is_dir() else "a file that exists"
        problems.append(Problem("score", "--items", f"{show(str(items))}, {what}", "a new file"))
    if not 0.5 <= confidence < 1:
        problems.append(Problem("score", "--confidence", show(confidence), "a number from 0.5 to below 1"))
    if problems:
        raise InputProblems(problems)
