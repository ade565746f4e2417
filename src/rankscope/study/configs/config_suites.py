"""The suites of a study that a config becomes: a share of each training set, its test sets, and what is kept."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankscope.study.configs.config_places import set_names
from rankscope.study.configs.config_record import DataSet, TrainingConfig
from rankscope.study.data_study import KIND_TODO, general_lines
from rankscope.study.source_settings import HELD_OUT_SHARE
from rankscope.study.study_settings import Kind
from rankscope.study.yaml_text import dump_yaml

_HEAD = """\
# A suite of a training set's domain measures the gain, every other one what is forgotten. `held_out` is a
# share of the training rows that is asked and never trained on; `general: auto` are small ready suites.
# Better: questions of your own on what it must not forget, such as {path: law.jsonl}."""


@dataclass(frozen=True)
class RowsTold:
    """What a look at a file of rows tells; None: nothing. `judged_by_loss`: no exact match would grade them; `columns`:
    the names that any row has."""

    count: int | None
    judged_by_loss: bool | None
    columns: frozenset[str] | None = None


@dataclass(frozen=True)
class KnownBeside:
    """What is known beside the config. `look`: at a file of rows; `kind`: as the user says, None where he did not;
    `no_general`: why no ready suite can be had on this machine, None where some can."""

    look: Callable[[Path], RowsTold]
    kind: Kind | None = None
    no_general: str | None = None


@dataclass(frozen=True)
class SuiteData:
    """The data sets of a study at `out` as its entries: training sets with their names, test sets, those to keep."""

    names: Sequence[str]
    config: TrainingConfig
    train: Sequence[dict[str, Any]]
    test: Sequence[dict[str, Any]]
    keep: Sequence[dict[str, Any]]
    out: Path


def suite_lines(data: SuiteData, known: KnownBeside) -> str:
    """A held-out share of every training set, the config's own test sets, and general ones."""
    kind = {} if known.kind is None else {"kind": known.kind}
    names, config = data.names, data.config
    lines = [_HEAD, *([KIND_TODO] if known.kind is None else []), "suites:"]
    for name, one, source in zip(names, config.train, data.train, strict=True):
        entry: dict[str, Any] = {"held_out": name, "share": HELD_OUT_SHARE, **kind}
        lines.append(_entry(f"{name}-held-out", entry, by_loss=_by_loss(one, source, data.out, known) or False))
    for one, source, name in zip(config.test, data.test, set_names(config.test), strict=True):
        domain = next((n for n, own in zip(names, config.train, strict=True) if own.where == one.where), names[0])
        by_loss = _by_loss(one, source, data.out, known)
        lines.append(_entry(f"{name}-test", {**source, "domain": domain, **kind}, by_loss=by_loss is not False))
    for one, source, name in zip(config.keep, data.keep, set_names(config.keep), strict=True):
        by_loss = _by_loss(one, source, data.out, known)
        lines.append(_entry(f"{name}-kept", {**source}, by_loss=by_loss or False))
    return "\n".join([*lines, *general_lines("  general: auto", known.no_general)])


def _by_loss(data: DataSet, source: dict[str, Any], out: Path, known: KnownBeside) -> bool | None:
    """Whether rows are judged by the loss of their answers: as the config's formats say, else as a file's rows show;
    None where neither tells. Then a held-out suite is told when it is planned."""
    if data.judged_by_loss is not None:
        return data.judged_by_loss
    if data.columns is not None and "text" in data.columns:
        return True
    return known.look(out.parent / source["path"]).judged_by_loss if "path" in source else None


def _entry(name: str, entry: dict[str, Any], *, by_loss: bool) -> str:
    made = {**entry, "metric": "loss"} if by_loss else entry
    return textwrap.indent(dump_yaml({name: made}), "  ").rstrip("\n")
