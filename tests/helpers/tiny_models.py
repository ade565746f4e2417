"""Tiny random models, saved as transformers saves models."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def tiny_tokenizer(chat: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of 260 tokens: every text has tokens, nothing is merged."""
    tokens = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
    )  # fmt: skip
    if chat:
        tokenizer.chat_template = (
            "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}"
            "{% if m.role == 'assistant' %}</s>{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>{% endif %}"
        )
    return tokenizer


def save_tiny_model(folder: Path, *, seed: int = 0, chat: bool = False, **changes: object) -> Path:
    """A random two-layer Llama with its tokenizer, saved as transformers saves models."""
    tokenizer = tiny_tokenizer(chat)
    config = LlamaConfig(
        **{
            "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
            "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
            "initializer_range": 0.1, **changes,
        }
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
