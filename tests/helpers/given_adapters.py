"""LoRA adapters as somebody else would have trained and saved them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import peft
import torch
from transformers import AutoModelForCausalLM

from rankscope.model.model_source import no_progress_bars


def save_adapter(base: Path, folder: Path, seed: int, **settings: Any) -> str:
    """A LoRA that PEFT draws and saves; the folder's path."""
    own = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **settings}
    config = peft.LoraConfig(init_lora_weights=False, **own)
    with no_progress_bars(), warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(base)
        peft.get_peft_model(model, config).save_pretrained(str(folder))
    return str(folder)
