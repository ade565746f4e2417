"""Adapter folders as users have them: every form of PEFT's that is accepted, made with PEFT alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
from own_forward import plain

from rankscope.records import Item

TASK = "CAUSAL_LM"
SOME = ["q_proj", "down_proj", "c_attn"]
"""Of Llama's modules, and of GPT-2's."""


def lora(**settings: Any) -> Callable[[], peft.PeftConfig]:
    return lambda: peft.LoraConfig(**{"r": 4, "target_modules": SOME, "task_type": TASK, **settings})


def of(kind: type[peft.PeftConfig], **settings: Any) -> Callable[[], peft.PeftConfig]:
    return lambda: kind(**{"target_modules": SOME, "task_type": TASK, **settings})


EVERYWHERE: dict[str, Callable[[], peft.PeftConfig]] = {
    "lora": lora(target_modules="all-linear"),
    "rslora": lora(use_rslora=True),
    "dora": lora(use_dora=True),
    "patterns": lora(rank_pattern={"q_proj": 2, "c_attn": 2}, alpha_pattern={"down_proj": 3.0, "c_attn": 3.0}),
    "one layer": lora(layers_to_transform=[1]),
    "head saved whole": lora(modules_to_save=["lm_head"]),
    "embeddings saved whole": lora(modules_to_save=["embed_tokens", "wte"]),
    "feed-forwards saved whole": lora(target_modules=["q_proj", "c_attn"], modules_to_save=["mlp"]),
    "norms saved whole": lora(modules_to_save=["norm", "ln_f"]),
    "all biases": lora(bias="all"),
    "own biases": lora(bias="lora_only"),
    "biases of B": lora(lora_bias=True),
    "embeddings": lora(target_modules=["q_proj", "c_attn", "embed_tokens", "wte"]),
    "head": lora(target_modules=["q_proj", "c_attn", "lm_head"]),
    "some tokens": lora(trainable_token_indices=[5, 7, 200]),
    "adalora": of(peft.AdaLoraConfig, init_r=6, target_r=4, total_step=10),
    "vera": of(peft.VeraConfig, r=4, target_modules=["q_proj", "v_proj", "c_attn"]),
    "vera, its projections drawn anew": of(
        peft.VeraConfig, r=4, target_modules=["q_proj", "v_proj", "c_attn"], save_projection=False
    ),
    "ia3": of(peft.IA3Config, feedforward_modules=["down_proj"]),
    "ln-tuning": of(peft.LNTuningConfig, target_modules=["input_layernorm", "norm", "ln_1"]),
    "prompt": lambda: peft.PromptTuningConfig(num_virtual_tokens=3, task_type=TASK),
    "prefix": lambda: peft.PrefixTuningConfig(num_virtual_tokens=3, task_type=TASK),
}
ON_LINEAR: dict[str, Callable[[], peft.PeftConfig]] = {
    "target parameters": lora(target_modules=[], target_parameters=["mlp.down_proj.weight"]),
    "loha": of(peft.LoHaConfig, r=4),
    "lokr": of(peft.LoKrConfig, r=4),
    "oft": of(peft.OFTConfig, oft_block_size=8),
    "boft": of(peft.BOFTConfig, boft_block_size=4),
    "hra": of(peft.HRAConfig, r=4),
}
"""What PEFT has for linear layers alone, which GPT-2's are not."""

FORMS = EVERYWHERE | ON_LINEAR


def save_form(base: Path, form: Callable[[], peft.PeftConfig], folder: Path, **saving: Any) -> Path:
    """An adapter of this form that changes something, on the checkpoint `base`, saved by PEFT. With
    `save_embedding_layers=True` the embeddings are changed too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(plain(base), form())
        generator = torch.Generator().manual_seed(0)
        changed = [p for p in model.parameters() if p.requires_grad]
        if saving:
            changed.append(model.get_input_embeddings().weight)
        with torch.no_grad():
            for parameter in changed:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        model.eval().save_pretrained(str(folder), **saving)
    (folder / "README.md").unlink(missing_ok=True)
    return folder


def peft_scores(base: Path, folder: Path, items: list[Item]) -> list[list[float]]:
    """Log-likelihoods of the items' choices by PEFT's own forward alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.PeftModel.from_pretrained(plain(base), str(folder)).eval()
        found = []
        for item in items:
            scores = []
            for choice in item.choices_ids:
                ids = torch.tensor([[*item.prompt_ids, *choice]])
                with torch.no_grad():
                    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
                logprobs = logits[-ids.shape[1] :].double().log_softmax(-1)
                start = len(item.prompt_ids) - 1
                scores.append(sum(float(logprobs[start + t, token]) for t, token in enumerate(choice)))
            found.append(scores)
    return found
