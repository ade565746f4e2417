"""What a run or a search leaves in its folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from rankscope.records.plan_record import Resolved
from rankscope.records.readable_numbers import duration
from rankscope.records.record_base import FORMAT_VERSION, Record
from rankscope.study.study import Arm

State = Literal["planned", "running", "done", "failed", "diverged", "does not fit", "not needed"]


class Packing(Record):
    """packing/NAME.json: how many LoRA arms of one base and training set train together, and the tokens of a
    micro-batch; decided once, from a few steps, and the same on resume.

    `seconds_per_token` maps `ARMS x TOKENS` to the measured seconds of a step per token of one arm.
    """

    model: str
    train_set: str
    arms_together: int
    micro_batch_tokens: int
    seconds_per_token: dict[str, float] = {}


class PackMembers(Record):
    """packs/DIGEST.json: the runs that began to train together, while not all of them are trained."""

    run_ids: list[str]


class Stage(Record):
    """stage.json: what the process that works on a study is at: `done` of `total` jobs of one kind.

    `began_at` is in seconds since 1970. Gone when it ends; a kill leaves it, so only the study's lock says that it is
    still true.
    """

    what: str
    done: int
    total: int
    began_at: float

    def sentence(self, now_seconds: float) -> str:
        """`derived runs: 3 of 6, 40 s left`; `now_seconds` since 1970."""
        text = f"{self.what}: {self.done} of {self.total}"
        if not 0 < self.done < self.total:
            return text
        left = (now_seconds - self.began_at) / self.done * (self.total - self.done)
        return f"{text}, {duration(left)} left"


class Provenance(Record):
    """Where a number came from."""

    commit: str | None
    versions: dict[str, str]
    machine: str
    model_sha256: str
    train_sha256: str | None
    suites_sha256: dict[str, str]


class RunRecord(Record):
    """run.json: the settings of a run as they were resolved."""

    format_version: int = FORMAT_VERSION
    run_id: str
    model: str
    train_set: str | None
    arm: Arm | None
    seed: int | None
    learning_rate: float | None
    resolved: Resolved
    settings: dict[str, Any]
    provenance: Provenance


class RunStatus(Record):
    """status.json: written whole at each change of state; a run is done when `state` says so."""

    format_version: int = FORMAT_VERSION
    run_id: str
    state: State
    reason: str | None = None
    steps_done: int = 0
    steps_total: int = 0
    items_scored: int = 0
    trainable_parameters: int | None = None
    final_train_loss: float | None = None
    validation_loss: float | None = None
    train_seconds: float | None = None
    replay_tokens: int | None = None
    """Tokens with loss that it trained on beside its task; None where it replays nothing."""
    evaluate_seconds: float | None = None
    peak_memory_bytes: int | None = None
    adapter_bytes: int | None = None
    arms_together: int | None = None
    """Arms that trained in one pack, this one included; `train_seconds` is its share of their time."""
    trained_with: tuple[str, ...] = ()
    """The runs of that pack in their order, this one included; none where it trained alone."""
    micro_batch_tokens: int | None = None
    """Tokens of a micro-batch, of all arms together, when training ended: fewer than planned where memory ran out."""
    checkpointing: bool = False
    """Whether activations were computed again in the backward pass when training ended."""
    gang: int = 1
    """Processes that trained it together, its weights shared out over them."""
    attempt: int = 1
    """How often a job began to work on it, this one included; a job that finds a higher number than its own ends."""
    updated_at: str = ""
    activity: str | None = None
    """What is being done beyond training and scoring, in a few words; None where nothing is."""

    def tokens_per_second(self, train_tokens: int) -> float | None:
        """Training tokens (prompt and completion) a second, of a run that trains on `train_tokens` in all; None before
        the first step."""
        if not self.steps_done or not self.steps_total or not self.train_seconds:
            return None
        return train_tokens * self.steps_done / self.steps_total / self.train_seconds


class StepRecord(Record):
    """A line of train.jsonl. Loss is the mean over the batch's completion tokens, before the update.

    Beside it, where a remedy has them: the loss of replayed rows and their tokens with loss, and KL(base || arm) at the
    tokens where it is penalised. At a few steps the loss of validation rows after the update, always the same rows.
    """

    step: int
    loss_nats_per_token: float
    learning_rate: float
    gradient_norm: float
    completion_tokens: int
    replay_loss_nats_per_token: float | None = None
    replay_tokens: int | None = None
    kl_nats_per_token: float | None = None
    validation_loss_nats_per_token: float | None = None


class HandedOn(Record):
    """tracked/TRACKER.json: what a tracker was given, so that another session goes on where this one ends: by run the
    steps, and the runs whose end it has."""

    steps: dict[str, int] = {}
    ended: list[str] = []


class SamplesRecord(Record):
    """replay/ID.json: samples that a base wrote to be replayed, in replay/ID.arrow, and all that decided them.

    `temperature` 0 takes the likeliest token. `tokens` are those of all samples, their prompts not counted; `ended` so
    many samples ended by themselves, the others are `max_tokens` long.
    """

    format_version: int = FORMAT_VERSION
    samples_id: str
    model: str
    model_sha256: str
    dtype: str
    prompts_sha256: str
    samples: int
    temperature: float
    max_tokens: int
    seed: int
    tokens: int
    ended: int
    seconds: float


class ProbedRate(Record):
    """A candidate of a search, trained to the end, on the items of one suite that choose settings and never judge."""

    arm: str
    learning_rate: float
    steps: int
    suite: str
    accuracy: float


class DialLoss(Record):
    """Validation loss in nats per token of a candidate that was trained to the end, at one dial; None: not finite."""

    arm: str
    learning_rate: float
    dial: float
    validation_loss: float | None


class SearchRecord(Record):
    """search.json: a learning-rate search. `losses[i][k]`: rate i after rung k, None where it was dropped.

    `rates` may reach beyond the planned grid, where the best was its last. `probe_items` are the item ids, by
    suite, that `probed` is of: those that choose settings.
    """

    format_version: int = FORMAT_VERSION
    search_id: str
    model: str
    train_set: str
    arms: list[str]
    seed: int
    rates: list[float]
    rung_steps: list[int]
    losses: list[list[float | None]]
    chosen: float | None
    at_end_of_grid: bool
    train_seconds: float
    probe_seconds: float = 0.0
    probe_items: dict[str, list[str]] = {}
    probed: list[ProbedRate] = []
    finals: list[float] = []
    """The rates that were trained to the end, in that order: the loss-best, the next one below, and where both forget
    more than the limit at every dial a further one below."""
    dial_losses: list[DialLoss] = []
    runs_spent: float = 0.0
    """Training of all candidates, in whole runs of an arm."""


@dataclass(frozen=True)
class Prediction:
    """One item scored: a row of predictions.parquet (docs/records.md says what each column holds)."""

    suite: str
    item_id: str
    score: float | None
    score_normalized: float | None
    f1: float | None
    predicted: str | None
    answer: str | None
    choice_logprobs: tuple[float, ...] | None
    prompt_tokens: int
    loss_nats: float | None = None
    scored_tokens: int | None = None
    text_bytes: int | None = None
    cluster: str | None = None
    score_asked_again: float | None = None
