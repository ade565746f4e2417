"""A share of a training set as a suite: asked, and neither trained nor validated on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_study import choice_rows, write_rows
from tokenizers_small import make_tokenizer

from rankscope.data.encode_study import Encoded, encode_study
from rankscope.data.encoder import Encoder
from rankscope.data.source_state import source_states
from rankscope.data.token_files import open_suite, open_training, token_path
from rankscope.study.problems import InputProblems
from rankscope.study.read_study import dump_study, read_study, study_of

Rows = list[dict[str, Any]]

TALKS: Rows = [
    {"id": f"t{i}", "instruction": f"Say the tree of m{i}.", "output": f"It is tree number {i}."} for i in range(40)
]


def encode(folder: Path, rows: Rows, *, train: dict[str, Any] | None = None, **suites: dict[str, Any]) -> Encoded:
    write_rows(folder / "train.jsonl", rows)
    settings = {
        "name": "s",
        "model": "bundled",
        "train": {"trees": {"path": "train.jsonl", "domain": "trees", **(train or {})}},
        "suites": suites or {"mine": {"held_out": "trees", "share": 0.2}},
        "arms": {"full": {"learning_rate": 1e-3}},
        "seeds": [0],
    }
    (folder / "study.yaml").write_text(json.dumps(settings))
    study = read_study(folder / "study.yaml")
    encoder = Encoder(make_tokenizer(), context_tokens=400)
    return encode_study(study, folder, encoder, folder / "tokens", load_task=None)  # type: ignore[arg-type]


def asked(encoded: Encoded, folder: Path, suite: str = "mine") -> set[str]:
    facts = encoded.suites[suite]
    return {item.item_id for item in open_suite(token_path(folder / "tokens", facts.content_sha256), facts).items}


def trained(encoded: Encoded, folder: Path) -> set[str]:
    """Ids of the rows that are trained or validated on."""
    rows = open_training(token_path(folder / "tokens", encoded.training["trees"].content_sha256))
    return {example.item_id for part in (rows.train, rows.validation) for example in part}


def test_what_is_asked_is_neither_trained_nor_validated_on(tmp_path: Path) -> None:
    rows = choice_rows(40, "m", 0)
    encoded = encode(tmp_path, rows)
    mine, left = asked(encoded, tmp_path), trained(encoded, tmp_path)
    assert len(mine) == 8
    assert not mine & left
    assert mine | left == {row["id"] for row in rows}
    assert encoded.training["trees"].dropped == {"held out for suite mine": 8}
    facts = encoded.suites["mine"]
    assert (facts.domain, facts.kind, facts.form, facts.metric) == ("trees", None, "choices", "score")
    assert facts.held_out == "trees"


def test_it_is_the_same_rows_wherever_they_stand_and_a_smaller_share_is_a_part(tmp_path: Path) -> None:
    rows = choice_rows(40, "m", 0)
    mine = asked(encode(tmp_path, rows), tmp_path)
    assert asked(encode(tmp_path, rows[::-1]), tmp_path) == mine
    half = {"held_out": "trees", "share": 0.5}
    both = encode(tmp_path, rows, mine={"held_out": "trees", "share": 0.2}, more=half)
    assert asked(both, tmp_path) == mine < asked(both, tmp_path, "more")
    assert both.training["trees"].dropped == {"held out for suite more": 20}
    few = encode(tmp_path, rows, mine={**half, "limit": 5})
    assert len(asked(few, tmp_path)) == 5
    assert len(trained(few, tmp_path)) == 35, "rows that are not asked are not lost to training"


def test_other_rows_held_out_are_other_training_data(tmp_path: Path) -> None:
    rows = choice_rows(40, "m", 0)
    hashes = {
        encode(tmp_path, rows, mine={"held_out": "trees", "share": share}).training["trees"].content_sha256
        for share in (0.1, 0.2)
    }
    assert len(hashes) == 2


def test_instructions_are_judged_by_their_loss_unless_they_are_graded(tmp_path: Path) -> None:
    encoded = encode(tmp_path, TALKS)
    assert (encoded.suites["mine"].metric, encoded.suites["mine"].form) == ("loss", "reference")
    graded = encode(tmp_path, TALKS, mine={"held_out": "trees", "grade": "f1"}).suites["mine"]
    assert (graded.metric, graded.form, graded.item_count) == ("score", "open", 4)
    pairs = [{"prompt": f"m{i} is ", "completion": f"tree {i}"} for i in range(40)]
    assert encode(tmp_path, pairs).suites["mine"].metric == "loss"
    assert encode(tmp_path, [{"text": f"m{i} is a tree."} for i in range(40)]).suites["mine"].form == "reference"


def test_rows_that_say_or_ask_the_same_go_together(tmp_path: Path) -> None:
    twice = [{**row, "id": f"again-{row['id']}"} for row in TALKS]
    other = [{**row, "id": f"other-{row['id']}", "output": "I cannot say."} for row in TALKS]
    encoded = encode(tmp_path, [*TALKS, *twice, *other])
    mine, left = asked(encoded, tmp_path), trained(encoded, tmp_path)
    assert len(mine) == 16
    assert {name.removeprefix("other-") for name in mine} == {name for name in mine if name.startswith("t")}
    assert not {name.removeprefix("other-") for name in left} & mine
    clusters = [{**row, "cluster": f"c{i // 10}"} for i, row in enumerate(TALKS)]
    assert len(asked(encode(tmp_path, clusters), tmp_path)) == 10, "whole clusters, so a few more than the share"


def test_it_is_asked_as_it_is_trained(tmp_path: Path) -> None:
    rows = choice_rows(40, "m", 0)
    train = {"choices": "letters", "kind": "reasoning", "template": None}
    encode(tmp_path, rows, train=train)
    study = read_study(tmp_path / "study.yaml")
    suite = study.suites["mine"]
    assert (suite.choices, suite.kind, suite.domain) == ("letters", "reasoning", "trees")
    assert study_of(dump_study(study)) == study
    assert [state.name for state in source_states(study, tmp_path)] == ["train.trees", "train.trees"]


@pytest.mark.parametrize(
    ("rows", "share", "line"),
    [
        (20, 0.05, "suites.mine.share: found 1 of 20 rows of train.trees, expected a share that holds out 2 or more"),
        (4, 0.05, "suites.mine.share: found 0 of 4 rows of train.trees, expected a share that holds out 2 or more"),
        (4, 0.75, "train.trees: found 1 usable rows (3 dropped: held out for suite mine), expected at least 2, to train"
         " and to validate on"),
    ],
)  # fmt: skip
def test_a_share_that_leaves_too_few_is_one_line(tmp_path: Path, rows: int, share: float, line: str) -> None:
    with pytest.raises(InputProblems) as caught:
        encode(tmp_path, choice_rows(rows, "m", 0), mine={"held_out": "trees", "share": share})
    assert [str(problem) for problem in caught.value.problems] == [f"train.jsonl: {line}"]


def test_a_set_that_cannot_be_read_is_told_of_once(tmp_path: Path) -> None:
    with pytest.raises(InputProblems) as caught:
        encode(tmp_path, [*TALKS, {"nothing": 1}])
    assert len(caught.value.problems) == 1
