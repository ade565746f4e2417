"""Writes the study that a config of another tool becomes: its data and settings, and ranks around the one it has."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rankscope.study.configs.config_places import model_entry, set_names, source_of
from rankscope.study.configs.config_record import Adapter, DataSet, TrainingConfig
from rankscope.study.configs.config_steps import rows_to_draw, validation_of, warmup_share
from rankscope.study.configs.config_suites import KnownBeside, SuiteData, suite_lines
from rankscope.study.configs.config_training import training_lines
from rankscope.study.problems import InputProblems, Problem, show
from rankscope.study.study_settings import is_name
from rankscope.study.yaml_text import dump_yaml

_RANKS_WITHOUT = (4, 16, 64)
_READ_WHERE_THERE = ("context", "input", "system", "rationale")
"""Fields without which a row is whole."""
_NEIGHBOUR = 4
"""Ranks beside theirs are so many times smaller and larger: the difference between neighbours is rarely seen."""


@dataclass(frozen=True)
class ConfigStudy:
    """The text of a study file, and a line for each thing that it could not carry over."""

    text: str
    not_carried: list[str]


def config_study(
    config: TrainingConfig, file: str, out: Path, name: str, folders: Sequence[Path], known: KnownBeside
) -> ConfigStudy:
    """The study at `out` of the config `file`; its relative paths are looked for from `folders`. `known`: what is known
    beside the config.

    Raises InputProblems where there is no training data, or a file or folder that it names is not there.
    """
    problems: list[Problem] = []
    model = model_entry(config.model, folders, out, file)
    if isinstance(model, Problem):
        problems.append(model)
    if not config.train:
        found = f"no training data ({config.no_data or 'none named'})"
        problems.append(Problem(file, "data", found, "--train with a file of rows"))
    names = set_names(config.train)
    notes = list(config.not_carried)
    config = _of_whole_splits(config, notes)
    train = _sources(config.train, folders, out, file, problems)
    test = _sources(config.test, folders, out, file, problems)
    keep = _sources(config.keep, folders, out, file, problems)
    if problems or isinstance(model, Problem):
        raise InputProblems(problems)
    for one, source in zip((*config.train, *config.test, *config.keep), (*train, *test, *keep), strict=True):
        _leave_out_absent(one, source, out, known, notes)
    if len(names) > 1:
        notes.append(
            f"{len(names)} data sets are mixed into one training by {config.tool}; here each is a training set with a "
            "verdict of its own. To study the mix, put their rows into one file"
        )
    rows = _rows_of(train, out, known)
    config = _of_cut_epochs(config, rows)
    if config.max_steps is not None and rows is None and len(train) == 1:
        config = _of_drawn_rows(config, train[0], notes)
    settings, told = training_lines(config, rows)
    kind = {} if known.kind is None else {"kind": known.kind}
    notes += told
    sections = [
        f"# From {config.tool}'s config {Path(file).name}, by rankscope init --from (docs/from-your-config.md).\n"
        "# What it would do: rankscope plan FILE. What could not be carried over is listed at the end.",
        dump_yaml({"name": name}).rstrip(),
        dump_yaml({"model": model if len(model) > 1 else model["id"]}).rstrip(),
        "train:\n" + _indented({name: {**one, "domain": name, **kind} for name, one in zip(names, train, strict=True)}),
        suite_lines(SuiteData(names, config, train, test, keep, out), known),
        _arms(config.adapter, config),
        *settings,
    ]
    if notes:
        sections.append("# Not carried over, or said in another way:\n" + "\n".join(_comment(note) for note in notes))
    return ConfigStudy("\n\n".join(sections) + "\n", notes)


def _sources(
    data: Sequence[DataSet], folders: Sequence[Path], out: Path, file: str, problems: list[Problem]
) -> list[dict[str, Any]]:
    made = [source_of(one, folders, out, file) for one in data]
    problems += [one for one in made if isinstance(one, Problem)]
    return [one for one in made if not isinstance(one, Problem)]


def _leave_out_absent(data: DataSet, source: dict[str, Any], out: Path, known: KnownBeside, notes: list[str]) -> None:
    """Without columns that a format reads where a row has them, and that no row of a file has."""
    columns = source.get("columns") or {}
    names = known.look(out.parent / source["path"]).columns if columns and "path" in source else None
    absent = [] if names is None else [one for one in _READ_WHERE_THERE if columns.get(one) not in (None, *names)]
    if absent:
        source["columns"] = {field: column for field, column in columns.items() if field not in absent}
        said = ", ".join(str(columns[one]) for one in absent)
        notes.append(f"{data.place}: no row has {said}: every prompt is the one without")


def _rows_of(train: list[dict[str, Any]], out: Path, known: KnownBeside) -> int | None:
    """Rows of the one training set where it is a file that can be counted; of several, each has its own number."""
    if len(train) != 1 or "path" not in train[0]:
        return None
    count = known.look(out.parent / train[0]["path"]).count
    return count if count is None or "limit" not in train[0] else min(count, train[0]["limit"])


def _of_whole_splits(config: TrainingConfig, notes: list[str]) -> TrainingConfig:
    """Without slices of splits, which a study reads whole."""

    def whole(data: DataSet) -> DataSet:
        split, cut, _ = (data.split or "").partition("[")
        if cut:
            notes.append(f"{data.place}: split {data.split}: the whole split is read (`limit` draws rows at random)")
        return replace(data, split=split) if cut else data

    return replace(config, train=tuple(map(whole, config.train)), test=tuple(map(whole, config.test)))


def _of_cut_epochs(config: TrainingConfig, rows: int | None) -> TrainingConfig:
    """A number of steps that ends each epoch, as a number of steps in all; none where no epoch is as long."""
    most = config.max_steps_per_epoch
    if most is None:
        return config
    batch, epochs = config.batch_size or 1, config.epochs or 1
    whole = None if rows is None else (rows - round((config.validation_share or 0) * rows)) // batch
    steps = None if whole is not None and whole <= most else round(most * epochs)
    return replace(config, max_steps=steps, max_steps_per_epoch=None)


def _of_drawn_rows(config: TrainingConfig, source: dict[str, Any], notes: list[str]) -> TrainingConfig:
    """Of a number of steps on a data set of unknown size: one pass over as many rows, drawn at random."""
    seen = (config.max_steps or 0) * (config.batch_size or 1)
    source["limit"] = min(source.get("limit", 10**9), rows_to_draw(seen, validation_of(config)))
    notes.append(
        f"max_steps: {config.max_steps}: {seen} rows are seen there: here one pass over as many, drawn at random "
        f"(limit: {source['limit']}, of which a part is held out); less where the data set is smaller"
    )
    steps, warmup = config.max_steps or 1, config.warmup_steps
    fraction = warmup_share(warmup, steps) if warmup and warmup < steps else config.warmup_fraction
    return replace(config, epochs=1, max_steps=None, warmup_steps=None, warmup_fraction=fraction)


def _arms(adapter: Adapter, config: TrainingConfig) -> str:
    """Their arm with its neighbours, and full fine-tuning where the base is not quantised."""
    rate = f", rate {config.learning_rate:g}" if config.learning_rate else ""
    lines = [f"# Yours: {_described(adapter)}{rate}. A rate is found for each arm, or luck with rates would decide;"]
    lines.append("# with a number in place of auto that rate is taken, and only the dial is chosen.\narms:")
    if config.model.quantization is None:
        lines.append("  full: {learning_rate: auto}")
    else:
        lines.append("  # full: {learning_rate: auto}    # not on a base in 4 bits; without `quantization` it can run")
    if adapter.method == "last-k-layers":
        lines.append(f"  last-k-layers: {{layers: [{adapter.layers}], learning_rate: auto}}")
    elif adapter.method in ("prompt-tuning", "prefix-tuning"):
        lines.append(f"  {adapter.method}: {{virtual_tokens: [{adapter.rank}], learning_rate: auto}}")
    elif adapter.method in ("ia3", "ln-tuning"):
        lines.append(f"  {adapter.method}: {{learning_rate: auto}}")
    lines.append(_indented({_label(adapter): _low_rank(adapter)}))
    return "\n".join(lines)


def _label(adapter: Adapter) -> str:
    return adapter.method if adapter.method in ("lora", "dora", "rslora", "pissa") else "lora"


def _low_rank(adapter: Adapter) -> dict[str, Any]:
    """Ranks around theirs at their scale alpha/r; for another method LoRA at usual ranks."""
    if _label(adapter) != adapter.method or adapter.rank is None:
        return {"ranks": list(_RANKS_WITHOUT), "alpha": "2r", "targets": "all-linear", "learning_rate": "auto"}
    rank = adapter.rank
    ranks = sorted({max(1, rank // _NEIGHBOUR), rank, rank * _NEIGHBOUR})
    alpha: Any = f"{(adapter.alpha or 2 * rank) / rank:.6f}".rstrip("0").rstrip(".") + "r"
    if adapter.method == "rslora":  # one alpha serves every rank
        alpha = adapter.alpha or 16.0
    entry: dict[str, Any] = {"ranks": ranks, "alpha": "r" if alpha == "1r" else alpha}
    entry["targets"] = list(adapter.targets) if adapter.targets else "all-linear"
    if adapter.dropout:
        entry["dropout"] = adapter.dropout
    return entry | {"learning_rate": "auto"}


def _described(adapter: Adapter) -> str:
    if adapter.method in ("lora", "dora", "rslora", "pissa"):
        return f"{adapter.method} r={adapter.rank} alpha={adapter.alpha:g}"
    return {"full": "full fine-tuning", "last-k-layers": f"the last {adapter.layers} blocks"}.get(
        adapter.method, adapter.method
    )


def _indented(entries: dict[str, Any]) -> str:
    return textwrap.indent(dump_yaml(entries), "  ").rstrip("\n")


def _comment(note: str) -> str:
    plain = " ".join("".join(c if c.isprintable() else " " for c in note).split())
    return textwrap.fill(plain, 116, initial_indent="#   ", subsequent_indent="#     ", break_long_words=False)


def check_study_name(name: str) -> Problem | None:
    """What is wrong with the name that a study is to have."""
    return (
        None if is_name(name) else Problem("init", "--name", show(name), "a name of letters, digits, `.`, `_` or `-`")
    )
