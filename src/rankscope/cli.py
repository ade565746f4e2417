"""The command line: parse, choose the edges, call the pipeline, print."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

# What takes seconds to import (torch, transformers) is imported inside the commands that need it.
from rankscope import __version__
from rankscope.config.problems import InputProblems, Problem
from rankscope.config.read import read_study

if TYPE_CHECKING:
    from rankscope.edges.execute import Executor
    from rankscope.records import Plan

app = typer.Typer(
    name="rankscope", no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Which LoRA rank, or full fine-tuning, for my model and my data, and what will the model forget?",
)  # fmt: skip

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="A study file; `rankscope init` writes one.")]
StudyFolder = Annotated[Path, typer.Argument(metavar="DIR", help="A study folder that `rankscope run` made.")]
AdapterFolder = Annotated[Path, typer.Argument(metavar="ADAPTER", help="A folder that PEFT saved a LoRA adapter to.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change one setting of the study.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@contextlib.contextmanager
def _user_errors() -> Iterator[None]:
    """Bad input is one line a problem on stderr and exit code 2; nothing else is caught."""
    from rankscope.edges.store import Busy

    try:
        yield
    except InputProblems as error:
        for problem in error.problems:
            typer.echo(str(problem), err=True)
        raise typer.Exit(2) from None
    except Busy as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


def _quiet() -> None:
    """Keep the libraries' own chatter out of the output, and everything on this machine."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", module=r"(?!rankscope).*")


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the results.")] = Path("demo"),
) -> None:
    """Run the bundled study: a small base model and a world of invented facts. No downloads.

    \b
    Examples:
      rankscope demo
      rankscope demo --out my-demo
    """
    with resources.as_file(resources.files("rankscope") / "assets" / "demo.yaml") as path:
        _run(path, out, [], [])


@app.command()
def init(
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
) -> None:
    """Write a commented study file to start from: about the bundled world, or about your own files.

    \b
    Examples:
      rankscope init
      rankscope init --ask
      rankscope init --model ./my-model --train train.jsonl --test test.jsonl --keep general.jsonl
      rankscope init --from defaults.yaml
    """
    from rankscope.config.defaults import arms_lines, read_defaults
    from rankscope.config.first import Wishes, ask_for, write_first_study

    with _user_errors():
        wishes = Wishes(name=name, model=model, train=train, test=test, domain=domain, keep=keep or ())
        if ask:
            wishes = ask_for(wishes, lambda question, known: typer.prompt(question, default=known))
        _check_writable(out.parent)
        arms = arms_lines(read_defaults(from_)) if from_ is not None else None
        write_first_study(out, wishes, arms)
    typer.echo(f"{out} is written. See what it would do: rankscope plan {out}")


def _executor(planned: Plan) -> Executor:
    """Where the jobs of this plan run: here, or in worker processes."""
    from rankscope.edges.execute import InProcess, Workers

    resolved = planned.resolved
    if resolved.worker_count == 1:
        return InProcess(resolved.thread_count)
    return Workers(resolved.worker_count, resolved.thread_count)


@app.command()
def plan(
    study: StudyFile,
    set_: Overrides = None,
    json_: Json = False,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Time a few steps of each kind of arm first.")] = False,
) -> None:
    """Print every run with its parameters, FLOPs, memory, disk and time, and what does not fit. Trains nothing.

    \b
    Examples:
      rankscope plan study.yaml
      rankscope plan study.yaml --set seeds=[0,1,2,3,4] --json
    """
    _quiet()
    with _user_errors():
        settings = read_study(study, set_ or [])
        folder = out or Path(settings.name)
        from rankscope.edges.machine import look_at_machine
        from rankscope.edges.store import FolderStore
        from rankscope.pipeline import measure_study, plan_study

        base, machine = study.resolve().parent, look_at_machine(folder)
        planned = plan_study(settings, base, machine, folder)
        if measure:
            measured, failed = measure_study(settings, base, planned, _executor)
            for label, why in failed.items():
                typer.echo(f"{label} was not measured, its time is calculated: {why}", err=True)
            planned = plan_study(settings, base, machine, folder, measured)
        states = {run.run_id: FolderStore(folder).read_status(run.run_id) for run in planned.runs}
    if json_:
        typer.echo(planned.model_dump_json(indent=1))
        return
    from rankscope.report.terminal import console, print_plan

    print_plan(console(), planned, {run_id: s.state for run_id, s in states.items() if s is not None})


