"""Tiny random checkpoints of every family that the documentation names, saved by transformers with a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tiny_models import tiny_tokenizer
from transformers import PretrainedConfig

WINDOW = 9
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_EXPERTS = {"num_experts_per_tok": 2, "router_jitter_noise": 0.0}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("LlamaConfig", {}),
    "Qwen2": ("Qwen2Config", {}),
    "Qwen3": ("Qwen3Config", {}),
    "Gemma 2": (
        "Gemma2Config",
        {
            "sliding_window": WINDOW, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 5.0,
            "query_pre_attn_scalar": 8, "tie_word_embeddings": True,
        },
    ),
    "Gemma 3": (
        "Gemma3TextConfig",
        {
            "sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 8, "tie_word_embeddings": True,
        },
    ),
    "Mistral": ("MistralConfig", {"sliding_window": WINDOW}),
    "Phi-3": ("Phi3Config", {"sliding_window": WINDOW}),
    "GPT-2": (
        "GPT2Config",
        {"n_positions": 256, "n_embd": 32, "n_layer": 2, "n_head": 4, "resid_pdrop": 0.0, "embd_pdrop": 0.0,
         "attn_pdrop": 0.0, "tie_word_embeddings": True},
    ),
    "GPT-NeoX": ("GPTNeoXConfig", {"attention_dropout": 0.0, "hidden_dropout": 0.0}),
    "Mixtral": ("MixtralConfig", {**_EXPERTS, "num_local_experts": 4}),
    "Qwen3-MoE": (
        "Qwen3MoeConfig",
        {**_EXPERTS, "num_experts": 4, "moe_intermediate_size": 24, "decoder_sparse_step": 1, "norm_topk_prob": True},
    ),
}  # fmt: skip


def family_config(family: str, **changes: Any) -> PretrainedConfig:
    name, own = FAMILIES[family]
    settings = {**SMALL, "vocab_size": len(tiny_tokenizer()), **own, **changes}
    if family in ("GPT-2", "GPT-NeoX"):
        for key in ("head_dim", "num_key_value_heads"):
            settings.pop(key, None)
    if family == "GPT-2":
        for key in (
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "max_position_embeddings",
            "intermediate_size",
        ):
            settings.pop(key)
    return getattr(transformers, name)(**settings)


def save_family(folder: Path, family: str, *, seed: int = 0, **changes: Any) -> Path:
    """The family's tiny checkpoint; biases and norms are random too, so that a lost one is seen."""
    config = family_config(family, **changes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
