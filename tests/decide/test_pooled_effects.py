"""Pooling over studies against statsmodels, and the defaults that come of it."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml
from made_studies import Study
from statsmodels.stats.meta_analysis import combine_effects

from rankscope.decide.looks import gather
from rankscope.decide.pooled_effects import StudyArm, pool, random_effects, study_arms
from rankscope.records import Defaults
from rankscope.results.evidence import arms_lines, dump_defaults, read_defaults
from rankscope.study.init_file import study_template
from rankscope.study.problems import InputProblems
from rankscope.study.read_study import read_study
from rankscope.study.study import Decision


@pytest.mark.parametrize("count", [2, 4, 12])
def test_the_pooled_effect_is_that_of_statsmodels(count: int) -> None:
    rng = np.random.default_rng(count)
    variances = rng.uniform(0.5, 2.0, count) * 1e-3
    effects = rng.normal(size=count) * np.sqrt(variances + 0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = combine_effects(effects, variances, method_re="dl", use_t=True)
    found = random_effects(effects, variances)
    assert found.tau**2 == pytest.approx(reference.tau2)
    assert found.mean == pytest.approx(float(reference.mean_effect_re))
    scale = max(1.0, float(reference.scale_hksj_re))
    half = reference.conf_int()[3][1] - reference.mean_effect_re  # the interval of Hartung and Knapp
    assert found.high - found.mean == pytest.approx(half * np.sqrt(scale / reference.scale_hksj_re))


def test_intervals_cover_the_mean_over_studies() -> None:
    rng = np.random.default_rng(1)
    hits = []
    for _ in range(800):
        variances = rng.uniform(0.5, 2.0, 5)
        found = random_effects(rng.normal(0.3, 1.0, 5) + rng.normal(size=5) * np.sqrt(variances), variances)
        hits.append(found.low <= 0.3 <= found.high)
    assert np.mean(hits) >= 0.94


def test_a_single_study_has_its_own_interval() -> None:
    found = random_effects([0.1], [0.04])
    assert (found.mean, found.tau, found.studies) == (0.1, 0.0, 1)
    assert found.high - found.mean == pytest.approx(1.96 * 0.2, abs=1e-3)
    with pytest.raises(ValueError, match="variances above 0"):
        random_effects([0.1], [0.0])


def evidence_arms(name: str, rng_seed: int, rates: dict[str, float], kept_r4: float = 0.80) -> list[StudyArm]:
    learned = {"lora-r1": 0.5, "lora-r4": 0.695, "lora-r16": 0.7, "full": 0.7}
    kept = {"lora-r1": 0.80, "lora-r4": kept_r4, "lora-r16": 0.79, "full": 0.7}
    frames = Study(learned, kept, rng_seed=rng_seed).frames()
    evidence = gather(frames, model="small", train_set="facts", decision=Decision())
    return study_arms(name, evidence, rates)


@pytest.fixture(scope="module")
def defaults() -> Defaults:
    rates = [1e-3, 1e-3, 3e-3, 1e-3]
    arms = [arm for i, rate in enumerate(rates) for arm in evidence_arms(f"s{i}", i, {"lora-r4": rate, "full": 1e-4})]
    return pool(arms, Decision())


def test_the_default_is_the_smallest_arm_within_the_margins_over_all_studies(defaults: Defaults) -> None:
    assert defaults.default is not None
    chosen = defaults.arms[defaults.default]
    assert (chosen.method, chosen.rank, chosen.alpha_per_rank, chosen.targets) == ("lora", 4, 2.0, "all-linear")
    assert (chosen.studies, chosen.recommended_in) == (4, 4)
    assert [arm.rank for arm in defaults.arms] == [1, 4, 16, None]
    assert chosen.gain_difference is not None
    assert -0.03 < chosen.gain_difference.low < -0.005 < chosen.gain_difference.high
    full = defaults.arms[-1]
    assert full.gain_difference is not None  # it forgets too much to be what others are compared with
    assert (full.reference_in, sum(arm.reference_in for arm in defaults.arms)) == (0, 4)
    assert {arm.learning_rate_decade for arm in defaults.arms if arm.rank == 4} == {-3}
    assert chosen.learning_rate is not None
    assert chosen.learning_rate.low < 1e-3 < chosen.learning_rate.mean == pytest.approx(10**-2.88, rel=0.02)


def test_one_arm_at_two_rates_is_two_arms() -> None:
    """The same study at another rate, where r4 forgets too much: it neither helps nor hurts the rate that keeps."""
    mild = [evidence_arms(f"mild-{i}", i, {"lora-r4": 1e-4}) for i in range(3)]
    harsh = [evidence_arms(f"harsh-{i}", 9 + i, {"lora-r4": 1e-2}, kept_r4=0.60) for i in range(3)]
    pooled = pool([arm for arms in (*mild, *harsh) for arm in arms], Decision())
    rows = {arm.learning_rate_decade: arm for arm in pooled.arms if arm.rank == 4}
    assert {decade: row.studies for decade, row in rows.items()} == {-4: 3, -2: 3}
    assert rows[-2].forgetting is not None
    assert rows[-2].forgetting.low > 0.15
    assert pooled.default is not None
    assert pooled.arms[pooled.default] == rows[-4]
    assert "learning rate 1e-4 to 1e-3" in pooled.reason
    assert "ranks: [4]" in arms_lines(pooled)
    assert arms_lines(pooled).count("ranks: [4]") == 1


def test_a_bad_full_is_not_what_others_are_compared_with() -> None:
    """Full learns little at its rate; r1 is as good as it, and 20 points behind the best that keeps."""
    learned = {"lora-r1": 0.5, "lora-r4": 0.7, "full": 0.5}
    arms = []
    for i in range(3):
        frames = Study(learned, dict.fromkeys(learned, 0.80), rng_seed=i).frames()
        arms += study_arms(f"s{i}", gather(frames, model="small", train_set="facts", decision=Decision()), {})
    pooled = pool(arms, Decision())
    assert pooled.default is not None
    assert pooled.arms[pooled.default].rank == 4
    smallest = next(arm for arm in pooled.arms if arm.rank == 1)
    assert smallest.gain_difference is not None
    assert smallest.gain_difference.high < -0.1


def test_where_no_arm_keeps_there_is_no_reference_and_no_default() -> None:
    learned = {"lora-r1": 0.5, "full": 0.7}
    frames = Study(learned, dict.fromkeys(learned, 0.6)).frames()
    arms = study_arms("s", gather(frames, model="small", train_set="facts", decision=Decision()), {})
    assert all(arm.gain_difference is None and not arm.is_reference for arm in arms)
    assert pool(arms, Decision()).default is None


def test_studies_that_cannot_tell_give_no_default() -> None:
    pooled = pool(evidence_arms("one", 0, {}), Decision(task_margin=0.001, retention_margin=0.001))
    assert pooled.default is None
    assert "no default can be told yet" in pooled.reason
    assert all(arm.learning_rate is None for arm in pooled.arms)


def test_a_study_can_start_from_the_defaults(defaults: Defaults, tmp_path: Path) -> None:
    path = tmp_path / "defaults.yaml"
    path.write_text(dump_defaults(defaults), encoding="utf-8")
    assert read_defaults(path) == defaults
    study = tmp_path / "study.yaml"
    study.write_text(study_template(arms=arms_lines(read_defaults(path))), encoding="utf-8")
    arms = {arm.label: arm for arm in read_study(study).expand_arms()}
    assert {label: arm.rank for label, arm in arms.items()} == {
        "full": None,
        "lora-r1": 1,
        "lora-r4": 4,
        "lora-r16": 16,
    }
    assert (arms["lora-r4"].learning_rate, arms["lora-r4"].alpha) == (1e-3, 8)
    assert (arms["full"].learning_rate, arms["lora-r16"].learning_rate) == (1e-4, "auto")


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "no valid YAML"), ("arms: []", "Field required"), ("- 1", "valid dictionary"), (None, "no such file")],
)
def test_a_file_that_holds_no_defaults_is_one_line(text: str | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "defaults.yaml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(InputProblems) as caught:
        read_defaults(path)
    (problem,) = caught.value.problems
    assert said in str(problem)
    assert "\n" not in str(problem)


def test_an_unknown_version_is_refused(defaults: Defaults, tmp_path: Path) -> None:
    path = tmp_path / "defaults.yaml"
    path.write_text(yaml.safe_dump({**defaults.model_dump(mode="json"), "format_version": 2}), encoding="utf-8")
    with pytest.raises(InputProblems):
        read_defaults(path)
