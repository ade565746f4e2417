"""Rows as other tools read them: loss exactly where it was."""

from __future__ import annotations

from rankscope.records import Example
from rankscope.tools.trained_rows import token_row


def test_tokens_with_loss_have_labels() -> None:
    row = token_row(Example("a", (1, 2), (3, 4)))
    assert row == {
        "input_ids": [1, 2, 3, 4], "attention_mask": [1] * 4, "labels": [-100, -100, 3, 4],
        "completion_mask": [0, 0, 1, 1],
    }  # fmt: skip
    turns = token_row(Example("b", (1,), (2, 3, 4), loss_mask=(False, True, False, True)))
    assert turns["labels"] == [-100, 2, -100, 4]
    assert turns["completion_mask"] == [0, 1, 0, 1]
