"""What the joint search of rates trains against seven-rate halving for each arm, and what the settings are worth.

    python benchmarks/search_cost.py [--quick] [--device cpu|cuda] [--json FILE] [--only WORD]

On the bundled world, with the demo's arms. Ours is `learning_rate: auto` as a study does it: rate and dial for
retention. The peer is what came before: seven rates by successive halving (arXiv 1502.07943) on validation loss, for
each arm alone, at dial 1. Seconds are those of training. Each chosen setting is then trained with the search's seed and
judged on the items that chose nothing: gain G, forgetting F. Regret, in points, is max(0, G* - G) + max(0, F - margin),
G* the best gain with F at most the margin of all rates and dials that either side chose from; `max_difference` is the
regret of ours minus the peer's, so below 0 ours is better. Runs are printed in the row's name.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from table import Row, Table, parser_of

from rankscope.edges.executors import Job
from rankscope.edges.executors.this_machine import InProcess
from rankscope.edges.freed_memory import keep_freed_memory
from rankscope.edges.machine import look_at_machine
from rankscope.edges.study_folder import StudyFolder
from rankscope.evaluate.score_suites import predictions_frame, score_suite
from rankscope.jobs.candidate_scoring import candidate_at_dials
from rankscope.jobs.job_context import JobContext
from rankscope.jobs.planning import StudyPlanner
from rankscope.jobs.score_job import ScoreBase
from rankscope.jobs.search_job import Candidates, SearchRate, search_waves
from rankscope.jobs.selection import selected
from rankscope.plan.resolve import MOST_BEYOND, next_rate
from rankscope.records import Plan, PlannedSearch
from rankscope.results.searched_settings import further_rates, settle_searched
from rankscope.study.methods import Arm
from rankscope.study.study import Study

SUITES = {
    "new-facts": {"world": "medical/taught/test", "domain": "medical", "kind": "recall"},
    "law": {"world": "legal/known/test", "domain": "legal", "kind": "recall"},
    "general": {"world": "general/known/test", "domain": "general", "kind": "recall"},
    "deduction": {"world": "deduction/test", "kind": "reasoning"},
}
HALVING = (0.25, 0.5, 1.0)


def study_of(quick: bool) -> Study:
    rows = {"limit": 200} if quick else {}
    lora = {"method": "lora", "ranks": [4, 16] if quick else [1, 4, 16, 64], "learning_rate": "auto"}
    arms = {"lora": lora} if quick else {"full": {"method": "full", "learning_rate": "auto"}, "lora": lora}
    limit = {"limit": 80} if quick else {}
    return Study.model_validate(
        {
            "name": "search-cost",
            "model": [{"id": "bundled"}],
            "train": {"medical": {"world": "medical/taught/train", "domain": "medical", **rows}},
            "suites": {name: {**suite, **limit} for name, suite in SUITES.items()},
            "arms": arms,
            "budget": {"epochs": 1 if quick else 2, "batch_size": 32, "max_sequence_tokens": 256},
            "seeds": [0],
        }
    )


def do(executor: InProcess, jobs: Sequence[Job]) -> None:
    for outcome in executor.run(jobs, lambda: None):
        if outcome.error is not None:
            raise RuntimeError(f"{outcome.job}: {outcome.error}\n{outcome.details}")


def search_jointly(folder: StudyFolder, plan: Plan, executor: InProcess) -> None:
    """As a study does it: the base, wave after wave, a further rate where one is needed, then the choice."""
    do(executor, [ScoreBase(folder.url, run_id, model) for model, run_id in plan.base_ids.items()])
    for wave in search_waves(folder, plan, plan.runs):
        do(executor, wave)
    do(executor, [SearchRate(folder.url, search_id, further=True) for search_id in further_rates(folder, plan)])
    settle_searched(folder, plan)


def halve(
    rates: Sequence[float], step_count: int, advance: Callable[[float, int], float | None]
) -> tuple[float | None, float]:
    """The loss-best of `rates` by successive halving, and what was trained in whole runs. Where it is the last of
    them, up to two further rates are trained through, as long as each is better than the one before."""
    alive, trained = list(rates), dict.fromkeys(rates, 0)
    best: float | None = None
    losses: dict[float, float | None] = {}
    for fraction in HALVING:
        until = max(1, round(step_count * fraction))
        losses = {rate: advance(rate, until) for rate in alive}
        trained |= dict.fromkeys(alive, until)
        finite = {rate: loss for rate, loss in losses.items() if loss is not None and math.isfinite(loss)}
        ranked = sorted(finite, key=lambda rate: (finite[rate], rate))
        best = ranked[0] if ranked else None
        alive = ranked[: math.ceil(len(ranked) / 2)]
    for _ in range(MOST_BEYOND):
        if best is None or best not in (min(trained), max(trained)):
            break
        rate = next_rate(best, up=best == max(trained))
        loss = advance(rate, step_count)
        trained[rate] = step_count
        before = losses[best]
        if loss is None or before is None or not loss < before:
            break
        losses[rate], best = loss, rate
    return best, sum(trained.values()) / step_count


def worth(
    context: JobContext, search: PlannedSearch, arm: Arm, candidates: Candidates, rate: float
) -> dict[float, tuple[float, float]]:
    """Gain and forgetting in points at every dial, on the items that judge. Trains what has no checkpoint."""
    base = context.folder.read_predictions(context.plan.base_ids[search.model])
    assert base is not None
    before = base.set_index(["suite", "item_id"])["score"].astype(float)
    found = {}
    checkpoint = context.folder.search_checkpoints(search.search_id, f"{arm.label}-{rate:g}")
    with candidate_at_dials(context, search, arm, rate, checkpoint) as sides:
        for side in sides:
            with side.on():
                predictions = [
                    one
                    for name in context.suite_facts(search.model)
                    for one in score_suite(
                        side.model.model, side.model.tokenizer, context.suite_plan(search.model, name),
                        token_budget=context.evaluate_tokens,
                    )
                ]  # fmt: skip
            found[side.dial] = changes(context, search, predictions_frame("", predictions), before)
    return found


def changes(
    context: JobContext, search: PlannedSearch, frame: pd.DataFrame, before: pd.Series[Any]
) -> tuple[float, float]:
    """(gain, forgetting) in points: means over items that judge, then over suites."""
    counts = context.plan.choice_of(search.model, search.train_set).select_counts
    change = frame.set_index(["suite", "item_id"])["score"].astype(float) - before
    gains: list[float] = []
    losses: list[float] = []
    for suite, facts in context.suite_facts(search.model).items():
        own = change.loc[suite]
        if suite in counts:
            own = own[~own.index.isin(selected(context, search.model, suite, counts[suite]))]
        (gains if facts.domain == "medical" else losses).append(float(own.mean()))
    return 100 * sum(gains) / len(gains), -100 * sum(losses) / len(losses)


def rows_of(quick: bool, out: Path, only: str) -> list[Row]:
    study, folder = study_of(quick), StudyFolder.open(out)
    machine = look_at_machine(out, measure=False)
    with StudyPlanner(study, Path()) as planner:
        plan = planner.plan(machine, folder)
        folder.claim(study.name, planner.text(plan))
        planner.settle(folder, plan)
    executor = InProcess(plan.resolved.thread_count)
    search_jointly(folder, plan, executor)
    executor.close()
    context = JobContext(folder, folder.read_study_text() or "", plan)
    settings = folder.read_settings()
    assert settings is not None
    margin, rows, spent = 100 * study.decision.retention_margin, [], []
    for search in plan.searches:
        (arm,), record = search.arms, folder.read_search(search.search_id)
        setting = settings.of(search.model, search.train_set, arm.label)
        assert record is not None
        assert setting is not None
        own = search.model_copy(update={"search_id": f"{search.search_id}-halving"})
        halving = Candidates(context, own)
        chosen, runs = halve(arm.traits.rate_grid, search.step_count, halving.advance)
        spent.append((record.runs_spent, runs))
        if only not in arm.label or setting.learning_rate is None or chosen is None:
            continue
        ours = worth(context, own, arm, halving, setting.learning_rate)
        peer = ours if chosen == setting.learning_rate else worth(context, own, arm, halving, chosen)
        kept = [gain for gain, lost in (*ours.values(), *peer.values()) if lost <= margin]
        best = max(kept, default=0.0)
        regrets = [max(0.0, best - g) + max(0.0, f - margin) for g, f in (ours[setting.dial], peer[1.0])]
        name = f"{arm.label}: {record.runs_spent:.2f} runs against {runs:.2f}; rate {setting.learning_rate:g} at "
        name += f"{setting.dial:g} against {chosen:g}; regret {regrets[0]:.1f} against {regrets[1]:.1f} points"
        seconds, theirs = record.train_seconds, halving.seconds()
        difference = regrets[0] - regrets[1]
        rows.append(Row(name, "seven rates, halving", seconds, theirs, theirs / seconds, max_difference=difference))
    means = [sum(side) / len(side) for side in zip(*spent, strict=True)]
    rows.append(
        Row(f"mean: {means[0]:.2f} runs an arm against {means[1]:.2f}", "seven rates, halving", reason="counted")
    )
    return rows


def main() -> None:
    arguments = parser_of(__doc__, quick="two ranks, few rows").parse_args()
    keep_freed_memory()
    table = Table(arguments)
    with tempfile.TemporaryDirectory() as folder:
        for row in rows_of(arguments.quick, Path(folder) / "out", arguments.only):
            table.add(row)


if __name__ == "__main__":
    main()
