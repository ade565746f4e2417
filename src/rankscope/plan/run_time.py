"""How long a run takes, and a plan's costs as rows and as sums for people.

Times are arithmetic with constants that were fitted to measured runs, or with speeds measured here.

`benchmarks/plan_accuracy.py` prints the constants that fit the machine it runs on.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from copy import copy
from typing import Any

from rankscope.plan.run_cost import (
    base_forwards,
    evaluate_flops,
    forward_flops,
    generated_tokens,
    replayed_rows,
    share_of_epoch,
    step_count,
    train_flops,
)
from rankscope.plan.schedule import what_is_left
from rankscope.records import MeasuredSpeed, ModelFacts, Plan, ReplayFacts, SuiteFacts, TrainFacts
from rankscope.records.machine_facts import Device
from rankscope.study.study import Arm, Budget

EFFICIENCY = 0.9
"""Share of the measured speed of one large matrix product that the matrices of a step reach."""

ATTENTION_EFFICIENCY = {"cpu": 0.25, "cuda": 0.25, "mps": 0.25}
"""The same share for the products inside attention, with its softmax; on CUDA an assumption."""

VALUE_SECONDS = {"cpu": 2.2e-9, "cuda": 3e-12, "mps": 2e-11}
"""What a forward takes besides products for each value that goes into or out of a matrix or norm (one CPU thread, or a
GPU whole): it is read and written several times, at the speed of memory. Training takes three times this. Where a
processor multiplies small matrices fast (AMX, tensor cores) most of a narrow model's time is this. On CUDA an
assumption: 8 bytes at 2.7 TB/s."""

LAYER_STEP_SECONDS = {"cpu": 0.006, "cuda": 0.0015, "mps": 0.003}
"""What a training step costs per layer besides arithmetic (calls, small kernels); a forward alone takes a third.

