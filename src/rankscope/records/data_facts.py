"""What is known of rows once they are encoded: training sets, and what is replayed beside them."""

from __future__ import annotations

from rankscope.records.record_base import Record
from rankscope.study.study import Arm


class ReplayFacts(Record):
    """What some arms train on beside the task: rows of the user's, or samples that the base writes before training.

    `content_sha256` names the token file of the rows, or of the prompts that the base goes on from. `samples_sha256`,
    of samples, is the hash of all that decides them, and names their file. Of samples the counts of tokens are those of
    the longest that may be written.
    """

    arms: list[str]
    """The labels of the arms that replay it."""
    content_sha256: str
    samples_sha256: str | None = None
    row_count: int
    token_count: int
    completion_token_count: int
    dropped: dict[str, int] = {}
    warnings: list[str] = []
    prompts_from: list[str] = []
    """The suites of which items that choose settings gave the prompts."""

    @property
    def identity(self) -> str:
        """What a run's id knows of it."""
        return self.samples_sha256 or self.content_sha256


class TrainFacts(Record):
    """A training set after the rules on lengths and overlap."""

    model: str = ""
    """The base model whose tokenizer counted; filled in by the plan."""
    name: str
    domain: str | None
    content_sha256: str
    row_count: int
    validation_count: int
    token_count: int
    completion_token_count: int
    dropped: dict[str, int] = {}
    warnings: list[str] = []
    revision: str | None = None
    """Commit of a hub data set, or the fingerprint of a local one; None for a file or the bundled world."""
    replays: list[ReplayFacts] = []
    """What arms may train on beside it."""

    def replay_of(self, arm: Arm) -> ReplayFacts | None:
        """What this arm trains on beside it; None for an arm that replays nothing."""
        if arm.replay is None:
            return None
        return next(one for one in self.replays if arm.label in one.arms)

    def gave_prompts(self, arm: Arm) -> tuple[str, ...]:
        """The suites that gave the prompts of what this arm replays."""
        facts = self.replay_of(arm)
        return () if facts is None else tuple(facts.prompts_from)