@app.command()
def run(
    study: StudyFile,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for the results; the study's name.")
    ] = None,
    set_: Overrides = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="RUN_ID", help="Do only this run; may be repeated.")
    ] = None,
) -> None:
    """Do what is missing of a study: train, score, decide, report. Run it again to resume.

    \b
    Examples:
      rankscope run study.yaml
      rankscope run study.yaml --out results --set budget.epochs=1
    """
    _run(study, out, set_ or [], only or [])


def _run(study: Path, out: Path | None, overrides: list[str], only: list[str]) -> None:
    _quiet()
    with _user_errors():
        settings = read_study(study, overrides)
        folder = out or Path(settings.name)
        _check_writable(folder)
        from rankscope.edges.execute import stop_on_signals
        from rankscope.edges.machine import look_at_machine
        from rankscope.edges.store import FolderStore
        from rankscope.pipeline import run_study
        from rankscope.report.live import Live
        from rankscope.tracking import tracking_of

        store = FolderStore(folder)
        tracking = tracking_of(settings, store, str(study))
        with stop_on_signals(), Live(store.read_status, store.read_rungs) as live:

            def progress(planned: Plan) -> None:
                live.update(planned)
                if not only:  # array jobs share the folder: the run that decides logs them all
                    tracking.update(planned)

            outcome = run_study(
                settings, study.resolve().parent, folder, machine=look_at_machine(folder), make_executor=_executor,
                only=only, progress=progress,
            )  # fmt: skip
        if not only:
            tracking.finish()
    for run_id, why in outcome.failed.items():
        typer.echo(f"{run_id} failed: {why} (its traceback: error.txt in its folder)", err=True)
    for run_id, why in outcome.left_out.items():
        typer.echo(f"{run_id} does not fit: {why}", err=True)
    again = " ".join([f"rankscope run {study} --out {folder}", *(f"--only {run_id}" for run_id in only)])
    if outcome.stopped:
        typer.echo(f"stopped; what is done is kept. To go on: {again}", err=True)
        raise typer.Exit(1)
    if not only:
        _print_verdict(folder)
    if outcome.failed:
        typer.echo(f"the other runs are done; to try again those that failed: {again}", err=True)
        raise typer.Exit(1)


@app.command()
def status(
    folder: StudyFolder,
    json_: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow until it ends.")] = False,
) -> None:
    """What is done, running, failed and left.

    \b
    Examples:
      rankscope status my-study
      rankscope status my-study --watch
    """
    with _user_errors():
        store = _open(folder)
        planned = store.read_plan()
        assert planned is not None
        from rankscope.report.live import Live
        from rankscope.report.progress import as_json, look

        if json_:
            progress = look(planned, store.read_status, store.read_rungs)
            typer.echo(json.dumps(as_json(planned, progress), indent=1))
            return
        with Live(store.read_status, store.read_rungs) as live:
            live.follow(planned) if watch else live.show_once(planned)


@app.command()
def verdict(folder: StudyFolder, json_: Json = False) -> None:
    """Print the decision and why. Exits 3 where the evidence cannot distinguish.

    \b
    Examples:
      rankscope verdict my-study
      rankscope verdict my-study --json
    """
    with _user_errors():
        store = _open(folder)
        verdicts = store.read_verdicts()
        if verdicts is None:
            expected = "a study that has ended; `rankscope status` says what is left"
            raise InputProblems([Problem(str(folder), "verdict.json", "nothing there", expected)])
    if json_:
        typer.echo(verdicts.model_dump_json(indent=1))
    else:
        _print_verdict(folder)
    if any(not decision.decided for decision in verdicts.verdicts):
        raise typer.Exit(3)


@app.command()
def report(folder: StudyFolder) -> None:
    """Rebuild tables/, verdict.json and report.html from the records, without a model.

    \b
    Example:
      rankscope report my-study
    """
    with _user_errors():
        _open(folder)
        from rankscope.results import write_results

        write_results(folder)
    _print_verdict(folder)


