"""The job that finds a learning rate: successive halving over a grid, on validation loss, with a seed of its own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from rankscope.data.sources import seeded_sample
from rankscope.edges.checked_files import StoredCheckpoints
from rankscope.edges.executors import WorkPlace
from rankscope.edges.study_folder import StudyFolder
from rankscope.evaluate.score_suites import score_suite
from rankscope.jobs.job_context import JobContext, job_context
from rankscope.model.methods.attach import NewAdapter, attach
from rankscope.plan.resolve import MOST_BEYOND, next_rate
from rankscope.records import PlannedSearch, Prediction, ProbedRate, SearchRecord, Suite
from rankscope.records.plan_record import RUNG_FRACTIONS
from rankscope.study.graders import grader_of
from rankscope.study.study import Arm
from rankscope.train.fit import FitSettings, fit
from rankscope.train.training_state import OneFileEach, steps_kept


@dataclass(frozen=True)
class SearchOutcome:
    """`losses[i][k]` is the validation loss of rate i at rung k in nats per token, None where it was not reached."""

    rates: tuple[float, ...]
    rung_steps: tuple[int, ...]
    losses: tuple[tuple[float | None, ...], ...]
    chosen: float | None

    @property
    def at_end_of_grid(self) -> bool:
        """The best rate has a neighbour on one side only, so a better one may lie outside the grid."""
        return self.chosen is not None and self.chosen in (self.rates[0], self.rates[-1])


def successive_halving(
    rates: Sequence[float],
    step_count: int,
    advance: Callable[[float, int], float | None],
    prepare: Callable[[Sequence[float], int], None] = lambda _, __: None,
    beyond: Callable[[float, bool], float] | None = None,
    most_beyond: int = 0,
) -> SearchOutcome:
    """Train every rate to the first rung, the better half to the second, and so on (arXiv 1502.07943, algorithm 1).

    `advance(rate, until_step)` continues the rate's run on its own full-length schedule and gives its validation loss,
    or None where it diverged; `prepare` hears before each rung which rates it will be asked for. No rate is chosen
    (None) where all diverged. Where the best rate is the last of the grid, up to `most_beyond` further ones,
    `beyond(rate, up)`, are trained through, as long as each is better than the one before.
    """
    rungs = sorted({max(1, round(step_count * fraction)) for fraction in RUNG_FRACTIONS})
    losses: dict[float, list[float | None]] = {rate: [None] * len(rungs) for rate in rates}
    alive = list(rates)
    chosen: float | None = None
    for k, until_step in enumerate(rungs):
        prepare(alive, until_step)
        reached = {rate: advance(rate, until_step) for rate in alive}
        for rate, loss in reached.items():
            losses[rate][k] = loss
        finite = {rate: loss for rate, loss in reached.items() if loss is not None and math.isfinite(loss)}
        chosen = min(finite, key=lambda rate: (finite[rate], rate), default=None)
        ranked = sorted(finite, key=lambda rate: (finite[rate], rate))
        alive = sorted(ranked[: math.ceil(len(ranked) / 2)])
    for _ in range(most_beyond if beyond is not None and chosen is not None else 0):
        known = sorted(losses)
        if beyond is None or chosen not in (known[0], known[-1]):
            break
        rate = beyond(chosen, chosen == known[-1])
        losses[rate] = _through(rate, rungs, advance)
        before, last = losses[chosen][-1], losses[rate][-1]
        if before is None or last is None or not math.isfinite(last) or last >= before:
            break
        chosen = rate
    every = sorted(losses)
    return SearchOutcome(tuple(every), tuple(rungs), tuple(tuple(losses[rate]) for rate in every), chosen)


def _through(rate: float, rungs: Sequence[int], advance: Callable[[float, int], float | None]) -> list[float | None]:
    """A rate's losses at every rung, None from where it diverged."""
    found: list[float | None] = []
    for until_step in rungs:
        found.append(None if found and found[-1] is None else advance(rate, until_step))
    return found


PROBE_ITEMS, PROBE_WRITTEN = 64, 16
"""How many items of a suite the curve of a search is measured on: with choices, and with answers to write."""


class Stopped(Exception):
    """A signal asked for a stop in the middle of a search; its files hold what was done."""


