"""`rankscope repair`: an adapter or model that a user has, made to forget less without training.

Every remedy is scored once on the task and on what must be kept; a share of the items chooses, the rest judges.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from rankscope.data.encoder import Encoder
from rankscope.decide.retention_rule import over_choices
from rankscope.evaluate.answer_drafts import answers_in
from rankscope.evaluate.first_tokens import Moved, first_token_divergences
from rankscope.evaluate.score_suites import SuitePlan, score_suite
from rankscope.model.load import LoadedModel, inspect_model, load_model
from rankscope.plan.selection_split import LIMIT_SHARE, selection_items, split_count
from rankscope.records import ModelFacts, Prediction, RepairPoint, RepairRecord, RepairSide, Suite
from rankscope.records.record_base import record_json
from rankscope.study.problems import InputProblems, Problem, show
from rankscope.study.selection_order import LEAST_JUDGED
from rankscope.study.study import ModelSpec, Selection
from rankscope.tools.adapter_audit import whole_folder
from rankscope.tools.repair_candidates import AdapterCandidates, Candidates, ModelCandidates, write_texts
from rankscope.tools.repair_choice import Chosen, SuiteScores, against_first, choose, judged, select_counts, why_not
from rankscope.tools.score import TOKEN_BUDGET
from rankscope.tools.score_request import SuiteOptions, read_suites

CARD, RECORD = "README.md", "repair.json"

CONFIDENCE = 0.95

LEAST_ITEMS = 8
"""Of a suite: some of them choose, the others judge."""

_DIVERGENCE_ITEMS = 24
"""Prompts of each suite that the divergence is taken on, the same ones for every remedy."""


@dataclass(frozen=True)
class Request:
    """What is asked for: an adapter's folder or a model's, the base, rows of the task and of what must be kept."""

    base: ModelSpec
    task: tuple[str, ...]
    keep: tuple[str, ...]
    out: Path
    adapter: Path | None = None
    model: Path | None = None
    margin: float = 0.03
    options: SuiteOptions = field(default_factory=SuiteOptions)


@dataclass(frozen=True)
class Repair:
    """What was found, and how to write it."""

    record: RepairRecord
    _candidates: Candidates
    _out: Path

    def write(self, card: str) -> None:
        """The repaired adapter or model with its card and repair.json; where nothing helps surely these two alone."""
        files = {CARD: card, RECORD: record_json(self.record).decode() + "\n"}
        if self.record.chosen is not None:
            self._candidates.write(self.record.chosen, self._out, files)
            return
        with whole_folder(self._out) as draft:
            write_texts(draft, files)


def repair(request: Request, progress: Callable[[str, int, int], None] = lambda *_: None) -> Repair:
    """Try every remedy, choose one, judge it. Raises InputProblems before anything is scored.

    `progress` hears which remedy is scored, how many are done, and how many there are.
    """
    check_request(request)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    facts = inspect_model(request.base, Path(), device=device)
    dtype = request.base.dtype if request.base.dtype != "auto" else "bfloat16" if device == "cuda" else "float32"
    base = load_model(request.base, Path(), dtype, device)
    suites = _suites(request, base, facts)
    if request.adapter is not None:
        made: Candidates = AdapterCandidates(base, request.adapter)
    else:
        assert request.model is not None
        tuned = load_model(request.base, Path(), dtype, device, weights=request.model)
        made = ModelCandidates(base, tuned, request.model)
    plans = {name: SuitePlan(suite, TOKEN_BUDGET[device]) for name, suite in suites.items()}
    before = _scores(base, plans)
    scores: dict[str, dict[str, list[Prediction]]] = {}
    moved: list[list[Divergences]] = []
    selected = {name: choosing_items(suite) for name, suite in suites.items()}
    keeps = list(suites)[len(request.task) :]
    for done, name in enumerate(made.names):
        progress(name, done, len(made.names))
        with made.applied(name) as (model, plain, own):
            scores[name] = _scores(model, plans, before)
            moved.append([])
            for suite in keeps:
                chosen = [item for item in suites[suite].items if item.item_id in selected[suite] and item.prompt_ids]
                items = chosen[:_DIVERGENCE_ITEMS]
                (found,) = first_token_divergences(plain, [own], items, token_budget=TOKEN_BUDGET[device])
                moved[-1].append(_means(found))
    arrays = {name: _arrays(suites[name], selected[name], before[name], name, scores) for name in suites}
    record = _record(request, made, arrays, _over_suites(moved))
    return Repair(record, made, request.out)


Divergences = tuple[float, float]
"""Over the whole vocabulary, and over the items' choices (NaN where none has any)."""


