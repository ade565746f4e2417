"""Token files: what was encoded comes back, lazily, under a name that depends on the content alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rankscope.data.token_files import TRAINING_SCHEMA, open_suite, open_training, token_path
from rankscope.data.token_writers import ContentHash, SuiteWriter, TrainingWriter
from rankscope.plan.selection_split import selection_items
from rankscope.records import Example, Grading, Item, SuiteFacts, TrainFacts
from rankscope.study.problems import InputProblems

EXAMPLES = [
    Example(f"é{i}", tuple(range(i + 1)), (7, 8, 9), (False,) * (i + 1) + (True, False, True) if i % 3 == 0 else None)
    for i in range(20)
]
PART = Item("p", "choices", (1, 2), ((3,), (4, 5)))
ITEMS = [
    Item(
        "a", "choices", (1, 2), ((3,), (4, 5)), (1, 2), 1, ("x", "ÿ"), 0, "Which?\n", ("x", "y"), "text 1", (),
        '{"right": 1}',
    ),
    replace(PART, item_id="b", parts=(replace(PART, item_id="b"), Item("b", "choices", (9,), ((1,),)))),
    Item("c", "open", (5,), answers=("Ann", "Anne"), prompt_text="Who?"),
    Item("d", "text", (0,), ((1, 2, 3),), text_bytes=12),
]  # fmt: skip
TRAIN = TrainFacts(
    name="set", domain="law", content_sha256="", row_count=0, validation_count=0, token_count=0,
    completion_token_count=0, warnings=["so"],
)  # fmt: skip
SUITE = SuiteFacts(
    name="suite", domain=None, kind="recall", form="open", content_sha256="", item_count=4, token_count=9,
    max_new_tokens=5, left_out={"too long": 2},
)  # fmt: skip
GRADING = Grading(stops=("\n",), needs_greedy=True, task={"metric": "acc"})


def write_training(
    folder: Path, examples: list[Example] = EXAMPLES, *, size: int = 6, facts: TrainFacts = TRAIN
) -> TrainFacts:
    """Rows 3, 4 and 17 are validated on; row 5 stays out, and row 2 comes last."""
    with TrainingWriter(folder) as writer:
        for start in range(0, len(examples), size):
            writer.add(examples[start : start + size])
        held_out = np.array([3, 4, 17])
        train = np.array([i for i in range(len(examples)) if i not in (2, 3, 4, 5, 17)] + [2])
        return writer.finish(train, held_out, facts)


def write_suite(
    folder: Path, items: list[Item] = ITEMS, *, size: int = 3, facts: SuiteFacts = SUITE, grading: Grading = GRADING
) -> SuiteFacts:
    with SuiteWriter(folder) as writer:
        for start in range(0, len(items), size):
            writer.add(items[start : start + size])
        return writer.finish(facts, grading)


def test_a_training_set_comes_back_in_the_order_that_was_asked_for(tmp_path: Path) -> None:
    facts = write_training(tmp_path)
    data = open_training(token_path(tmp_path, facts.content_sha256))
    train = [*EXAMPLES[:2], *EXAMPLES[6:17], *EXAMPLES[18:], EXAMPLES[2]]
    assert list(data.train) == train
    assert list(data.validation) == [EXAMPLES[3], EXAMPLES[4], EXAMPLES[17]]
    assert data.facts == facts
    assert data.train.token_counts.tolist() == [example.token_count for example in train]
    assert data.validation.token_counts.tolist() == [7, 8, 21]
    assert (data.train[-1], data.train[2:4]) == (EXAMPLES[2], (EXAMPLES[6], EXAMPLES[7]))
    with pytest.raises(IndexError):
        data.validation[3]
    assert [path.name for path in tmp_path.iterdir()] == [f"{facts.content_sha256}.arrow"]


def test_a_suite_comes_back(tmp_path: Path) -> None:
    facts = write_suite(tmp_path)
    suite = open_suite(token_path(tmp_path, facts.content_sha256))
    assert list(suite.items) == ITEMS
    assert (suite.items[2], suite.items[-1], suite.items[1:3]) == (ITEMS[2], ITEMS[3], tuple(ITEMS[1:3]))
    assert (suite.name, suite.domain, suite.kind, suite.max_new_tokens) == ("suite", None, "recall", 5)
    assert (suite.left_out, suite.grading) == ({"too long": 2}, GRADING)
    other = open_suite(token_path(tmp_path, facts.content_sha256), facts.model_copy(update={"name": "again"}))
    assert (other.name, len(other.items)) == ("again", 4)


def test_the_facts_of_a_suite_have_the_sizes_of_its_clusters_in_the_order_of_a_draw(tmp_path: Path) -> None:
    clusters = ["a", "b", "b", None, "c", "c", "c", None]
    items = [Item(str(i), "open", (i,), answers=("a",), cluster=name) for i, name in enumerate(clusters)]
    facts = write_suite(tmp_path, items)
    ids = [item.item_id for item in items]
    drawn = [len(selection_items(ids, clusters, sum((facts.cluster_sizes or [])[:k]))) for k in range(5)]
    assert sorted(facts.cluster_sizes or []) == [1, 1, 1, 2, 3]
    assert drawn == [sum((facts.cluster_sizes or [])[:k]) for k in (0, 1, 2, 3, 3)]
    assert write_suite(tmp_path, items[:2] + items[3:5]).cluster_sizes is None


def test_items_are_made_some_at_a_time(tmp_path: Path) -> None:
    items = [Item(str(i), "open", (i,), answers=(f"a{i}",)) for i in range(1000)]
    suite = open_suite(token_path(tmp_path, write_suite(tmp_path, items, size=300).content_sha256))
    assert list(suite.items) == items
    assert [suite.items[i] for i in (999, 0, 299, 300, 255, 256)] == [items[i] for i in (999, 0, 299, 300, 255, 256)]


def test_the_name_is_of_the_content_alone(tmp_path: Path) -> None:
    """Not of the facts beside it, nor of how the rows came in."""
    first = write_training(tmp_path).content_sha256
    assert write_training(tmp_path, size=7, facts=TRAIN.model_copy(update={"name": "x"})).content_sha256 == first
    base = write_suite(tmp_path).content_sha256
    assert write_suite(tmp_path, size=1, facts=SUITE.model_copy(update={"domain": "d"})).content_sha256 == base
    changed = [
        write_training(tmp_path, [replace(EXAMPLES[0], item_id="z"), *EXAMPLES[1:]]),
        write_training(tmp_path, [replace(EXAMPLES[0], prompt_ids=(1,)), *EXAMPLES[1:]]),
        write_training(tmp_path, [replace(EXAMPLES[0], loss_mask=None), *EXAMPLES[1:]]),
        write_training(tmp_path, [replace(EXAMPLES[1], prompt_ids=(0, 1, 7), completion_ids=(8, 9)), *EXAMPLES[:19]]),
        write_suite(tmp_path, ITEMS[::-1]),
        write_suite(tmp_path, [replace(ITEMS[0], choices_ids=((3, 4), (5,))), *ITEMS[1:]]),
        write_suite(tmp_path, [replace(ITEMS[0], answers=("xÿ", "")), *ITEMS[1:]]),
        write_suite(tmp_path, [replace(ITEMS[0], cluster=None), *ITEMS[1:]]),
        write_suite(tmp_path, facts=SUITE.model_copy(update={"max_new_tokens": 6})),
        write_suite(tmp_path, grading=GRADING.model_copy(update={"task": {"metric": "acc_norm"}})),
    ]
    hashes = [first, base, *(facts.content_sha256 for facts in changed)]
    assert len(set(hashes)) == len(hashes)


def test_batches_may_be_cut_anywhere(tmp_path: Path) -> None:
    facts = write_training(tmp_path)
    table = pa.ipc.open_file(token_path(tmp_path, facts.content_sha256)).read_all()
    for size in (1, 4, 100):
        content = ContentHash("training")
        for batch in table.combine_chunks().to_batches(max_chunksize=size):
            content.update(batch)
        assert content.hexdigest() == facts.content_sha256


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"
    schema = TRAINING_SCHEMA.with_metadata({"rankscope": json.dumps({"version": 99})})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema):
        pass
    with pytest.raises(InputProblems, match="found version 99 of the format of token files, expected version 1"):
        open_training(path)
    with pytest.raises(FileNotFoundError):
        open_suite(tmp_path / "none.arrow")


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path: Path) -> None:
    with TrainingWriter(tmp_path) as writer:
        writer.add(EXAMPLES)
        with pytest.raises(IndexError):
            writer.finish(np.array([99]), np.array([0]), TRAIN)
    assert list(tmp_path.iterdir()) == []