On CUDA an assumption."""

SCORING_BATCH_TOKENS = {"cpu": 2048, "cuda": 16384, "mps": 4096}
"""Tokens in one scoring batch of a run, by device; fixed, since another batching may round differently."""

DECODED_ROWS = {"cpu": 64, "cuda": 128, "mps": 64}
"""Answers that a run writes at once: beyond, a step is hardly cheaper by row, and memory grows."""

_VALIDATION_BATCH_TOKENS = 8192


def values_per_token(facts: ModelFacts) -> int:
    """Values into and out of every matrix of the blocks for a token, and 4 D a layer for norms and residuals."""
    return sum(map(sum, facts.linear_shapes.values())) + 4 * facts.hidden_size * facts.layer_count


class Clock:
    """The seconds of one worker on one training set of one base model.

    `flops_per_second` is that of one large matrix product on its `threads`. What was `measured` of a method, at its
    smallest and largest size, is taken in place of arithmetic: between the two the time of a token is linear in the
    trained parameters.
    """

    def __init__(
        self,
        facts: ModelFacts,
        train: TrainFacts,
        suites: Sequence[SuiteFacts],
        budget: Budget,
        flops_per_second: float,
        device: Device,
        measured: Sequence[MeasuredSpeed] = (),
        threads: int = 1,
    ) -> None:
        self._facts, self._train, self._suites, self._budget = facts, train, suites, budget
        self._speed, self._device, self._threads = flops_per_second, device, threads
        self._measured = [m for m in measured if (m.model, m.train_set) == (facts.name, train.name)]
        self._checkpointed: frozenset[str] = frozenset()

    def with_checkpointing(self, labels: Collection[str]) -> Clock:
        """The same clock, by which the arms of these labels compute their activations twice."""
        made = copy(self)
        made._checkpointed = frozenset(labels)
        return made

    def training(self, arm: Arm, share: float = 1.0) -> float:
        """Updates of a run, or of `share` of one; none of an arm that was trained elsewhere."""
        if arm.given is not None:
            return 0.0
        steps = share * step_count(self._train.row_count, self._budget)
        tokens = share * (self._tokens() + replayed_rows(arm, self._train, self._budget).tokens)
        again = base_forwards(arm) / 3  # a forward is a third of a step, as FLOPs and as calls
        per_token = self._of(arm, "train_seconds_per_token")
        if per_token is not None:  # measured on the task's tokens alone
            return tokens * (1 + again) * per_token
        matrices, attention = self.training_flops(arm)
        passes = (1 + again) * (1 if arm.replay is None else 2)  # replayed rows are micro-batches of their own
        return self._arithmetic(share * matrices, share * attention, steps * passes, 3 * tokens * (1 + again))

    def training_flops(self, arm: Arm) -> tuple[float, float]:
        """FLOPs of a run's updates: (of matrices, inside attention)."""
        twice = arm.label in self._checkpointed
        return train_flops(arm, self._facts, self._train, self._budget, checkpointing=twice)

    def validation(self, arm: Arm) -> float:
        """One pass over the validation rows."""
        tokens = self._train.validation_count * self._train.token_count / max(1, self._train.row_count)
        per_token = self._of(arm, "validation_seconds_per_token")
        if per_token is not None:
            return tokens * per_token
        share = self._train.completion_token_count / max(1, self._train.token_count)
        matrices, attention = forward_flops(arm, self._facts, tokens, tokens * share, tokens / self._rows())
        return self._arithmetic(matrices, attention, math.ceil(tokens / _VALIDATION_BATCH_TOKENS) / 3, tokens)

    def scoring(self, arm: Arm | None) -> float:
        """Every suite once; None is the base. What was measured of the arm with the fewest parameters is the base's."""
        if not self._suites:
            return 0.0
        seconds = self._of(arm, "evaluate_seconds") if arm is not None else self._least("evaluate_seconds")
        if seconds is not None:
            return seconds
        matrices, attention = evaluate_flops(arm, self._facts, self._suites)
        passes = 0.0
        for suite in self._suites:
            passes += math.ceil(suite.token_count / SCORING_BATCH_TOKENS[self._device])
            if suite.item_count and generated_tokens(suite):
                batches = math.ceil(suite.item_count / DECODED_ROWS[self._device])
                passes += batches * generated_tokens(suite) / suite.item_count
        return self._arithmetic(matrices, attention, passes / 3, sum(suite.token_count for suite in self._suites))

    def sampling(self, samples: ReplayFacts) -> float:
        """Letting the base write what arms replay, each sample as long as it may be."""
        tokens, written, rows = samples.token_count, samples.completion_token_count, max(1, samples.row_count)
        matrices, attention = forward_flops(None, self._facts, tokens, written, tokens / rows)
        passes = math.ceil(rows / DECODED_ROWS[self._device]) * written / rows
        return self._arithmetic(matrices, attention, passes / 3, tokens)

    def inside(self, arm: Arm, probe_items: int) -> float:
        """Looking inside a scored run: a forward of base and arm with all states kept, and the spectra of its matrices.

        A singular value decomposition of an (m, n) matrix, m >= n, is taken as 14 m n^2 FLOPs (Golub & Van Loan, 4th
        ed., figure 8.6.1, with vectors of one side) where the whole weight changed, and as 14 (m + n) r^2 of factors.
        """
        items = sum(suite.item_count for suite in self._suites)
        tokens = min(probe_items, items) * sum(suite.token_count for suite in self._suites) / max(1, items)
        matrices, attention = forward_flops(arm, self._facts, 2 * tokens, 0.0, tokens / max(1, min(probe_items, items)))
        spectra = 0.0
        if arm.has_delta:
            for out, in_ in self._facts.linear_shapes.values():
                side = min(out, in_)
                spectra += 14.0 * max(out, in_) * side**2 if arm.rank is None else 14.0 * (out + in_) * arm.rank**2
        return self._arithmetic(matrices + spectra, attention, 2 * min(probe_items, items) / 3, 2 * tokens)

    def _arithmetic(self, matrices: float, attention: float, steps: float, tokens: float) -> float:
        layers = self._facts.layer_count * LAYER_STEP_SECONDS[self._device]
        products = matrices / EFFICIENCY + attention / ATTENTION_EFFICIENCY[self._device]
        values = tokens * values_per_token(self._facts) * VALUE_SECONDS[self._device] / self._threads
        return products / self._speed + values + steps * layers

    def _rows(self) -> float:
        return max(1, self._train.validation_count)

    def _tokens(self) -> float:
        return self._train.token_count * share_of_epoch(self._train, self._budget)

    def _of(self, arm: Arm | None, name: str) -> float | None:
        """What was measured of this arm's method, at its size; None where nothing was."""
        if arm is None:
            return None
        known = sorted((m for m in self._measured if m.method == arm.method), key=lambda m: m.trainable_parameters)
        if not known:
            return None
        low, high = known[0], known[-1]
        first, last = float(getattr(low, name)), float(getattr(high, name))
        if low.trainable_parameters == high.trainable_parameters:
            return first
        at = arm.trainable_parameters(self._facts) - low.trainable_parameters
        return max(0.0, first + (last - first) * at / (high.trainable_parameters - low.trainable_parameters))

    def _least(self, name: str) -> float | None:
        known = sorted(self._measured, key=lambda m: m.trainable_parameters)
        return float(getattr(known[0], name)) if known else None


