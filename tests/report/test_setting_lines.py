"""What a plan says of settings, on plans made up for it."""

from __future__ import annotations

from made_facts import machine_facts, model_facts, suite_facts, train_facts
from made_plan import make_plan as made

from rankscope.plan.make_plan import make_plan
from rankscope.report.setting_lines import setting_lines
from rankscope.study.read_study import study_of

STUDY = """\
name: small
model: bundled
train: {medical: {path: train.jsonl, domain: medical}}
suites:
  medqa: {path: test.jsonl, domain: medical, kind: recall}
  law: {path: law.jsonl, domain: legal, kind: recall}
arms:
  full: {learning_rate: auto}
  lora: {ranks: [4, 8], learning_rate: auto}
seeds: [0]
"""


def test_items_that_choose_searches_and_dials_have_a_line_each() -> None:
    suites = {"bundled": [suite_facts(), suite_facts("law", domain="legal", item_count=200)]}
    plan = make_plan(study_of(STUDY), [model_facts()], {"bundled": [train_facts()]}, suites, machine_facts())
    split, search, dials = setting_lines(plan)
    assert split == "medical: these items choose rates and dials, and the others judge: law 50 of 200"
    assert search.startswith("learning-rate searches: about 2.58 runs an arm")
    assert dials.startswith("scoring at the dials 0.5, 0.7, 0.85 takes ")


def test_a_plan_without_any_of_that_has_none() -> None:
    assert list(setting_lines(made())) == []
