"""All sources of a study become token files: once, in pieces, with what is wrong said of all at once."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from encoded_rows import GivenRows
from tiny_study import choice_rows, write_rows
from tokenizers_small import make_tokenizer

from rankscope.data import row_files, token_writers
from rankscope.data.encode_sets import Encoding, encode_training
from rankscope.data.encode_study import Encoded, encode_study
from rankscope.data.encoder import Encoder
from rankscope.data.sources import RowReader, TaskItems
from rankscope.data.token_files import open_suite, open_training, token_path
from rankscope.records import HarnessFacts, Item, Row
from rankscope.study.problems import InputProblems
from rankscope.study.read_study import read_study
from rankscope.study.study import Study, SuiteSource, TrainSource, Validation

TRAIN, SUITE = choice_rows(40, "m", 0), choice_rows(12, "z", 1)


def study_in(folder: Path, **changes: Any) -> Study:
    """Two training sets and a suite, whose first question stands in one of them."""
    write_rows(folder / "train.jsonl", [*TRAIN, {**SUITE[0], "id": "asked"}])
    write_rows(folder / "other.jsonl", choice_rows(30, "k", 2))
    write_rows(folder / "suite.jsonl", SUITE)
    settings = {
        "name": "s",
        "model": "bundled",
        "train": {
            "trees": {"path": "train.jsonl", "domain": "trees"},
            "stones": {"path": "other.jsonl", "domain": "trees"},
        },
        "suites": {"taught": {"path": "suite.jsonl", "domain": "trees", "kind": "recall"}},
        "arms": {"full": {"learning_rate": 1e-3}},
        "seeds": [0],
    } | changes
    (folder / "study.yaml").write_text(json.dumps(settings))
    return read_study(folder / "study.yaml")


def encode(study: Study, folder: Path, **more: Any) -> Encoded:
    settings = {"load_task": None} | more
    encoder = Encoder(make_tokenizer(), context_tokens=400)
    return encode_study(study, folder, encoder, folder / "tokens", **settings)


def test_every_set_is_a_file_named_by_its_content(tmp_path: Path) -> None:
    encoded = encode(study_in(tmp_path), tmp_path)
    assert (list(encoded.training), list(encoded.suites)) == (["trees", "stones"], ["taught"])
    facts = [*encoded.training.values(), *encoded.suites.values()]
    assert {path.name for path in (tmp_path / "tokens").iterdir()} == {f"{one.content_sha256}.arrow" for one in facts}
    trees = open_training(token_path(tmp_path / "tokens", encoded.training["trees"].content_sha256))
    assert (len(trees.train), len(trees.validation)) == (36, 4)
    assert trees.facts == encoded.training["trees"]
    assert trees.facts.dropped == {"also in suite taught": 1}
    suite = open_suite(token_path(tmp_path / "tokens", encoded.suites["taught"].content_sha256))
    assert [item.item_id for item in suite.items] == [row["id"] for row in SUITE]
    assert encode(study_in(tmp_path), tmp_path) == encoded


def test_sets_of_the_same_content_share_a_file(tmp_path: Path) -> None:
    suites = {name: {"path": "suite.jsonl", "domain": "trees", "kind": "recall"} for name in ("one", "two")}
    encoded = encode(study_in(tmp_path, suites=suites), tmp_path)
    one, two = encoded.suites.values()
    assert one.content_sha256 == two.content_sha256
    assert open_suite(token_path(tmp_path / "tokens", two.content_sha256), two).name == "two"


def test_progress_is_told_from_the_beginning(tmp_path: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    suites = {
        "taught": {"path": "suite.jsonl", "domain": "trees", "kind": "recall"},
        "world": {"world": "deduction/test", "kind": "reasoning"},
    }
    encode(study_in(tmp_path, suites=suites), tmp_path, progress=lambda *words: told.append(words))
    assert told == [
        ("suites.taught", 0, None),
        ("suites.taught", 12, None),
        ("suites.world", 0, 300),
        ("suites.world", 300, 300),
        ("train.trees", 0, None),
        ("train.trees", 41, None),
        ("train.stones", 0, None),
        ("train.stones", 30, None),
    ]


class Task:
    """What a loaded task of lm-eval is to the code that encodes."""

    file = "towns"

    def __init__(self) -> None:
        self.rows = [Row(str(i), f"document {i}", question=f"Which tree is m{i}?", answer="ash") for i in range(3)]

    def items(self, encoder: Encoder) -> TaskItems:
        items = [Item(row.item_id, "open", (i,), answers=("ash",)) for i, row in enumerate(self.rows)]
        facts = HarnessFacts(
            task="towns", output_type="generate_until", version=1, task_sha256="", num_fewshot=0, metric=None,
            filter="none", lm_eval_version="",
        )  # fmt: skip
        return TaskItems(items, [5, 6, encoder.context_tokens + 1], 7, facts, None)


def test_a_task_is_loaded_by_who_is_handed_in(tmp_path: Path) -> None:
    asked: list[tuple[str | None, Path, str]] = []

    def load_task(source: SuiteSource, *, base: Path, name: str) -> Task:
        asked.append((source.harness, base, name))
        return Task()

    suites = {
        "taught": {"path": "suite.jsonl", "domain": "trees", "kind": "recall"},
        "towns": {"harness": "towns", "kind": "recall"},
    }
    facts = encode(study_in(tmp_path, suites=suites), tmp_path, load_task=load_task).suites["towns"]
    assert asked == [("towns", tmp_path, "suites.towns")]
    assert (facts.form, facts.item_count, facts.max_new_tokens, facts.left_out) == (
        "open",
        2,
        7,
        {"longer than the context of 400 tokens": 1},
    )


def test_what_is_wrong_is_said_of_all_sources_at_once(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    write_rows(tmp_path / "train.jsonl", [*TRAIN, {"question": "no answer"}])
    (tmp_path / "other.jsonl").unlink()
    write_rows(tmp_path / "suite.jsonl", [*SUITE, {"text": 3}])
    with pytest.raises(InputProblems) as caught:
        encode(study, tmp_path)
    assert [str(problem).split(":")[0] for problem in caught.value.problems] == [
        "other.jsonl",
        "suite.jsonl",
        "train.jsonl",
    ]
    assert list((tmp_path / "tokens").iterdir()) == []


def test_bad_rows_come_before_what_encoding_says_of_good_ones(tmp_path: Path) -> None:
    template = {"path": "train.jsonl", "domain": "trees", "template": "{{ nothing.at.all }}"}
    study = study_in(tmp_path, train={"trees": template})
    with pytest.raises(InputProblems, match="a template that fails on this row"):
        encode(study, tmp_path)
    write_rows(tmp_path / "train.jsonl", [*TRAIN, {"question": "no answer"}])
    with pytest.raises(InputProblems) as caught:
        encode(study, tmp_path)
    assert [problem.place for problem in caught.value.problems] == ["line 41: answer"]


def test_a_row_that_is_repeated_stands_where_it_is_last(tmp_path: Path) -> None:
    rows = [Row(f"i{i}", f"line {i}", question=f"What is {i % 7}?", answer="so") for i in range(18)]
    by = Encoding(Encoder(make_tokenizer(), context_tokens=400), tmp_path)
    facts = encode_training(
        "x", TrainSource(path="x"), GivenRows(rows, size=4), by, validation=Validation(), max_sequence_tokens=99
    )  # type: ignore[arg-type]
    data = open_training(token_path(tmp_path, facts.content_sha256))
    assert facts.dropped == {"repeats another row": 11}
    first_ids = [example.item_id for part in (data.train, data.validation) for example in part]
    held_out = data.validation[0].item_id
    assert first_ids == [one for one in ("i4", "i5", "i6", "i0", "i1", "i2", "i3") if one != held_out] + [held_out]


def test_memory_does_not_grow_with_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Python and numpy objects; what stays of a row are hashes and lengths."""
    monkeypatch.setattr(row_files, "_CHUNK_BYTES", 2**15)
    monkeypatch.setattr(token_writers, "_ROWS_AT_ONCE", 32)
    encoder = Encoder(make_tokenizer(), context_tokens=4000)
    words = " ".join(f"word{i}" for i in range(60))

    def peak_bytes(count: int) -> int:
        path = tmp_path / f"{count}.jsonl"
        with path.open("w") as stream:
            for i in range(count):
                stream.write(json.dumps({"id": f"row {i}", "prompt": f"{words} {i}\n", "completion": words}) + "\n")
        source = TrainSource(path=str(path))
        rows = RowReader(source, base=Path(), name="x")
        tracemalloc.start()
        try:
            by = Encoding(encoder, tmp_path)
            encode_training("x", source, rows, by, validation=Validation(), max_sequence_tokens=4000)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = peak_bytes(400), peak_bytes(1_600)
    assert many - few < 1_200 * 200  # a row with its tokens takes more than ten times as much
