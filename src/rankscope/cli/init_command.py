"""`rankscope init`: a first study, of the bundled world, one's own rows, another tool's config, or pooled defaults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rankscope.cli.command_helpers import alone_but_for, check_writable, open_folder
from rankscope.study.problems import InputProblems, Problem

if TYPE_CHECKING:
    from rankscope.records import MachineFacts
    from rankscope.study.init_file import InitFlags


def init(
    context: typer.Context,
    data: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Your rows, or another tool's config; as --from.")
    ] = None,
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
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Rows; a config of axolotl, LLaMA-Factory, TRL, unsloth, torchtune or PEFT; or `rankscope defaults`'.",
        ),
    ] = None,
    tool: Annotated[str | None, typer.Option("--tool", help="Whose config it is, where its keys do not tell.")] = None,
    time: Annotated[
        str, typer.Option("--time", help="Of rows: 20m, 2h or night. The study is sized to it on this machine.")
    ] = "2h",
    remedies: Annotated[
        str | None, typer.Option("--remedies", metavar="DIR", help="A finished study's best arm, with remedies.")
    ] = None,
) -> None:
    """Write a commented study file to start from: of the bundled world, your rows, or another tool's config.

    \b
    Examples:
      rankscope init
      rankscope init train.jsonl --time 20m
      rankscope init --from axolotl.yaml
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
    flags = InitFlags(name=name, model=model, train=train, test=test, domain=domain, keep=keep or ())
    given = {key for key, source in _sources(context).items() if source == "COMMANDLINE"}
    arms = None
    start = _start(data, from_)
    if start is not None:
        from rankscope.study.configs.config_file import is_data_file, is_defaults, load_config

        if is_data_file(start):
            _from_rows(start, out, flags, given, ask=ask, time=time)
            return
        values = load_config(start)
        if not is_defaults(values):
            _from_config(start, values, out, flags, given, tool)
            return
        from rankscope.results.evidence import arms_lines, read_defaults  # pandas comes with it

        arms = arms_lines(read_defaults(start))
    write_first_study(out, _ask(flags) if ask else flags, arms)
    typer.echo(f"{out} is written. See what it would do: rankscope plan {out}")


def _sources(context: typer.Context) -> dict[str, str]:
    found = {key: context.get_parameter_source(key) for key in context.params}
    return {key: source.name for key, source in found.items() if source is not None}


def _start(data: Path | None, from_: Path | None) -> Path | None:
    """The file to start from, given in either way."""
    if data is not None and from_ is not None:
        raise InputProblems([Problem("init", "--from", f"{from_} beside {data}", "one file to start from")])
    start = data if data is not None else from_
    if start is not None and not start.exists():
        expected = "rows, a config, or what `rankscope defaults` wrote"
        raise InputProblems([Problem(str(start), "--from", "no such file", expected)])
    return start


# ---- another tool's config ------------------------------------------------------------------------------------------


def _from_config(start: Path, values: Any, out: Path, flags: InitFlags, given: set[str], tool: str | None) -> None:
    """Write the study that a config becomes, and say what could not be carried over."""
    from rankscope.study.configs.config_file import read_config
    from rankscope.study.configs.config_study import check_study_name, config_study
    from rankscope.study.init_file import suite_name, write_checked
    from rankscope.tools.first_look import count_rows

    folders = [Path(), start if start.is_dir() else start.parent]
    config = _as_flags_say(read_config(values, str(start), folders, tool), flags, given)
    own = suite_name(start if start.is_dir() else start.with_suffix(""))
    name = flags.name if "name" in given or own == "adapter_config" else own
    if (wrong := check_study_name(name)) is not None:
        raise InputProblems([wrong])
    study = config_study(config, str(start), out, name, folders, count_rows)
    write_checked(out, study.text)
    for line in study.not_carried:
        typer.echo(f"not carried over: {line}", err=True)
    typer.echo(f"{out} is written from {config.tool}'s config. See what it would do: rankscope plan {out}")


def _as_flags_say(config: Any, flags: InitFlags, given: set[str]) -> Any:
    """The config with what the user said beside it."""
    from rankscope.study.configs.config_record import DataSet

    if "model" in given:
        plain = replace(config.model, id=flags.model, revision=None)
        config = replace(config, model=plain)
    if flags.train is not None:
        config = replace(config, train=(DataSet(str(flags.train), "--train", name=flags.domain, judged_by_loss=None),))
    if flags.test is not None:
        config = replace(config, test=(*config.test, DataSet(str(flags.test), "--test", judged_by_loss=None)))
    return replace(config, keep=tuple(DataSet(str(path), "--keep", judged_by_loss=None) for path in flags.keep))


