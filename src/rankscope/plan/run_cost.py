"""What a run costs in FLOPs, steps and disk. Arithmetic on facts; loads nothing. docs/plan.md has the same formulas.

Letters: P weights in the blocks' matrices, p trainable parameters, D hidden size, L layers, V vocabulary,
n mean row length. A product of (a, b) by (b, c) is 2abc FLOPs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rankscope.plan.memory import BYTES, moment_bytes
from rankscope.records import ModelFacts, SuiteFacts, TrainFacts
from rankscope.study.study import Arm, Budget, OptimizerName

GENERATED_SHARE = 0.25
"""Share of `max_new_tokens` that a generated answer is taken to have on average: an assumption."""

_PREDICTION_BYTES = 300


def step_count(row_count: int, budget: Budget) -> int:
    """Steps of a run: the batches of each epoch, of which the last may be smaller."""
    return sum(math.ceil(rows / budget.batch_size) for rows in budget.rows_seen(row_count))


def share_of_epoch(train: TrainFacts, budget: Budget) -> float:
    """Rows that a run sees, as a multiple of the training set's."""
    return sum(budget.rows_seen(train.row_count)) / max(1, train.row_count)


# ---- FLOPs ----------------------------------------------------------------------------------------------------------


def _weight_flops(facts: ModelFacts) -> float:
    """One token forward through the blocks' matrices: 2P (arXiv 2001.08361, section 2.1)."""
    return 2.0 * sum(out * in_ for out, in_ in facts.linear_shapes.values())


def _attention_flops(facts: ModelFacts, length: float) -> float:
    """One token forward through causal attention: 2 L D n, two products of 2 D n in each layer, of which the mask
    leaves half (arXiv 2001.08361, table 1, has them without the mask)."""
    return 2.0 * facts.layer_count * facts.hidden_size * length


def _head_flops(facts: ModelFacts) -> float:
    """The vocabulary logits of one position: 2 V D."""
    return 2.0 * facts.vocab_size * facts.hidden_size


def train_flops(arm: Arm, facts: ModelFacts, train: TrainFacts, budget: Budget) -> tuple[float, float]:
    """FLOPs of a run's updates: (of matrices, inside attention), which hardware does at different speeds.

    The method says how many passes a token makes (`Method.step_work`): full fine-tuning 3 of the matrices and of
    attention, and 3 of the head at each completion token, since the backward is two products for each of the forward;
    an adapter 2, 3 and 2 and its own products. Virtual tokens make rows longer; those of a prefix meet only attention.
    Softmax, norms and AdamW are left out.
    """
    share, method = share_of_epoch(train, budget), arm.traits
    rows = train.row_count * share
    tokens = train.token_count * share + rows * method.computed_virtual_tokens(arm)
    completions = train.completion_token_count * share
    length = train.token_count / max(1, train.row_count) + method.virtual_tokens(arm)
    weights, attention, head = _weight_flops(facts), _attention_flops(facts, length), _head_flops(facts)
    work = method.step_work(arm, facts, checkpointing=budget.gradient_checkpointing)
    matrices = work.matrices * weights + work.own_flops
    return matrices * tokens + work.head * head * completions, work.attention * attention * tokens


def forward_flops(
    arm: Arm | None, facts: ModelFacts, tokens: float, logits: float, length: float
) -> tuple[float, float]:
    """FLOPs of a forward over rows of `length` tokens: (of matrices, inside attention). The method's own on top."""
    own = arm.traits.own_forward_flops(arm, facts) if arm is not None else 0.0
    matrices = (_weight_flops(facts) + own) * tokens + _head_flops(facts) * logits
    return matrices, _attention_flops(facts, length) * tokens


def evaluate_flops(arm: Arm | None, facts: ModelFacts, suites: Sequence[SuiteFacts]) -> tuple[float, float]:
    """FLOPs of scoring every suite once (None: the base): (of matrices, inside attention). Logits for generated tokens
    and, as an upper bound, for every token of a suite that is not generated."""
    virtual = arm.traits.virtual_tokens(arm) if arm is not None else 0
    computed = arm.traits.computed_virtual_tokens(arm) if arm is not None else 0
    matrices, attention = 0.0, 0.0
    for suite in suites:
        generated = generated_tokens(suite)
        length = (suite.token_count + generated) / max(1, suite.item_count) + virtual
        tokens = suite.token_count + generated + suite.item_count * computed
        of_suite = forward_flops(arm, facts, tokens, generated or suite.token_count, length)
        matrices, attention = matrices + of_suite[0], attention + of_suite[1]
    return matrices, attention


def generated_tokens(suite: SuiteFacts) -> int:
    """Tokens that answers are taken to have; 0 where nothing is generated."""
    if suite.form not in ("open", "number"):
        return 0
    return math.ceil(suite.item_count * suite.max_new_tokens * GENERATED_SHARE)


# ---- disk ------------------------------------------------------------------------------------------------------------


def disk_bytes(
    arm: Arm,
    facts: ModelFacts,
    dtype: str,
    suites: Sequence[SuiteFacts],
    *,
    keep_full: bool,
    optimizer: OptimizerName = "adamw",
) -> tuple[int, int]:
    """(at most while it runs, left when done): weights, predictions, and the checkpoint of masters and moments."""
    trained = arm.trainable_parameters(facts)
    weights = arm.stored_parameters(facts) * BYTES[dtype]
    predictions = _PREDICTION_BYTES * sum(suite.item_count for suite in suites)
    kept = predictions + (weights if not arm.traits.whole or keep_full else 0)
    return 4 * trained + moment_bytes(trained, optimizer) + weights + predictions, kept
