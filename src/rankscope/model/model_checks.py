"""Base models that cannot be used, each with one line that says why."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from rankscope.study.problems import InputProblems, Problem
from rankscope.study.study import ModelSpec

_A_DECODER = "a decoder that writes text, such as Llama, Qwen, Gemma or Mistral"


def refuse_config(spec: ModelSpec, config: Any, device: str | None) -> None:
    """Raises InputProblems for a configuration whose weights would be of no use here.

    That is: a model that is no causal decoder, one that reads more than text, and quantised weights on a CPU (where
    nothing would train on them).
    """
    if getattr(config, "is_encoder_decoder", False):
        raise InputProblems([Problem(spec.id, "model", f"{config.model_type}, an encoder with a decoder", _A_DECODER)])
    if config.get_text_config(decoder=True) is not config:
        found = f"{config.model_type}, which reads more than text"
        expected = "its text part saved alone (docs/models.md says how)"
        raise InputProblems([Problem(spec.id, "model", found, expected)])
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and not spec.trust_remote_code:
        found = f"{config.model_type}, which is no causal language model"
        raise InputProblems([Problem(spec.id, "model", found, _A_DECODER)])
    quantised = getattr(config, "quantization_config", None)
    if quantised is not None and device == "cpu":
        settings = quantised if isinstance(quantised, dict) else quantised.to_dict()
        found = f"weights quantised with {settings.get('quant_method', 'an unknown method')}, on a CPU"
        raise InputProblems([Problem(spec.id, "model", found, "the model's own weights, or a machine with CUDA")])


def refuse_missing(spec: ModelSpec, missing: Collection[str]) -> None:
    """Raises InputProblems where weights of the architecture are not in the files: they would be random."""
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        found = f"no weights for {min(missing)}{more}"
        raise InputProblems([Problem(spec.id, "model", found, "files that hold every weight of the architecture")])


def refuse_vocabulary(spec: ModelSpec, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:
    """Raises InputProblems where the tokenizer writes tokens that the model has no embedding for.

    Tokens that were added and that no text contains (an image's place, say) may lie beyond it: only the tokenizer's own
    vocabulary and the tokens that end or begin a text are counted.
    """
    used = [tokenizer.vocab_size - 1, tokenizer.eos_token_id, tokenizer.bos_token_id]
    largest = max(token for token in used if token is not None)
    if largest >= vocab_size:
        found = f"a tokenizer with token {largest}, for a model of {vocab_size} tokens"
        raise InputProblems([Problem(spec.id, "tokenizer", found, "the tokenizer that the model was trained with")])