@app.command()
def export(
    folder: StudyFolder,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the adapter goes.")],
    arm: Annotated[str | None, typer.Option("--arm", metavar="LABEL", help="An arm; else the recommended one.")] = None,
    merged: Annotated[bool, typer.Option("--merged", help="Write the whole model with the adapter merged in.")] = False,
) -> None:
    """Write the chosen arm's median-validation seed with a model card, ready to load and to push.

    \b
    Examples:
      rankscope export my-study --out adapter
      rankscope export my-study --arm lora-r16 --merged --out model
    """
    _quiet()
    with _user_errors():
        _open(folder)
        from rankscope.export import export_arm

        done = export_arm(folder, out, arm=arm, merged=merged)
    typer.echo(f"{done} is written to {out}")


@app.command()
def defaults(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Study folders that `rankscope run` made.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write it here; else it is printed.")
    ] = None,
    json_: Json = False,
) -> None:
    """Pool studies into default ranks and learning rates with intervals, as YAML for `rankscope init --from`.

    \b
    Example:
      rankscope defaults my-study other-study --out defaults.yaml
    """
    with _user_errors():
        from rankscope.config.defaults import dump_defaults
        from rankscope.results_defaults import pool_folders

        pooled = pool_folders(folders)
        text = pooled.model_dump_json(indent=1) + "\n" if json_ else dump_defaults(pooled)
        if out is not None:
            _check_writable(out.parent)
            out.write_text(text, encoding="utf-8")
    typer.echo(text if out is None else f"{pooled.reason} {out} is written.", nl=out is not None)


@app.command()
def audit(
    adapter: AdapterFolder,
    base: Annotated[
        str | None, typer.Option("--base", metavar="MODEL", help="Its base model: adds relative norms and intruders.")
    ] = None,
    json_: Json = False,
) -> None:
    """Show how much of its rank an adapter uses, and a rank that would do.

    \b
    Examples:
      rankscope audit adapter
      rankscope audit adapter --base ./my-model --json
    """
    _quiet()
    with _user_errors():
        from rankscope.adapter_tools import audit as audit_adapter

        found = audit_adapter(adapter, base)
    if json_:
        typer.echo(json.dumps(found, indent=1))
        return
    from rankscope.report.terminal import console
    from rankscope.report.terminal_adapter import print_audit

    print_audit(console(), found)


@app.command()
def compress(
    adapter: AdapterFolder,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the smaller adapter goes.")],
    rank: Annotated[int | None, typer.Option("--rank", metavar="R", help="The same rank for every matrix.")] = None,
    energy: Annotated[
        float | None, typer.Option("--energy", metavar="E", help="For each matrix the smallest rank that holds this.")
    ] = None,
) -> None:
    """Write the same adapter at a lower rank, by truncated SVD.

    \b
    Examples:
      rankscope compress adapter --rank 8 --out smaller
      rankscope compress adapter --energy 0.95 --out smaller
    """
    _quiet()
    with _user_errors():
        from rankscope.adapter_tools import compress as compress_adapter

        _check_writable(out)
        done = compress_adapter(adapter, out, rank=rank, energy=energy)
    from rankscope.report.terminal_adapter import compressed_sentence

    sizes = done.bytes_before, done.bytes_after
    typer.echo(f"{out}: {compressed_sentence(done.ranks, done.discarded_energy, *sizes)}")
    for note in done.notes:
        typer.echo(f"Note: {note}")


@app.command()
def doctor(json_: Json = False) -> None:
    """Show what this machine can train: device, memory, dtype, the largest model, and what would help.

    \b
    Examples:
      rankscope doctor
      rankscope doctor --json
    """
    _quiet()
    from rankscope.doctor import examine

    found = examine(Path.cwd())
    if json_:
        typer.echo(json.dumps(found, indent=1))
        return
    from rankscope.report.terminal import console
    from rankscope.report.terminal_doctor import print_doctor

    print_doctor(console(), found)


