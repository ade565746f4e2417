"""Commands on an adapter that the user already has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rankscope.cli.command_helpers import AnswersScored, Json, check_writable, quiet
from rankscope.edges.heavy_imports import collector_rests

if TYPE_CHECKING:
    from rankscope.tools.score import Scored

AdapterFolder = Annotated[Path, typer.Argument(metavar="ADAPTER", help="A folder that PEFT saved a LoRA adapter to.")]


def audit(
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="A folder of a LoRA adapter, or a store's URL.")],
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
    quiet()
    with collector_rests():
        from rankscope.tools.adapter_audit import audit as audit_adapter

    found = audit_adapter(adapter, base)
    if json_:
        typer.echo(json.dumps(found, indent=1))
        return
    from rankscope.report.adapter_tables import print_audit
    from rankscope.report.terminal_tables import console

    print_audit(console(), found)


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
    quiet()
    with collector_rests():
        from rankscope.tools.adapter_audit import compress as compress_adapter

    check_writable(out)
    done = compress_adapter(adapter, out, rank=rank, energy=energy)
    from rankscope.report.adapter_tables import compressed_sentence

    sizes = done.bytes_before, done.bytes_after
    typer.echo(f"{out}: {compressed_sentence(done.ranks, done.discarded_energy, *sizes)}")
    for note in done.notes:
        typer.echo(f"Note: {note}")


def doctor(json_: Json = False) -> None:
    """Show what this machine can train: device, memory, dtype, the largest model, and what would help.

    \b
    Examples:
      rankscope doctor
      rankscope doctor --json
    """
    quiet()
    with collector_rests():
        from rankscope.tools.doctor import examine

    found = examine(Path.cwd())
    if json_:
        typer.echo(json.dumps(found, indent=1))
        return
    from rankscope.report.terminal_tables import console, print_doctor

    print_doctor(console(), found)


Suites = Annotated[
    list[str], typer.Option("--suite", metavar="[NAME=]FILE", help="Rows, or a task of lm-eval; may be repeated.")
]
Adapters = Annotated[
    list[str] | None, typer.Option("--adapter", metavar="DIR", help="An adapter of the model; may be repeated.")
]
KindWord = Annotated[str, typer.Option(help="recall, reasoning, or auto: reasoning where every answer is a number.")]
ChoicesWord = Annotated[
    str, typer.Option(help="Score the choices' texts, or their letters after a list: text, letters.")
]
Limit = Annotated[int | None, typer.Option(help="So many items of each suite, drawn at random.")]
MaxNewTokens = Annotated[int, typer.Option(help="The longest answer that is written.")]
NumFewshot = Annotated[int | None, typer.Option(help="Examples before each question of a task of lm-eval.")]
Metric = Annotated[str | None, typer.Option(help="A task's metric, METRIC or METRIC,FILTER; else its first.")]
DtypeWord = Annotated[str, typer.Option(help="auto (bfloat16 on CUDA, else float32), float32 or bfloat16.")]
ChatWord = Annotated[str, typer.Option(help="auto (the tokenizer's chat template, if any) or never.")]
ItemsFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Write every prediction (.parquet or .jsonl).")]
HarnessOutput = Annotated[
    Path | None, typer.Option("--harness-output", metavar="DIR", help="Write lm-eval's results and samples files.")
]


def score(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="`bundled`, a folder or a hub id.")],
    suite: Suites,
    adapter: Adapters = None,
    kind: KindWord = "auto",
    choices: ChoicesWord = "text",
    limit: Limit = None,
    max_new_tokens: MaxNewTokens = 256,
    num_fewshot: NumFewshot = None,
    metric: Metric = None,
    dtype: DtypeWord = "auto",
    chat: ChatWord = "auto",
    confidence: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
    json_: Json = False,
    items: ItemsFile = None,
    harness_output: HarnessOutput = None,
) -> None:
    """Evaluate a model and adapters that you already have: accuracies, paired differences to the base, flips.

    \b
    Example:
      rankscope score ./my-model --suite law.jsonl --adapter ./adapter
    """
    quiet()
    with collector_rests():
        from rankscope.tools.score import as_json, score_models, summarise
        from rankscope.tools.score_request import check_outputs, model_spec, suite_options

    spec = model_spec(model, dtype=dtype, chat=chat)
    options = suite_options(
        kind=kind, choices=choices, limit=limit, max_new_tokens=max_new_tokens, num_fewshot=num_fewshot,
        metric=metric,
    )  # fmt: skip
    check_outputs(items, confidence)
    for out in (items.parent if items else None, harness_output):
        if out is not None:
            check_writable(out)
    scored = score_models(spec, adapter or [], suite, options, AnswersScored())
    summary = summarise(scored, confidence)
    _write(scored, items, harness_output)
    if json_:
        typer.echo(json.dumps(as_json(scored, summary), indent=1))
    else:
        from rankscope.report.score_table import print_scores
        from rankscope.report.terminal_tables import console

        print_scores(console(), summary, confidence, scored.notes)
    _tell_failures(scored)


def _write(scored: Scored, items: Path | None, harness_output: Path | None) -> None:
    from rankscope.tools.score import write_items

    if items is not None:
        write_items(scored, items)
    if harness_output is not None:
        scored.write_lm_eval_files(harness_output)


def _tell_failures(scored: Scored) -> None:
    for name, why in scored.failed.items():
        typer.echo(f"{name or 'base'} failed: {why}", err=True)
    if scored.failed:
        raise typer.Exit(1)


def harness(words: typer.Context) -> None:
    """Run lm-eval's own command line with the model `rankscope` registered; `rankscope harness --help` is lm-eval's."""
    from rankscope.tools.score import run_lm_eval

    run_lm_eval(words.args)
