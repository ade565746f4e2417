"""Scoring a trained run at its dials below 1, W0 + s (W - W0), and measuring how far each dial moves the first token.

A run on disk is always as it was trained. Low-rank factors are scaled and whole weights interpolated in memory; what a
dial gives stands in files of its own, each whole or absent, so that a killed job goes on with the next dial.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rankscope.evaluate.adapter_scoring import Logprobs
from rankscope.evaluate.first_tokens import KeptBatches, Moved, Side, first_token_divergences
from rankscope.evaluate.score_suites import predictions_frame, score_suite
from rankscope.jobs.job_context import JobContext
from rankscope.jobs.known_answers import run_answers
from rankscope.jobs.selection import selection_of, with_roles
from rankscope.model.attention.unpadded_rows import TrainingForward, padded_forward, training_forward
from rankscope.model.forward import NotFinite
from rankscope.model.load import LoadedModel
from rankscope.model.methods.attach import GivenFactors, Pack, attach
from rankscope.model.methods.peft_folder import plain_factors
from rankscope.model.weights.dialled import Interpolation, dialled_factors
from rankscope.records import DialLosses, Item, PlannedRun, Prediction
from rankscope.study.study import Arm

KnownAt = Mapping[float, Mapping[str, Logprobs]]
"""By dial and suite, log-likelihoods that one forward for several runs gave."""


@dataclass(frozen=True)
class AtDial:
    """A model at one dial: inside `on()`, `model` runs so. `base` runs inside `off()`, beside it."""

    dial: float
    model: LoadedModel
    on: Callable[[], AbstractContextManager[object]]
    forward: Callable[[], TrainingForward]
    base: Side

    @property
    def side(self) -> Side:
        return Side(self.model.model, self.on)


@contextmanager
def dialled_members(base: LoadedModel, arm: Arm, weights: Path, dials: Sequence[float]) -> Iterator[list[AtDial]]:
    """A saved low-rank adapter at each dial, side by side over one base."""
    factors = plain_factors(base.model, weights)
    if factors is None:
        raise RuntimeError(f"{weights} is no plain low-rank adapter, so it cannot be scaled")
    with attach(base, *(GivenFactors(dialled_factors(factors, dial), arm) for dial in dials)) as pack:
        yield members_at_dials(base, pack, dials)


def factors_at_dials(context: JobContext, run: PlannedRun, weights: Path) -> AbstractContextManager[list[AtDial]]:
    """A run's low-rank adapter at each of its dials."""
    return dialled_members(context.base(run.model), run.arm, weights, run.dials)


def members_at_dials(base: LoadedModel, pack: Pack, dials: Sequence[float]) -> list[AtDial]:
    """The members of a pack on `base`, of which each is one adapter at one dial, in their order."""

    def alone(members: Sequence[int]) -> Callable[[], AbstractContextManager[object]]:
        return lambda: pack.running(members)

    plain = Side(pack.model, alone([]))
    return [
        AtDial(dial, base, alone([i]), member.training_forward, plain)
        for i, (dial, member) in enumerate(zip(dials, pack.members, strict=True))
    ]


@contextmanager
def at_its_dials(
    context: JobContext,
    run: PlannedRun,
    trained: LoadedModel,
    off: Callable[[], AbstractContextManager[object]] | None,
) -> Iterator[list[AtDial]]:
    """A whole model, whose weights are interpolated in place with the base's and afterwards the trained bits again; or
    what cannot be scaled, as it was trained: inside `off()` it is the base."""
    if off is not None:
        yield only_as_trained(trained, off)
        return
    base = context.base(run.model)
    between = Interpolation(trained.model, base.model)
    try:
        yield interpolated_at_dials(trained, base, between, run.dials)
    finally:
        between.turn_to(1.0)


def only_as_trained(trained: LoadedModel, off: Callable[[], AbstractContextManager[object]]) -> list[AtDial]:
    """A change that cannot be scaled, at dial 1; inside `off()` the model is the base."""
    model = trained.model
    return [AtDial(1.0, trained, nullcontext, lambda: padded_forward(model), Side(model, off))]


def interpolated_at_dials(
    trained: LoadedModel, base: LoadedModel, between: Interpolation, dials: Sequence[float]
) -> list[AtDial]:
    """A whole model at each dial, beside its base. The weights stay as they were last turned to."""

    def turned(dial: float) -> Callable[[], AbstractContextManager[object]]:
        @contextmanager
        def on() -> Iterator[None]:
            between.turn_to(dial)
            yield

        return on

    plain = Side(base.model, nullcontext)
    return [AtDial(dial, trained, turned(dial), lambda: training_forward(trained.model), plain) for dial in dials]


# ---- what is missing -------------------------------------------------------------------------------------------------


def dials_missing(context: JobContext, run: PlannedRun) -> list[float]:
    """The dials below 1 at which a run lacks predictions on some suite, or on other content, or its validation loss."""
    folder, hashes = context.folder, context.suite_hashes(run.model)
    held = folder.read_dial_losses(run.run_id)
    losses = held.validation_losses if held is not None else {}
    return [
        dial
        for dial in run.dials
        if dial < 1 and (folder.suites_at_dial(run.run_id, dial) != hashes or f"{dial:g}" not in losses)
    ]


