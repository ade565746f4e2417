"""What one run needs where it is trained and where it is scored, for the micro-batches and lengths of its study."""

from __future__ import annotations

import math
from typing import Literal

from rankscope.plan.checkpointing_choice import choose_way, ways, with_checkpointing
from rankscope.plan.gang_choice import (
    ALONE,
    GangNeed,
    Room,
    choose_gang,
    choose_scoring,
    need_in_gang,
    scoring_need,
)
from rankscope.plan.run_cost import memory_parts
from rankscope.records import Gang, ModelFacts, Resolved, TrainFacts
from rankscope.study.study import Arm, Study

Dtype = Literal["float32", "bfloat16"]


def run_memory_parts(
    study: Study,
    arm: Arm,
    facts: ModelFacts,
    train: TrainFacts,
    dtype: Dtype,
    resolved: Resolved,
    *,
    checkpointing: bool,
) -> dict[str, int]:
    """`memory_parts` for the micro-batches that this run has: never more than a batch, never less than its longest row.

    A batch is taken to have at most half as many tokens again as the average one.
    """
    longest = min(study.budget.max_sequence_tokens, facts.context_tokens)
    mean = train.token_count / max(1, train.row_count)
    batch = math.ceil(study.budget.batch_size * min(longest, 1.5 * mean))
    share = train.completion_token_count / max(1, train.token_count)
    tokens = max(min(resolved.micro_batch_tokens, batch), min(longest, batch))
    return memory_parts(
        arm, facts, dtype, tokens, share, resolved.device,
        checkpointing=checkpointing, optimizer=study.optimizer.name,
    )  # fmt: skip


def gang_key(facts: ModelFacts, train: TrainFacts, arm: Arm) -> str:
    """By what the gang of an arm's runs is recorded."""
    return f"{facts.name} {train.name} {arm.label}"


def run_need(
    study: Study, arm: Arm, facts: ModelFacts, train: TrainFacts, dtype: Dtype, resolved: Resolved, room: Room
) -> GangNeed:
    """Where a run goes, what it needs there, and whether it computes its activations twice: as an earlier plan decided,
    else as `choose_gang` and `choose_way` do."""
    key, name = gang_key(facts, train, arm), study.optimizer.name
    recorded: Gang | None = resolved.gangs.get(key)

    def need(*, checkpointing: bool, gang: Gang | None = recorded) -> GangNeed:
        alone = run_memory_parts(study, arm, facts, train, dtype, resolved, checkpointing=checkpointing)
        if gang is None:
            found = choose_gang(arm, facts, alone, room, study.execution, name)
        else:
            found = GangNeed(gang, alone) if gang == ALONE else need_in_gang(arm, facts, alone, gang, name)
        return with_checkpointing(found, checkpointing=checkpointing)

    open_ways = ways(study.budget, facts, arm, recorded=key in resolved.checkpointed)
    found = [need(checkpointing=way) for way in open_ways]
    return choose_way(found, lambda small: need(checkpointing=False, gang=small.gang), room)


def run_scoring(
    study: Study, arm: Arm, facts: ModelFacts, train: TrainFacts, dtype: Dtype, resolved: Resolved, room: Room
) -> GangNeed:
    """Where a run is scored and what it needs there: as an earlier plan decided, else as `choose_scoring` does."""
    copies = 1
    if arm.traits.whole:
        dials = len(study.dials_of(arm)) > 1 and (study.select == "retention" or arm.dial is not None)
        copies = 3 if dials else 2 if study.analysis.enabled else 1
    recorded: Gang | None = resolved.scoring_gangs.get(gang_key(facts, train, arm))
    if recorded is not None:
        return scoring_need(arm, facts, dtype, recorded, copies)
    return choose_scoring(arm, facts, dtype, room, study.execution, copies)
