"""What a plan says of settings, on plans made up for it."""

from __future__ import annotations

from made_facts import machine_facts, model_facts, suite_facts, train_facts
from made_plan import make_plan as made

from rankscope.plan.make_plan import make_plan
from rankscope.records import ReplayFacts
from rankscope.records.readable_numbers import duration
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


def test_each_remedy_has_a_line_with_its_price() -> None:
    arms = """arms:
  plain: {method: lora, ranks: [4], learning_rate: 1e-3}
  near: {method: lora, ranks: [4], learning_rate: 1e-3, retain: {kl: 0.3}}
  own: {method: lora, ranks: [4], learning_rate: 1e-3, replay: {self: 0.2}}
seeds: [0, 1]
"""
    study = study_of(STUDY[: STUDY.index("arms:")] + arms)
    samples = ReplayFacts(
        arms=["own-r4"], content_sha256="c", samples_sha256="s", row_count=200, token_count=13_000,
        completion_token_count=12_800,
    )  # fmt: skip
    train = train_facts().model_copy(update={"replays": [samples]})
    suites = {"bundled": [suite_facts(), suite_facts("law", domain="legal", item_count=200)]}
    plan = make_plan(study, [model_facts()], {"bundled": [train]}, suites, machine_facts())
    head, near, own = list(setting_lines(plan))[-3:]
    assert head == "every arm trains on the same tokens of the task; on top of these, a run of"
    runs = {run.arm.label: run for run in plan.runs if run.seed == 0}
    assert len({run.train_tokens for run in runs.values()}) == 1
    took = duration(runs["near-r4"].seconds - runs["plain-r4"].seconds)
    assert near == f"  near-r4 (retain kl 0.3): no more tokens, {took} more training"
    took = duration(runs["own-r4"].seconds - runs["plain-r4"].seconds)
    assert own == f"  own-r4 (replay of 20 % own samples): 25.0 % more tokens, {took} more training"
    written = make_plan(study_of(STUDY), [model_facts()], {"bundled": [train]}, suites, machine_facts()).base_seconds
    without = make_plan(study_of(STUDY), [model_facts()], {"bundled": [train_facts()]}, suites, machine_facts())
    assert written > without.base_seconds, "the samples are written once"


def test_a_plan_without_any_of_that_has_none() -> None:
    assert list(setting_lines(made())) == []
