"""The data sets of a torchtune config: the builders of torchtune/datasets, and which columns they read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

from rankscope.study.configs.config_keys import ConfigKeys
from rankscope.study.configs.config_record import ALPACA, ALPACA_COLUMNS, DataSet

_SLICE = re.compile(r"^(\w+)\[(\d*)(%?):(\d*)(%?)\]$")
_FILE_KINDS = ("json", "csv", "parquet", "text")


class Data(NamedTuple):
    """What a config trains and validates on. `validation_share`: where both are slices of one split."""

    train: tuple[DataSet, ...]
    test: tuple[DataSet, ...]
    validation_share: float | None
    why_none: str | None


class _Builder(NamedTuple):
    """What a builder reads. `source`: its data set, None where the config names it; `fields`: of its `column_map`, by
    our names."""

    columns: dict[str, str]
    source: str | None = None
    template: str | None = None
    fields: Mapping[str, str] = MappingProxyType({})
    trains_prompt: bool = False


_BUILDERS = {
    "alpaca_dataset": _Builder(
        ALPACA_COLUMNS, "tatsu-lab/alpaca", ALPACA, ALPACA_COLUMNS, trains_prompt=True
    ),
    "alpaca_cleaned_dataset": _Builder(
        ALPACA_COLUMNS, "yahma/alpaca-cleaned", ALPACA, ALPACA_COLUMNS, trains_prompt=True
    ),
    "instruct_dataset": _Builder(
        {"prompt": "input", "completion": "output"}, fields={"prompt": "input", "completion": "output"}
    ),
    "samsum_dataset": _Builder(
        {"prompt": "dialogue", "completion": "summary"}, "Samsung/samsum",
        fields={"prompt": "dialogue", "completion": "summary"},
    ),
    "grammar_dataset": _Builder(
        {"prompt": "input", "completion": "output"}, "liweili/c4_200m",
        fields={"prompt": "input", "completion": "output"},
    ),
    "slimorca_dataset": _Builder({"conversations": "conversations"}, "Open-Orca/SlimOrca-Dedup"),
    "chat_dataset": _Builder({"messages": "messages"}),
    "text_completion_dataset": _Builder({"text": "text"}),
    "wikitext_dataset": _Builder({"text": "page"}, "EleutherAI/wikitext_document_level"),
    "cnn_dailymail_articles_dataset": _Builder({"text": "article"}, "ccdv/cnn_dailymail"),
}  # fmt: skip


def read_data(keys: ConfigKeys) -> Data:
    """Training sets, test sets, and the share that is validated on."""
    found = [_data_set(one) for one in keys.sections("dataset")]
    for one in keys.sections("datasets"):
        one.take("transform")
        one.note(f"{one.name('transform')}: rows are read by docs/data.md's shapes")
        found.append(DataSet(one.text("source") or "", one.name("source"), config=one.text("subset"),
                             split=one.text("split") or "train", judged_by_loss=None))  # fmt: skip
        if (weight := one.number("weight")) not in (None, 1.0):
            one.note(f"{one.name('weight')}: {weight:g}: all rows are trained on (`limit` draws some)")
    keys.take("dataloader")
    test = [_data_set(one) for one in keys.sections("dataset_val")]
    train, test, share = _unsliced(found, test)
    return Data(tuple(train), tuple(test), share, None if train else "no `dataset`")


def _unsliced(train: list[DataSet], test: list[DataSet]) -> tuple[list[DataSet], list[DataSet], float | None]:
    """Where a set and its validation are slices of one split: the whole split, and the share of the second."""
    share = None
    for data in train:
        other = next((one for one in test if one.where == data.where and _plain(one.split) == _plain(data.split)), None)
        if other is not None and (part := _sliced_share(other.split)) is not None:
            share = part
            test = [one for one in test if one is not other]
            train = [replace(one, split=_plain(one.split)) if one is data else one for one in train]
    return train, test, share


def _plain(split: str | None) -> str | None:
    match = _SLICE.match(split or "")
    return match[1] if match else split


def _sliced_share(split: str | None) -> float | None:
    """Of `train[95%:]` 0.05; None where it is no slice in percent."""
    match = _SLICE.match(split or "")
    if match is None or "%" not in (match[3], match[5]):
        return None
    start, end = int(match[2] or 0), int(match[4] or 100)
    return (end - start) / 100 if 0 < end - start < 100 else None


def _data_set(one: ConfigKeys) -> DataSet:
    name = (one.text("_component_") or "").rsplit(".", 1)[-1]
    builder = _BUILDERS.get(name)
    if builder is None:
        one.note(f"{one.name('_component_')}: {name}: a builder that is not known; rows are read by their shape")
        builder = _Builder({})
    where, files = one.text("source") or builder.source or "", one.names("data_files")
    if where in _FILE_KINDS and files:
        where = files[0]
    if not where:
        one.wrong("source", "a data set")
    if one.flag("train_on_input", default=builder.trains_prompt):
        one.note(f"{one.name('train_on_input')}: true: a study trains completions and assistant's turns alone")
    if one.flag("packed"):
        one.note(f"{one.name('packed')}: true: rows are not packed here; a batch of yours holds more rows")
    one.lose(
        {
            "filter_fn": "all rows are read", "new_system_prompt": "`model.system_prompt` stands before conversations",
            "split_across_pack": "a text that is too long is left out", "add_eos": "a row ends with EOS",
            "data_dir": "the data set is read as a whole", "max_seq_len": "`budget.max_sequence_tokens` is of all rows",
        }
    )  # fmt: skip
    columns = _columns(one, builder)
    return DataSet(
        where, one.name("source"), config=one.text("name", "subset"), split=one.text("split") or "train",
        columns=columns or None, template=builder.template,
    )  # fmt: skip


def _columns(one: ConfigKeys, builder: _Builder) -> dict[str, str]:
    theirs = one.section("column_map")
    columns = {
        field: theirs.text(builder.fields.get(field, field)) or column for field, column in builder.columns.items()
    }
    column, text, style = one.text("conversation_column"), one.text("column"), one.text("conversation_style")
    if "messages" in columns and style == "sharegpt":
        return {"conversations": column or "conversations"}
    if "messages" in columns:
        return {"messages": column or "messages"}
    return {"text": text} if "text" in columns and text else columns
