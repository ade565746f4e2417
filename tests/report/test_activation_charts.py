"""Drift by layer, and the sentence on whether a diagnostic predicts forgetting."""

from __future__ import annotations

import pytest
from made_inside import VERDICT, inside_tables

from rankscope.report.activation_charts import diagnostics_answer, drift_frame
from rankscope.report.rank_charts import arm_frame


def test_the_drift_by_layer_holds_the_means_of_the_tables() -> None:
    tables = inside_tables()
    drift = drift_frame(tables["hidden"], tables["neurons"], arm_frame(VERDICT))
    assert set(drift[drift["measure"] == "1 - CKA to the base"]["value"].round(6)) == {0.1}


@pytest.mark.parametrize(("predicts", "words"), [("yes", "go with forgetting"), ("no", "No: of 1 measures none")])
def test_the_answer_is_said_as_it_comes_out(predicts: str, words: str) -> None:
    table = inside_tables()["diagnostics"].assign(predicts=predicts)
    assert words in diagnostics_answer(table)