_MIDDLE = 2
"""Which of the sizes a study has that could not be sized."""


# ---- rows -----------------------------------------------------------------------------------------------------------


def _from_rows(start: Path, out: Path, flags: InitFlags, given: set[str], *, ask: bool, time: str) -> None:
    """Write a study of one file of rows, as large as the time allows on this machine."""
    from rankscope.plan.study_sizes import SIZES, seconds_of
    from rankscope.study.data_study import DataFlags, data_study
    from rankscope.study.init_file import check_name, relative, suite_name, write_checked
    from rankscope.tools.first_look import first_look, is_here

    if beside := sorted({"train", "test"} & given):
        found = f"--{', --'.join(beside)} beside {start}"
        raise InputProblems(
            [Problem("init", "--from", found, "the rows to train on alone, or --train and --test alone")]
        )
    domain = flags.domain if "domain" in given else suite_name(start)
    wrong = [check_name("--name", flags.name), check_name("--domain", domain), *map(_check_keep, flags.keep)]
    if problems := [problem for problem in wrong if problem is not None]:
        raise InputProblems(problems)
    seconds, look = seconds_of(time), first_look(start)
    chosen = DataFlags(
        path=relative(start, out), name=flags.name if "name" in given else domain, domain=domain,
        model=relative(Path(flags.model), out) if Path(flags.model).is_dir() else flags.model,
        kind=_ask_kind(reasoning=look.reasoning) if ask else None,
        keep={suite_name(path): relative(path, out) for path in flags.keep},
    )  # fmt: skip

    def text(size: Any) -> str:
        return data_study(look, chosen, size, "", stand_in=True)

    if is_here(flags.model):
        size, why = _size(seconds, time, look.row_count, text, out)
    else:
        size, why = (
            SIZES[_MIDDLE],
            f"Not sized to {time}: {flags.model} is not on this machine yet, which a plan fetches.",
        )
    write_checked(out, data_study(look, chosen, size, why))
    if look.unread:
        typer.echo(f"columns that are not read: {', '.join(look.unread)}; `columns:` in {out} says which are", err=True)
    typer.echo(f"{out} is written: {look.row_count:,} rows, {look.shape}. {why}\nNext: rankscope plan {out}")


def _check_keep(path: Path) -> Problem | None:
    from rankscope.study.init_file import check_rows

    return check_rows("--keep", path)


def _ask_kind(*, reasoning: bool) -> Any:
    """recall or reasoning, as the user says; what the rows look like is proposed."""
    from rankscope.study.init_file import check_kind

    question = "Are the answers learned by heart (recall) or worked out (reasoning)?"
    return _answer(question, "reasoning" if reasoning else "recall", check_kind)


def _size(seconds: float, time: str, row_count: int, text: Callable[[Any], str], out: Path) -> tuple[Any, str]:
    """The size that fits, and a sentence on it; a middle one, said so, where this machine cannot plan the study."""
    from rankscope.cli.command_helpers import quiet

    quiet()
    from rankscope.edges.machine import look_at_machine
    from rankscope.plan.study_sizes import SIZES, fitting_size
    from rankscope.records.readable_numbers import duration

    machine = look_at_machine(out.parent)

    def estimate(size: Any) -> float:
        return _planned_seconds(text(size), out, machine)

    try:
        size, found = fitting_size(seconds, row_count, estimate)
    except InputProblems as error:
        typer.echo(f"the study could not be planned to size it: {error.problems[0]}", err=True)
        return SIZES[_MIDDLE], f"It was not sized to {time}: this machine cannot plan it yet."
    if found <= seconds:
        return size, f"Sized to {time} on this machine: about {duration(found)} by the plan."
    return size, f"The smallest size takes about {duration(found)} on this machine, more than {time}."


def _planned_seconds(text: str, out: Path, machine: MachineFacts) -> float:
    """How long the plan says that the study takes on this machine. Raises InputProblems."""
    from tempfile import TemporaryDirectory

    from rankscope.edges.study_folder import StudyFolder
    from rankscope.pipeline import StudyPlanner
    from rankscope.study.read_study import study_of

    study = study_of(text)
    with TemporaryDirectory(prefix="rankscope-init-") as empty, StudyPlanner(study, out.parent.resolve()) as planner:
        planned = planner.plan(machine, StudyFolder.open(f"{empty}/none"), as_begun=False)
    assert planned.schedule is not None, "every plan that was just made has one"
    return planned.schedule.makespan_seconds


# ---- asking ---------------------------------------------------------------------------------------------------------


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
