"""Bases in 4 bits: how transformers is asked for one, and their weights as plain numbers again."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig


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