def _means(found: Sequence[Moved]) -> Divergences:
    over = [one.choices_nats for one in found if one.choices_nats is not None]
    return float(np.mean([one.first_token_nats for one in found])), float(np.mean(over)) if over else np.nan


def _over_suites(moved: Sequence[Sequence[Divergences]]) -> np.ndarray:
    """Of each candidate the mean over suites of the divergence that forgetting is fitted on."""
    both = np.array(moved)  # (candidates, suites, 2)
    with_choices = ~np.isnan(both[:, :, 1]).any(axis=0)
    if over_choices(int(with_choices.sum()), both.shape[1]):
        return np.asarray(both[:, with_choices, 1].mean(axis=1))
    return np.asarray(both[:, :, 0].mean(axis=1))


def check_request(request: Request) -> None:
    """Raise InputProblems for options that mean nothing, all at once."""
    problems = []
    if (request.adapter is None) == (request.model is None):
        found = "neither ADAPTER nor --model" if request.adapter is None else "both ADAPTER and --model"
        problems.append(Problem("repair", "", found, "one of them"))
    for option, given in (("--task", request.task), ("--keep", request.keep)):
        if not given:
            problems.append(Problem("repair", option, "nothing", "at least one file of rows"))
    if not 0 < request.margin < 1:
        problems.append(
            Problem("repair", "--margin", show(request.margin), "a share above 0 and below 1, such as 0.03")
        )
    if request.out.exists() and any(request.out.iterdir() if request.out.is_dir() else [request.out]):
        problems.append(Problem(str(request.out), "--out", "something there already", "a new or empty folder"))
    if request.model is not None and not request.model.is_dir():
        problems.append(Problem(str(request.model), "--model", "no such folder", "a model that transformers saved"))
    if problems:
        raise InputProblems(problems)


def _suites(request: Request, base: LoadedModel, facts: ModelFacts) -> dict[str, Suite]:
    """The task's first, then what is to be kept. Raises InputProblems where one cannot be split or has no answers."""
    encoder = Encoder(
        base.tokenizer, context_tokens=facts.context_tokens, system_prompt=request.base.system_prompt,
        vocabulary_size=facts.vocab_size,
    )  # fmt: skip
    asked = read_suites([*request.task, *request.keep], request.options, encoder)
    problems = []
    for i, (name, (suite, found)) in enumerate(asked.items()):
        option = "--task" if i < len(request.task) else "--keep"
        if found.form == "text":
            problems.append(Problem(name, option, "plain text, which has no right answers", "questions with answers"))
        elif len(suite.items) < LEAST_ITEMS:
            expected = f"at least {LEAST_ITEMS}: some choose, the others judge"
            problems.append(Problem(name, option, f"{len(suite.items)} items", expected))
        elif not choosing_items(suite):
            clusters = len({item.cluster for item in suite.items})
            expected = f"at least {LEAST_JUDGED + 1} clusters, which stay whole: some choose, the others judge"
            problems.append(
                Problem(name, option, f"{len(suite.items)} items in {clusters} cluster{'s' * (clusters > 1)}", expected)
            )
    if problems:
        raise InputProblems(problems)
    return {name: suite for name, (suite, _) in asked.items()}


