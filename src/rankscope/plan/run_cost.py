"""What a run costs: FLOPs, memory part by part, disk; and shapes of well-known models. Time: `run_time.py`.

Arithmetic on facts; docs/plan.md has the same formulas. P parameters, p trainable ones, L layers, D hidden size, V
vocabulary, T tokens of a micro-batch, n mean row length. A product of (a, b) by (b, c) is 2abc FLOPs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rankscope.records import ModelFacts, SuiteFacts, TrainFacts
from rankscope.records.machine_facts import Device
from rankscope.study.study import SUPERVISED, Arm, Budget, ObjectiveFacts, OptimizerName

BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2}

RUNTIME_BYTES = {"cpu": 550_000_000, "cuda": 600_000_000, "mps": 600_000_000}
"""One worker besides its model: interpreter, libraries and compiled kernels; on CUDA the context (an assumption)."""

NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""A weight in NF4 with double quantization: 4 bits, an 8-bit scale for 64 of them, an fp32 one for 256 of those
(arXiv 2305.14314, section 3: 0.127 bits a weight for the scales)."""

_EIGHT_BIT_MOMENTS = 2.0 + 2 * 4 / 256

MOMENT_BYTES: dict[OptimizerName, float] = {
    "adamw": 8.0, "adamw_8bit": _EIGHT_BIT_MOMENTS, "adamw_bf16": _EIGHT_BIT_MOMENTS,
}  # fmt: skip
"""AdamW's two moments of a parameter; in 8 bits each has an fp32 scale for 256 values (arXiv 2110.02861)."""


def weight_bytes(facts: ModelFacts, dtype: str) -> int:
    """The base as it lies in memory. In NF4 its linear modules' weights; embeddings, head and norms in the dtype."""
    quantized = sum(out * in_ for out, in_ in facts.linear_shapes.values()) if facts.quantization else 0
    return (facts.parameter_count - quantized) * BYTES[dtype] + math.ceil(quantized * NF4_BYTES)


def moment_bytes(parameter_count: int, optimizer: OptimizerName) -> int:
    """Bytes of the optimizer's two moments: 8 a parameter in fp32, 2 and the blocks' scales in 8 bits."""
    return math.ceil(MOMENT_BYTES[optimizer] * parameter_count)


def activation_bytes(facts: ModelFacts, dtype: str, tokens: int, *, checkpointing: bool) -> int:
    """What the backward pass needs of the forward one: an estimate, within a fifth of what torch keeps (tested).

    Each matrix's input and output once for each token, and 4 D per layer in fp32 for norms and residuals. With
    checkpointing the D-wide input of every layer, and one layer's own activations while it is computed again.
    """
    size, layers = BYTES[dtype], max(1, facts.layer_count)
    matrices = sum(sum(shape) for shape in facts.linear_shapes.values())
    per_token = matrices * size + 4 * facts.hidden_size * layers * 4
    if checkpointing:
        per_token = layers * facts.hidden_size * size + math.ceil(per_token / layers)
    return tokens * per_token


