"""Two made-up studies compared: settings, content, arms and answers, and folders that cannot be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_facts import STUDY, model_facts, planned
from made_report import make_verdict
from made_studies import Study as Made
from study_fixtures import read as read
from study_fixtures import write as write

from rankscope.edges.study_folder import StudyFolder
from rankscope.results import compare_studies
from rankscope.results.compare_studies import Told, compare, main_differences, setting_differences
from rankscope.study.problems import InputProblems

LABELS = [("lora-r4", 4), ("lora-r16", 16), ("full", None)]


def told(read: Any, url: str, text: str = STUDY, **made: Any) -> Told:
    study = read(text)
    plan = planned(study, [model_facts()])
    frames = Made(**{"learned": {"lora-r4": 0.5, "full": 0.6}, "kept": {"lora-r4": 0.79, "full": 0.7}, **made}).frames()
    frames.predictions["model"] = frames.predictions["model"].replace("small", "bundled")
    frames = frames._replace(runs=frames.runs.assign(model="bundled"))
    train_set = str(frames.runs["train_set"].iloc[0])
    verdict = make_verdict(train_set, "cannot_distinguish", labels=LABELS[::2])
    return Told(url, study, plan, frames, [verdict])


def test_settings_and_content_that_differ_are_listed_and_names_are_not(read: Any) -> None:
    one = told(read, "a")
    other = told(read, "b", STUDY.replace("name: small", "name: other").replace("seeds: [0, 1, 2]", "seeds: [0, 1]"))
    suite = other.plan.suites[0].model_copy(update={"content_sha256": "d" * 64})
    plan = other.plan.model_copy(update={"suites": [suite, *other.plan.suites[1:]]})
    found = {d.name: (d.first, d.second) for d in setting_differences(one, other._replace(plan=plan))}
    assert found == {"seeds": ("0, 1, 2", "0, 1"), f"content of suite {suite.name}, as tokens": ("c" * 12, "d" * 12)}


def test_what_matters_is_told_in_few_rows(read: Any) -> None:
    text = STUDY.replace("seeds: [0, 1, 2]", "seeds: [0, 1]")
    one, other = told(read, "a"), told(read, "b", text)
    first, *others = other.plan.suites
    suite = first.model_copy(update={"content_sha256": "d" * 64, "item_count": first.item_count + 1})
    renamed = [others[0].model_copy(update={"name": "new"}), *others[1:]]
    train = [t.model_copy(update={"content_sha256": "e" * 64}) for t in other.plan.train_sets]
    plan = other.plan.model_copy(update={"suites": [suite, *renamed], "train_sets": train})
    found = {d.name: (d.first, d.second) for d in main_differences(one, other._replace(plan=plan))}
    rows = train[0].row_count
    assert found == {
        f"training set {train[0].name}": (f"{rows:,} rows", f"{rows:,} other rows"),
        f"suite {suite.name}": (f"{first.item_count:,} items", f"{first.item_count + 1:,} items"),
        "suites in one only": (others[0].name, "new"),
        "seeds": ("0, 1, 2", "0, 1"),
    }


def test_under_another_base_the_tokens_of_the_same_rows_are_not_other_rows(read: Any) -> None:
    one, other = told(read, "a"), told(read, "b")
    train = [t.model_copy(update={"content_sha256": "e" * 64}) for t in other.plan.train_sets]
    first, *others = (suite.model_copy(update={"content_sha256": "d" * 64}) for suite in other.plan.suites)
    more = first.model_copy(update={"item_count": first.item_count + 1})
    models = [m.model_copy(update={"content_sha256": "f" * 64}) for m in other.plan.models]
    plan = other.plan.model_copy(update={"models": models, "train_sets": train, "suites": [more, *others]})
    found = {d.name: (d.first, d.second) for d in main_differences(one, other._replace(plan=plan))}
    assert found == {
        "base model": (models[0].source, f"{models[0].source}, other weights"),
        f"suite {first.name}": (f"{first.item_count:,} items", f"{first.item_count + 1:,} items"),
    }


def test_other_rows_of_a_base_that_both_have_are_told_though_one_study_has_a_further_base(read: Any) -> None:
    one = told(read, "a")
    second = [m.model_copy(update={"content_sha256": "f" * 64, "name": "second"}) for m in one.plan.models]
    train = [t.model_copy(update={"content_sha256": "e" * 64}) for t in one.plan.train_sets]
    plan = one.plan.model_copy(update={"models": [*one.plan.models, *second], "train_sets": train})
    found = {d.name.partition(" ")[0]: d.second for d in main_differences(one, one._replace(plan=plan))}
    assert found["training"] == f"{train[0].row_count:,} other rows"


def test_each_base_of_several_has_its_own_rows(read: Any) -> None:
    one = told(read, "a")
    second = [t.model_copy(update={"model": "second", "row_count": t.row_count + 5}) for t in one.plan.train_sets]
    models = [*one.plan.models, *(m.model_copy(update={"name": "second"}) for m in one.plan.models)]
    plan = one.plan.model_copy(update={"models": models, "train_sets": [*one.plan.train_sets, *second]})
    moved = [*one.plan.train_sets, *(t.model_copy(update={"content_sha256": "e" * 64}) for t in second)]
    both = [one._replace(plan=one_plan) for one_plan in (plan, plan.model_copy(update={"train_sets": moved}))]
    (found,) = main_differences(*both)
    count = f"{second[0].row_count:,}"
    assert (found.name, found.first) == (f"training set {second[0].name} for second", f"{count} rows")
    assert found.second == f"{count} other rows"


def test_arms_of_both_are_compared_and_others_named(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = told(read, "a"), told(read, "b", learned={"lora-r4": 0.5, "full": 0.7})
    more = make_verdict(other.verdicts[0].train_set, labels=[*LABELS])
    sides = {"a": one, "b": other._replace(verdicts=[more])}
    monkeypatch.setattr(compare_studies, "_told", lambda folder: sides[folder])
    found = compare("a", "b")  # type: ignore[arg-type]
    (pair,) = found.pairs
    assert [arm.arm for arm in pair.arms] == ["lora-r4", "full"]
    assert (pair.only_first, pair.only_second) == ([], ["lora-r16"])
    assert pair.answers.recommended == (None, "lora-r16")
    full = pair.arms[1]
    assert full.gain.mean == pytest.approx(0.1, abs=0.01)
    assert full.gain.low is not None
    assert full.gain.low > 0.05
    assert pair.arms[0].gain.mean == pytest.approx(0.0, abs=0.01)
    assert found.model_validate_json(found.model_dump_json()) == found


def test_a_folder_that_is_no_study_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(InputProblems) as caught:
        compare(StudyFolder.open(tmp_path), StudyFolder.open(tmp_path))
    assert len(caught.value.problems) == 1
