"""benchmarks/base_suites.py on the bundled base: what it knows and what it guesses, each as lm-eval answers it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from rankscope.records import Item
from rankscope.study.study import ModelSpec, SuiteSource

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SUITES = {
    "known": SuiteSource(world="general/known/test", kind="recall", limit=40),
    "letters": SuiteSource(world="legal/known/test", kind="recall", choices="letters", limit=8),
    "untold": SuiteSource(world="medical/untold/test", kind="recall", limit=60),
    "sums": SuiteSource(world="arithmetic/test", kind="reasoning", max_new_tokens=24, limit=8),
    "text": SuiteSource(world="general/known/text", limit=30),
}


@pytest.fixture(scope="module")
def script() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import base_suites
    finally:
        sys.path.remove(str(BENCHMARKS))
    return base_suites


def test_items_are_spread_over_the_suite(script: Any) -> None:
    items = [Item(str(place), "choices", (1,)) for place in range(10)]
    assert [item.item_id for item in script.spread(items, 4)] == ["0", "2", "5", "7"]
    assert script.spread(items, 99) == items


def test_the_largest_difference_is_over_all_choices(script: Any) -> None:
    mine = [script.Answer("a", (-1.0, -2.0)), script.Answer("b", (-3.0,))]
    theirs = [script.Answer("a", (-1.0, -2.5)), script.Answer("b", (-2.9,))]
    assert script.largest_difference(mine, theirs) == 0.5
    assert script.largest_difference([script.Answer("written")], [script.Answer("written")]) is None


def test_a_suite_without_its_file_has_a_reason(script: Any, tmp_path: Path) -> None:
    bench = script.bench_of(ModelSpec(id="bundled", chat="never"), tmp_path, "float32", "cpu")
    row = script.suite_row("gone", SuiteSource(path="gone.jsonl", kind="recall"), bench, 2)
    assert "gone.jsonl" in row.reason
    assert script.line(row).startswith("| gone | not measured: ")


@pytest.mark.slow
def test_the_base_is_above_chance_where_it_was_told_and_answers_as_lm_eval_does(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is an extra: pip install 'rankscope[harness]'")
    bench = script.bench_of(ModelSpec(id="bundled", chat="never"), tmp_path, "float32", "cpu")
    table = script.Table(argparse.Namespace(json=tmp_path / "rows.json"), script.HEAD, script.line)
    rows = {name: script.suite_row(name, source, bench, 8) for name, source in SUITES.items()}
    for row in rows.values():
        table.add(row)
    assert {name: row.chance for name, row in rows.items()} == {
        "known": 0.25, "letters": 0.25, "untold": 0.25, "sums": 0.0, "text": None,
    }  # fmt: skip
    assert rows["known"].above_chance
    assert not rows["untold"].above_chance
    assert rows["text"].above_chance is None
    for name, row in rows.items():
        assert row.reason is None
        assert (row.items, row.compared) == (SUITES[name].limit, 8)
        if name != "text":
            assert row.low <= row.base <= row.high
            assert row.same_answers == 8, name
        if name != "sums":
            assert row.max_difference < 1e-3, name
    assert {row["suite"]: row["form"] for row in json.loads((tmp_path / "rows.json").read_text())} == {
        "known": "choices", "letters": "choices", "untold": "choices", "sums": "number", "text": "text",
    }  # fmt: skip
    told = capsys.readouterr().out.splitlines()
    assert told[2].startswith("| suite | items | chance |")
    assert len(told) == 4 + len(SUITES)
