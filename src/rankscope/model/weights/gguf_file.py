"""A model's folder as one GGUF file, which llama.cpp, Ollama and LM Studio load; written with llama.cpp's own package.

Weights keep their numbers (fp32, fp16 or bf16; vectors as fp32), so that what is served is what was exported;
`llama-quantize` makes it smaller. Only what is known to be read alike is written: Llama, Mistral, Qwen2 and Qwen3
without scaled positions or sliding windows, and byte-level BPE tokenizers whose way of splitting text llama.cpp knows
by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer

_ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""llama.cpp's name of an architecture, by transformers' model type."""

_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {"llama-bpe": _LLAMA3 % r"\p{N}{1,3}", "qwen2": _LLAMA3 % r"\p{N}"}
"""By llama.cpp's name of a way to split text (`tokenizer.ggml.pre`), the expression that tokenizer.json has for it."""


class NotForGguf(Exception):
    """Why a model is not written here; llama.cpp's own converter knows more of them."""


def write_gguf(folder: Path, file: Path, name: str) -> None:
    """The model that `save_pretrained` wrote into `folder`, with its tokenizer and chat template, as `file`.

    Raises NotForGguf, before anything is written, for what is not known to be read alike.
    """
    import gguf

    config = AutoConfig.from_pretrained(folder)
    architecture = _architecture(config)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    spec = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    pre = _pre_tokenizer(spec)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], config.num_hidden_layers)
    writer = gguf.GGUFWriter(file, architecture, use_temp_file=True)
    writer.add_name(name)
    _add_shape(writer, config)
    _add_tokenizer(writer, tokenizer, spec, pre, config.vocab_size)
    for key, tensor in _tensors(folder):
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        called = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if called is None:
            raise NotForGguf(f"its weight {key} has no place in llama.cpp's {architecture}")
        if architecture == "llama":
            tensor = _interleaved(key, tensor, config)
        _add_tensor(writer, called, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _architecture(config: Any) -> str:
    if config.model_type not in _ARCHITECTURES:
        raise NotForGguf(f"its architecture is {config.model_type}")
    rope = config.rope_parameters
    if rope.get("rope_type", "default") != "default":
        raise NotForGguf(f"its positions are scaled ({rope['rope_type']})")
    windowed = getattr(config, "use_sliding_window", True) and getattr(config, "sliding_window", None)
    if windowed:
        raise NotForGguf(f"it has a sliding window of {windowed} tokens")
    if config.model_type == "llama" and (config.attention_bias or config.mlp_bias):
        raise NotForGguf("its layers have biases")
    return _ARCHITECTURES[config.model_type]


def _pre_tokenizer(spec: dict[str, Any]) -> str:
    """llama.cpp's name for how a byte-level BPE tokenizer splits text before it merges."""
    model, steps = spec["model"], spec["pre_tokenizer"] or {}
    steps = steps.get("pretokenizers", [steps])
    if model["type"] != "BPE" or model.get("byte_fallback") or not steps or steps[-1].get("type") != "ByteLevel":
        raise NotForGguf("its tokenizer is no byte-level BPE")
    if steps[-1]["add_prefix_space"]:
        raise NotForGguf("its tokenizer puts a space before each text")
    before = steps[:-1]
    by_bytes = steps[-1].get("use_regex", True)
    if by_bytes and not before:
        return "gpt-2"
    if by_bytes and [(step["type"], step.get("individual_digits")) for step in before] == [("Digits", True)]:
        return "smollm"
    if not by_bytes and len(before) == 1 and before[0]["type"] == "Split":
        split = before[0]["pattern"].get("Regex")
        for name, expression in _SPLITS.items():
            if split == expression and bool(model.get("ignore_merges")) == (name == "llama-bpe"):
                return name
    raise NotForGguf("llama.cpp has no name for how its tokenizer splits text")


def _add_shape(writer: Any, config: Any) -> None:
    """The hyperparameters that the architecture is built of."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(writer: Any, tokenizer: Any, spec: dict[str, Any], pre: str, vocab_size: int) -> None:
    """Tokens in the order of their ids, the merges, the special tokens and the chat template."""
    import gguf

    vocab = {token: index for token, index in tokenizer.get_vocab().items() if index < vocab_size}
    tokens = [f"[PAD{index}]" for index in range(vocab_size)]
    kinds = [gguf.TokenType.UNUSED] * vocab_size
    for token, index in vocab.items():
        tokens[index], kinds[index] = token, gguf.TokenType.NORMAL
    for added in spec["added_tokens"]:
        if added["id"] < vocab_size:
            kinds[added["id"]] = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    merges = spec["model"]["merges"]
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    for what, add in (
        ("bos", writer.add_bos_token_id),
        ("eos", writer.add_eos_token_id),
        ("pad", writer.add_pad_token_id),
    ):
        if (index := getattr(tokenizer, f"{what}_token_id")) is not None:
            add(index)
    begins = tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id if tokenizer.bos_token_id is not None else False
    writer.add_add_bos_token(begins)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every weight by its name, one at a time."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            names: list[str] = opened.keys()
            for key in names:
                yield key, opened.get_tensor(key)


def _interleaved(key: str, tensor: Tensor, config: Any) -> Tensor:
    """Rows of queries and keys in the order that llama.cpp's rotation of neighbouring pairs wants; transformers turns
    the halves of a head (`permute` of llama.cpp's conversion/llama.py)."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(key.split(".")[-2])
    if heads is None:
        return tensor
    rows, *rest = tensor.shape
    return tensor.reshape(heads, 2, rows // heads // 2, *rest).swapaxes(1, 2).reshape(rows, *rest)


def _add_tensor(writer: Any, name: str, tensor: Tensor) -> None:
    import gguf

    if tensor.dim() == 1 or tensor.dtype in (torch.float32, torch.float16):
        writer.add_tensor(name, (tensor.float() if tensor.dim() == 1 else tensor).contiguous().numpy())
        return
    if tensor.dtype != torch.bfloat16:
        raise NotForGguf(f"its weight {name} is {tensor.dtype}")
    raw = tensor.contiguous().view(torch.uint8).numpy()
    writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
