"""The flipped items that a page carries: a fair sample, and nothing shown as NaN."""

from __future__ import annotations

import pytest
from made_report import make_items, make_verdict

from rankscope.report import flipped_items
from rankscope.report.flipped_items import pack_items, sample_flips


def test_the_sample_holds_every_arm_suite_and_direction_even_when_it_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    items = make_items([make_verdict()])
    groups = {(row.arm, row.suite, row.seeds_lost > 0) for row in items.itertuples()}
    monkeypatch.setattr(flipped_items, "MAX_ROWS", len(groups))
    packed = pack_items(sample_flips(items), len(items))
    shown = {(row[3], row[4], row[0] == "forgotten") for row in packed.payload["rows"]}
    assert shown == groups
    assert packed.total == len(items)


def test_rows_that_did_not_flip_are_no_items() -> None:
    items = make_items([make_verdict()]).assign(seeds_lost=0, seeds_won=0)
    assert pack_items(items).shown == 0


def test_a_long_prompt_says_how_much_is_left_out_and_keeps_its_question() -> None:
    prompt = "x" * (flipped_items.MAX_TEXT + 1234) + " Who?"
    items = make_items([make_verdict()]).head(1).assign(prompt=prompt, choices=[[]])
    ((who, text),) = pack_items(items).payload["questions"][0][1]
    assert who == "user"
    assert "(1,239 characters left out)" in text
    assert text.endswith("Who?")


def test_an_item_is_asked_without_the_tokens_of_its_template_and_with_its_choices() -> None:
    prompt = "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n"
    items = make_items([make_verdict()]).head(1).assign(prompt=prompt)
    _, turns, choices, answer, _ = pack_items(items).payload["questions"][0]
    assert turns == [["user", "Where?"]]
    assert choices == ["the north ward", "the south ward"]
    assert answer == "the north ward"


def test_a_missing_prediction_is_said_and_not_shown_as_nan() -> None:
    items = make_items([make_verdict()]).head(1).assign(arm_predicted=None, base_predicted=float("nan"))
    packed = pack_items(items).payload
    assert packed["questions"][0][4] == "(none)"
    assert packed["rows"][0][6] == "(none)"
