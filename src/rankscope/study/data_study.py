"""Writes a first study about one file of rows: what is trained, what is held out and asked, and how large it is."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any, Protocol

from rankscope.study.source_settings import HELD_OUT_SHARE
from rankscope.study.study_settings import Kind
from rankscope.study.yaml_text import dump_yaml

_MOST_READY_ITEMS = 300
_TODO = "# TODO kind: recall (learned by heart) or reasoning (worked out)? {why} `{kind}` stands until you say."


@dataclass(frozen=True)
class FirstLook:
    """What the rows of a file are. `columns`: proposed, where rows have other names for our fields, and
    then `unread`: the columns that are no part of them; `shape`: in words; `judged_by_loss`: no exact match would grade
    them; `reasoning`: most answers are worked out, or numbers; `chance`: the accuracy of guessing, None where items are
    judged by loss."""

    row_count: int
    columns: dict[str, str] | None
    unread: tuple[str, ...]
    shape: str
    judged_by_loss: bool
    reasoning: bool
    chance: float | None


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


def data_study(look: FirstLook, flags: DataFlags, size: Size, why_this_size: str, *, stand_in: bool = False) -> str:
    """The text of the study file. A kind that the user did not say stands under a TODO, never without.

    `stand_in`: in place of ready suites, which would be fetched, as many of the bundled world, to estimate its time.
    """
    train: dict[str, Any] = {"path": flags.path, "domain": flags.domain}
    if look.columns:
        train["columns"] = look.columns
    if look.row_count > size.rows:
        train["limit"] = size.rows
    kind = flags.kind or ("reasoning" if look.reasoning else "recall")
    if kind == "reasoning":
        train["kind"] = kind
    asked: dict[str, Any] = {"held_out": flags.domain, "share": HELD_OUT_SHARE, "limit": size.items, "kind": kind}
    if look.judged_by_loss:
        asked["metric"] = "loss"
    kept: dict[str, Any] = {
        name: {"path": path, "kind": "recall", "limit": size.items} for name, path in flags.keep.items()
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
        f"# {_judged(look)}",
        *([] if flags.kind is not None else [_TODO.format(why=_why(look), kind=kind)]),
        "suites:",
        _indented({f"{flags.domain}-held-out": asked}),
        *(
            []
            if not kept
            else ["  # TODO kind of these: recall or reasoning? `recall` stands until you say.", _indented(kept)]
        ),
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
        names = ("general/known", "legal/known", *(("medical/known", "medical/taught") if stand_in else ()))
        entry = {"kind": "recall", "limit": limit}
        worlds = {name.replace("/", "-"): {"world": f"{name}/test", **entry} for name in names}
        return ["  # What the bundled model was made on. For a model of yours: `general: auto`.", _indented(worlds)]
    auto = _indented({"general": {"auto": "ready", "limit": limit}})
    return ["  # Ready suites: what is forgotten of them counts. Questions of your own say more (--keep).", auto]


def _proposed(look: FirstLook) -> list[str]:
    unread = f" Not read: {', '.join(look.unread)}." if look.unread else ""
    return [f"# TODO columns: these were told from their names. Is every one right?{unread}"]


def _judged(look: FirstLook) -> str:
    """How held-out rows are scored, and what guessing gives."""
    if look.judged_by_loss:
        return "Held-out rows are judged by the loss of their answers, which have no one right wording."
    if look.chance:
        return f"Held-out rows are questions with choices: guessing is right in {look.chance:.0%}."
    return "Held-out rows are asked and compared by exact match: guessing is never right."


def _why(look: FirstLook) -> str:
    return "Most answers are numbers or worked out:" if look.reasoning else "Nothing in the rows says:"


def _arms(size: Size) -> list[str]:
    lora = {"ranks": list(size.ranks), "alpha": "2r", "targets": "all-linear", "learning_rate": "auto"}
    full = (
        "  full: {learning_rate: auto}" if size.full else "  # full: {learning_rate: auto}    # left out for its time"
    )
    return ["arms:", full, _indented({"lora": lora})]


def _indented(entries: dict[str, Any]) -> str:
    return textwrap.indent(dump_yaml(entries), "  ").rstrip("\n")
