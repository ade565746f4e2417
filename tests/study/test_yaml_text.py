"""YAML in and out: what is written reads back equal, here and with readers of YAML 1.1, and hostile text ends soon."""
# ruff: noqa: E501 - tables read better in few lines

from __future__ import annotations

import time
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rankscope.study.problems import InputProblems
from rankscope.study.read_study import dump_study, study_of
from rankscope.study.study import Study
from rankscope.study.yaml_text import dump_yaml, load_yaml, parse_yaml

TRICKY = [
    "1e3", "no", "0x10", "1_000", "~", "null", "=", "<<", "2026-11-25", "12:30", "", " ", "true", "on", "y", ".5", "-", "?",
    "- a", "a: b", "a #b", "#", "&a", "*a", "!x", "%", "@", "`", "|", ">", "'", '"', "{a}", "[a]", "a,b", "  lead", "trail  ",
    "one\ntwo", "one\n", "\none", "one\n\n two\n\n", "tab\there", "a\r\nb", "\u2028", "\ufeff", "é", "数", "🦙",
    "---", "...", "1.0.0", "007", "0o17", "1:2:3", "+1", "inf", ".inf", ".nan", "{{ question }}\n  - {{ answer }}", "x" * 300,
]  # fmt: skip
"""Texts that one reader of YAML or another takes for something else."""

CLEAN = st.characters(exclude_categories=("Cs", "Cc"))
TEXT = st.sampled_from(TRICKY) | st.text(st.sampled_from("\n\t :#-'\"{}[],&*!|>%@`~=<?\\") | CLEAN, max_size=40)
NAME = st.sampled_from(
    ["1e3", "no", "0x10", "1_000", "null", "2026-11-25", "on", "y", "1.0", "007", "True"]
) | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
SOMETIMES = {
    "template": TEXT,
    "limit": st.integers(1, 10**9),
    "choices": st.sampled_from(["text", "letters"]),
    "columns": st.dictionaries(TEXT, TEXT | st.lists(TEXT, max_size=3), max_size=3),
    "kind": st.sampled_from(["recall", "reasoning"]),
    "domain": NAME,
}
SOURCE = st.one_of(
    st.fixed_dictionaries({"path": TEXT}, optional=SOMETIMES),
    st.fixed_dictionaries({"hub": TEXT}, optional=SOMETIMES | {"config": TEXT, "split": TEXT, "revision": TEXT}),
)
RATE = st.floats(min_value=0, exclude_min=True, allow_infinity=False) | st.sampled_from(["auto", "auto_shared"])
RANKS = st.lists(st.integers(1, 4096), min_size=1, max_size=4, unique=True)
TARGETS = st.just("all-linear") | st.lists(TEXT, min_size=1, max_size=3)
LORA = st.fixed_dictionaries(
    {"method": st.just("lora"), "ranks": RANKS}, optional={"learning_rate": RATE, "targets": TARGETS}
)
FULL = st.fixed_dictionaries({"method": st.just("full")}, optional={"learning_rate": RATE})
MODEL = st.fixed_dictionaries(
    {"id": TEXT.filter(bool)}, optional={"system_prompt": TEXT, "revision": TEXT, "quantization": st.none()}
)
STUDIES = st.fixed_dictionaries(
    {
        "name": NAME,
        "model": st.lists(MODEL, min_size=1, max_size=2),
        "train": st.dictionaries(NAME, SOURCE, min_size=1, max_size=2),
        "suites": st.dictionaries(NAME, SOURCE, min_size=1, max_size=3),
        "arms": st.dictionaries(NAME, LORA | FULL, min_size=1, max_size=3),
        "seeds": st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=4),
    },
    optional={
        "budget": st.fixed_dictionaries({"epochs": st.floats(min_value=1e-300, max_value=1e300)}),
        "track": st.lists(NAME, max_size=3),
        "execution": st.fixed_dictionaries({"on": NAME}),
    },
)


