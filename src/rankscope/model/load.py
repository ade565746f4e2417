"""Base models: looked at without weights for the plan, loaded from safetensors for the work; never from a pickle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    dynamic_module_utils,
)
from transformers.pytorch_utils import Conv1D

from rankscope.model.decoder_parts import blocks, key_value_width, norms, vocabulary_parameters
from rankscope.model.model_checks import (
    content_sha256,
    model_states,
    refuse_config,
    refuse_headers,
    refuse_missing,
    refuse_vocabulary,
)
from rankscope.model.model_source import hub_options, model_path, no_progress_bars, refusing
from rankscope.records import ModelFacts
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.study import ModelSpec


def nf4_config(dtype: torch.dtype) -> BitsAndBytesConfig:
    """QLoRA's settings (arXiv 2305.14314, section 3): NF4, scales quantized too, products in `dtype`."""
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def is_quantized(module: nn.Module) -> bool:
    """Whether a linear module holds its weight in 4 bits."""
    return getattr(getattr(module, "weight", None), "quant_state", None) is not None


def dequantized_weight(module: nn.Module) -> Tensor:
    """The module's weight (out, in) in floating point: what its products are made with, and what a delta adds to.

    Raises ModuleNotFoundError for a quantized module where bitsandbytes is not installed.
    """
    weight = module.weight
    assert isinstance(weight, Tensor)
    if not is_quantized(module):
        return weight.detach()
    from bitsandbytes.functional import dequantize_4bit

    whole: Tensor = dequantize_4bit(weight.data, weight.quant_state)  # type: ignore[attr-defined]
    return whole


dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
"""transformers asks on the terminal whether to run a model's own code, where a caller forgot to say: it never may."""

WITHOUT_ADAPTER = {"adapter_kwargs": {"subfolder": ".no-adapter"}}
"""transformers puts an adapter that lies in a base's own folder on it while it loads; where it looks, there is none."""

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class LoadedModel:
    """A base model in eval mode, frozen, with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def load_tokenizer(spec: ModelSpec, base: Path) -> PreTrainedTokenizerBase:
    """The model's own tokenizer, with the chat template of the study where it gives one, and without any where it says
    `chat: never`.

    Raises InputProblems where there is none, or none with an end-of-sequence token.
    """
    path = model_path(spec, base)
    with refusing(spec):
        tokenizer = AutoTokenizer.from_pretrained(path, **hub_options(spec))
        _try_out(spec, tokenizer)
    if tokenizer.eos_token_id is None:
        expected = "a tokenizer with an end-of-sequence token"
        raise InputProblems([Problem(spec.id, "tokenizer", "no EOS token", expected)])
    with refusing(spec):
        config = AutoConfig.from_pretrained(path, **hub_options(spec)).get_text_config()
        refuse_vocabulary(spec, tokenizer, config.vocab_size)
    if spec.chat_template is not None:
        tokenizer.chat_template = spec.chat_template
    if spec.chat == "never":
        tokenizer.chat_template = None
    return tokenizer


def _try_out(spec: ModelSpec, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises InputProblems where a text does not come back from its tokens: the tokenizer's files are damaged."""
    text = "The oak is 1 tree."
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    back = tokenizer.decode(ids)
    if not ids or not back.strip():
        found = f"a tokenizer that makes {len(ids)} tokens of {text!r}, and {back!r} of these"
        raise InputProblems([Problem(spec.id, "tokenizer", found, "a tokenizer that writes text")])


def _config(spec: ModelSpec, path: str, device: str | None) -> Any:
    """The model's configuration. Raises InputProblems where its architecture cannot be used."""
    config = AutoConfig.from_pretrained(path, **hub_options(spec))
    refuse_config(spec, config, device)
    return config


def inspect_model(spec: ModelSpec, base: Path, *, device: str | None = None) -> ModelFacts:
    """Facts for the plan: the architecture is built on the meta device, the weights are hashed and not loaded.

    Raises InputProblems where the model cannot be used (on `device`, where that is given).
    """
    path = model_path(spec, base)
    with refusing(spec):
        refuse_headers(spec, path)
        config = _config(spec, path, device)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=spec.trust_remote_code)
        return _facts(spec, path, config, model)


