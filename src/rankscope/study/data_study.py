"""Writes a first study about one file of rows: what is trained, what is held out and asked, and how large it is."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any, Protocol

from rankscope.study.source_settings import HELD_OUT_SHARE
from rankscope.study.study_settings import Kind
from rankscope.study.yaml_text import dump_yaml

_MOST_READY_ITEMS = 300
KIND_TODO = (
    "# TODO kind: recall (what was learned by heart) or reasoning (what is worked out)? Nobody said, so none stands\n"
    "# here, and the report says that it is not known."
)
"""Stands above suites of which nobody said the kind."""
_WORKED_OUT = (
    " Most answers are numbers or worked out: `kind: reasoning`, here and on the training set,\n"
    "# trains a solution whole and asks for the number that follows its ####."
)
LEAST_ROWS = 15
"""Of which a tenth, rounded, is two: the least that a held-out suite asks."""


@dataclass(frozen=True)
class FirstLook:
    """What the rows of a file are. `columns`: proposed, where rows have other names for our fields, and
    then `unread`: the columns that are no part of them; `shape`: in words; `judged_by_loss`: no exact match would grade
    whole answers; `loss_as_reasoning`: nor what follows a solution's ####; `reasoning`: most answers are worked out, or
    numbers; `chance`: the accuracy of guessing, None where whole answers are judged by loss."""

    row_count: int
    columns: dict[str, str] | None
    unread: tuple[str, ...]
    shape: str
    judged_by_loss: bool
    loss_as_reasoning: bool
    reasoning: bool
    chance: float | None

    def by_loss(self, kind: Kind | None) -> bool:
        """Whether suites of these rows are judged by the loss of their answers, asked as this kind."""
        return self.loss_as_reasoning if kind == "reasoning" else self.judged_by_loss


class Size(Protocol):
    """How much the study does; see plan/study_sizes.py."""

    @property
    def ranks(self) -> tuple[int, ...]: ...
    @property
    def full(self) -> bool: ...
    @property
    def rows(self) -> int: ...
    @property
    def items(self) -> int: ...
    @property
    def epochs(self) -> float: ...
    @property
    def dials(self) -> tuple[float, ...] | None: ...
    @property
    def seeds(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class DataFlags:
    """What the user says of it. `path` and `keep` (name to path) are as the study names them; `kind` None: not said."""

    path: str
    name: str
    model: str
    domain: str
    kind: Kind | None
    keep: dict[str, str]
    no_general: str | None = None
    """Why no ready suite can be had here; None where some can, or where none is needed."""


_KNOWN_WORLDS = ("general/known", "legal/known", "medical/known", "medical/taught")
"""Of the bundled model what it was made on; the last two only stand in for ready suites where a study is sized."""


def data_study(look: FirstLook, flags: DataFlags, size: Size, why_this_size: str, *, stand_in: bool = False) -> str:
    """The text of the study file. Of a kind that the user did not say there is a TODO, and no more.

    `stand_in`: in place of ready suites, which would be fetched, as many of the bundled world, to estimate its time.
    """
    train: dict[str, Any] = {"path": flags.path, "domain": flags.domain}
    if look.columns:
        train["columns"] = look.columns
    if look.row_count > size.rows:
        train["limit"] = size.rows
    asked: dict[str, Any] = {"held_out": flags.domain, "share": HELD_OUT_SHARE, "limit": size.items}
    if flags.kind is not None:
        train["kind"] = asked["kind"] = flags.kind
    if look.by_loss(flags.kind):
        asked["metric"] = "loss"
    taken = {f"{flags.domain}-held-out", "general", *(name.replace("/", "-") for name in _KNOWN_WORLDS)}
    kept: dict[str, Any] = {
        f"{name}-kept" if name in taken else name: {"path": path, "limit": size.items}
        for name, path in flags.keep.items()
    }
    lines = [
        f"# A first study of {flags.path}: {look.row_count:,} rows, {look.shape}.",
        f"# {why_this_size}",
        "# What it would do: rankscope plan FILE. Do it: rankscope run FILE.",
        "",
        dump_yaml({"name": flags.name}).rstrip(),
        dump_yaml({"model": flags.model}).rstrip(),
        "",
        *(_proposed(look) if look.columns else []),
        "train:",
        _indented({flags.domain: train}),
        "",
        f"# {_judged(look, flags.kind)}",
        *([] if flags.kind is not None else [KIND_TODO + (_WORKED_OUT if look.reasoning else "")]),
        "suites:",
        _indented({f"{flags.domain}-held-out": asked}),
        *(["  # TODO kind of these too: recall or reasoning?", _indented(kept)] if kept else []),
        *_general(flags, size, stand_in=stand_in),
        "",
        *_arms(size),
        "",
        "# One seed describes; three or more can decide.",
        dump_yaml({"seeds": list(size.seeds)}).rstrip(),
        dump_yaml({"budget": {"epochs": size.epochs}}).rstrip(),
    ]
    if size.dials is not None:
        lines.append(dump_yaml({"dial": list(size.dials)}).rstrip())
    return "\n".join(lines) + "\n"


def _general(flags: DataFlags, size: Size, *, stand_in: bool) -> list[str]:
    """What must not be forgotten: ready suites, of the bundled model the world that it was made on."""
    limit = min(size.items, _MOST_READY_ITEMS)
    if flags.model == "bundled" or stand_in:
        names = _KNOWN_WORLDS if stand_in else _KNOWN_WORLDS[:2]
        entry = {"kind": "recall", "limit": limit}
        worlds = {name.replace("/", "-"): {"world": f"{name}/test", **entry} for name in names}
        return ["  # What the bundled model was made on. For a model of yours: `general: auto`.", _indented(worlds)]
    ready = _indented({"general": {"auto": "ready", "limit": limit}})
    told = "Ready suites: what is forgotten of them counts. Questions of your own say more (--keep)."
    return [*([f"  # {told}"] if flags.no_general is None else []), *general_lines(ready, flags.no_general)]


def general_lines(entry: str, why_not: str | None) -> list[str]:
    """The line of ready suites; as a comment, with the reason, where none of them can be had on this machine."""
    if why_not is None:
        return [entry]
    plain = " ".join("".join(c if c.isprintable() else " " for c in why_not).split())
    told = f"No ready suite can be reached from this machine ({plain}): with a network, take away the # below."
    return [
        textwrap.fill(told, 116, initial_indent="  # ", subsequent_indent="  # ", break_long_words=False),
        textwrap.indent(textwrap.dedent(entry), "  # "),
    ]


def _proposed(look: FirstLook) -> list[str]:
    unread = f" Not read: {', '.join(look.unread)}." if look.unread else ""
    return [f"# TODO columns: these were told from their names and what they hold. Is every one right?{unread}"]


def _judged(look: FirstLook, kind: Kind | None) -> str:
    """How held-out rows are scored, and what guessing gives."""
    if look.by_loss(kind):
        return "Held-out rows are judged by the loss of their answers, which have no one right wording."
    if look.chance:
        return f"Held-out rows are questions with choices: guessing is right in {look.chance:.0%}."
    return "Held-out rows are asked and compared by exact match: guessing is never right."


def _arms(size: Size) -> list[str]:
    lora = {"ranks": list(size.ranks), "alpha": "2r", "targets": "all-linear", "learning_rate": "auto"}
    full = (
        "  full: {learning_rate: auto}" if size.full else "  # full: {learning_rate: auto}    # left out for its time"
    )
    return ["arms:", full, _indented({"lora": lora})]


def _indented(entries: dict[str, Any]) -> str:
    return textwrap.indent(dump_yaml(entries), "  ").rstrip("\n")
