"""Tiny random models of many families, and a plain reference for their scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import transformers
from transformers import PreTrainedModel

from rankscope.records import Item

VOCABULARY = 320
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
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
FAMILIES: dict[str, dict[str, object]] = {
    "Llama": {},
    "Qwen2": {},
    "Qwen3": {},
    "Mistral": {"sliding_window": 9},
    "Phi3": {"sliding_window": 9},
    "Gemma2": {"sliding_window": 9, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 5.0},
    "Gemma3": {"sliding_window": 9, "sliding_window_pattern": 2, "layer_types": None},
    "GPTNeoX": {"num_key_value_heads": None},
    "GPT2": {"n_positions": 256, "n_embd": 32, "n_layer": 3, "n_head": 4},
    "Granite": {"logits_scaling": 3.0},
    "Cohere": {"logit_scale": 0.5},
    "Bloom": {"n_layer": 2, "n_head": 4},
    "Mamba": {"state_size": 4},
}


def make_model(family: str, seed: int = 0, **changes: object) -> PreTrainedModel:
    """A tiny random model of a family, in evaluation mode and fp32."""
    name = {"Gemma3": "Gemma3TextConfig"}.get(family, f"{family}Config")
    settings = {**SMALL, **FAMILIES[family], **changes}
    settings = {key: value for key, value in settings.items() if value is not None}
    if family in ("GPT2", "Bloom", "Mamba", "GPTNeoX"):
        for key in ("head_dim", "num_key_value_heads", "intermediate_size"):
            settings.pop(key, None)
    config = getattr(transformers, name)(**settings)
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def plain_logprobs(model: PreTrainedModel, item: Item) -> tuple[float, ...]:
    """The reference: one unpadded forward for each choice, the model's own logits, log-softmax in double."""
    found = []
    for choice in item.choices_ids:
        tokens = [*item.prompt_ids, *choice]
        with torch.no_grad():
            logits = model(torch.tensor([tokens])).logits[0].double().log_softmax(-1)
        start = len(item.prompt_ids) - 1
        found.append(sum(float(logits[start + t, token]) for t, token in enumerate(choice)))
    return tuple(found)


def random_items(count: int, seed: int, longest_prompt: int = 40, choices: int = 4, longest: int = 6) -> list[Item]:
    """Items of random tokens; some choices share their beginning, and some are one token long."""
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int, low: int = 1) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    def tokens(size: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, VOCABULARY, (size,), generator=generator).tolist())

    items = []
    for index in range(count):
        shared = tokens(draw(2, 0))
        options = tuple((*(shared if k % 2 else ()), *tokens(draw(longest))) for k in range(choices))
        items.append(choice_item(f"item-{index}", tokens(draw(longest_prompt)), options))
    return items


def choice_item(item_id: str, prompt: Sequence[int], choices: Sequence[Sequence[int]], right: int = 0) -> Item:
    return Item(
        item_id=item_id,
        form="choices",
        prompt_ids=tuple(prompt),
        choices_ids=tuple(map(tuple, choices)),
        choice_characters=tuple(3 * len(choice) for choice in choices),
        answer_index=right,
        choice_texts=tuple(f"choice {k}" for k in range(len(choices))),
    )
