"""What several processes score and see in a model that they share out is what one process does with it whole."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from gloo_team import run_together
from sharded_scoring import scoring
from tiny_models import save_tiny_model

pytestmark = pytest.mark.slow

SAME_BITS = ["choices", "likeliest", "as trained", "half", "back", "cut", "ranks", "put back", "its own generate"]
TOKENS = ["written", "drawn", "one row"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("sharded")
    save_tiny_model(folder / "base", tie_word_embeddings=False)
    save_tiny_model(folder / "other", seed=1, tie_word_embeddings=False)
    return run_together(scoring, folder)


@pytest.mark.parametrize("name", [*SAME_BITS, *TOKENS])
def test_all_processes_find_what_one_finds(found: list[dict[str, Any]], name: str) -> None:
    """The same batches give the same bits; rows that are decoded beside others the same tokens."""
    expected = found[0]["solo"][name]
    assert expected
    for process in found:
        assert process["sharded"][name] == process["offloaded"][name] == expected


def test_adapters_on_a_sharded_base(found: list[dict[str, Any]]) -> None:
    ours, own = found[1]["sharded"], found[0]["solo"]
    assert ours["alone"] == own["alone"]
    assert ours["together"] == own["together"]
    for arm, expected in zip(ours["moved"], own["moved"], strict=True):
        assert [one.first_token_nats for one in arm] == [one.first_token_nats for one in expected]
        assert [one.choices_nats for one in arm] == [one.choices_nats for one in expected]
        assert {one.choices_nats is None for one in arm} == {False}


def test_what_is_seen_inside(found: list[dict[str, Any]]) -> None:
    ours, own = found[0]["sharded"]["inside"], found[0]["solo"]["inside"]
    assert {name: len(rows) for name, rows in own.items()} == {"hidden": 2, "attention": 8, "neurons": 2}
    for name, rows in own.items():
        pd.testing.assert_frame_equal(pd.DataFrame(ours[name]), pd.DataFrame(rows), rtol=1e-6)


def test_every_matrix_is_gathered_whole(found: list[dict[str, Any]]) -> None:
    for process in found:
        for name, weight in found[0]["solo"]["gathered"].items():
            assert (process["sharded"]["gathered"][name] == weight).all()


def test_numbers_that_are_not_finite_end_all_processes(found: list[dict[str, Any]]) -> None:
    assert [process["not finite"] for process in found] == ["a logit is not finite"] * 2
