"""How many parameters an arm trains, exactly, and in which modules. Arithmetic on facts; loads nothing.

R rank, D hidden size, L layers, v virtual tokens, m units of a bottleneck, K width of a layer's keys.
"""

from __future__ import annotations

from collections.abc import Iterable

from rankscope.records import ModelFacts
from rankscope.study.study import Arm

Shape = tuple[int, int]

IA3_OUTPUTS = ("k_proj", "v_proj", "query_key_value", "qkv_proj", "attn.c_attn", "Wqkv")
"""Modules that make keys and values, of which IA3 scales each output. A fused one makes queries too."""

IA3_INPUTS = ("down_proj", "dense_4h_to_h", "mlp.c_proj", "fc2", "fc_out")
"""Modules that end a feed-forward, of which IA3 scales each input."""


def matches_target(module: str, target: str) -> bool:
    """PEFT's rule for a list of targets: the module's whole path, or the end of it after a dot."""
    return module == target or module.endswith(f".{target}")


def adapted_shapes(arm: Arm, facts: ModelFacts) -> dict[str, Shape]:
    """(out, in) of the matrices that a low-rank arm adapts, by path; none for the other methods."""
    if arm.targets is None:
        return {}
    if isinstance(arm.targets, str):  # all-linear
        return dict(facts.linear_shapes)
    targets = arm.targets
    return {m: shape for m, shape in facts.linear_shapes.items() if any(matches_target(m, t) for t in targets)}


def ia3_modules(modules: Iterable[str]) -> tuple[list[str], list[str]]:
    """Of linear modules by path: those whose outputs IA3 scales, and those whose inputs."""
    names = list(modules)
    outputs = [name for name in names if any(matches_target(name, end) for end in IA3_OUTPUTS)]
    return outputs, [name for name in names if any(matches_target(name, end) for end in IA3_INPUTS)]


def trainable_parameters(arm: Arm, facts: ModelFacts) -> int:
    """Exact; the sums are over the matrices that are adapted.

    full: every parameter; full-frozen-embeddings: without the vocabulary's; last-k-layers: those of its blocks.
    lora, rslora, pissa: sum of R (in + out) (arXiv 2106.09685, section 4.1); dora: and out more for each, the lengths.
    ia3: sum of out over keys and values, of in over feed-forwards. prompt-tuning: v D; prefix-tuning: 2 v L K.
    adapters: L (2 D m + m + D); ln-tuning: the norms' own.
    """
    match arm.method:
        case "full":
            return facts.parameter_count
        case "full-frozen-embeddings":
            return facts.parameter_count - facts.vocabulary_parameters
        case "last-k-layers":
            return sum(facts.block_parameters[-(arm.layers or 0) :])
        case "lora" | "rslora" | "pissa":
            return (arm.rank or 0) * sum(sum(shape) for shape in adapted_shapes(arm, facts).values())
        case "dora":
            shapes = adapted_shapes(arm, facts).values()
            return (arm.rank or 0) * sum(sum(shape) for shape in shapes) + sum(out for out, _ in shapes)
        case "ia3":
            outputs, inputs = ia3_modules(facts.linear_shapes)
            shapes_of = facts.linear_shapes
            return sum(shapes_of[name][0] for name in outputs) + sum(shapes_of[name][1] for name in inputs)
        case "prompt-tuning":
            return (arm.virtual_tokens or 0) * facts.hidden_size
        case "prefix-tuning":
            return 2 * (arm.virtual_tokens or 0) * facts.layer_count * facts.key_value_width
        case "adapters":
            units = arm.bottleneck or 0
            return facts.layer_count * (2 * facts.hidden_size * units + units + facts.hidden_size)
        case "ln-tuning":
            return sum(facts.norm_parameters.values())


def stored_parameters(arm: Arm, facts: ModelFacts) -> int:
    """Parameters of what is saved: the whole model, or the adapter, which of PiSSA has twice its rank."""
    if arm.traits.whole:
        return facts.parameter_count
    return trainable_parameters(arm, facts) * (2 if arm.method == "pissa" else 1)