@dataclass(frozen=True)
class SearchRate:
    """Do one planned search of a learning rate; one that was killed goes on where it was."""

    folder: str
    search_id: str
    seconds: float = 0.0

    def run(self, place: WorkPlace) -> None:
        context = job_context(self.folder, place)
        with context.folder.wait_lock(self.search_id, place.stop_requested) as mine:
            if mine and context.folder.read_search(self.search_id) is None:
                with suppress(Stopped):
                    _search(context, context.searches[self.search_id])

    def mark_failed(self, folder: StudyFolder, error: str, details: str) -> dict[str, str]:
        """Keep the traceback; the runs that wait for the rate are not begun."""
        folder.write_error(f"searches/{self.search_id}", details)
        return {self.search_id: error}


def _search(context: JobContext, search: PlannedSearch) -> None:
    candidates = _Candidates(context, search)
    outcome = successive_halving(
        search.rates,
        search.step_count,
        candidates.advance,
        candidates.advance_together,
        lambda rate, up: next_rate(rate, up=up),
        MOST_BEYOND,
    )
    start = time.perf_counter()
    suites = probe_suites(context, search.model)
    probed = candidates.probe(suites, outcome)
    context.folder.write_search(
        SearchRecord(
            search_id=search.search_id,
            model=search.model,
            train_set=search.train_set,
            arms=[arm.label for arm in search.arms],
            seed=search.seed,
            rates=list(outcome.rates),
            rung_steps=list(outcome.rung_steps),
            losses=[list(curve) for curve in outcome.losses],
            chosen=outcome.chosen,
            at_end_of_grid=outcome.at_end_of_grid,
            train_seconds=candidates.seconds(),
            probe_seconds=time.perf_counter() - start,
            probe_items={suite.name: [item.item_id for item in suite.items] for suite in suites},
            probed=probed,
        )
    )
    candidates.remove_checkpoints(outcome.rates)


def probe_suites(context: JobContext, model: str) -> list[Suite]:
    """A seeded sample of every suite that has right answers, but those that code of the user's own or a judge grades:
    fewer items where answers are generated."""
    found = []
    for name, facts in context.suite_facts(model).items():
        grader = grader_of(facts.grade)
        if facts.form not in ("text", "reference") and (grader is None or grader.driver == "call"):
            suite = context.suite(model, name)
            count = PROBE_ITEMS if facts.form == "choices" else PROBE_WRITTEN
            chosen = seeded_sample([item.item_id for item in suite.items], count, "rate search")
            found.append(replace(suite, items=tuple(suite.items[i] for i in chosen)))
    return found


