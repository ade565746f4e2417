"""Run ids: stable, independent of what decides nothing, and dependent on all that decides the trained weights."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_facts import STUDY, model_facts, train_facts

from rankscope.plan.resolve import SEARCH_SEED, run_id, search_arms, search_id
from rankscope.study.methods import METHODS
from rankscope.study.study import Arm, Study

SETTINGS = {
    "name": "small",
    "model": [{"id": "bundled"}],
    "train": {"medical": {"path": "train.jsonl", "domain": "medical"}},
    "suites": {"medqa": {"path": "test.jsonl", "domain": "medical", "kind": "recall"}},
    "arms": {"lora": {"method": "lora", "ranks": [4, 8], "learning_rate": 2e-4}, "full": {"method": "full"}},
    "seeds": [0, 1],
}


def study(**update: object) -> Study:
    return Study.model_validate(SETTINGS | update)


def ids(of: Study, dtype: str = "float32", **train: object) -> dict[tuple[str, int], str]:
    found = {}
    for key in of.arms:
        entry = of.arms_of(key)
        for arm in entry:
            for seed in of.seeds:
                facts = train_facts(**train)
                found[arm.label, seed] = run_id(arm, seed, of, model_facts(), facts, dtype, search_arms(arm, entry))
    return found


def one(of: Study | None = None, dtype: str = "float32", **train: object) -> str:
    return ids(of or study(), dtype, **train)["lora-r4", 0]


def test_an_id_says_method_rank_and_seed() -> None:
    found = ids(study())
    assert found["lora-r8", 1].startswith("lora-r8-s1-")
    assert found["full", 0].startswith("full-s0-")
    assert all(len(id_.rsplit("-", 1)[1]) == 12 for id_ in found.values())
    assert len(set(found.values())) == len(found)


def test_an_id_is_the_same_in_every_process() -> None:
    code = "from test_resolve_ids import one; print(one())"
    environment = os.environ | {"PYTHONHASHSEED": "77", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == one()


@pytest.mark.parametrize(
    "update",
    [
        {"name": "other"},
        {"seeds": [2, 0, 1]},
        {"suites": SETTINGS["suites"] | {"law": {"path": "law.jsonl", "domain": "legal", "kind": "recall"}}},
        {"suites": {"other": {"world": "x", "domain": "medical", "kind": "reasoning", "max_new_tokens": 9}}},
        {"arms": {"lora": {"method": "lora", "ranks": [2, 8, 4], "learning_rate": 2e-4}}},
        {"arms": {"lora": {"method": "lora", "ranks": [4], "learning_rate": 2e-4, "alpha": 8}}},
        {"decision": {"task_margin": 0.1, "confidence": 0.9}},
        {"checkpoint": {"minutes": 1}},
        {"keep": {"full": "all"}},
        {"train": {"medical": {"path": "elsewhere.jsonl", "domain": "medical"}}},
        {"train": {"medical": {"world": "x", "domain": "drugs"}}},
        {"budget": {"epochs": 3.0}},
    ],
    ids=lambda update: "-".join(update),
)
def test_what_decides_nothing_is_not_in_the_id(update: dict[str, object]) -> None:
    assert one(study(**update)) == one()


def test_labels_and_the_order_of_keys_and_targets_are_not_in_the_id() -> None:
    renamed = study(arms={"mine": SETTINGS["arms"]["lora"]})  # type: ignore[index]
    assert ids(renamed)["mine-r4", 0] == one()
    backwards = Study.model_validate(dict(reversed(SETTINGS.items())))
    assert one(backwards) == one()
    both = [["q_proj", "v_proj"], ["v_proj", "q_proj", "v_proj"]]
    found = {
        one(study(arms={"lora": {"method": "lora", "ranks": [4], "targets": t, "learning_rate": 1e-4}})) for t in both
    }
    assert len(found) == 1


LORA = {"method": "lora", "ranks": [4], "learning_rate": 2e-4}


@pytest.mark.parametrize(
    "update",
    [
        {"arms": {"lora": LORA | {"alpha": 16}}},
        {"arms": {"lora": LORA | {"learning_rate": 3e-4}}},
        {"arms": {"lora": LORA | {"learning_rate": "auto"}}},
        {"arms": {"lora": LORA | {"dropout": 0.1}}},
        {"arms": {"lora": LORA | {"targets": ["q_proj"]}}},
        {"budget": {"epochs": 2}},
        {"budget": {"batch_size": 8}},
        {"budget": {"max_sequence_tokens": 512}},
        {"optimizer": {"weight_decay": 0.1}},
        {"optimizer": {"warmup_fraction": 0.1}},
        {"optimizer": {"schedule": "linear"}},
        {"optimizer": {"clip_norm": 2}},
        {"validation": {"fraction": 0.2}},
        {"validation": {"max_items": 5}},
        {"train": {"medical": {"path": "train.jsonl", "domain": "medical", "choices": "letters"}}},
        {"train": {"medical": {"path": "train.jsonl", "domain": "medical", "kind": "reasoning"}}},
    ],
    ids=lambda update: "-".join(map(str, next(iter(update.values())))),
)
def test_every_setting_that_decides_the_weights_is_in_the_id(update: dict[str, object]) -> None:
    assert one(study(**update)) != one()


def test_dtype_model_and_rows_are_in_the_id() -> None:
    facts, train, of = model_facts(), train_facts(), study()
    arm = of.arms_of("lora")[0]
    changed = {
        one(),
        one(dtype="bfloat16"),
        one(content_sha256="d" * 64),
        one(row_count=99),
        one(token_count=3999),
        run_id(arm, 0, of, model_facts(content_sha256="e" * 64), train, "float32"),
        run_id(arm, 1, of, facts, train, "float32"),
    }
    assert len(changed) == 7
    assert run_id(arm, 0, of, model_facts("another-name"), train_facts(domain=None), "float32") == one()


def test_the_results_version_is_in_the_id(monkeypatch: pytest.MonkeyPatch) -> None:
    before = one()
    monkeypatch.setattr("rankscope.plan.resolve.RESULTS_VERSION", 999)
    assert one() != before


def test_a_searched_rate_depends_on_the_arms_that_share_the_search() -> None:
    def lora(ranks: list[int], rate: str) -> Study:
        return study(arms={"lora": {"method": "lora", "ranks": ranks, "learning_rate": rate}})

    assert one(lora([4], "auto")) == one(lora([2, 4], "auto"))
    assert one(lora([4], "auto_shared")) == one(lora([4], "auto"))
    assert one(lora([4, 8], "auto_shared")) == one(lora([8, 4], "auto_shared"))
    assert one(lora([4, 8], "auto_shared")) != one(lora([4, 8, 16], "auto_shared"))
    assert one(lora([4, 8], "auto_shared")) != one(lora([4, 8], "auto"))


def test_a_search_has_an_id_of_its_own_that_seeds_and_labels_leave_alone() -> None:
    def own(of: Study) -> str:
        key = next(iter(of.arms))
        return search_id(of.arms_of(key), of, model_facts(), train_facts(), "float32")

    base = own(study(arms={"lora": LORA | {"learning_rate": "auto"}}))
    assert base.startswith("lora-r4-search-")
    assert own(study(arms={"x": LORA | {"learning_rate": "auto"}}, seeds=[5, 6, 7])) == base
    assert own(study(arms={"x": LORA | {"learning_rate": "auto"}}, budget={"epochs": 1})) != base
    shared = own(study(arms={"x": LORA | {"ranks": [2, 4], "learning_rate": "auto_shared"}}))
    assert shared.startswith("lora-shared-search-")


def test_the_grids_are_half_decades() -> None:
    assert METHODS["full"].rate_grid == [1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3]
    assert METHODS["lora"].rate_grid == [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2]


def test_the_searchs_seed_is_one_that_no_study_can_have(
    read: Callable[..., Study], lines: Callable[..., list[str]]
) -> None:
    assert read(STUDY, f"seeds=[{SEARCH_SEED - 1}]").seeds == (SEARCH_SEED - 1,)
    assert "seeds[0]" in lines(STUDY, f"seeds=[{SEARCH_SEED}]")[0]


arms = st.builds(
    Arm,
    label=st.just("x"),
    method=st.just("lora"),
    rank=st.integers(1, 256),
    alpha=st.floats(0.5, 512, allow_nan=False),
    targets=st.sampled_from(["all-linear", ("q_proj",), ("q_proj", "v_proj")]),
    dropout=st.sampled_from([0.0, 0.1]),
    learning_rate=st.floats(1e-6, 1, allow_nan=False),
)


@given(st.lists(st.tuples(arms, st.integers(0, 2**31 - 1)), min_size=2, max_size=5))
def test_two_runs_have_the_same_id_only_where_they_are_the_same(runs: Sequence[tuple[Arm, int]]) -> None:
    of = study()
    found = [run_id(arm, seed, of, model_facts(), train_facts(), "float32") for arm, seed in runs]
    assert len(set(found)) == len(set(runs))
