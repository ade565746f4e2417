"""`rankscope init`: a first study, of the bundled world, one's own rows, another tool's config, or pooled defaults."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from rankscope.cli.command_helpers import alone_but_for, check_writable, open_folder
from rankscope.study.problems import InputProblems, Problem

if TYPE_CHECKING:
    from rankscope.study.study_settings import Kind


def init(
    context: typer.Context,
    data: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Your rows, or another tool's config; as --from.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write it.")] = Path("study.yaml"),
    name: Annotated[
        str,
        typer.Option("--name", help="The study's name, and its folder's.", show_default="that of FILE, else my-study"),
    ] = "my-study",
    model: Annotated[str, typer.Option("--model", help="`bundled`, a folder, or a hub id.")] = "bundled",
    train: Annotated[Path | None, typer.Option("--train", metavar="FILE", help="Rows to train on.")] = None,
    test: Annotated[Path | None, typer.Option("--test", metavar="FILE", help="Questions on what they teach.")] = None,
    keep: Annotated[
        list[Path] | None, typer.Option("--keep", metavar="FILE", help="Questions it must not forget; repeatable.")
    ] = None,
    domain: Annotated[
        str, typer.Option("--domain", help="What the training rows are about.", show_default="FILE's name, else mine")
    ] = "mine",
    kind: Annotated[
        str | None, typer.Option("--kind", help="recall or reasoning: are answers learned by heart or worked out?")
    ] = None,
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
    from rankscope.study.init_file import InitFlags, check_out, plan_command, write_first_study

    check_out(out)
    check_writable(out.parent)
    if remedies is not None:
        alone_but_for(context, "remedies", "out")
        from rankscope.results.remedy_study import write_remedy_study

        labels = ", ".join(write_remedy_study(open_folder(remedies), out))
        typer.echo(f"{out} is written: {labels} with remedies. See what it would do: {plan_command(out)}")
        return
    given = {key for key, source in _sources(context).items() if source == "COMMANDLINE"} - {"data", "from_", "out"}
    flags = InitFlags(name, model, train, test, domain, keep or (), _kind(kind))
    start = _start(data, from_)
    arms = None
    if start is None:
        own = given & {"train", "test", "keep"}
        _check_flags(_ASKED if ask else _OWN_FILES if own else _NOTHING, given)
    else:
        from rankscope.study.configs.config_file import is_data_file, is_defaults, load_config

        if is_data_file(start):
            _check_flags(_ROWS, given, start)
            from rankscope.cli.init_sources import from_rows

            from_rows(start, out, flags, given, ask=ask, time=time)
            return
        values = load_config(start)
        if not is_defaults(values):
            _check_flags(_CONFIG, given, start)
            from rankscope.cli.init_sources import from_config

            from_config(start, values, out, flags, given, tool)
            return
        _check_flags(_DEFAULTS, given, start)
        from rankscope.results.evidence import arms_lines, read_defaults  # pandas comes with it

        arms = arms_lines(read_defaults(start))
    if ask:
        from rankscope.cli.init_questions import ask_flags

        flags = ask_flags(flags, holds_out=arms is None)
        if flags.train is not None and flags.test is None:
            from rankscope.cli.init_sources import from_rows

            from_rows(flags.train, out, flags, {"name", "model", "domain"}, ask=True, time=time)
            return
    write_first_study(out, flags, arms)
    typer.echo(f"{out} is written. See what it would do: {plan_command(out)}")


@dataclass(frozen=True)
class _Way:
    """A way to begin, in words, and the options that say something in it."""

    title: str
    options: tuple[str, ...]


_FILES = ("name", "model", "train", "test", "keep", "domain", "kind", "ask")
_NOTHING = _Way("a study of the bundled world", ("name", "model", "train", "test", "keep", "ask"))
_OWN_FILES = _Way("a study of your files", _FILES)
_ASKED = _Way("what is asked", (*_FILES, "time"))
_ROWS = _Way("a file of rows", ("name", "model", "keep", "domain", "kind", "time", "ask"))
_CONFIG = _Way("a config", ("name", "model", "train", "test", "keep", "domain", "kind", "tool"))
_DEFAULTS = _Way("defaults of earlier studies", _FILES)


def _check_flags(way: _Way, given: set[str], start: Path | None = None) -> None:
    """Raises InputProblems with a line for each option that would say nothing."""
    beside = way.title if start is None else f"{start}, {way.title}"
    expected = ", ".join(f"--{option}" for option in way.options) + " alone there"
    problems = [
        Problem("init", f"--{option}", f"it beside {beside}", expected) for option in sorted(given - {*way.options})
    ]
    if problems:
        raise InputProblems(problems)


def _kind(text: str | None) -> Kind | None:
    """Raises InputProblems for what is no kind."""
    from rankscope.study.init_file import check_kind

    if text is not None and (problem := check_kind(text)) is not None:
        raise InputProblems([problem])
    return cast("Kind | None", text)


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
