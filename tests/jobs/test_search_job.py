"""A study whose rates are searched, end to end: waves, what is scored, what is chosen; and the schedule."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from test_pipeline import plan_of, run
from tiny_study import tiny_study
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from rankscope.edges.study_folder import StudyFolder
from rankscope.pipeline import Outcome
from rankscope.plan.resolve import next_rate
from rankscope.records import SettingsFile
from rankscope.study.study import Schedule
from rankscope.train.optimizer import rate_factor, warmup_steps

ARMS = {"full": {"learning_rate": "auto"}, "lora": {"ranks": [2, 4], "learning_rate": "auto"}}
SETTINGS = {"seeds": [0], "dial": [0.5, 1], "selection": {"min_items": 8, "share": 0.4}}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("searched")
    study = tiny_study(folder / "input", arms=ARMS, **SETTINGS)
    assert run(study, folder / "out") == Outcome()
    return study, folder / "out"


def settings_of(out: Path) -> SettingsFile:
    found = StudyFolder.open(out).read_settings()
    assert found is not None
    return found


def test_each_search_has_two_rates_trained_through_and_scored_on_what_chooses(done: tuple[Path, Path]) -> None:
    folder = StudyFolder.open(done[1])
    for search in plan_of(done[1]).searches:
        record = folder.read_search(search.search_id)
        assert record is not None
        assert len(record.rates) >= search.tries
        assert record.runs_spent == pytest.approx(0.25 * len(record.rates) + 0.75 * len(record.finals), abs=0.4)
        selection, moved = (
            folder.read_selection(search.search_id),
            folder.read_first_tokens(f"searches/{search.search_id}"),
        )
        assert selection is not None
        assert moved is not None
        points = [(rate, dial) for rate in sorted(record.finals) for dial in (0.5, 1.0)]
        keys = ["learning_rate", "dial"]
        assert selection.groupby(keys).size().to_dict() == dict.fromkeys(points, 12), "of `other` alone"
        assert moved.groupby(keys).size().to_dict() == dict.fromkeys(points, 18), "and the prompts of `sums`"
        assert sorted((one.learning_rate, one.dial) for one in record.dial_losses) == points


def test_the_second_rank_tries_what_the_first_speaks_for(done: tuple[Path, Path]) -> None:
    folder = StudyFolder.open(done[1])
    _, anchor, other = plan_of(done[1]).searches
    first, second = folder.read_search(anchor.search_id), folder.read_search(other.search_id)
    assert first is not None
    assert second is not None
    best = min((curve[0], rate) for rate, curve in zip(first.rates, first.losses, strict=True) if curve[0] is not None)[
        1
    ]
    assert {next_rate(best, up=False), best, next_rate(best, up=True)} <= set(second.rates)


def test_what_is_chosen_is_what_is_trained_and_judged(done: tuple[Path, Path]) -> None:
    folder, settings = StudyFolder.open(done[1]), settings_of(done[1])
    verdicts = folder.read_verdicts()
    assert verdicts is not None
    by_arm = {arm.label: arm for arm in verdicts.verdicts[0].arms}
    for one in plan_of(done[1]).runs:
        setting, record = settings.of(one.model, one.train_set, one.arm.label), folder.read_run(one.run_id)
        assert setting is not None
        assert record is not None
        assert setting.how in ("retention", "none admissible")
        assert record.learning_rate == setting.learning_rate == by_arm[one.arm.label].learning_rate
        assert setting.dial == by_arm[one.arm.label].dial
        assert setting.search_id == one.search_id
        assert {point.source for point in setting.points} == {"search"}
        assert all(point.fitted is not None and point.kl_first_token_nats for point in setting.points)
    rates = folder.read_table("rates")
    assert rates is not None
    assert rates[rates["chosen"]].set_index("arm")["learning_rate"].to_dict() == {
        setting.arm: setting.learning_rate for setting in settings.settings
    }
    points = folder.read_table("operating_points")
    assert points is not None
    chosen = points[points["chosen"]]
    assert len(chosen) == 3
    assert chosen["gain"].notna().all()


def test_a_search_whose_files_are_lost_finds_the_same_again(done: tuple[Path, Path]) -> None:
    study, out = done
    search = plan_of(out).searches[1]
    place, before = out / "searches" / search.search_id, settings_of(out)
    kept = {name: pd.read_parquet(place / f"{name}.parquet") for name in ("selection", "first_tokens")}
    for path in [out / "settings.json", *place.glob("*")]:
        path.unlink() if path.is_file() else None
    assert run(study, out) == Outcome()
    for name, frame in kept.items():
        pd.testing.assert_frame_equal(pd.read_parquet(place / f"{name}.parquet"), frame, check_exact=True)
    assert settings_of(out) == before


def test_a_run_of_another_rate_is_set_aside_and_trained_again(done: tuple[Path, Path], tmp_path: Path) -> None:
    study, out = done
    folder = StudyFolder.open(out)
    one = next(r for r in plan_of(out).runs if r.arm.label == "lora-r2")
    record = folder.read_run(one.run_id)
    assert record is not None
    assert record.learning_rate is not None
    folder.write_run(record.model_copy(update={"learning_rate": 0.5}))
    assert run(study, out) == Outcome()
    again = folder.read_run(one.run_id)
    assert again is not None
    assert again.learning_rate == record.learning_rate
    assert (out / "runs" / f"{one.run_id}.rate-0.5" / "adapter").is_dir()
    assert (out / "runs" / one.run_id / "adapter").is_dir()


def test_one_job_of_an_array_does_the_searches_that_its_setting_needs(tmp_path: Path, done: tuple[Path, Path]) -> None:
    one = next(r for r in plan_of(done[1]).runs if r.arm.label == "full")
    assert run(done[0], tmp_path / "out", only=[one.run_id]) == Outcome()
    for ours, theirs in zip(settings_of(tmp_path / "out").settings, settings_of(done[1]).settings, strict=True):
        assert (ours.arm, ours.learning_rate, ours.dial) == (theirs.arm, theirs.learning_rate, theirs.dial)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("warmup", [0, 7])
def test_decay_is_that_of_transformers(schedule: Schedule, warmup: int) -> None:
    make = get_cosine_schedule_with_warmup if schedule == "cosine" else get_linear_schedule_with_warmup
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = make(optimizer, warmup, 50)
    for step in range(50):
        ours = rate_factor(step, 50, warmup=warmup, schedule=schedule)
        theirs = reference.get_last_lr()[0]
        # In the warm-up ours is a step ahead: the first update is not wasted on a rate of zero.
        assert ours == pytest.approx((step + 1) / warmup if step < warmup else theirs)
        optimizer.step()
        reference.step()


def test_warmup_is_rounded_up() -> None:
    assert [warmup_steps(n, 0.03) for n in (1, 33, 34, 100)] == [1, 1, 2, 3]
    assert warmup_steps(100, 0.0) == 0


def test_the_next_rate_is_half_a_decade_on() -> None:
    rates = [1e-6]
    for _ in range(10):
        rates.append(next_rate(rates[-1], up=True))
    assert rates[1:7] == [3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3]
    for above, below in zip(rates[1:], rates, strict=False):
        assert next_rate(above, up=False) == below


def test_an_arm_that_is_renamed_keeps_what_its_search_found(done: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(done[1], out)
    renamed = {"full": ARMS["full"], "mine": {"method": "lora", **ARMS["lora"]}}
    assert run(tiny_study(tmp_path / "input", arms=renamed, **SETTINGS), out) == Outcome()
    before, after = (
        {setting.arm: (setting.learning_rate, setting.dial, setting.how) for setting in settings_of(folder).settings}
        for folder in (done[1], out)
    )
    assert after == {label.replace("lora", "mine"): found for label, found in before.items()}
    assert None not in [rate for rate, *_ in after.values()]
    for search, known in zip(plan_of(out).searches, plan_of(done[1]).searches, strict=True):
        assert StudyFolder.open(out).read_search(search.search_id) == StudyFolder.open(done[1]).read_search(
            known.search_id
        ), "nothing was searched again"
    costs = pd.read_parquet(out / "tables" / "cost.parquet")
    assert (costs["search_seconds"] > 0).all(), "and its cost is the arm's"
    rates = pd.read_parquet(out / "tables" / "rates.parquet")
    assert set(rates.loc[rates["chosen"], "arm"]) == set(after)