def choosing_items(suite: Suite) -> frozenset[str]:
    """The items that choose: a quarter, 16 to 100 of them where there are enough, in whole clusters; none of two
    clusters."""
    count = len(suite.items)
    rule = Selection(min_items=min(16, count // 4))
    chosen = split_count(count, rule)
    return selection_items([item.item_id for item in suite.items], [item.cluster for item in suite.items], chosen)


def _scores(
    model: LoadedModel, plans: Mapping[str, SuitePlan], base: Mapping[str, list[Prediction]] | None = None
) -> dict[str, list[Prediction]]:
    """`base`: its scores, where it is not what is scored."""
    return {
        name: score_suite(
            model.model, model.tokenizer, plan, token_budget=plan.token_budget,
            answers=answers_in(base[name], name) if base is not None else None,
        )
        for name, plan in plans.items()
    }  # fmt: skip


def _arrays(
    suite: Suite,
    selected: frozenset[str],
    before: Sequence[Prediction],
    name: str,
    scores: Mapping[str, Mapping[str, Sequence[Prediction]]],
) -> SuiteScores:
    def values(found: Sequence[Prediction]) -> list[float]:
        return [np.nan if one.score is None else one.score for one in found]

    clusters = [item.cluster or f"\0{item.item_id}" for item in suite.items]
    numbers = np.unique(clusters, return_inverse=True)[1] if len(set(clusters)) < len(clusters) else None
    return SuiteScores(
        np.array(values(before), dtype=float),
        np.array([values(own[name]) for own in scores.values()], dtype=float),
        np.array([item.item_id in selected for item in suite.items]),
        numbers,
    )


def _record(
    request: Request, made: Candidates, suites: Mapping[str, SuiteScores], divergences: np.ndarray
) -> RepairRecord:
    names = list(suites)
    task = [suites[name] for name in names[: len(request.task)]]
    keep = [suites[name] for name in names[len(request.task) :]]
    limit = LIMIT_SHARE * request.margin
    found = choose(task, keep, divergences, [made.tried(name) for name in made.names], limit)
    gains, lost = judged(task, CONFIDENCE), judged(keep, CONFIDENCE, sign=-1)
    sides = [RepairSide(gain=gain, forgetting=forgotten) for gain, forgotten in zip(gains, lost, strict=True)]
    place = found.place
    saved = against_first(keep, place, CONFIDENCE) if place else None
    cost = against_first(task, place, CONFIDENCE, sign=-1) if place else None
    reason = why_not(place, lost[0], gains[place], saved)
    select, judge = select_counts(suites)
    return RepairRecord(
        base=request.base.id,
        repaired=str(request.adapter or request.model),
        task=names[: len(request.task)],
        keep=names[len(request.task) :],
        margin=request.margin,
        limit=limit,
        how=found.how,
        confidence=CONFIDENCE,
        chosen=None if reason else made.names[place],
        reason=reason or _chosen_because(found, limit),
        before=sides[0],
        after=sides[place] if place else None,
        saved=saved,
        lost=cost,
        points=[_point(made, found, sides[i], divergences, i) for i in range(len(sides))],
        select_items=select,
        judge_items=judge,
    )


def _chosen_because(found: Chosen, limit: float) -> str:
    if found.how == "retention":
        return f"the largest gain among those whose fitted forgetting is at most {100 * limit:.2g} points"
    return f"the least fitted forgetting: none stays within {100 * limit:.2g} points"


def _point(made: Candidates, found: Chosen, side: RepairSide, divergences: np.ndarray, i: int) -> RepairPoint:
    return RepairPoint(
        name=made.names[i],
        gain=side.gain,
        forgetting=side.forgetting,
        select_gain=float(found.select_gain[i]),
        select_forgetting=float(found.select_forgetting[i]),
        kl_nats=float(divergences[i]),
        fitted=float(found.fitted[i]),
        ranks_left=made.ranks_left(made.names[i]),
    )
