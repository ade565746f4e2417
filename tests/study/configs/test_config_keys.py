"""Keys of a config: taken once with their types, and every one that nobody took is told."""

from __future__ import annotations

import pytest

from rankscope.study.configs.config_keys import ConfigKeys
from rankscope.study.problems import InputProblems


def test_types_are_read_in_every_spelling() -> None:
    keys = ConfigKeys(
        {"a": "2e-4", "b": "yes", "c": "Off", "d": "q_proj, v_proj", "e": ["x"], "f": 3.0, "g": None, "h": ""}, "x.yaml"
    )
    assert (keys.number("a"), keys.flag("b"), keys.flag("c", default=True)) == (2e-4, True, False)
    assert (keys.names("d"), keys.names("e"), keys.count("f")) == (("q_proj", "v_proj"), ("x",), 3)
    assert (keys.text("g", "h"), keys.has("h")) == (None, False)
    keys.finish([])
    assert keys.not_carried == []


def test_wrong_types_are_told_together() -> None:
    keys = ConfigKeys({"a": "fast", "b": 1.5, "c": 7, "d": {"e": [1]}, "f": True, "g": "inf"}, "x.yaml")
    keys.number("a"), keys.count("b"), keys.names("c"), keys.section("d").names("e"), keys.number("f"), keys.number("g")
    with pytest.raises(InputProblems) as caught:
        keys.finish([])
    assert [str(problem) for problem in caught.value.problems] == [
        'x.yaml: a: found "fast", expected a number', "x.yaml: b: found 1.5, expected a whole number",
        "x.yaml: c: found 7, expected a list of names", "x.yaml: d.e: found [1], expected a list of names",
        "x.yaml: f: found true, expected a number", 'x.yaml: g: found "inf", expected a number',
    ]  # fmt: skip


def test_what_nobody_took_is_told_and_what_is_false_is_not_lost() -> None:
    keys = ConfigKeys({"log_every": 1, "lora_rr": 4, "off": False, "on": True, "list": [{"x": 1}, "p"]}, "x.yaml")
    keys.lose({"off": "why", "on": "why"})
    assert [section.text("path") for section in keys.sections("list")] == [None, "p"]
    keys.finish(["log_*"], ["lora_r"])
    assert keys.not_carried == [
        "on: true: why", "of no effect on what a study measures: log_every",
        "lora_rr: not known here; did you mean `lora_r`?", "list[0].x: not known here",
    ]  # fmt: skip


def test_the_nearest_key_is_one_of_the_same_section() -> None:
    keys = ConfigKeys({"SFTConfig": {"weirdo": 1, "learning_rat": 2, "lora_alph": 3}}, "x.json")
    inner = keys.section("SFTConfig")
    inner.number("learning_rate"), inner.take("warmup")
    keys.finish([], ["SFTConfig", "lora_alpha"])
    assert keys.not_carried == [
        "SFTConfig.weirdo: not known here", "SFTConfig.learning_rat: not known here; did you mean `learning_rate`?",
        "SFTConfig.lora_alph: not known here",
    ]  # fmt: skip
