"""Derived runs beside trained ones: the frames hold the means of the table."""

from __future__ import annotations

import pandas as pd
import pytest
from made_inside import ARMS, VERDICT, inside_tables

from rankscope.report.cost_charts import derived_frame, intervention_frame
from rankscope.report.rank_charts import arm_frame


def test_derived_runs_stand_beside_the_trained_arms() -> None:
    tables, arms = inside_tables(), arm_frame(VERDICT)
    curve = derived_frame(tables["derived"], arms)
    cut = curve[(curve["series"] == "largest, truncated") & (curve["measure"] == "forgetting")]
    assert cut["value"].tolist() == pytest.approx([10.0])
    assert curve[curve["series"] == "largest, 90 % of energy"]["rank"].unique().tolist() == [3.5]
    bars = intervention_frame(tables["derived"], pd.DataFrame(), arms)
    own = pd.DataFrame({"arm": [ARMS[-1]], "seed": [0], "gain": [50.0], "forgetting": [7.0]})
    exact = intervention_frame(tables["derived"], own, arms)
    assert exact[exact["what"] == "as trained"]["value"].tolist() == [50.0, 7.0]
    assert {"intruders times 0.5", "as much off the whole change", "as trained (mean of seeds)"} == set(bars["what"])