# ---- for people ------------------------------------------------------------------------------------------------------


def describe_plan(plan: Plan) -> list[dict[str, Any]]:
    """One row for each run, in the plan's order; FLOPs in 10^12, all else in the units that the names say."""
    return [
        {
            "run_id": run.run_id,
            "model": run.model,
            "train_set": run.train_set,
            "arm": run.arm.label,
            "seed": run.seed,
            "trainable_parameters": run.trainable_parameters,
            "steps": run.step_count,
            "train_tokens": run.train_tokens,
            "replay_tokens": run.replay_tokens,
            "remedy": run.arm.remedy,
            "remedy_seconds": run.remedy_seconds,
            "teraflops": (run.train_flops + run.evaluate_flops) / 1e12,
            "memory_bytes": run.memory_bytes,
            "disk_bytes": run.disk_bytes,
            "seconds": run.seconds,
            "gang": run.gang,
            "offload": run.offload,
            "checkpointing": run.checkpointing,
            "scoring_gang": run.scoring.size,
            "fits": run.fits,
            "reason": run.reason,
        }
        for run in plan.runs
    ]


def plan_totals(plan: Plan) -> dict[str, Any]:
    """Sums over the runs that fit and the searches. `seconds`: until the schedule's last job has ended; `gpu_hours` (or
    on a CPU hours of its workers): of all devices together. Each worker has a checkpoint on disk.

    With adaptive seeds these are the most that there can be; `first_runs` and `first_seconds` are those of the first
    seeds, which every arm gets.
    """
    runs = [run for run in plan.runs if run.fits]
    first = [run for run in runs if not plan.looks or run.seed < plan.looks[0]]
    workers = plan.resolved.worker_count
    flops = sum(run.train_flops + run.evaluate_flops for run in runs) + sum(s.train_flops for s in plan.searches)
    later = {run.run_id for run in runs} - {run.run_id for run in first}
    return {
        "runs": len(runs),
        "first_runs": len(first),
        "runs_that_do_not_fit": len(plan.runs) - len(runs),
        "searches": len(plan.searches),
        "train_tokens": sum(run.train_tokens for run in runs),
        "teraflops": flops / 1e12,
        "memory_bytes": sum(sorted((run.memory_bytes for run in runs), reverse=True)[:workers]),
        "disk_bytes": plan.disk_bytes(runs),
        "gpu_hours": plan.device_hours,
        "first_seconds": what_is_left(plan.schedule, plan.runs, later).makespan_seconds if plan.schedule else None,
        "seconds": plan.schedule.makespan_seconds if plan.schedule else None,
    }
