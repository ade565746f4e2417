"""What `rankscope init` starts from, written as a study: another tool's config, or a file of rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import typer

from rankscope.cli.command_helpers import quiet
from rankscope.cli.init_questions import ask_kind
from rankscope.edges.heavy_imports import collector_rests
from rankscope.plan.study_sizes import SIZES, StudySize, fitting_size, seconds_of, with_ranks_up_to
from rankscope.records import MachineFacts
from rankscope.records.readable_numbers import duration
from rankscope.study.configs.config_file import read_config
from rankscope.study.configs.config_record import DataSet, TrainingConfig
from rankscope.study.configs.config_study import check_study_name, config_study
from rankscope.study.configs.config_suites import KnownBeside
from rankscope.study.data_study import LEAST_ROWS, DataFlags, data_study
from rankscope.study.init_file import (
    InitFlags,
    check_keep,
    check_name,
    check_not_trained,
    plan_command,
    relative,
    suite_name,
    write_checked,
)
from rankscope.study.problems import InputProblems, Problem
from rankscope.tools.first_look import first_look, is_here, rows_told, why_no_ready_suite

_SMALL_RANK = 16
_MIDDLE_SIZE = 2
"""Which of the sizes a study has that could not be sized."""


# ---- another tool's config ------------------------------------------------------------------------------------------


def from_config(start: Path, values: Any, out: Path, flags: InitFlags, given: set[str], tool: str | None) -> None:
    """Write the study that a config becomes, and say what could not be carried over. Raises InputProblems."""
    folders = [Path(), start if start.is_dir() else start.parent]
    wrong = [check_name("--domain", flags.domain)]
    if "domain" in given and flags.train is None:
        wrong.append(Problem("init", "--domain", "it without --train", "--train with the rows that it is of"))
    if problems := [problem for problem in wrong if problem is not None]:
        raise InputProblems(problems)
    config = _as_flags_say(read_config(values, str(start), folders, tool), flags, given)
    own = suite_name(start if start.is_dir() else start.with_suffix(""))
    name = flags.name if "name" in given or own == "adapter_config" else own
    if (unfit := check_study_name(name)) is not None:
        raise InputProblems([unfit])
    known = KnownBeside(rows_told, flags.kind, why_no_ready_suite())
    study = config_study(config, str(start), out, name, folders, known)
    write_checked(out, study.text)
    for line in study.not_carried:
        typer.echo(f"not carried over: {line}", err=True)
    _tell_no_general(known.no_general)
    typer.echo(f"{out} is written from {config.tool}'s config. See what it would do: {plan_command(out)}")


def _tell_no_general(why: str | None) -> None:
    if why is not None:
        typer.echo(f"no `general` suite: none of the ready ones can be reached from here ({why})", err=True)


def _as_flags_say(config: TrainingConfig, flags: InitFlags, given: set[str]) -> TrainingConfig:
    """The config with what the user said beside it."""
    if "model" in given:
        plain = replace(config.model, id=flags.model, revision=None)
        config = replace(config, model=plain)
    if flags.train is not None:
        config = replace(config, train=(DataSet(str(flags.train), "--train", name=flags.domain, judged_by_loss=None),))
    if flags.test is not None:
        config = replace(config, test=(*config.test, DataSet(str(flags.test), "--test", judged_by_loss=None)))
    return replace(config, keep=tuple(DataSet(str(path), "--keep", judged_by_loss=None) for path in flags.keep))


# ---- rows -----------------------------------------------------------------------------------------------------------


def from_rows(start: Path, out: Path, flags: InitFlags, given: set[str], *, ask: bool, time: str) -> None:
    """Write a study of one file of rows, as large as the time allows on this machine. Raises InputProblems."""
    domain = flags.domain if "domain" in given else suite_name(start)
    wrong = [check_name("--name", flags.name), check_name("--domain", domain)]
    wrong += [check_keep(path, flags.keep[:place]) for place, path in enumerate(flags.keep)]
    wrong += [check_not_trained("--keep", path, start) for path in flags.keep]
    if problems := [problem for problem in wrong if problem is not None]:
        raise InputProblems(problems)
    seconds, look = seconds_of(time), first_look(start)
    if look.row_count < LEAST_ROWS:
        expected = f"at least {LEAST_ROWS}: a tenth is asked instead of trained on, and one question decides nothing"
        raise InputProblems([Problem(str(start), "", f"{look.row_count} rows", expected)])
    bundled = flags.model == "bundled"
    chosen = DataFlags(
        path=relative(start, out), name=flags.name if "name" in given else domain, domain=domain,
        model=relative(Path(flags.model), out) if Path(flags.model).is_dir() else flags.model,
        kind=ask_kind(flags.kind or ("reasoning" if look.reasoning else None)) if ask else flags.kind,
        keep={suite_name(path): relative(path, out) for path in flags.keep},
        no_general=None if bundled else why_no_ready_suite(),
    )  # fmt: skip

    def text(size: StudySize) -> str:
        return data_study(look, chosen, size, "", stand_in=True)

    if is_here(flags.model):
        size, why = _size(seconds, time, look.row_count, text, out)
    else:
        size = SIZES[_MIDDLE_SIZE]
        why = f"Not sized to {time}: {flags.model} is not on this machine yet, which a plan fetches."
    write_checked(out, data_study(look, chosen, size, why))
    _tell_no_general(chosen.no_general)
    if look.columns:
        guessed = ", ".join(f"{field} = {column}" for field, column in look.columns.items())
        typer.echo(f"columns by guess: {guessed}; `columns:` in {out} says so", err=True)
    if look.unread:
        typer.echo(f"columns that are not read: {', '.join(look.unread)}; `columns:` in {out} says which are", err=True)
    typer.echo(f"{out} is written: {look.row_count:,} rows, {look.shape}. {why}")
    if chosen.kind is None:
        typer.echo("Whether answers are recalled or reasoned is not said (--kind, --ask): the report will say so.")
    typer.echo(f"Next: {plan_command(out)}")


def _size(
    seconds: float, time: str, row_count: int, text: Callable[[StudySize], str], out: Path
) -> tuple[StudySize, str]:
    """The size that fits, and a sentence on it. Raises InputProblems where a study of these rows cannot be planned."""
    quiet()
    from rankscope.edges.machine import look_at_machine

    machine = look_at_machine(out.parent)

    def planned(most_rank: float) -> tuple[StudySize, float]:
        def estimate(size: StudySize) -> float:
            return _planned_seconds(text(with_ranks_up_to(size, most_rank)), out, machine)

        size, found = fitting_size(seconds, row_count, estimate)
        return with_ranks_up_to(size, most_rank), found

    try:
        size, found = planned(math.inf)
    except InputProblems as error:
        if any(problem.place != "arms.lora.ranks" for problem in error.problems):
            raise
        size, found = planned(_SMALL_RANK)  # a model whose matrices are all smaller than the usual ranks
    if found <= seconds:
        return size, f"Sized to {time} on this machine: about {duration(found)} by the plan."
    return size, f"The smallest size takes about {duration(found)} on this machine, more than {time}."


def _planned_seconds(text: str, out: Path, machine: MachineFacts) -> float:
    """How long the plan says that the study takes on this machine. Raises InputProblems."""
    from rankscope.edges.study_folder import StudyFolder

    with collector_rests():
        from rankscope.pipeline import StudyPlanner
    from rankscope.study.read_study import study_of

    study = study_of(text)
    with TemporaryDirectory(prefix="rankscope-init-") as empty, StudyPlanner(study, out.parent.resolve()) as planner:
        planned = planner.plan(machine, StudyFolder.open(f"{empty}/none"), as_begun=False)
    assert planned.schedule is not None, "every plan that was just made has one"
    return planned.schedule.makespan_seconds
