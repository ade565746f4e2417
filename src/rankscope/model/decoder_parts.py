"""Where the parts of a decoder are, whatever its family calls them: blocks, feed-forwards, norms, the vocabulary."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

_FEED_FORWARD_NAMES = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "moe")


def text_config(model: PreTrainedModel) -> Any:
    """The configuration of the part that writes text, which for most models is the whole one."""
    return model.config.get_text_config(decoder=True)


def blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder's blocks, from the first. Raises LookupError where no list of as many modules is found."""
    count = text_config(model).num_hidden_layers
    for child in model.get_decoder().children():
        if isinstance(child, nn.ModuleList) and len(child) == count:
            return child
    raise LookupError(f"{type(model).__name__}: no list of {count} blocks in its decoder")


def feed_forward_name(block: nn.Module) -> str:
    """The name of a block's feed-forward. Raises LookupError where it has none that is known."""
    for name in _FEED_FORWARD_NAMES:
        if isinstance(getattr(block, name, None), nn.Module):
            return name
    raise LookupError(f"{type(block).__name__}: no feed-forward called {', '.join(_FEED_FORWARD_NAMES)}")


def norms(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Every normalisation by its path: modules named so that hold parameters and no other module."""
    return {
        name: module
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
        and next(module.children(), None) is None
        and next(module.parameters(recurse=False), None) is not None
    }


def vocabulary_parameters(model: PreTrainedModel) -> list[nn.Parameter]:
    """Embeddings of tokens and positions, and the output head; a tied weight once."""
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    head = model.get_output_embeddings()
    found: dict[int, nn.Parameter] = {}
    for module in [*embeddings, *([] if head is None else [head])]:
        found.update((id(parameter), parameter) for parameter in module.parameters())
    return list(found.values())


def key_value_width(model: PreTrainedModel) -> int:
    """Width of a layer's keys over all its key heads; 0 where the model keeps anything but keys and values."""
    cache = DynamicCache(config=model.config)
    if not cache.layers or not all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
        return 0
    config = text_config(model)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(heads * size)


def sliding_window(model: PreTrainedModel) -> int | None:
    """The window in tokens, where some layer has one."""
    config = text_config(model)
    window, kinds = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    if not isinstance(window, int) or (kinds and "sliding_attention" not in kinds):
        return None
    return window


def window_that_matters(model: PreTrainedModel, longest_tokens: int) -> int | None:
    """The sliding window in tokens, where a sequence of `longest_tokens` is longer than it; else None."""
    window = sliding_window(model)
    return None if window is None or longest_tokens <= window else window
