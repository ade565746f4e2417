"""Tiny random models of the families whose insides are looked at."""

from __future__ import annotations

import torch
import transformers
from transformers import PreTrainedModel

SMALL = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "initializer_range": 0.2,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FAMILIES: dict[str, dict[str, object]] = {
    "Llama": {},
    "Qwen2": {},
    "Mistral": {"sliding_window": 5},
    "Phi3": {},
    "Gemma2": {"sliding_window": 5, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
    "GPT2": {"n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 4},
    "GPTNeoX": {},
}


def make_model(
    family: str, seed: int = 0, dtype: torch.dtype = torch.float32, attention: str | None = None, **changes: object
) -> PreTrainedModel:
    """A tiny random model of a family, in evaluation mode."""
    settings = {**SMALL, **FAMILIES[family], **changes}
    if family in ("GPT2", "GPTNeoX"):
        for key in ("head_dim", "num_key_value_heads", *(["intermediate_size"] if family == "GPT2" else [])):
            settings.pop(key, None)
    config = getattr(transformers, f"{family}Config")(**settings)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    return model.to(dtype).eval().requires_grad_(False)
