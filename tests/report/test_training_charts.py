"""Learning curves that are thinned, and rate searches that diverged."""

from __future__ import annotations

from made_report import make_search, make_tables, make_verdict

from rankscope.report.rank_charts import arm_frame
from rankscope.report.training_charts import learning_frame, search_frame


def test_a_thinned_curve_keeps_its_last_step_and_every_seed() -> None:
    arms = arm_frame(make_verdict())
    table = make_tables([make_verdict()], seeds=2, steps=1000)
    curves = learning_frame(table["learning"], table["cost"], arms, 50)
    trained = curves[(curves["series"] == "training") & (curves["arm"] != "lora-r256")]
    sizes = trained.groupby(["arm", "seed"]).size()
    assert len(sizes) == 10
    assert sizes.max() <= 51
    assert set(trained.groupby(["arm", "seed"])["step"].max()) == {1000}
    assert curves["loss"].notna().all()


def test_a_rate_that_diverged_at_once_is_left_out_of_the_curve() -> None:
    search = make_search("lora-r4").model_copy(
        update={"losses": [[None], [1.0], [float("inf")], [2.0], [float("nan")]]}
    )
    frame = search_frame([search])
    assert list(frame["learning_rate"]) == [3e-4, 3e-3]