def memory_parts(
    arm: Arm,
    facts: ModelFacts,
    dtype: Literal["float32", "bfloat16"],
    micro_batch_tokens: int,
    completion_share: float,
    device: Device = "cpu",
    *,
    checkpointing: bool = False,
    optimizer: OptimizerName = "adamw",
) -> dict[str, int]:
    """Bytes of a training process, by what they are for. Exact but for activations, logits and runtime.

    Trained bf16 weights have fp32 masters and, at the worst moment, both gradients, but for `adamw_bf16`, which has
    neither. Logits: three fp32 copies (logits, log-softmax, gradient) at the completion positions. `reference`: what an
    arm that trains the base's own weights is kept near, a second model (`kl`) or its weights in fp32 (`l2`).
    `dequantized`: the largest matrix of a base in 4 bits, which is written out to be multiplied with.
    """
    size, trained = BYTES[dtype], arm.trainable_parameters(facts)
    adapter = 0 if arm.traits.whole else arm.stored_parameters(facts)
    has_masters = dtype == "bfloat16" and optimizer != "adamw_bf16"
    held = size if optimizer == "adamw_bf16" else 4
    parts = {
        "weights": weight_bytes(facts, dtype) + adapter * size,
        "masters": 4 * trained if has_masters else 0,
        "moments": moment_bytes(trained, optimizer),
        "gradients": (4 + size if has_masters else held) * trained,
        "activations": activation_bytes(facts, dtype, micro_batch_tokens, checkpointing=checkpointing),
        "logits": math.ceil(micro_batch_tokens * completion_share) * facts.vocab_size * 3 * 4,
        "runtime": RUNTIME_BYTES[device],
    }
    if (reference := _reference_bytes(arm, facts, dtype)) > 0:
        parts["reference"] = reference
    if facts.quantization:
        parts["dequantized"] = max((out * in_ for out, in_ in facts.linear_shapes.values()), default=0) * size
    return parts


def _reference_bytes(arm: Arm, facts: ModelFacts, dtype: str) -> int:
    """Adapters are switched off to ask the base, which takes no memory."""
    if arm.retain is None or not arm.traits.whole:
        return 0
    second = weight_bytes(facts, dtype) if arm.retain.kl is not None else 0
    return second + (4 * arm.trainable_parameters(facts) if arm.retain.l2 is not None else 0)


# ---- well-known models, from small to large: what a machine could train, before any model is at hand ---------------


@dataclass(frozen=True)
class Shape:
    """A Llama-like decoder: hidden size D, MLP width, layers L, widths of queries and of keys, vocabulary V."""

    name: str
    hidden: int
    mlp: int
    layers: int
    query: int
    key: int
    vocab: int
    tied: bool

    def facts(self) -> ModelFacts:
        """What the plan's arithmetic needs; the content is nobody's."""
        d, m, q, k = self.hidden, self.mlp, self.query, self.key
        own = {
            "self_attn.q_proj": (q, d), "self_attn.k_proj": (k, d), "self_attn.v_proj": (k, d),
            "self_attn.o_proj": (d, q), "mlp.gate_proj": (m, d), "mlp.up_proj": (m, d), "mlp.down_proj": (d, m),
        }  # fmt: skip
        linear = {f"model.layers.{i}.{name}": shape for i in range(self.layers) for name, shape in own.items()}
        vocabulary = self.vocab * d * (1 if self.tied else 2)
        norms = {f"model.layers.{i}.{n}": d for i in range(self.layers) for n in ("input_layernorm", "post_norm")}
        norms["model.norm"] = d
        count = sum(out * in_ for out, in_ in linear.values()) + vocabulary + sum(norms.values())
        return ModelFacts(
            name=self.name, source=self.name, revision=None, content_sha256="", architecture="LlamaForCausalLM",
            parameter_count=count, hidden_size=d, layer_count=self.layers, vocab_size=self.vocab, context_tokens=4096,
            tied_embeddings=self.tied, linear_shapes=linear, norm_parameters=norms, vocabulary_parameters=vocabulary,
            key_value_width=k,
        )  # fmt: skip


KNOWN_MODELS = (
    Shape("SmolLM2-135M", 576, 1536, 30, 576, 192, 49152, True),
    Shape("SmolLM2-360M", 960, 2560, 32, 960, 320, 49152, True),
    Shape("Llama-3.2-1B", 2048, 8192, 16, 2048, 512, 128256, True),
    Shape("Llama-3.2-3B", 3072, 8192, 28, 3072, 1024, 128256, True),
    Shape("Llama-3.1-8B", 4096, 14336, 32, 4096, 1024, 128256, False),
    Shape("Llama-2-13B", 5120, 13824, 40, 5120, 5120, 32000, False),
    Shape("Mistral-Small-24B", 5120, 32768, 40, 4096, 1024, 131072, False),
    Shape("Llama-3.1-70B", 8192, 28672, 80, 8192, 1024, 128256, False),
)
"""From the models' published config.json files."""

