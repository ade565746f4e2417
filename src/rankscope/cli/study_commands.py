"""Commands on a study file."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rankscope.cli.command_helpers import (
    INTERRUPTED,
    RowsRead,
    alone_but_for,
    check_writable,
    is_planned,
    open_folder,
    print_verdict,
    quiet,
    site_of_study,
)
from rankscope.cli.plan_command import Overrides
from rankscope.study.problems import Problem

if TYPE_CHECKING:
    from rankscope.edges.study_folder import StudyFolder
    from rankscope.pipeline import Outcome
    from rankscope.records import Plan
    from rankscope.study.init_file import InitFlags
    from rankscope.study.study import Study


SMALLER = "The smaller demo: three arms, one pass over the facts, fewer questions, margins of 10 points. The whole one"
"""Said before it runs and after, with the command that runs the whole one."""


def demo(
    out: Annotated[
        str | None, typer.Option("--out", metavar="DIR", help="Folder for the results; demo, or demo-quick.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A smaller one: under a minute on two cores.")] = False,
) -> None:
    """Run the bundled study: a small base model and a world of invented facts. No downloads.

    \b
    Examples:
      rankscope demo
      rankscope demo --quick
      rankscope demo --out my-demo
    """
    from importlib import resources

    from rankscope.study.read_study import read_study

    with resources.as_file(resources.files("rankscope") / "assets" / f"demo{'_quick' if quick else ''}.yaml") as path:
        settings = read_study(path)
    whole = f"{SMALLER}: rankscope demo"
    if quick:
        typer.echo(whole, err=True)
    _run(settings, Path.cwd(), out or settings.name, [])
    if quick:
        typer.echo(whole)


def run(
    study: Annotated[
        str, typer.Argument(metavar="STUDY.yaml|DIR", help="A study file, or a study folder to go on with.")
    ],
    out: Annotated[
        str | None, typer.Option("--out", metavar="DIR|URL", help="Folder for the results; the study's name.")
    ] = None,
    set_: Overrides = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="RUN_ID", help="Do only this run; may be repeated.")
    ] = None,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train finished runs again that lack a suite and have no weights left.")
    ] = False,
) -> None:
    """Do what is missing of a study: train, score, decide, report. Run it again to resume.

    \b
    Examples:
      rankscope run study.yaml
      rankscope run study.yaml --out results --set budget.epochs=1
      rankscope run results
    """
    from rankscope.study.read_study import read_study

    if "://" in study or Path(study).is_dir():
        with open_folder(study).local_study_file() as file:
            settings = read_study(file, set_ or [], files=False)
        _run(settings, Path.cwd(), out or study, only or [], retrain=retrain)
        return
    settings = read_study(Path(study), set_ or [], files=False)
    if not is_planned(out or settings.name):
        settings = read_study(Path(study), set_ or [])
    _run(settings, Path(study).resolve().parent, out or settings.name, only or [], retrain=retrain)


def _run(settings: Study, base: Path, out: str, only: list[str], *, retrain: bool = False) -> None:
    quiet()
    from rankscope.edges.machine import stop_on_signals
    from rankscope.edges.study_folder import StudyFolder
    from rankscope.pipeline import StudyPlanner, run_study
    from rankscope.report.study_progress import Live
    from rankscope.results.tracking import tracking_of

    folder = StudyFolder.open(out)
    folder.check_writable()
    site = site_of_study(settings, folder)
    tracking = tracking_of(settings, folder, out)
    with stop_on_signals(), Live(folder.read_status, folder.read_rungs, folder.read_stage) as live:

        def progress(planned: Plan) -> None:
            live.update(planned)
            if not only:  # array jobs share the folder: the run that decides logs them all
                tracking.update(planned)

        with StudyPlanner(settings, base, RowsRead()) as planner:
            outcome = run_study(
                planner, folder, machine=site.machine, make_executor=site.make_executor,
                only=only, retrain=retrain, progress=progress, notice=lambda text: typer.echo(text, err=True),
            )  # fmt: skip
    if not only:
        tracking.finish()
    _tell(outcome, folder, only)


def _tell(outcome: Outcome, folder: StudyFolder, only: list[str]) -> None:
    """What failed, how to go on, and the verdict. Exits with 1 where something failed or was stopped."""
    for run_id, why in outcome.failed.items():
        typer.echo(f"{run_id} failed: {why} (its traceback: error.txt in its folder)", err=True)
    for run_id, why in outcome.left_out.items():
        typer.echo(f"{run_id}: {why}", err=True)
    words = ["rankscope", "run", folder.url, *(word for run_id in only for word in ("--only", run_id))]
    again = shlex.join(words)
    if outcome.stopped:
        from rankscope.edges.machine import stopped_by_ctrl_c

        typer.echo(f"stopped; what is done is kept. To go on: {again}", err=True)
        raise typer.Exit(INTERRUPTED if stopped_by_ctrl_c() else 1)
    if not only:
        print_verdict(folder)
    if outcome.failed:
        typer.echo(f"the other runs are done; to try again those that failed: {again}", err=True)
        raise typer.Exit(1)


def init(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write it.")] = Path("study.yaml"),
    name: Annotated[str, typer.Option("--name", help="The study's name, and its folder's.")] = "my-study",
    model: Annotated[str, typer.Option("--model", help="`bundled`, a folder, or a hub id.")] = "bundled",
    train: Annotated[Path | None, typer.Option("--train", metavar="FILE", help="Rows to train on.")] = None,
    test: Annotated[Path | None, typer.Option("--test", metavar="FILE", help="Questions on what they teach.")] = None,
    keep: Annotated[
        list[Path] | None, typer.Option("--keep", metavar="FILE", help="Questions it must not forget; repeatable.")
    ] = None,
    domain: Annotated[str, typer.Option("--domain", help="What the training rows are about.")] = "mine",
    ask: Annotated[bool, typer.Option("--ask", help="Ask for what was not given.")] = False,
    from_: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="Arms from what `rankscope defaults` wrote.")
    ] = None,
    remedies: Annotated[
        str | None, typer.Option("--remedies", metavar="DIR", help="A finished study's best arm, with remedies.")
    ] = None,
) -> None:
    """Write a commented study file to start from: about the bundled world, or about your own files.

    \b
    Examples:
      rankscope init
      rankscope init --ask
      rankscope init --model ./my-model --train train.jsonl --test test.jsonl --keep general.jsonl
      rankscope init --from defaults.yaml
      rankscope init --remedies my-study --out remedies.yaml
    """
    from rankscope.study.init_file import InitFlags, check_out, write_first_study

    check_out(out)
    check_writable(out.parent)
    if remedies is not None:
        alone_but_for(context, "remedies", "out")
        from rankscope.results.remedy_study import write_remedy_study

        labels = ", ".join(write_remedy_study(open_folder(remedies), out))
        typer.echo(f"{out} is written: {labels} with remedies. See what it would do: rankscope plan {out}")
        return
    arms = None
    if from_ is not None:
        from rankscope.results.evidence import arms_lines, read_defaults  # pandas comes with it

        arms = arms_lines(read_defaults(from_))
    flags = InitFlags(name=name, model=model, train=train, test=test, domain=domain, keep=keep or ())
    write_first_study(out, _ask(flags) if ask else flags, arms)
    typer.echo(f"{out} is written. See what it would do: rankscope plan {out}")


def _ask(flags: InitFlags) -> InitFlags:
    """The flags as the user answers, each checked before the next question; an empty line takes what is known."""
    from rankscope.study.init_file import NO_TEST, check_keep, check_model, check_name, check_rows

    name = _answer("Name of the study", flags.name, lambda text: check_name("--name", text))
    model = _answer("Base model: bundled, a folder, or a hub id", flags.model, check_model)
    question = "File of rows to train on (empty: the bundled world)"
    train = _answer_file(question, flags.train, lambda path: check_rows("--train", path))
    if train is None:
        return replace(flags, name=name, model=model)
    about = "What the rows are about, in one word"
    domain = _answer(about, flags.domain, lambda text: check_name("--domain", text))
    question = "File of questions on what they teach"
    asked = str(flags.test or "")
    test = _answer(question, asked, lambda text: check_rows("--test", Path(text)) if text else NO_TEST)
    keep = list(flags.keep)
    question = "File of questions it must not forget (empty: no more)"
    while (more := _answer_file(question, None, lambda path: check_keep(path, keep))) is not None:
        keep.append(more)
    return replace(flags, name=name, model=model, train=train, test=Path(test), domain=domain, keep=keep)


def _answer(question: str, known: str, check: Callable[[str], Problem | None]) -> str:
    """An answer that `check` finds nothing wrong with; else one line says what is, and the question comes again."""
    while True:
        answer = str(typer.prompt(question, default=known, show_default=known != "")).strip()
        problem = check(answer)
        if problem is None:
            return answer
        typer.echo(str(problem), err=True)


def _answer_file(question: str, known: Path | None, check: Callable[[Path], Problem | None]) -> Path | None:
    """A file's path, None for an empty line."""
    given = _answer(question, str(known or ""), lambda text: check(Path(text)) if text else None)
    return Path(given) if given else None


def schema() -> None:
    """Print the JSON Schema of a study file, for editors.

    \b
    Example:
      rankscope schema > study.schema.json
    """
    from rankscope.study.json_schema import study_schema

    typer.echo(json.dumps(study_schema(), indent=1))
