"""Damaged and hostile files of rows: a reader says what is wrong, or reads what is there; it never fails otherwise."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from tokenizers_small import CHATML, make_tokenizer

from rankscope.data.encode_study import encode_study
from rankscope.data.encoder import Encoder
from rankscope.data.source_state import source_states
from rankscope.evaluate.lm_eval.load_task import load_task
from rankscope.study.problems import InputProblems
from rankscope.study.read_study import study_of
from rankscope.study.study import Study

SEED = 20
CASES = 150

RECORDS: dict[str, list[dict[str, Any]]] = {
    "choices": [
        {
            "id": f"c{i}",
            "question": f"What is {i}?",
            "choices": [f"x{i}", "y", "z"],
            "answer_index": i % 3,
            "context": "c",
        }
        for i in range(12)
    ],
    "answers": [{"question": f"Who is {i}?", "answer": f"number {i}", "aliases": [f"n{i}"]} for i in range(12)],
    "turns": [
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": f"Sum {i}?"},
                {"role": "assistant", "content": f"It is {i}."},
            ]
        }
        for i in range(12)
    ],
    "prompts": [{"prompt": f"{i}+1=", "completion": str(i + 1), "cluster": i % 2} for i in range(12)],
    "texts": [{"text": f"A plain text, the {i}th, with é and \u2028."} for i in range(12)],
}
HOSTILE: list[Any] = [
    None, True, -1, 10**30, 1e308, float("nan"), float("inf"), "", " ", "\0", "\ud800", "a" * 20_000,
    "</s>", "<|im_end|>",
    [], [[]], {}, [None], ["", ""], {"a": {"b": {"c": []}}}, [[[[[[1]]]]]], "[" * 500, "9" * 5000, "\u202e{{ 7*7 }}",
    [{"role": "user"}], [{"role": "assistant", "content": None, "tool_calls": [{}]}], {"type": "text"}, b"\xff",
    "=1+1", datetime(1, 1, 1), [{"role": "tool", "content": [{"type": "text", "text": 5}]}], "1", "A", 3, "\r\n",
    '"', ",",
]  # fmt: skip


def written(records: list[dict[str, Any]], kind: str) -> bytes:
    """The records as a file of this kind; what a kind cannot hold is written as text."""
    if kind == "jsonl":
        lines = [json.dumps(record, default=str, ensure_ascii=random.random() < 0.5) for record in records]
        return "\n".join(lines).encode("utf-8", "surrogatepass")
    if kind == "csv":
        names = list(dict.fromkeys(name for record in records for name in record))
        out = io.StringIO()
        table = csv.writer(out)
        table.writerow(names)
        for record in records:
            cells = [record.get(name, "") for name in names]
            table.writerow([cell if isinstance(cell, str) else json.dumps(cell, default=str) for cell in cells])
        return out.getvalue().encode("utf-8", "surrogatepass")
    try:
        return parquet(records)
    except (pyarrow.ArrowException, ValueError, OverflowError, TypeError):
        return parquet([{name: json.dumps(cell, default=str) for name, cell in one.items()} for one in records])


def parquet(records: list[dict[str, Any]]) -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), sink)
    return sink.getvalue().to_pybytes()


def hostile_records(records: list[dict[str, Any]], draw: random.Random) -> list[dict[str, Any]]:
    """Some cells replaced, fields removed, renamed or added, rows repeated."""
    made = [dict(record) for record in records]
    for _ in range(draw.randint(1, 4)):
        record = draw.choice(made)
        name = draw.choice([*record, "answer_index", "tools", "system", "choices"])
        what = draw.randrange(5)
        if what <= 1:
            record[name] = draw.choice(HOSTILE)
        elif what == 2:
            record.pop(name, None)
        elif what == 3:
            record[name * 2] = record.pop(name, 1)
        elif isinstance(record.get(name), list):
            record[name] = [*record[name], draw.choice(HOSTILE)]
        else:
            made.append(dict(record))
    return made


def damaged(data: bytes, draw: random.Random) -> bytes:
    """Cut, zeroed, bits flipped, re-encoded, or with foreign bytes inside."""
    what, at, end = draw.randrange(8), draw.randrange(len(data)), draw.randrange(len(data))
    at, end = min(at, end), max(at, end)
    if what == 0:
        return data[:at]
    if what == 1:
        return data[:at] + bytes(end - at) + data[end:]
    if what == 2:
        flipped = bytearray(data)
        for _ in range(draw.randint(1, 8)):
            flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
        return bytes(flipped)
    if what == 3:
        return data.decode("utf-8", "replace").encode(draw.choice(["utf-16", "utf-32", "cp037", "utf-7"]), "replace")
    if what == 4:
        return (
            data[:at] + draw.choice([b"\0", b"\xff", b"\xef\xbb\xbf", b"\x1b[2J", b"\r", b'"', b"]" * 999]) + data[at:]
        )
    if what == 5:
        return data[end:] + data[:at]
    if what == 6:
        return b"[" * 100_000 + data
    return data + b'\n{"text": ' + b"9" * 5000 + b"}"


def study_for(kind: str, draw: random.Random) -> Study:
    train = {"path": f"train.{kind}", "domain": "d", "bad_rows": draw.choice(["drop", "refuse"])}
    suite = {"path": f"test.{kind}", "domain": "d", "kind": draw.choice(["recall", "reasoning"])}
    if draw.random() < 0.2:
        suite["limit"] = 5
    if draw.random() < 0.1:
        train["columns"] = {"question": "question", "answer": "answer"}
    return study_of(json.dumps({
        "name": "s", "model": "bundled", "train": {"t": train}, "suites": {"s": suite}, "seeds": [0],
        "arms": {"lora": {"ranks": [4], "learning_rate": 1e-4}},
    }))  # fmt: skip


@pytest.fixture(scope="module")
def encoders() -> list[Encoder]:
    """One that asks in plain text, one by a chat template."""
    made = []
    for template in (None, CHATML):
        tokenizer = make_tokenizer()
        tokenizer.chat_template = template
        made.append(Encoder(tokenizer, context_tokens=64, vocabulary_size=100_000))
    return made


def outcome(study: Study, folder: Path, encoder: Encoder) -> str:
    try:
        encode_study(study, folder, encoder, folder / "tokens", load_task=load_task)
    except InputProblems as error:
        lines = list(map(str, error.problems))
    else:
        return "read"
    assert 1 <= len(lines) <= 50
    assert all(line.isprintable() and len(line) < 1500 for line in lines)
    return "refused"


def test_no_damage_to_rows_is_more_than_lines(tmp_path: Path, encoders: list[Encoder]) -> None:
    started, outcomes = time.process_time(), []
    for case in range(CASES):
        draw = random.Random(SEED * 1000 + case)
        random.seed(case)
        kind = draw.choice(["jsonl", "csv", "parquet"])
        shape = draw.choice(list(RECORDS))
        data = written(RECORDS[shape], kind)
        hurt = written(hostile_records(RECORDS[shape], draw), kind) if draw.random() < 0.5 else damaged(data, draw)
        folder = tmp_path / str(case)
        folder.mkdir()
        target, other = draw.sample(["train", "test"], 2)
        (folder / f"{target}.{kind}").write_bytes(hurt)
        (folder / f"{other}.{kind}").write_bytes(written(RECORDS["answers"], kind))
        try:
            outcomes.append(outcome(study_for(kind, draw), folder, draw.choice(encoders)))
        except Exception as error:
            raise AssertionError(f"case {case}: {shape} as {kind} in {target}: {hurt[:200]!r}") from error
    assert outcomes.count("refused") > 30
    assert outcomes.count("read") > 10
    assert time.process_time() - started < 60


@pytest.mark.parametrize(
    "name", ["/dev/zero", "/dev/stdin", "pipe.jsonl", "pipe.csv", "pipe.parquet", "loop.jsonl", "a\0b", "x" * 300, "."]
)
def test_what_is_no_regular_file_is_refused_at_once(name: str, tmp_path: Path, encoders: list[Encoder]) -> None:
    if name.startswith("pipe"):
        os.mkfifo(tmp_path / name)
        os.mkfifo(tmp_path / "aliases.json")
    if name.startswith("loop"):
        (tmp_path / name).symlink_to(tmp_path / name)
    (tmp_path / "test.jsonl").write_bytes(written(RECORDS["answers"], "jsonl"))
    study = study_for("jsonl", random.Random(1))
    source = study.train["t"].model_copy(update={"path": name})
    study = study.model_copy(update={"train": {"t": source}})
    assert outcome(study, tmp_path, encoders[0]) == "refused"
    assert source_states(study, tmp_path)[0].sha256 is None


def test_times_that_python_cannot_hold_are_one_line(tmp_path: Path, encoders: list[Encoder]) -> None:
    times = pyarrow.array([0, 10**18, 2], pyarrow.timestamp("us"))
    table = pyarrow.table({"question": ["a", "b", "c"], "answer": ["x", "y", "z"], "when": times})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    (tmp_path / "test.parquet").write_bytes(written(RECORDS["answers"], "parquet"))
    with pytest.raises(InputProblems, match="row 2: when: found a value of type timestamp") as caught:
        encode_study(study_for("parquet", random.Random(1)), tmp_path, encoders[0], tmp_path / "t", load_task=load_task)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("in_template", [True, False])
def test_a_token_beyond_the_embeddings_is_one_line(in_template: bool, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    size = len(tokenizer)
    tokenizer.add_tokens(["<beyond>"], special_tokens=True)
    if in_template:
        tokenizer.chat_template = CHATML.replace("<|im_start|>", "<beyond>")
        with pytest.raises(InputProblems, match=r"chat template: found the token \"<beyond>\" \(\d+\), for which"):
            Encoder(tokenizer, context_tokens=64, vocabulary_size=size)
        return
    encoder = Encoder(tokenizer, context_tokens=64, vocabulary_size=size)
    rows = [*RECORDS["answers"], {"question": "What is <beyond>?", "answer": "it"}]
    (tmp_path / "train.jsonl").write_bytes(written(rows, "jsonl"))
    (tmp_path / "test.jsonl").write_bytes(written(RECORDS["answers"][:3], "jsonl"))
    with pytest.raises(InputProblems, match=r"line 13: found the token \"<beyond>\"") as caught:
        encode_study(study_for("jsonl", random.Random(1)), tmp_path, encoder, tmp_path / "t", load_task=load_task)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("opening", [b"[", b'{"messages": [', b'{"a":'])
@pytest.mark.parametrize("depth", [900, 20_000, 100_000])
def test_deep_json_is_one_line(opening: bytes, depth: int, tmp_path: Path, encoders: list[Encoder]) -> None:
    closing = b"]" if opening == b"[" else b"]}" if opening.endswith(b"[") else b"}"
    (tmp_path / "train.jsonl").write_bytes(opening * depth + b"1" + closing * depth)
    (tmp_path / "test.jsonl").write_bytes(written(RECORDS["answers"], "jsonl"))
    with pytest.raises(InputProblems) as caught:
        encode_study(study_for("jsonl", random.Random(1)), tmp_path, encoders[0], tmp_path / "t", load_task=load_task)
    assert len(caught.value.problems) == 1
