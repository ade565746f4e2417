"""The command that makes an adapter or a model forget less without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rankscope.cli.command_helpers import Json, check_writable, quiet
from rankscope.cli.tool_commands import ChatWord, ChoicesWord, DtypeWord, KindWord, Limit, MaxNewTokens

NOTHING_HELPS = 3
"""The exit code where nothing helps surely."""

Adapter = Annotated[Path | None, typer.Argument(metavar="ADAPTER", help="A folder that PEFT saved a LoRA adapter to.")]
Base = Annotated[str, typer.Option("--base", metavar="MODEL", help="Its base: `bundled`, a folder or a hub id.")]
TunedModel = Annotated[
    Path | None,
    typer.Option("--model", metavar="DIR", help="In place of ADAPTER: a merged or fully fine-tuned model's folder."),
]
Task = Annotated[
    list[str], typer.Option("--task", metavar="[NAME=]FILE", help="Rows of what was learned; may be repeated.")
]
Keep = Annotated[
    list[str], typer.Option("--keep", metavar="[NAME=]FILE", help="Rows of what must not be lost; may be repeated.")
]


def repair(
    base: Base,
    task: Task,
    keep: Keep,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the repaired adapter goes.")],
    adapter: Adapter = None,
    model: TunedModel = None,
    margin: Annotated[float, typer.Option(help="What may be forgotten, as a share of right answers.")] = 0.03,
    kind: KindWord = "auto",
    choices: ChoicesWord = "text",
    limit: Limit = None,
    max_new_tokens: MaxNewTokens = 256,
    dtype: DtypeWord = "auto",
    chat: ChatWord = "auto",
    json_: Json = False,
) -> None:
    """Make an adapter forget less without training it again; exits with 3 where nothing helps surely.

    Tries dials, dials by layer, cuts of the spectrum and scaled intruders, chooses on a share of the items and judges
    on the rest. A file may be `world:NAME`, a split of the bundled world.

    \b
    Example:
      rankscope repair adapter --base ./my-model --task train-test.jsonl --keep law.jsonl --out repaired
    """
    quiet()
    from rankscope.report.repair_card import print_repair, repair_card
    from rankscope.tools.repair import Request, check_request
    from rankscope.tools.repair import repair as repair_it
    from rankscope.tools.score_request import model_spec, suite_options

    spec = model_spec(base, dtype=dtype, chat=chat)
    options = suite_options(
        kind=kind, choices=choices, limit=limit, max_new_tokens=max_new_tokens, num_fewshot=None, metric=None
    )
    request = Request(spec, tuple(task), tuple(keep), out, adapter, model, margin, options)
    check_request(request)
    check_writable(out)

    def progress(name: str, done: int, total: int) -> None:
        typer.echo(f"{done + 1} of {total}: {name}", err=True)

    found = repair_it(request, progress)
    found.write(repair_card(found.record, adapter=adapter is not None))
    if json_:
        typer.echo(json.dumps(found.record.model_dump(mode="json"), indent=1))
    else:
        from rankscope.report.terminal_tables import console

        print_repair(console(), found.record)
    if found.record.chosen is None:
        raise typer.Exit(NOTHING_HELPS)
