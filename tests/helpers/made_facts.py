"""A small study and invented facts of models, rows and machines."""

from __future__ import annotations

from rankscope.plan.make_plan import make_plan
from rankscope.records import MachineFacts, ModelFacts, Plan, Resolved, SuiteFacts, TrainFacts
from rankscope.study.study import Study

STUDY = """\
name: small
model: bundled
train:
  medical: {path: train.jsonl, domain: medical}
suites:
  medqa: {path: test.jsonl, domain: medical, kind: recall}
  law: {path: law.jsonl, domain: legal, kind: recall}
  maths: {world: arithmetic/test, kind: reasoning}
arms:
  full: {learning_rate: 1e-5}
  lora: {ranks: [4, 8], alpha: 2r, learning_rate: 2e-4}
seeds: [0, 1, 2]
"""


def llama_shapes(layers: int, hidden: int, middle: int, key_values: int) -> dict[str, tuple[int, int]]:
    """(out, in) of a Llama's linear modules."""
    block = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (key_values, hidden),
        "self_attn.v_proj": (key_values, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (middle, hidden),
        "mlp.up_proj": (middle, hidden),
        "mlp.down_proj": (hidden, middle),
    }
    return {f"model.layers.{i}.{name}": shape for i in range(layers) for name, shape in block.items()}


def model_facts(name: str = "bundled", layers: int = 2, hidden: int = 16, **update: object) -> ModelFacts:
    middle, key_values, vocab = 3 * hidden, hidden // 2, 100
    shapes = llama_shapes(layers, hidden, middle, key_values)
    blocks = sum(out * in_ for out, in_ in shapes.values()) + 2 * hidden * layers
    facts = ModelFacts(
        name=name,
        source=name,
        revision=None,
        content_sha256="a" * 64,
        architecture="LlamaForCausalLM",
        parameter_count=blocks + vocab * hidden + hidden,
        hidden_size=hidden,
        layer_count=layers,
        vocab_size=vocab,
        context_tokens=2048,
        tied_embeddings=True,
        linear_shapes=shapes,
    )
    return facts.model_copy(update=update)


LLAMA_8B = model_facts("llama-8b").model_copy(
    update={
        "parameter_count": 8_030_261_248,
        "hidden_size": 4096,
        "layer_count": 32,
        "vocab_size": 128_256,
        "context_tokens": 131_072,
        "tied_embeddings": False,
        "linear_shapes": llama_shapes(32, 4096, 14_336, 1024),
    }
)
"""The shapes of Llama-3.1-8B."""


def train_facts(name: str = "medical", **update: object) -> TrainFacts:
    facts = TrainFacts(
        name=name,
        domain="medical",
        content_sha256="b" * 64,
        row_count=100,
        validation_count=10,
        token_count=4000,
        completion_token_count=500,
    )
    return facts.model_copy(update=update)


def suite_facts(name: str = "medqa", **update: object) -> SuiteFacts:
    facts = SuiteFacts(
        name=name,
        domain="medical",
        kind="recall",
        form="choices",
        content_sha256="c" * 64,
        item_count=50,
        token_count=3000,
        max_new_tokens=256,
    )
    return facts.model_copy(update=update)


def machine_facts(**update: object) -> MachineFacts:
    facts = MachineFacts(
        device="cpu",
        device_name="a processor",
        core_count=4,
        memory_bytes=16 * 10**9,
        device_memory_bytes=16 * 10**9,
        bfloat16_is_fast=False,
        disk_free_bytes=10**12,
        flops_per_second=1e11,
    )
    return facts.model_copy(update=update)


def planned(
    study: Study,
    models: list[ModelFacts] | None = None,
    machine: MachineFacts | None = None,
    previous: Resolved | None = None,
    **train: object,
) -> Plan:
    """The plan of a study, on made-up models, rows, suites and a made-up machine."""
    models = models or [model_facts()]
    sets = {facts.name: [train_facts(**train)] for facts in models}
    suites = {facts.name: [suite_facts(), suite_facts("law", domain="legal")] for facts in models}
    return make_plan(study, models, sets, suites, machine or machine_facts(), previous=previous, file="study.yaml")


def planned_on_gpus(study: Study, **machine: object) -> Plan:
    """The plan of a study of an 8B model on eight GPUs of 80 GB, unless `machine` says otherwise."""
    facts = LLAMA_8B.model_copy(update={"name": "bundled"})
    given = {
        "device": "cuda", "device_memory_bytes": 80 * 10**9, "memory_bytes": 10**12, "bfloat16_is_fast": True,
        "disk_free_bytes": 10**13, "device_count": 8, **machine,
    }  # fmt: skip
    return planned(study, [facts], machine_facts(**given))