@app.command()
def score(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="`bundled`, a folder or a hub id.")],
    suite: Annotated[
        list[str], typer.Option("--suite", metavar="[NAME=]FILE", help="Rows, or a task of lm-eval; may be repeated.")
    ],
    adapter: Annotated[
        list[str] | None, typer.Option("--adapter", metavar="DIR", help="An adapter of the model; may be repeated.")
    ] = None,
    kind: Annotated[
        str, typer.Option(help="recall, reasoning, or auto: reasoning where every answer is a number.")
    ] = "auto",
    choices: Annotated[
        str, typer.Option(help="Score the choices' texts, or their letters after a list: text, letters.")
    ] = "text",
    limit: Annotated[int | None, typer.Option(help="So many items of each suite, drawn at random.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="The longest answer that is written.")] = 256,
    num_fewshot: Annotated[int | None, typer.Option(help="Examples before each question of a task of lm-eval.")] = None,
    metric: Annotated[
        str | None, typer.Option(help="A task's metric, METRIC or METRIC,FILTER; else its first.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto (bfloat16 on CUDA, else float32), float32 or bfloat16.")] = "auto",
    chat: Annotated[str, typer.Option(help="auto (the tokenizer's chat template, if any) or never.")] = "auto",
    confidence: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
    json_: Json = False,
    items: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every prediction (.parquet or .jsonl).")
    ] = None,
    harness_output: Annotated[
        Path | None, typer.Option("--harness-output", metavar="DIR", help="Write lm-eval's results and samples files.")
    ] = None,
) -> None:
    """Evaluate a model and adapters that you already have: accuracies, paired differences to the base, flips.

    \b
    Example:
      rankscope score ./my-model --suite law.jsonl --adapter ./adapter
    """
    _quiet()
    with _user_errors():
        from rankscope.scoring.ask import model_spec, suite_options
        from rankscope.scoring.score import score_models
        from rankscope.scoring.summary import as_json, summarise
        from rankscope.scoring.write import check_outputs, write_items

        spec = model_spec(model, dtype=dtype, chat=chat)
        options = suite_options(
            kind=kind,
            choices=choices,
            limit=limit,
            max_new_tokens=max_new_tokens,
            num_fewshot=num_fewshot,
            metric=metric,
        )
        check_outputs(items, confidence)
        for out in (items.parent if items else None, harness_output):
            if out is not None:
                _check_writable(out)
        scored = score_models(spec, adapter or [], suite, options)
        summary = summarise(scored, confidence)
        if items is not None:
            write_items(scored, items)
        if harness_output is not None:
            from rankscope.scoring.lm_eval_files import write_lm_eval_files

            write_lm_eval_files(scored, harness_output)
    if json_:
        typer.echo(json.dumps(as_json(scored, summary), indent=1))
    else:
        from rankscope.report.terminal import console
        from rankscope.report.terminal_score import print_scores

        print_scores(console(), summary, confidence, scored.notes)
    for name, why in scored.failed.items():
        typer.echo(f"{name or 'base'} failed: {why}", err=True)
    if scored.failed:
        raise typer.Exit(1)


@app.command(
    add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)  # fmt: skip
def harness(words: typer.Context) -> None:
    """Run lm-eval's own command line with the model `rankscope` registered; `rankscope harness --help` is lm-eval's."""
    with _user_errors():
        from rankscope.scoring.lm_eval_line import run_lm_eval

        run_lm_eval(words.args)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a study file, for editors.

    \b
    Example:
      rankscope schema > study.schema.json
    """
    from rankscope.config.schema import study_schema

    typer.echo(json.dumps(study_schema(), indent=1))


def _version(value: bool) -> None:
    if value:
        typer.echo(f"rankscope {__version__}")
        raise typer.Exit


@app.callback()
def _main(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False) -> None:
    """Global options."""


def _open(folder: Path) -> Any:
    """The store of a study folder. Raises InputProblems where it is none."""
    from rankscope.edges.store import FolderStore

    if not (folder / "plan.json").is_file():
        found = "no such folder" if not folder.exists() else "no plan.json"
        raise InputProblems([Problem(str(folder), "DIR", found, "a study folder that `rankscope run` made")])
    return FolderStore(folder)


def _check_writable(folder: Path) -> None:
    """Raises InputProblems where results could not be written, before any work is done."""
    existing = folder
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise InputProblems([Problem(str(existing), "--out", "a file", "a folder, or a new name")])
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputProblems([Problem(str(existing), "--out", "a folder that cannot be written to", "a writable one")])


def _print_verdict(folder: Path) -> None:
    from rankscope.edges.store import FolderStore
    from rankscope.report.terminal import console, print_results

    verdicts = FolderStore(folder).read_verdicts()
    if verdicts is not None:
        print_results(console(), verdicts)
        typer.echo(f"\nThe report: {folder / 'report.html'}")


def main() -> None:
    """Entry point of the `rankscope` command."""
    app(prog_name="rankscope")