class _Candidates:
    """The rates of one search: each with its checkpoint, and what was measured at each rung."""

    def __init__(self, context: JobContext, search: PlannedSearch) -> None:
        self._context, self._search = context, search
        self._data = context.training(search.model, search.train_set)
        self._measured: dict[str, dict[str, float | None]] = context.folder.read_rungs(search.search_id) or {}

    def advance(self, rate: float, until_step: int) -> float | None:
        """Mean validation loss over the arms that share the rate; None where one diverged."""
        losses = [self._advance_arm(arm, rate, until_step) for arm in self._search.arms]
        return None if None in losses else sum(loss for loss in losses if loss is not None) / len(losses)

    def advance_together(self, rates: Sequence[float], until_step: int) -> None:
        """What `advance` will be asked for, in packs of as many candidates as were found to pay."""
        packing = self._context.folder.read_packing(self._search.model, self._search.train_set)
        if packing is None or packing.arms_together == 1:
            return
        waiting: dict[int, list[tuple[Arm, float]]] = {}
        for rate in rates:
            for arm in self._search.arms:
                if arm.traits.can_pack(arm) and _key(arm, rate, until_step) not in self._measured:
                    # After a kill some may be a checkpoint ahead of others.
                    done = steps_kept(self._checkpoint(arm, rate))
                    waiting.setdefault(done, []).append((arm, rate))
        for group in waiting.values():
            for start in range(0, len(group), packing.arms_together):
                self._train(group[start : start + packing.arms_together], until_step)

    def _advance_arm(self, arm: Arm, rate: float, until_step: int) -> float | None:
        key = _key(arm, rate, until_step)
        if key not in self._measured:
            self._train([(arm, rate)], until_step)
        return self._measured[key]["loss"]

    def _train(self, candidates: Sequence[tuple[Arm, float]], until_step: int) -> None:
        """Measure validation losses (None: diverged) and the seconds trained since each candidate's start."""
        context, search, objective = self._context, self._search, self._context.objective
        arms = [arm for arm, _ in candidates]
        base = context.base(search.model, own=arms[0].traits.whole)
        with attach(base, *(NewAdapter(arm, search.seed) for arm in arms)) as pack:
            results = fit(
                pack,
                objective.training_rows(self._data),
                [self._settings(arm, rate) for arm, rate in candidates],
                checkpoints=OneFileEach([self._checkpoint(arm, rate) for arm, rate in candidates]),
                should_stop=context.stop_requested,
                until_step=until_step,
            )
            if context.stop_requested():
                raise Stopped
            for i, ((arm, rate), result) in enumerate(zip(candidates, results, strict=True)):
                loss = None
                if result.state != "diverged":
                    with pack.running([i]):
                        forward, rows = pack.members[i].training_forward(), objective.validation_rows(self._data)
                        loss = objective.validation_loss(forward, rows, result.micro_batch_tokens)
                key = _key(arm, rate, until_step)
                self._measured[key] = {"loss": loss, "seconds": result.train_seconds}
        context.folder.write_rungs(search.search_id, self._measured)

    def probe(self, suites: Sequence[Suite], outcome: SearchOutcome) -> list[ProbedRate]:
        """Every candidate, as far as it was trained, on the probe items; those that diverged are left out."""
        found = []
        for rate, curve in zip(outcome.rates, outcome.losses, strict=True):
            reached = [step for step, loss in zip(outcome.rung_steps, curve, strict=True) if loss is not None]
            for arm in self._search.arms if reached and curve[len(reached) - 1] is not None else ():
                found += self._probe(arm, rate, reached[-1], suites)
        return found

    def _probe(self, arm: Arm, rate: float, steps: int, suites: Sequence[Suite]) -> list[ProbedRate]:
        context, search = self._context, self._search
        base = context.base(search.model, own=arm.traits.whole)
        with attach(base, NewAdapter(arm, search.seed)) as pack:
            fit(
                pack,
                context.objective.training_rows(self._data),
                [self._settings(arm, rate)],
                checkpoints=self._checkpoint(arm, rate),
                until_step=steps,  # where the checkpoint is: nothing is trained
            )
            scored = {
                suite.name: score_suite(base.model, base.tokenizer, suite, token_budget=context.evaluate_tokens)
                for suite in suites
            }
        if context.stop_requested():
            raise Stopped
        return [
            ProbedRate(arm=arm.label, learning_rate=rate, steps=steps, suite=name, accuracy=_accuracy(predictions))
            for name, predictions in scored.items()
        ]

    def _settings(self, arm: Arm, rate: float) -> FitSettings:
        context, search = self._context, self._search
        remedies = context.remedies(search.model, search.train_set, arm)
        return context.fit_settings(rate, search.seed, context.micro_batch_tokens(search), remedies)

    def _checkpoint(self, arm: Arm, rate: float) -> StoredCheckpoints:
        return self._context.folder.search_checkpoints(self._search.search_id, f"{arm.label}-{rate:g}")

    def seconds(self) -> float:
        """Training seconds of all candidates: of each the count at its last rung, which includes the earlier ones."""
        last: dict[str, float] = {}
        for key, measured in self._measured.items():
            candidate = key.rsplit(" ", 1)[0]
            last[candidate] = max(last.get(candidate, 0.0), measured["seconds"] or 0.0)
        return sum(last.values())

    def remove_checkpoints(self, rates: Sequence[float]) -> None:
        for arm in self._search.arms:
            for rate in rates:
                self._checkpoint(arm, rate).remove()


def _key(arm: Arm, rate: float, until_step: int) -> str:
    return f"{arm.label} {rate:g} {until_step}"


def _accuracy(predictions: Sequence[Prediction]) -> float:
    known = [prediction.score for prediction in predictions if prediction.score is not None]
    return sum(known) / len(known)
