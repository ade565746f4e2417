"""The job that searches a learning rate on validation loss, with a seed of its own, and scores what it trained through.

plan/rate_search.py says which rates are tried. Those that are trained to the end are scored on the items that choose
settings, at every dial; no item that judges is looked at.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from rankscope.edges.checked_files import StoredCheckpoints
from rankscope.edges.executors import WorkPlace
from rankscope.edges.study_folder import StudyFolder
from rankscope.jobs.candidate_scoring import ScoredCandidate, score_candidate, write_scored
from rankscope.jobs.candidate_training import Stopped, train_arms, train_in_gang
from rankscope.jobs.job_context import JobContext, job_context
from rankscope.plan.rate_search import NEAR, around, predicted_rate, search_rates, start_rates
from rankscope.plan.resolve import next_rate
from rankscope.records import Plan, PlannedRun, PlannedSearch, ProbedRate, SearchRecord
from rankscope.study.study import Arm
from rankscope.train.training_state import steps_kept


@dataclass(frozen=True)
class SearchRate:
    """Do one planned search of a learning rate; one that was killed goes on where it was.

    `further`: of one that is done train one more rate to the end, the next below those that were.
    """

    folder: str
    search_id: str
    seconds: float = 0.0
    further: bool = False
    slots: int = 1
    host_bytes: int = 0

    def run(self, place: WorkPlace) -> None:
        context = job_context(self.folder, place)
        with context.folder.wait_lock(self.search_id, place.stop_requested) as mine:
            if not mine:
                return
            search, record = context.searches[self.search_id], context.folder.read_search(self.search_id)
            with suppress(Stopped):
                if self.further and record is not None and len(record.finals) == 2:
                    _search_further(context, search, record)
                elif record is None:
                    _search(context, search)

    def waits_for(self, plan: Plan) -> list[str]:
        """The searches that it goes by."""
        return next(search.after for search in plan.searches if search.search_id == self.search_id)

    def mark_failed(self, folder: StudyFolder, error: str, details: str) -> dict[str, str]:
        """Keep the traceback; the runs that wait for the rate are not begun."""
        folder.write_error(f"searches/{self.search_id}", details)
        return {self.search_id: error}


def search_waves(folder: StudyFolder, plan: Plan, runs: Sequence[PlannedRun]) -> list[list[SearchRate]]:
    """The searches that are to be done before `runs` can be trained, in the order in which they wait for one another.

    A setting is chosen over all arms of a base model and training set, so all of their searches are among them.
    """
    pairs = {(run.model, run.train_set) for run in runs}
    missing = [
        search
        for search in plan.searches
        if (search.model, search.train_set) in pairs and folder.read_search(search.search_id) is None
    ]
    waves = sorted({search.wave for search in missing})
    return [[_job(folder, search) for search in missing if search.wave == wave] for wave in waves]


def further_jobs(folder: StudyFolder, plan: Plan, search_ids: Sequence[str]) -> list[SearchRate]:
    """Of each of these searches, which are done, the job that trains one more rate."""
    return [_job(folder, search, further=True) for search in plan.searches if search.search_id in search_ids]


def _job(folder: StudyFolder, search: PlannedSearch, *, further: bool = False) -> SearchRate:
    seconds = search.seconds / search.runs if further and search.runs else search.seconds  # one run of each arm
    return SearchRate(
        folder.url, search.search_id, seconds, further=further, slots=search.devices, host_bytes=search.host_bytes
    )


def first_rates(context: JobContext, search: PlannedSearch) -> list[float]:
    """The rates that a search tries first: as planned, or around what the ranks that it goes by speak for.

    Where all rates of those diverged, those of an arm without neighbours. Raises RuntimeError where one is not done.
    """
    if not search.after:
        return search.rates
    known = []
    for other in search.after:
        record = context.folder.read_search(other)
        if record is None:
            raise RuntimeError(f"the search {other}, by which {search.search_id} goes, is not done")
        first = {r: curve[0] for r, curve in zip(record.rates, record.losses, strict=True) if curve[0] is not None}
        best = min(first, key=lambda rate: (first[rate], rate), default=None)
        rank = context.searches[other].arms[0].rank
        if best is not None and rank is not None:
            known.append((rank, best))
    arm = search.arms[0]
    if not known or arm.rank is None:
        return start_rates(arm, context.facts(search.model))
    return around(predicted_rate(arm.rank, known), NEAR)


def _search(context: JobContext, search: PlannedSearch) -> None:
    candidates = Candidates(context, search)
    rates = first_rates(context, search)
    outcome = search_rates(rates, search.step_count, candidates.advance, candidates.advance_together)
    start = time.perf_counter()
    scored = candidates.score(outcome.finals)
    write_scored(context, search.search_id, scored)
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
            probe_items=_probe_items(scored),
            probed=_probed(scored, search.step_count),
            finals=list(outcome.finals),
            dial_losses=[loss for one in scored for loss in one.losses],
            runs_spent=outcome.runs_spent,
        )
    )
    candidates.remove_checkpoints(outcome.rates)


def _search_further(context: JobContext, search: PlannedSearch, record: SearchRecord) -> None:
    """One more rate, which is charged to the search: a whole run for each of its arms, less what was tried before."""
    candidates = Candidates(context, search)
    rate = next_rate(min(record.finals), up=False)
    seconds = candidates.seconds()
    loss = candidates.advance(rate, search.step_count)
    start = time.perf_counter()
    scored = candidates.score([rate])
    write_scored(context, search.search_id, scored)
    rates = sorted({*record.rates, rate})
    curves = dict(zip(record.rates, record.losses, strict=True))
    curves[rate] = [*curves.get(rate, [None] * len(record.rung_steps))[:-1], loss]
    update = {
        "rates": rates,
        "losses": [curves[one] for one in rates],
        "finals": [*record.finals, rate],
        "dial_losses": [*record.dial_losses, *(loss for one in scored for loss in one.losses)],
        "runs_spent": record.runs_spent + 1.0,
        "train_seconds": record.train_seconds + candidates.seconds() - seconds,
        "probe_seconds": record.probe_seconds + time.perf_counter() - start,
        "probed": [*record.probed, *_probed(scored, search.step_count)],
    }
    context.folder.write_search(record.model_copy(update=update))
    candidates.remove_checkpoints([rate])


def _probe_items(scored: Sequence[ScoredCandidate]) -> dict[str, list[str]]:
    """The items that the rates were scored on, by suite."""
    found: dict[str, dict[str, None]] = {}
    for one in scored:
        for suite, item_id in zip(one.selection["suite"], one.selection["item_id"], strict=True):
            found.setdefault(str(suite), {})[str(item_id)] = None
    return {suite: list(items) for suite, items in found.items()}


def _probed(scored: Sequence[ScoredCandidate], steps: int) -> list[ProbedRate]:
    """What each rate that was trained to the end scores as it was trained, by suite."""
    found = []
    for one in scored:
        whole = one.selection[one.selection["dial"] == 1]
        for suite, mean in whole.groupby("suite")["score"].mean().dropna().items():
            found.append(
                ProbedRate(arm=one.arm, learning_rate=one.rate, steps=steps, suite=str(suite), accuracy=float(mean))
            )
    return found


class Candidates:
    """The rates of one search: each with its checkpoint, and what was measured at each rung."""

    def __init__(self, context: JobContext, search: PlannedSearch) -> None:
        self._context, self._search = context, search
        self._measured: dict[str, dict[str, float | None]] = context.folder.read_rungs(search.search_id) or {}

    def advance(self, rate: float, until_step: int) -> float | None:
        """Mean validation loss over the arms that share the rate; None where one diverged."""
        losses = [self._advance_arm(arm, rate, until_step) for arm in self._search.arms]
        return None if None in losses else sum(loss for loss in losses if loss is not None) / len(losses)

    def advance_together(self, rates: Sequence[float], until_step: int) -> None:
        """What `advance` will be asked for, in packs of as many candidates as were found to pay."""
        packing = self._context.folder.read_packing(self._search.model, self._search.train_set)
        if packing is None or packing.arms_together == 1 or self._search.in_gang:
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
        context, search = self._context, self._search
        if search.in_gang:
            losses, seconds = train_in_gang(context, search, candidates, until_step)
        else:
            places = [self._checkpoint(arm, rate) for arm, rate in candidates]
            losses, seconds = train_arms(context, search, candidates, places, until_step)
        if context.stop_requested():
            raise Stopped
        for (arm, rate), loss, taken in zip(candidates, losses, seconds, strict=True):
            self._measured[_key(arm, rate, until_step)] = {"loss": loss, "seconds": taken}
        context.folder.write_rungs(search.search_id, self._measured)

    def score(self, rates: Sequence[float]) -> list[ScoredCandidate]:
        """Every arm at the rates that were trained to the end, at every dial; those that diverged are left out."""
        steps, found = self._search.step_count, []
        for rate in rates:
            for arm in self._search.arms:
                if self._measured[_key(arm, rate, steps)]["loss"] is not None:
                    found.append(score_candidate(self._context, self._search, arm, rate, self._checkpoint(arm, rate)))
                    if self._context.stop_requested():
                        raise Stopped
        return found

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
        """What was trained is no longer needed."""
        for arm in self._search.arms:
            for rate in rates:
                self._checkpoint(arm, rate).remove()


def _key(arm: Arm, rate: float, until_step: int) -> str:
    return f"{arm.label} {rate:g} {until_step}"
