"""Scoring a rate that a search trained to the end: on the items that choose settings, at every dial of its arm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from rankscope.edges.checked_files import StoredCheckpoints
from rankscope.edges.freed_memory import give_back_freed_memory
from rankscope.evaluate.score_suites import SuitePlan, predictions_frame, score_suite
from rankscope.jobs.candidate_training import Stopped, train_in_gang
from rankscope.jobs.dial_scoring import (
    AtDial,
    dialled_members,
    interpolated_at_dials,
    moved_frame,
    only_as_trained,
    validation_loss_at,
)
from rankscope.jobs.gang_work import score_in_gang
from rankscope.jobs.job_context import JobContext
from rankscope.jobs.known_answers import base_answers
from rankscope.jobs.selection import selected
from rankscope.model.forward import NotFinite
from rankscope.model.methods.attach import NewAdapter, Pack, attach
from rankscope.model.weights.dialled import Interpolation
from rankscope.records import DialLoss, GangCandidate, PlannedSearch, Prediction, Suite
from rankscope.study.study import Arm
from rankscope.train.fit import fit

_SELECTION = ["suite", "item_id", "score", "loss_nats", "scored_tokens"]


@dataclass(frozen=True)
class ScoredCandidate:
    """An arm at one rate: `selection` (dial, suite, item_id and what the item is worth), `moved` (dial, suite, item_id
    and both divergences), and the validation loss at each dial."""

    arm: str
    rate: float
    selection: pd.DataFrame
    moved: pd.DataFrame
    losses: list[DialLoss]

    def write(self, folder: Path) -> None:
        """Both tables, for the process that asked a gang for them."""
        self.selection.to_parquet(folder / "selection.parquet")
        self.moved.to_parquet(folder / "moved.parquet")

    @staticmethod
    def read(folder: Path, arm: str, rate: float, losses: list[DialLoss]) -> ScoredCandidate:
        """What `write` left there."""
        tables = [pd.read_parquet(folder / f"{name}.parquet") for name in ("selection", "moved")]
        return ScoredCandidate(arm, rate, tables[0], tables[1], losses)


def score_candidate(
    context: JobContext, search: PlannedSearch, arm: Arm, rate: float, checkpoint: StoredCheckpoints
) -> ScoredCandidate:
    """What a rate scores where its checkpoint stands, at the end of its training."""
    give_back_freed_memory()
    if search.scoring.alone:
        with candidate_at_dials(context, search, arm, rate, checkpoint) as sides:
            return _scored(context, search, arm, rate, sides)
    with TemporaryDirectory() as temporary:
        weights, tables = Path(temporary) / "weights", Path(temporary) / "tables"
        weights.mkdir()
        tables.mkdir()
        _save(context, search, arm, rate, checkpoint, weights)
        candidate = GangCandidate(arm=arm, learning_rate=rate, checkpoint="")
        outcome = score_in_gang(
            context, search, work="candidate", search_id=search.search_id, candidates=[candidate],
            weights=str(weights), save_to=str(tables),
        )  # fmt: skip
        if context.stop_requested():
            raise Stopped
        return ScoredCandidate.read(tables, arm.label, rate, outcome.dial_losses)


def score_weights(context: JobContext, search: PlannedSearch, arm: Arm, rate: float, weights: Path) -> ScoredCandidate:
    """What the candidate scores whose weights lie in this folder; of a gang all processes call this."""
    with _saved_at_dials(context, search, arm, weights) as sides:
        return _scored(context, search, arm, rate, sides)


def _scored(
    context: JobContext, search: PlannedSearch, arm: Arm, rate: float, sides: Sequence[AtDial]
) -> ScoredCandidate:
    suites = _suites_that_choose(context, search)
    tokens = context.micro_batch_tokens(search)
    frames, losses = [], []
    for side in sides:
        loss = validation_loss_at(context, search.model, search.train_set, side, tokens)
        losses.append(DialLoss(arm=arm.label, learning_rate=rate, dial=side.dial, validation_loss=loss))
        frames.append(_selection(context, search.model, suites, side))
    moved = moved_frame(context, search.model, search.train_set, sides)
    return ScoredCandidate(arm.label, rate, pd.concat(frames, ignore_index=True), moved, losses)


def write_scored(context: JobContext, search_id: str, scored: Sequence[ScoredCandidate]) -> None:
    """selection.parquet and first_tokens.parquet of a search, beside what stands there of other rates."""
    folder, owner = context.folder, f"searches/{search_id}"
    named = [{"arm": one.arm, "learning_rate": one.rate} for one in scored]
    before = (folder.read_selection(search_id), folder.read_first_tokens(owner))
    tables = []
    for held, new in zip(before, ([s.selection for s in scored], [s.moved for s in scored]), strict=True):
        added = [frame.assign(**name) for frame, name in zip(new, named, strict=True)]  # type: ignore[arg-type]
        if held is not None:
            again = pd.Series(False, index=held.index)
            for one in scored:
                again |= (held["arm"] == one.arm) & (held["learning_rate"] == one.rate)
            added = [held[~again], *added]
        tables.append(pd.concat(added, ignore_index=True) if added else pd.DataFrame())
    if len(tables[0].columns):
        folder.write_selection(search_id, tables[0])
        folder.write_first_tokens(owner, tables[1], {})


def _suites_that_choose(context: JobContext, search: PlannedSearch) -> list[Suite]:
    """Of every suite that is split the items that choose. What a judge or code of the user's own grades is left out: a
    search asks them nothing, and its suites choose by their prompts alone."""
    found = []
    for name, count in context.plan.choice_of(search.model, search.train_set).select_counts.items():
        suite, chosen = context.suite(search.model, name), selected(context, search.model, name, count)
        if suite.grader is not None and suite.grader.driver != "call":
            continue
        found.append(replace(suite, items=tuple(item for item in suite.items if item.item_id in chosen)))
    return found


def _selection(context: JobContext, model: str, suites: Sequence[Suite], side: AtDial) -> pd.DataFrame:
    """What the model at one dial scores; nothing where its numbers are not finite."""
    found: list[Prediction] = []
    budget = context.evaluate_tokens
    try:
        with side.on():
            for suite in suites:
                plan, answers = SuitePlan(suite, budget), base_answers(context, model, suite)
                found += score_suite(
                    side.model.model, side.model.tokenizer, plan, token_budget=budget, answers=answers
                )  # fmt: skip
    except NotFinite:
        found = []
    return predictions_frame("", found)[_SELECTION].assign(dial=side.dial)


@contextmanager
def candidate_at_dials(
    context: JobContext, search: PlannedSearch, arm: Arm, rate: float, checkpoint: StoredCheckpoints
) -> Iterator[list[AtDial]]:
    """The candidate at each dial, from its checkpoint: nothing more is trained."""
    dials = context.dials_of(search, arm)
    if search.in_gang:
        with TemporaryDirectory() as temporary:
            _save(context, search, arm, rate, checkpoint, Path(temporary))
            with _saved_at_dials(context, search, arm, Path(temporary)) as sides:
                yield sides
        return
    base = context.base(search.model, own=arm.traits.whole, arm=arm)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with attach(base, NewAdapter(arm, search.seed)) as pack:
            _restore(context, search, arm, rate, pack, checkpoint)
            if arm.traits.dial_by == "weights":
                plain = context.base(search.model)
                between = Interpolation(base.model, plain.model)
                yield interpolated_at_dials(base, plain, between, dials)
                return
            if arm.traits.dial_by is None:
                yield only_as_trained(base, pack.members[0].off)
                return
            pack.members[0].save(folder)
        with dialled_members(base, arm, folder, dials) as sides:
            yield sides


def _restore(
    context: JobContext, search: PlannedSearch, arm: Arm, rate: float, pack: Pack, checkpoint: StoredCheckpoints
) -> None:
    """Put the candidate's weights back from its state, which is that of its last step."""
    rows = context.objective.training_rows(context.training(search.model, search.train_set))
    settings = [context.search_settings(search, arm, rate)]
    fit(pack, rows, settings, checkpoints=checkpoint, until_step=search.step_count)


def _save(
    context: JobContext, search: PlannedSearch, arm: Arm, rate: float, checkpoint: StoredCheckpoints, folder: Path
) -> None:
    """The candidate's weights into `folder`, by the gang that trained it where one did. Raises Stopped."""
    if search.in_gang:
        train_in_gang(context, search, [(arm, rate)], search.step_count, save_to=folder)
        if context.stop_requested():
            raise Stopped
        return
    with attach(context.base(search.model, own=arm.traits.whole, arm=arm), NewAdapter(arm, search.seed)) as pack:
        _restore(context, search, arm, rate, pack, checkpoint)
        pack.members[0].save(folder)


@contextmanager
def _saved_at_dials(context: JobContext, search: PlannedSearch, arm: Arm, folder: Path) -> Iterator[list[AtDial]]:
    """The candidate at each dial, whole on this device or in parts on a gang's, from the weights in `folder`."""
    dials, base = context.dials_of(search, arm), context.base(search.model)
    if arm.traits.dial_by == "weights":
        trained = context.fine_tuned(search.model, folder, beside=True)
        yield interpolated_at_dials(trained, base, Interpolation(trained.model, base.model), dials)
        return
    with dialled_members(base, arm, folder, dials) as sides:
        yield sides
