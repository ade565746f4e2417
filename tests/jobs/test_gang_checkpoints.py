"""What two processes keep together is what they load again; where it is damaged, the state before."""

from __future__ import annotations

from pathlib import Path

import pytest
from gang_states import states
from gloo_team import run_together


@pytest.mark.slow
def test_the_newest_whole_state_is_loaded(tmp_path: Path) -> None:
    for rank, found in enumerate(run_together(states, tmp_path)):
        assert found["none"] is None
        assert found["newest"] == ([[2.0] * 3] * 5, [2.0, 2.0], "2.0", True)
        assert found["one before"] == ([[1.0] * 3] * 5, [1.0, 1.0], "1.0", True)
        told = [line for line in found["said"] if "checkpoint.gang is damaged" in line]
        assert len(told) == (rank == 0), "the first process looks for all"
