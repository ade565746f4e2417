"""What a run costs: trainable parameters, FLOPs, memory, disk. Arithmetic on facts; loads nothing. Time: `seconds.py`.

Letters: P weights in the blocks' matrices, p trainable parameters, D hidden size, L layers, V vocabulary,
n mean row length. A product of (a, b) by (b, c) is 2abc FLOPs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rankscope.plan.memory import BYTES, memory_parts, moment_bytes
from rankscope.plan.parameters import adapted_shapes, matches_target, stored_parameters, trainable_parameters
from rankscope.records import ModelFacts, SuiteFacts, TrainFacts
from rankscope.records.plan_record import RUNG_FRACTIONS, search_share
from rankscope.study.study import Arm, Budget, OptimizerName

__all__ = [
    "BYTES", "RUNG_FRACTIONS", "adapted_shapes", "disk_bytes", "evaluate_flops", "forward_flops", "generated_tokens",
    "matches_target", "memory_parts", "rows_seen", "search_share", "step_count", "train_flops", "trainable_parameters",
]  # fmt: skip

GENERATED_SHARE = 0.25
"""Share of `max_new_tokens` that a generated answer is taken to have on average: an assumption."""

_PREDICTION_BYTES = 300


def step_count(row_count: int, budget: Budget) -> int:
    """Steps of a run: the batches of each epoch, of which the last may be smaller."""
    return sum(math.ceil(rows / budget.batch_size) for rows in rows_seen(row_count, budget.epochs))


def rows_seen(row_count: int, epochs: float) -> list[int]:
    """Rows seen in each epoch, as the batches are cut."""
    whole, fraction = divmod(epochs, 1)
    rest = math.ceil(round(fraction * row_count, 6))
    return [row_count] * int(whole) + ([rest] if rest else [])


# ---- FLOPs ----------------------------------------------------------------------------------------------------------


def _weight_flops(facts: ModelFacts) -> float:
    """One token forward through the blocks' matrices: 2P."""
    return 2.0 * sum(out * in_ for out, in_ in facts.linear_shapes.values())


def _attention_flops(facts: ModelFacts, length: float) -> float:
    """One token forward through causal attention: 2 L D n, that is two products of 2 D n in each layer, half masked."""
    return 2.0 * facts.layer_count * facts.hidden_size * length


def _head_flops(facts: ModelFacts) -> float:
    """The vocabulary logits of one position: 2 V D."""
    return 2.0 * facts.vocab_size * facts.hidden_size


def train_flops(arm: Arm, facts: ModelFacts, train: TrainFacts, budget: Budget) -> tuple[float, float]:
    """FLOPs of a run's updates: (of matrices, inside attention), which hardware does at different speeds.

    Per token, with w the forward of the matrices, a of attention and h of one position's logits: full fine-tuning
    3w + 3a, and 3h at each completion token (the backward is two products for each of the forward); an adapter
    2w + 3a + 6p and 2h, since frozen weights need the gradient of their input but none of their own (PiSSA 10p: its
    start is subtracted, and frozen). The last k of L layers: w + a, and 2w + 2a for k/L of them. Virtual tokens make
    rows longer; those of a prefix meet only attention. Gradient checkpointing does the forward of the blocks that
    have a backward once more. Softmax, norms and AdamW are left out.
    """
    share = sum(rows_seen(train.row_count, budget.epochs)) / max(1, train.row_count)
    virtual = arm.virtual_tokens or 0
    rows = train.row_count * share
    tokens = train.token_count * share + (rows * virtual if arm.method == "prompt-tuning" else 0)
    completions = train.completion_token_count * share
    length = train.token_count / max(1, train.row_count) + virtual
    weights, attention, head = _weight_flops(facts), _attention_flops(facts, length), _head_flops(facts)
    again = 1 if budget.gradient_checkpointing else 0
    if arm.method == "full":
        return (3 + again) * weights * tokens + 3 * head * completions, (3 + again) * attention * tokens
    if arm.method == "full-frozen-embeddings":
        return (3 + again) * weights * tokens + 2 * head * completions, (3 + again) * attention * tokens
    if arm.method == "last-k-layers":
        passes = 1 + (2 + again) * (arm.layers or 0) / max(1, facts.layer_count)
        return passes * weights * tokens + 2 * head * completions, passes * attention * tokens
    adapter = 0.0 if virtual else (10.0 if arm.method == "pissa" else 6.0) * trainable_parameters(arm, facts)
    matrices = (2 + again) * weights + (1 + again / 3) * adapter
    return matrices * tokens + 2 * head * completions, (3 + again) * attention * tokens


def forward_flops(
    arm: Arm | None, facts: ModelFacts, tokens: float, logits: float, length: float
) -> tuple[float, float]:
    """FLOPs of a forward over rows of `length` tokens: (of matrices, inside attention). An adapter's 2p on top."""
    adapted = arm is not None and not (arm.traits.whole or arm.virtual_tokens)
    adapter = 2.0 * stored_parameters(arm, facts) if arm is not None and adapted else 0.0
    return (_weight_flops(facts) + adapter) * tokens + _head_flops(facts) * logits, _attention_flops(
        facts, length
    ) * tokens


def evaluate_flops(arm: Arm | None, facts: ModelFacts, suites: Sequence[SuiteFacts]) -> tuple[float, float]:
    """FLOPs of scoring every suite once (None: the base): (of matrices, inside attention). Logits for generated tokens
    and, as an upper bound, for every token of a suite that is not generated."""
    virtual = arm.virtual_tokens or 0 if arm is not None else 0
    matrices, attention = 0.0, 0.0
    for suite in suites:
        generated = generated_tokens(suite)
        length = (suite.token_count + generated) / max(1, suite.item_count) + virtual
        prompts = suite.item_count * virtual if arm is not None and arm.method == "prompt-tuning" else 0
        tokens = suite.token_count + generated + prompts
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
    trained = trainable_parameters(arm, facts)
    weights = stored_parameters(arm, facts) * BYTES[dtype]
    predictions = _PREDICTION_BYTES * sum(suite.item_count for suite in suites)
    kept = predictions + (weights if not arm.traits.whole or keep_full else 0)
    return 4 * trained + moment_bytes(trained, optimizer) + weights + predictions, kept
