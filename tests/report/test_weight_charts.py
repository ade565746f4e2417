"""Maps of matrices and what arms share: the frames hold the means of the tables."""

from __future__ import annotations

from made_inside import ARMS, VERDICT, inside_tables

from rankscope.report.rank_charts import arm_frame
from rankscope.report.weight_charts import module_frame, similarity_frame


def test_frames_hold_the_means_of_the_tables() -> None:
    tables = inside_tables()
    arms = arm_frame(VERDICT)
    modules = module_frame(tables["spectra"], arms)
    assert set(modules["relative_norm"].round(6)) == {10.0}
    both = similarity_frame(tables["subspaces"], tables["neuron_overlaps"], arms)
    neurons = both[both["what"] == "most changed neurons (by chance 0.02)"]
    assert set(neurons["value"]) == {0.6, 0.3}
    assert neurons[neurons["arm"] == neurons["other_arm"]]["value"].tolist() == [0.6]
    both = both[both["what"] == "directions of the change"]
    cells = {(r.arm, r.other_arm): r.value for r in both.itertuples()}
    assert cells[ARMS[0], ARMS[1]] == cells[ARMS[1], ARMS[0]] == 0.25
    assert cells[ARMS[0], ARMS[0]] == 0.75
