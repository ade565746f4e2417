"""Which items choose settings: shares and limits, whole clusters, and that items added later reshuffle nothing."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_facts import STUDY, machine_facts, model_facts, suite_facts, train_facts

from rankscope.plan.make_plan import make_plan
from rankscope.plan.selection_split import planned_choice, planned_count, selection_items, split_count
from rankscope.records import Plan, PlannedChoice, SuiteFacts
from rankscope.study.problems import InputProblems
from rankscope.study.read_study import study_of
from rankscope.study.selection_order import in_order, unit_of
from rankscope.study.study import Selection

IDS = [f"item-{i}" for i in range(200)]
ALONE = [None] * 200
LAW = suite_facts("law", domain="legal", item_count=200)


def clustered(name: str, clusters: list[str | None]) -> SuiteFacts:
    """Facts of a suite of these clusters, as the writer of its token file makes them."""
    ids = IDS[: len(clusters)]
    units = Counter(unit_of(*item) for item in zip(ids, clusters, strict=True))
    sizes = [units[unit] for unit in in_order(units)]
    return suite_facts(name, domain=name, item_count=len(ids), cluster_sizes=sizes)


def planned(*suites: object, **changes: object) -> Plan:
    study = study_of(STUDY).model_copy(update=changes)
    given = [suite_facts(), *suites]
    return make_plan(study, [model_facts()], {"bundled": [train_facts()]}, {"bundled": given}, machine_facts())  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("items", "count"), [(6, 0), (31, 0), (32, 16), (64, 16), (100, 25), (300, 75), (400, 100), (9000, 100)]
)
def test_a_quarter_of_a_suite_between_16_and_100_items(items: int, count: int) -> None:
    assert split_count(items, Selection()) == count


def test_the_draw_is_seeded_by_the_id_and_spread_over_the_suite() -> None:
    chosen = selection_items(IDS, ALONE, 50)
    assert len(chosen) == 50
    assert chosen == selection_items(IDS[::-1], ALONE, 50)
    assert 10 < sum(int(item[5:]) < 100 for item in chosen) < 40


@given(st.integers(60, 200), st.integers(1, 40))
def test_items_that_are_added_move_nobody_in_but_themselves(before: int, count: int) -> None:
    """Of the old items only some of those that chose may be pushed out, each by a new one."""
    first, later = (selection_items(IDS[:n], ALONE[:n], count) for n in (before, 200))
    old = set(IDS[:before])
    assert later & old <= first
    assert len(first - later) == len(later - old)


def test_clusters_stay_together_and_two_are_always_left() -> None:
    clusters = [f"text-{i // 10}" for i in range(200)]
    chosen = selection_items(IDS, clusters, 25)
    assert len(chosen) == 30
    assert all(len({item in chosen for item in IDS[i : i + 10]}) == 1 for i in range(0, 200, 10))
    two = [f"text-{i // 100}" for i in range(200)]
    assert not selection_items(IDS, two, 25)


@given(st.lists(st.sampled_from(["a", "b", "c", "d", "e", None]), min_size=32, max_size=200))
def test_the_planned_count_is_what_is_drawn_and_drawing_as_many_draws_the_same(clusters: list[str | None]) -> None:
    ids = IDS[: len(clusters)]
    count = planned_count(clustered("law", clusters), Selection())
    chosen = selection_items(ids, clusters, split_count(len(ids), Selection()))
    judging = {unit_of(*item) for item in zip(ids, clusters, strict=True) if item[0] not in chosen}
    assert len(judging) >= min(2, len({unit_of(*item) for item in zip(ids, clusters, strict=True)}))
    assert count == (len(chosen) if len(chosen) >= 16 else 0)
    assert selection_items(ids, clusters, count) == (chosen if count else frozenset())


def test_a_suite_in_two_clusters_is_too_small_to_be_split_and_named_so() -> None:
    two = clustered("two", [f"text-{i // 30}" for i in range(60)])
    plan = planned(LAW, two)
    assert plan.choice_of("bundled", "medical").select_counts == {"law": 50}
    assert any("too small to be split" in said and said.endswith("two (60 in 2 clusters)") for said in plan.warnings)
    alone = planned(two)
    assert (alone.choice_of("bundled", "medical").select, alone.choice_of("bundled", "medical").splits) == ("loss", [])
    assert any("32 items that a split needs, in clusters that can be split)" in said for said in alone.warnings)


def test_whole_clusters_of_a_few_more_items_leave_the_ids_of_searches_as_they_were() -> None:
    """The id has what was asked for: it is that of the plans that were made before the sizes of clusters were known."""
    study = study_of(STUDY.replace("learning_rate: 2e-4", "learning_rate: auto"))
    whole = clustered("law", [f"text-{i // 30}" for i in range(200)])
    older = whole.model_copy(update={"cluster_sizes": None})
    train, laws = {"bundled": [train_facts()]}, ({"bundled": [suite_facts(), law]} for law in (whole, older))
    plans = [make_plan(study, [model_facts()], train, suites, machine_facts()) for suites in laws]
    assert [plan.choices[0].select_counts for plan in plans] == [{"law": 60}, {"law": 50}]
    first, second = ([search.search_id for search in plan.searches] for plan in plans)
    assert first
    assert first == second


def test_a_suite_of_the_domain_is_whole_though_it_is_split_for_another_set() -> None:
    study = planned(LAW).study
    assert study == "small"
    suites = [suite_facts("medqa", item_count=300), LAW]
    of = {d: planned_choice(study_of(STUDY), "m", "t", d, suites).select_counts for d in ("medical", "legal", None)}
    assert of == {"medical": {"law": 50}, "legal": {"medqa": 75}, None: {"medqa": 75, "law": 50}}


def test_the_plan_says_what_is_split_and_what_a_run_is_scored_at() -> None:
    plan = planned(LAW, suite_facts("sums", domain=None, item_count=6))
    assert plan.choice_of("bundled", "medical").select_counts == {"law": 50}
    assert {tuple(run.dials) for run in plan.runs} == {(0.5, 0.7, 0.85, 1.0)}
    assert any("too small to be split" in said and "sums (6)" in said for said in plan.warnings)
    assert all(run.seconds > run.dial_seconds > 0 for run in plan.runs)


def test_without_a_suite_to_split_rates_are_chosen_by_the_loss_and_it_is_said() -> None:
    plan = planned(suite_facts("law", domain="legal", item_count=20))
    choice = plan.choice_of("bundled", "medical")
    assert (choice.select, choice.splits) == ("loss", [])
    assert {tuple(run.dials) for run in plan.runs} == {(1.0,)}
    assert any("blind to forgetting (no suite outside the domain has the 32 items" in said for said in plan.warnings)


def test_a_dial_that_is_given_is_a_search_of_its_own_though_the_loss_chooses() -> None:
    """Without it the search has scored no dial, and a finished one has nothing to take from."""
    ids = []
    for dial in ("", "dial: 0.7, ", "dial: 0.85, ", "dial: 1, "):
        study = study_of(STUDY.replace("full: {learning_rate: 1e-5", f"full: {{{dial}learning_rate: auto"))
        suites = {"bundled": [suite_facts(), suite_facts("law", domain="legal", item_count=20)]}
        plan = make_plan(study, [model_facts()], {"bundled": [train_facts()]}, suites, machine_facts())
        assert plan.choices[0].select == "loss"
        ids.append([search.search_id for search in plan.searches])
    assert all(ids)
    assert ids[0] != ids[1] != ids[2] != ids[0]
    assert ids[3] == ids[0], "at dial 1 alone it has been scored"


def test_a_share_that_leaves_nobody_to_judge_is_one_line() -> None:
    with pytest.raises(InputProblems) as error:
        planned(suite_facts("law", domain="legal", item_count=50), selection=Selection(share=0.99))
    (problem,) = error.value.problems
    assert str(problem) == (
        "study: selection.share: found 50 of the 50 items of law would choose settings, expected a share and max_items "
        "that leave at least two items to judge"
    )


def test_a_dial_is_no_part_of_a_runs_id() -> None:
    fixed = study_of(STUDY.replace("full: {", "full: {dial: 0.7, "))
    plan = make_plan(fixed, [model_facts()], {"bundled": [train_facts()]}, {"bundled": [suite_facts(), LAW]}, machine_facts())  # fmt: skip  # noqa: E501
    assert [run.run_id for run in plan.runs] == [run.run_id for run in planned(LAW).runs]
    assert [run.dials for run in plan.runs if run.arm.label == "full"] == [[0.7, 1.0]] * 3


def test_where_every_rate_and_dial_is_given_all_items_judge() -> None:
    def choice(text: str) -> PlannedChoice:
        return planned_choice(study_of(text), "m", "t", "medical", [suite_facts("medqa", item_count=300), LAW])

    given = choice(STUDY + "dial: [1]\n")
    assert (given.select, given.select_counts, given.reason) == ("given", {}, None)
    assert choice(STUDY.replace("1e-5", "1e-5, dial: 0.7").replace("2e-4", "2e-4, dial: 1")).select == "given"
    assert choice(STUDY.replace("1e-5", "1e-5, dial: 0.7")).select == "retention", "the dials of lora are chosen"
    assert choice(STUDY.replace("1e-5", "auto") + "dial: [1]\n").select == "retention", "a rate is"
    asks = STUDY.replace("2e-4", "2e-4, replay: {self: 0.2, prompts: selection}") + "dial: [1]\n"
    assert choice(asks).select_counts == {"law": 50}, "their prompts are used"
    assert choice(STUDY + "dial: [1]\nselect: loss\n").select == "loss"


def test_a_plan_where_all_is_given_warns_of_nothing_and_scores_at_the_dials_that_are_given() -> None:
    study = study_of(STUDY.replace("1e-5", "1e-5, dial: 0.7") + "dial: [1]\n")
    suites = [suite_facts(), LAW]
    plan = make_plan(study, [model_facts()], {"bundled": [train_facts()]}, {"bundled": suites}, machine_facts())
    assert not any("chosen" in said for said in plan.warnings)
    assert {run.arm.label: tuple(run.dials) for run in plan.runs} == {
        "full": (0.7, 1.0), "lora-r4": (1.0,), "lora-r8": (1.0,)
    }  # fmt: skip
