"""PEFT's adapter_config.json: the base model and what was trained. It says nothing of data or training.

Source: github.com/huggingface/peft, src/peft/tuners/lora/config.py.
"""

from __future__ import annotations

from rankscope.study.configs.config_keys import ConfigKeys
from rankscope.study.configs.config_record import Adapter, BaseModel, TrainingConfig
from rankscope.study.configs.config_tool import Beside, ConfigTool
from rankscope.study.configs.trainer_arguments import lora_method

MARKS = {"peft_type": 8, "base_model_name_or_path": 4, "r": 1, "lora_alpha": 1, "target_modules": 1}
_NO_MATTER = (
    "auto_mapping", "inference_mode", "peft_version", "megatron_*", "layers_pattern", "runtime_config", "eva_config",
    "corda_config", "lora_ga_config", "qalora_group_size", "fan_in_fan_out", "ensure_weight_tying", "arrow_config",
    "num_attention_heads", "num_layers", "num_transformer_submodules", "token_dim", "tokenizer_*", "encoder_*",
)  # fmt: skip
_LOST = {
    "modules_to_save": "embeddings and heads are not trained beside an adapter",
    "rank_pattern": "one rank for all targets of an arm",
    "alpha_pattern": "one alpha for all targets of an arm",
    "layers_to_transform": "adapters are put on every layer",
    "layer_replication": "every layer is used once",
    "exclude_modules": "targets say which modules have an adapter",
    "target_parameters": "adapters are put on linear modules alone",
    "trainable_token_indices": "embeddings are not trained beside an adapter",
    "loftq_config": "an adapter starts as PEFT's default",
    "lora_bias": "biases are not trained beside an adapter",
    "use_qalora": "an adapter is plain LoRA",
    "alora_invocation_tokens": "an adapter acts on every token",
}
_LOST |= dict.fromkeys(
    ("prompt_tuning_init", "prompt_tuning_init_text", "prefix_projection"), "virtual tokens start as the study's own do"
)
_VIRTUAL = {"PROMPT_TUNING": "prompt-tuning", "PREFIX_TUNING": "prefix-tuning"}


def read(keys: ConfigKeys, beside: Beside) -> TrainingConfig:
    """The adapter's settings in the study's words. Raises InputProblems for values of a wrong type."""
    kind = (keys.text("peft_type") or "LORA").upper()
    if keys.has("task_type") and keys.text("task_type") != "CAUSAL_LM":
        keys.lost("task_type", "a study fine-tunes causal language models")
    revision = keys.text("revision")
    model = BaseModel(id=keys.text("base_model_name_or_path"), revision=None if revision == "main" else revision)
    adapter = _adapter(keys, kind)
    keys.lose(_LOST)
    if keys.has("bias") and keys.text("bias") != "none":
        keys.lost("bias", "biases are not trained beside an adapter")
    keys.note("an adapter's settings name no data, rate, batch or epochs: these are the study's defaults")
    config = TrainingConfig(
        tool="PEFT", model=model, adapter=adapter, not_carried=keys.not_carried,
        no_data="an adapter's settings name no data",
    )  # fmt: skip
    keys.finish(_NO_MATTER, MARKS)
    return config


def _adapter(keys: ConfigKeys, kind: str) -> Adapter:
    rank, alpha = keys.count("r") or 8, keys.number("lora_alpha") or 8.0
    dropout, method = keys.number("lora_dropout") or 0.0, lora_method(keys)
    start = keys.take("init_lora_weights")
    if isinstance(start, str) and start.startswith("pissa"):
        method = "pissa"
    elif start not in (None, True, "true"):
        keys.lost("init_lora_weights", "an adapter starts as PEFT's default; `pissa` is a method of its own")
    targets = _targets(keys)
    if kind in _VIRTUAL:
        return Adapter(_VIRTUAL[kind], rank=keys.count("num_virtual_tokens") or 16)
    if kind in ("IA3", "LN_TUNING"):
        keys.take("feedforward_modules", "init_ia3_weights")
        return Adapter("ia3" if kind == "IA3" else "ln-tuning")
    if kind != "LORA":
        keys.note(f"peft_type: {kind}: no method of a study; LoRA stands in its place (docs/models.md has more)")
    return Adapter(method, rank, alpha, dropout, targets)


def _targets(keys: ConfigKeys) -> tuple[str, ...] | None:
    """Names of modules; None for every linear layer, which a pattern becomes."""
    given = keys.take("target_modules")
    if given is None or given == "all-linear":
        return None
    if isinstance(given, str) and any(mark in given for mark in "\\*+(["):
        keys.note(f"target_modules: {given}: a pattern; the study has all-linear")
        return None
    targets = keys.names("target_modules")
    return None if targets is None else tuple(sorted(targets))


TOOLS = (ConfigTool(name="peft", title="PEFT", marks=MARKS, read=read),)
