"""The Parquet tables of runs at dials below 1, and of what settings are chosen from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rankscope.edges.study_tables import StudyTables

if TYPE_CHECKING:
    import pandas as pd


class DialTables(StudyTables):
    """As `StudyTables`: None where there is no table, InputProblems for a damaged one."""

    def read_at_dial(self, run_id: str, dial: float, columns: Sequence[str] | None = None) -> pd.DataFrame | None:
        """The predictions of a run with its change times `dial`, as those of the run itself; 1: the run's own."""
        return self.read_frame(self.predictions_name(run_id, dial), columns)

    def write_at_dial(self, run_id: str, dial: float, frame: pd.DataFrame, suites_sha256: Mapping[str, str]) -> None:
        self.write_frame(self.predictions_name(run_id, dial), frame, suites_sha256)

    def suites_at_dial(self, run_id: str, dial: float) -> dict[str, str]:
        """As `scored_suites`, of the predictions at a dial."""
        return self.read_metadata(self.predictions_name(run_id, dial))

    def has_at_dial(self, run_id: str, dial: float) -> bool:
        """Whether the run has been scored at a dial."""
        return self.storage.exists(self.predictions_name(run_id, dial))

    def read_first_tokens(self, owner: str) -> pd.DataFrame | None:
        """How far a run (or `searches/ID`) moves the first answer token: suite, item_id, dial, kl_first_token_nats,
        kl_choices_nats; of a search also arm and learning_rate."""
        return self.read_frame(f"{self._owner(owner)}/first_tokens.parquet")

    def write_first_tokens(self, owner: str, frame: pd.DataFrame, stamp: Mapping[str, str]) -> None:
        self.write_frame(f"{self._owner(owner)}/first_tokens.parquet", frame, stamp)

    def first_tokens_stamp(self, owner: str) -> dict[str, str]:
        """What `write_first_tokens` was given: of every suite the content and how many of its prompts were run."""
        return self.read_metadata(f"{self._owner(owner)}/first_tokens.parquet")

    def read_selection(self, search_id: str) -> pd.DataFrame | None:
        """What a search's last rates scored on the items that choose: arm, learning_rate, dial, suite, item_id, score,
        loss_nats, scored_tokens."""
        return self.read_frame(f"searches/{search_id}/selection.parquet")

    def write_selection(self, search_id: str, frame: pd.DataFrame) -> None:
        self.write_frame(f"searches/{search_id}/selection.parquet", frame)

    def _owner(self, owner: str) -> str:
        return owner if owner.startswith("searches/") else self.run_folder(owner)