@settings(max_examples=120, deadline=None)
@given(STUDIES.map(Study.model_validate))
def test_a_study_that_we_write_reads_back_equal(study: Study) -> None:
    assert study_of(dump_study(study)) == study


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=120, deadline=None)
@given(st.dictionaries(TEXT, VALUES, max_size=5))
def test_what_is_written_reads_back_equal_and_with_the_same_types(value: dict[str, Any]) -> None:
    text = dump_yaml(value)
    assert repr(load_yaml(text, "a file", "")) == repr(value)


@settings(max_examples=120, deadline=None)
@given(st.dictionaries(TEXT, VALUES, max_size=5))
def test_readers_of_yaml_1_1_see_the_same(value: dict[str, Any]) -> None:
    assert repr(yaml.safe_load(dump_yaml(value))) == repr(value)


def test_what_is_short_stands_on_one_line_and_rates_are_numbers_everywhere() -> None:
    value = {"train": {"a": {"path": "x.jsonl", "domain": "1e3"}}, "seeds": [0, 1], "rate": 2e-5, "text": "one\ntwo\n"}
    assert dump_yaml(value) == (
        'train:\n  a: {path: x.jsonl, domain: "1e3"}\nseeds: [0, 1]\nrate: 2.0e-05\ntext: |\n  one\n  two\n'
    )


@pytest.mark.parametrize("text", ["\x07", "a\x00", "\x7f", "\x9b31m", "\ud800"])
def test_control_characters_are_refused_both_ways(text: str) -> None:
    with pytest.raises(InputProblems, match="control character"):
        dump_yaml({"a": [text]})
    written = f'a: "{text.encode("unicode_escape").decode()}"'
    assert [problem.place for problem in parse_yaml(written, "f").problems] == ["line 1, a"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4), ("1_000", 1000), ("0x10", 16), ("0o17", 15), ("007", 7), (".5e4", 5000.0), ("~", None), ("", None),
        ("no", "no"), ("2026-11-25", "2026-11-25"), ("12:30", "12:30"), ("=", "="), ("1e", "1e"), ("_1", "_1"), ("0x", "0x"),
        ("TRUE", True), ("yes", "yes"), ("!!str 5", "5"), ("!!float 5", 5.0), ("-.inf", float("-inf")),
    ],
)  # fmt: skip
def test_plain_scalars_are_those_of_the_core_schema(text: str, value: object) -> None:
    found = load_yaml(f"a: {text}", "f", "")["a"]
    assert (found, type(found)) == (value, type(value))


def test_keys_are_texts_and_every_one_has_its_line() -> None:
    document = parse_yaml("1e3: [a,\n  b]\nno:\n  <<: 2\n  null: 3\n", "f")
    assert document.value == {"1e3": ["a", "b"], "no": {"<<": 2, "null": 3}}
    assert document.lines[("1e3", 1)] == 2
    assert document.lines[("no", "null")] == 5


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: !!python/object/apply:os.system [x]", "the tag tag:yaml.org,2002:python/object/apply:os.system"),
        ("a: !mine {b: 1}", "the tag !mine"),
        ("a: !!int x", '"x" marked as int'),
        ("? [a]\n: b", "a list or mapping as a key"),
        ("a: 1\na: 2", "the key `a` again (first on line 1)"),
        ("a: *b", "no valid YAML (found undefined alias 'b')"),
        ("a: [b", "no valid YAML"),
        ("a: " + "[" * 60, "more than 50 levels of nested values"),
    ],
)
def test_what_is_no_plain_data_is_refused(text: str, found: str) -> None:
    (problem,) = parse_yaml(text, "f").problems
    assert problem.found.startswith(found)


def test_hostile_text_ends_soon() -> None:
    deep = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} {'[' * 30}*a{i - 1}{']' * 30}\n" for i in range(1, 60))
    began = time.process_time()
    assert "levels" in parse_yaml(deep, "f").problems[0].found
    assert "values" in parse_yaml("a: [" + "x, " * 300_000 + "]", "f").problems[0].found
    assert parse_yaml("[" * 100_000, "f").problems
    assert time.process_time() - began < 10