def first_tokens_missing(context: JobContext, run: PlannedRun) -> bool:
    """Whether how far the run moves the first token is not known for its dials and the prompts that choose."""
    wanted = _stamp(context, run)
    return bool(wanted) and context.folder.first_tokens_stamp(run.run_id) != wanted


def anything_missing(context: JobContext, run: PlannedRun) -> bool:
    """Whether a finished run lacks a dial or how far its dials move the first token."""
    return bool(dials_missing(context, run)) or first_tokens_missing(context, run)


def _stamp(context: JobContext, run: PlannedRun) -> dict[str, str]:
    """The dials, and of every suite the content and the number of prompts."""
    prompts = selection_of(context, run.model, run.train_set)
    hashes = context.suite_hashes(run.model)
    suites = {name: f"{hashes[name]} {len(items)}" for name, items in prompts.items()}
    return {"dials": " ".join(f"{dial:g}" for dial in run.dials), **suites} if suites else {}


# ---- scoring ---------------------------------------------------------------------------------------------------------


def score_at_dials(context: JobContext, run: PlannedRun, sides: Sequence[AtDial], known: KnownAt) -> None:
    """Write what is missing of a run at its dials; `sides` has each of them. Stops between two where it is asked to."""
    missing = dials_missing(context, run)
    for side in sides:
        if side.dial in missing and not context.stop_requested():
            _score(context, run, side, known.get(side.dial, {}))
    if first_tokens_missing(context, run) and not context.stop_requested():
        frame = moved_frame(context, run.model, run.train_set, sides)
        context.folder.write_first_tokens(run.run_id, frame, _stamp(context, run))


def _score(context: JobContext, run: PlannedRun, side: AtDial, known: Mapping[str, Logprobs]) -> None:
    """Predictions first, then the loss: where this stands, the dial is whole. A dial whose numbers are not finite has
    no rows and no loss."""
    start, folder, hashes = time.perf_counter(), context.folder, context.suite_hashes(run.model)
    found: list[Prediction] = []
    loss: float | None = None
    try:
        with side.on():
            for name in hashes:
                plan = context.suite_plan(run.model, name)
                found += score_suite(
                    side.model.model, side.model.tokenizer, plan, token_budget=context.evaluate_tokens,
                    logprobs=known.get(name), desk=context.desk(), answers=run_answers(context, run, plan.suite),
                )  # fmt: skip
        status = context.folder.read_status(run.run_id)
        tokens = (status.micro_batch_tokens if status is not None else None) or context.micro_batch_tokens(run)
        loss = validation_loss_at(context, run.model, run.train_set, side, tokens)
    except NotFinite:
        found = []
    frame = with_roles(context, run, predictions_frame(run.run_id, found))
    folder.write_at_dial(run.run_id, side.dial, frame, hashes)
    held = folder.read_dial_losses(run.run_id) or DialLosses(run_id=run.run_id, validation_losses={}, seconds=0.0)
    losses = {**held.validation_losses, f"{side.dial:g}": loss}
    seconds = held.seconds + time.perf_counter() - start
    folder.write_dial_losses(DialLosses(run_id=run.run_id, validation_losses=losses, seconds=seconds))


def validation_loss_at(context: JobContext, model: str, train_set: str, side: AtDial, tokens: int) -> float | None:
    """Nats per token on the validation rows; None where it is not finite."""
    rows = context.objective.validation_rows(context.training(model, train_set))
    with side.on():
        loss = context.objective.validation_loss(side.forward(), rows, tokens, context.team)
    return loss if math.isfinite(loss) else None


COLUMNS = ["suite", "item_id", "dial", "kl_first_token_nats", "kl_choices_nats"]


def moved_frame(context: JobContext, model: str, train_set: str, sides: Sequence[AtDial]) -> pd.DataFrame:
    """COLUMNS: one row for each prompt that chooses and each dial."""
    rows: list[tuple[object, ...]] = []
    kept = context.first_logprobs(model)
    for suite, items in selection_of(context, model, train_set).items():
        for side, moved in zip(sides, _moved(context, sides, items, kept), strict=True):
            rows += [
                (suite, item.item_id, side.dial, one.first_token_nats, one.choices_nats)
                for item, one in zip(items, moved, strict=bool(moved))
            ]
    return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(COLUMNS[2:], "Float64"))


def _moved(context: JobContext, sides: Sequence[AtDial], items: Sequence[Item], kept: KeptBatches) -> list[list[Moved]]:
    """Of each dial; a dial whose numbers are not finite has no rows. The base runs each batch once for all dials, and
    of a small vocabulary once for all runs."""
    prompts = [item if item.prompt_ids else item.parts[0] for item in items]
    budget = context.evaluate_tokens
    try:
        return first_token_divergences(
            sides[0].base, [side.side for side in sides], prompts, token_budget=budget, kept=kept
        )  # fmt: skip
    except NotFinite:
        if len(sides) == 1:
            return [[]]
    return [moved for side in sides for moved in _moved(context, [side], items, kept)]
