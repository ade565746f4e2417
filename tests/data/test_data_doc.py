"""The tables of docs/data.md, every cell of them, from a row in a source to its tokens."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
import yaml
from encoded_rows import encoded_suite, load_rows
from tokenizers_small import make_tokenizer

from rankscope.data.encoder import Encoder
from rankscope.data.sources import RowReader
from rankscope.records import Example, Row
from rankscope.study.study import SuiteSource, TrainSource

DOC = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def table(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading of the document, without its first two lines."""
    lines = DOC.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")][2:]


def code(cell: str) -> str:
    return cell.strip("`").replace("⏎", "\n")


ROWS = table("Rows")
SOURCES = table("Sources")
RECORDS = [json.loads(cells[0].strip("`")) for cells in ROWS]
NAMES = [f"{i}-{next(iter(record))}" for i, record in enumerate(RECORDS)]

LOSS: dict[str, Callable[[Row], list[str]]] = {
    "the right choice": lambda row: [(row.choices or ())[row.answer_index or 0]],
    "the answer": lambda row: [row.answer or ""],
    "solution and answer": lambda row: [f"{row.rationale}\n#### {row.answer}"],
    "the completion": lambda row: [row.completion or ""],
    "every assistant's turn": lambda row: [turn.content for turn in row.messages or () if turn.role == "assistant"],
    "all of it": lambda row: [row.text or ""],
}
"""What the words of the column `train` mean."""


def marked(encoder: Encoder, example: Example) -> str:
    """The text of an example with « and » around what has loss."""
    ids = example.prompt_ids + example.completion_ids
    mask = example.loss_mask or (False,) * len(example.prompt_ids) + (True,) * len(example.completion_ids)
    text = ""
    for i, token in enumerate(ids):
        before, after = i > 0 and mask[i - 1], i + 1 < len(ids) and mask[i + 1]
        shown = encoder.tokenizer.decode([token], skip_special_tokens=False)
        text += ("«" if mask[i] and not before else "") + shown + ("»" if mask[i] and not after else "")
    return text


def settings(cells: list[str]) -> dict[str, Any]:
    return dict(yaml.safe_load(cells[1].strip("`")) or {})


def write(folder: Path, record: dict[str, Any], name: str = "rows.jsonl") -> None:
    (folder / name).write_text(json.dumps(record) + "\n", encoding="utf-8")


@pytest.mark.parametrize("column", ["plain", "chat"])
@pytest.mark.parametrize("cells", ROWS, ids=NAMES)
def test_the_texts(tmp_path: Path, cells: list[str], column: str) -> None:
    write(tmp_path, json.loads(cells[0].strip("`")))
    more = settings(cells)
    encoder = Encoder(make_tokenizer(template=TEMPLATE if column == "chat" else None), context_tokens=500)
    wanted = code(cells[4 if column == "plain" else 5])
    source = TrainSource(path="rows.jsonl", **more)
    rows = load_rows(source, base=tmp_path, name="x")
    (example,) = encoder.training(rows.rows, source, "x")
    assert marked(encoder, example) == wanted
    kind = None if cells[3] == "text" else more.pop("kind", "recall")
    suite_source = SuiteSource(path="rows.jsonl", kind=kind, **more)
    suite, facts = encoded_suite(suite_source, RowReader(suite_source, base=tmp_path, name="x"), encoder, "x")
    assert facts.form == cells[3]
    prompt = encoder.tokenizer.decode(suite.items[0].prompt_ids, skip_special_tokens=False)
    assert prompt == wanted.rsplit("«", 1)[0].replace("«", "").replace("»", "")


@pytest.mark.parametrize("cells", ROWS, ids=NAMES)
def test_what_has_loss(tmp_path: Path, cells: list[str]) -> None:
    write(tmp_path, json.loads(cells[0].strip("`")))
    (row,) = load_rows(TrainSource(path="rows.jsonl", **settings(cells)), base=tmp_path, name="x").rows
    parts = re.findall(r"«(.*?)»", code(cells[4]), flags=re.DOTALL)
    said = [part.strip().removesuffix("</s>") for part in parts]
    if settings(cells).get("choices") == "letters":
        said = [(row.choices or ())["AB".index(letter)] for letter in said]
    assert said == LOSS[cells[2]](row)


# ---- sources --------------------------------------------------------------------------------------------------------


def as_cells(record: dict[str, Any]) -> dict[str, str]:
    return {key: json.dumps(value) if isinstance(value, list) else str(value) for key, value in record.items()}


def write_as(kind: str, folder: Path, record: dict[str, Any]) -> dict[str, str]:
    """Write one row; gives back what the study says of where it is."""
    if kind == "hub":
        (folder / "set").mkdir()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([record]), folder / "set" / "train.parquet")
        return {"hub": "set"}
    name = f"rows{kind}"
    if kind in (".csv", ".tsv"):
        with (folder / name).open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(record), delimiter="," if kind == ".csv" else "\t")
            writer.writeheader()
            writer.writerow(as_cells(record))
            if isinstance(record.get("answer_index"), int):  # a column of text says by its 0 where it counts from
                other = {"answer_index": 0, "question": "Another?", "id": "other"}
                writer.writerow(as_cells({**record, **{key: other[key] for key in other if key in record}}))
    elif kind == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([record]), folder / name)
    else:
        text = json.dumps([record], indent=1) if kind == ".json" else json.dumps(record) + "\n"
        (folder / name).write_text(text, encoding="utf-8")
    return {"path": name}


@pytest.mark.parametrize("use", ["train", "suite"])
@pytest.mark.parametrize("source", SOURCES, ids=[cells[0].strip("`") for cells in SOURCES])
def test_every_source_has_every_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: list[str], use: str
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    kind = source[0].strip("`")
    assert source[1 if use == "train" else 2].split(",")[0] == "every shape"
    for number, (cells, record) in enumerate(zip(ROWS, RECORDS, strict=True)):
        folder = tmp_path / str(number)
        folder.mkdir()
        more = settings(cells)
        make = TrainSource if use == "train" else SuiteSource
        write(folder, record, "reference.jsonl")
        (wanted,) = load_rows(make(path="reference.jsonl", **more), base=folder, name="x").rows
        (row, *_) = load_rows(make(**write_as(kind, folder, record), **more), base=folder, name="x").rows
        assert (row.item_id, row) == (wanted.item_id, wanted.__class__(**{**wanted.__dict__, "place": row.place}))