GENERATED_SHARE = 0.25
"""Share of `max_new_tokens` that a generated answer is taken to have on average: an assumption."""

_PREDICTION_BYTES = 300


def step_count(row_count: int, budget: Budget) -> int:
    """Steps of a run: the batches of each epoch, of which the last may be smaller."""
    return sum(math.ceil(rows / budget.batch_size) for rows in budget.rows_seen(row_count))


def share_of_epoch(train: TrainFacts, budget: Budget) -> float:
    """Rows that a run sees, as a multiple of the training set's."""
    return sum(budget.rows_seen(train.row_count)) / max(1, train.row_count)


class Replayed(NamedTuple):
    """What a run trains on beside its task: rows, their tokens, and those of them that have loss."""

    rows: float = 0.0
    tokens: float = 0.0
    completion_tokens: float = 0.0


def replayed_rows(arm: Arm, train: TrainFacts, budget: Budget) -> Replayed:
    """As many as bring their tokens to the arm's share of all, s / (1 - s) of the task's; none without a replay."""
    facts = train.replay_of(arm)
    if arm.replay is None or facts is None:
        return Replayed()
    share = arm.replay.token_share
    tokens = train.token_count * share_of_epoch(train, budget) * share / (1 - share)
    ratio = tokens / max(1, facts.token_count)
    return Replayed(facts.row_count * ratio, tokens, facts.completion_token_count * ratio)


def base_forwards(arm: Arm) -> float:
    """Forward passes of the base over each token that the arm trains on, beside its own: those of `retain: kl`."""
    if arm.retain is None or arm.retain.kl is None:
        return 0.0
    share = 0.0 if arm.replay is None else arm.replay.token_share
    return share if arm.retain.on == "replay" else 1.0 - share


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


def train_flops(
    arm: Arm,
    facts: ModelFacts,
    train: TrainFacts,
    budget: Budget,
    objective: ObjectiveFacts = SUPERVISED,
    *,
    checkpointing: bool = False,
) -> tuple[float, float]:
    """FLOPs of a run's updates: (of matrices, inside attention), which hardware does at different speeds.

    The method says how many passes a token makes (`Method.step_work`): full fine-tuning 3 of the matrices and of
    attention, and 3 of the head at each completion token, since the backward is two products for each of the forward;
    an adapter 2, 3 and 2 and its own products. Virtual tokens make rows longer; those of a prefix meet only attention.
    The objective says where logits are made, and how often a frozen copy of the model runs too, as it does for an arm
    that is kept near the base by `kl`. Replayed rows cost what task rows do. Softmax, norms and AdamW are left out.
    `checkpointing`: the run computes its activations twice, as it does where the budget says so.
    """
    share, method = share_of_epoch(train, budget), arm.traits
    old = replayed_rows(arm, train, budget)
    rows, row_tokens = train.row_count * share + old.rows, train.token_count * share + old.tokens
    tokens = row_tokens + rows * method.computed_virtual_tokens(arm)
    logits = objective.logit_positions(row_tokens, train.completion_token_count * share + old.completion_tokens)
    length = row_tokens / max(1, rows) + method.virtual_tokens(arm)
    weights, attention, head = _weight_flops(facts), _attention_flops(facts, length), _head_flops(facts)
    work = method.step_work(arm, facts, checkpointing=checkpointing or budget.gradient_checkpointing is True)
    again = objective.reference_forwards + base_forwards(arm)
    matrices = (work.matrices + again) * weights + work.own_flops
    return matrices * tokens + (work.head + again) * head * logits, (work.attention + again) * attention * tokens


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
    if arm.given is not None:  # without a checkpoint
        return weights + predictions, kept
    held = BYTES[dtype] if optimizer == "adamw_bf16" else 4
    return held * trained + moment_bytes(trained, optimizer) + weights + predictions, kept