def _facts(spec: ModelSpec, path: str, config: Any, model: PreTrainedModel) -> ModelFacts:
    text = config.get_text_config()
    return ModelFacts(
        name=spec.name,
        source=spec.id,
        revision=getattr(config, "_commit_hash", None) or spec.revision,
        content_sha256=content_sha256(path, getattr(config, "_commit_hash", None), model_states(spec.name, path)),
        architecture=type(model).__name__,
        parameter_count=sum(p.numel() for p in model.parameters()),
        hidden_size=text.hidden_size,
        layer_count=text.num_hidden_layers,
        vocab_size=text.vocab_size,
        context_tokens=int(getattr(text, "max_position_embeddings", 0) or 2048),
        tied_embeddings=bool(text.tie_word_embeddings),
        linear_shapes=linear_shapes(model),
        quantization=spec.quantization,
        checkpointing=bool(model.supports_gradient_checkpointing),
        norm_parameters={name: sum(p.numel() for p in norm.parameters()) for name, norm in norms(model).items()},
        block_parameters=_block_parameters(model),
        vocabulary_parameters=sum(p.numel() for p in vocabulary_parameters(model)),
        key_value_width=key_value_width(model),
    )


def _block_parameters(model: PreTrainedModel) -> list[int]:
    try:
        return [sum(p.numel() for p in block.parameters()) for block in blocks(model)]
    except LookupError:
        return []  # a decoder of another make: the methods that need its blocks are refused


def linear_shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """(out, in) of every linear module but the output head, by its path: what PEFT's `all-linear` adapts."""
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    shapes: dict[str, tuple[int, int]] = {}
    for name, module in model.named_modules():
        if module is head:
            continue
        if isinstance(module, nn.Linear):
            shapes[name] = (module.out_features, module.in_features)
        elif isinstance(module, Conv1D):  # GPT-2 keeps its weights as (in, out)
            shapes[name] = (module.weight.shape[1], module.weight.shape[0])
    return shapes


def without_cudnn_attention() -> None:
    """Let torch choose among its other attention kernels in this process.

    cuDNN plans its kernel anew for every shape, and batches of rows of unequal length are of ever new shapes: 49 ms
    each on an H200, where flash attention takes 0.3 to 0.8 ms.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def load_model(
    spec: ModelSpec,
    base: Path,
    dtype: Literal["float32", "bfloat16"],
    device: str,
    *,
    weights: Path | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> LoadedModel:
    """The base model, held once in the compute dtype or as the spec quantizes it, frozen.

    `weights` is a folder with a fully fine-tuned copy of it, which is loaded in its place. `tokenizer`: the base's,
    where it was read before. Raises InputProblems where it cannot be loaded.
    """
    without_cudnn_attention()
    path = str(weights) if weights is not None else model_path(spec, base)
    options = hub_options(spec)
    if spec.quantization is not None:
        options |= {"quantization_config": nf4_config(DTYPES[dtype]), "device_map": {"": device}}
    with refusing(spec):
        _config(spec, path, device)
        with no_progress_bars():
            model, info = AutoModelForCausalLM.from_pretrained(
                path, dtype=DTYPES[dtype], use_safetensors=True, output_loading_info=True, **WITHOUT_ADAPTER, **options
            )
    refuse_missing(spec, info["missing_keys"])
    if spec.quantization is None:  # else it was put there while it was quantized
        model = model.to(device)
    model = model.eval()
    model.requires_grad_(False)
    return LoadedModel(model=model, tokenizer=load_tokenizer(spec, base) if tokenizer is None else tokenizer)


def load_skeleton(
    spec: ModelSpec, base: Path, dtype: Literal["float32", "bfloat16"], *, weights: Path | None = None
) -> LoadedModel:
    """As `load_model`, with parameters on the meta device: the modules, whose buffers are calculated, without weights.

    Raises InputProblems where the configuration cannot be used.
    """
    without_cudnn_attention()
    path = str(weights) if weights is not None else model_path(spec, base)
    with refusing(spec):
        config = _config(spec, path, None)
        with init_empty_weights(include_buffers=False):
            made = AutoModelForCausalLM.from_config(
                config, dtype=DTYPES[dtype], trust_remote_code=spec.trust_remote_code
            )
    made.tie_weights()  # parameters that are moved one by one lose their ties
    made.requires_grad_(False)
    return LoadedModel(model=made.eval(), tokenizer=load_tokenizer(spec, base))
