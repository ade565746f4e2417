"""Virtual tokens before every sequence: prompt tuning and prefix tuning, inside the transformers model itself.

PEFT adds its virtual tokens in a wrapper around the model. Here the decoder's own forward adds them and takes their
states out again, so that training, scoring, decoding and whatever else runs the model meet tokens (B, T) and states
(B, T, D) as with any other arm. PEFT makes and saves the parameters, in its own format.

Shapes: v virtual tokens, L layers, K width of a layer's keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PrefixTuningConfig, PromptTuningConfig, PromptTuningInit
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from rankscope.model.decoder_parts import key_value_width, sliding_window, text_config
from rankscope.model.methods.installed import Installed, MethodModules
from rankscope.model.methods.peft_folder import misfit, read_peft_config, reads_peft, save_peft, wrapped
from rankscope.model.weights.adapter_file import adapter_tensors
from rankscope.study.methods import Arm
from rankscope.study.problems import InputProblems


class PromptTooLong(ValueError):
    """More virtual tokens than a sliding window holds."""


class VirtualTokens:
    """Virtual tokens in front of a model: embeddings (v, D) of a prompt, or keys and values (v, 2 L K) of a prefix.

    The keys and values lie as PEFT has them: by layer, first the keys of all heads, then the values.
    Raises PromptTooLong where a layer could not see them all.
    """

    def __init__(self, model: PreTrainedModel, weight: nn.Parameter, *, prefix: bool) -> None:
        window = sliding_window(model)
        self.count = weight.shape[0]
        if window is not None and self.count >= window:
            raise PromptTooLong(f"{self.count} virtual tokens, where a layer sees {window} tokens at once")
        self.active = True
        self._model, self._weight, self._prefix = model, weight, prefix
        self._decoder = model.get_decoder()
        self._plain = self._decoder.forward

    def put_on(self) -> None:
        """Let the decoder's forward add the tokens, until the attribute `forward` is taken off it."""
        self._decoder.forward = self._forward

    @contextmanager
    def off(self) -> Iterator[None]:
        self.active = False
        try:
            yield
        finally:
            self.active = True

    def _forward(self, input_ids: Tensor | None = None, **kwargs: Any) -> Any:
        if not self.active:
            return self._plain(input_ids, **kwargs) if input_ids is not None else self._plain(**kwargs)
        cache = kwargs.get("past_key_values")
        started = cache is not None and cache.get_seq_length() > 0
        if kwargs.get("position_ids") is not None:
            kwargs["position_ids"] = kwargs["position_ids"] + self.count
        if kwargs.get("attention_mask") is not None:
            kwargs["attention_mask"] = self._longer_mask(kwargs["attention_mask"])
        if started:
            return self._plain(input_ids=input_ids, **kwargs)
        if self._prefix:
            return self._after_prefix(input_ids, kwargs)
        return self._after_prompt(input_ids, kwargs)

    def _after_prefix(self, input_ids: Tensor | None, kwargs: dict[str, Any]) -> Any:
        """The tokens, with the prefix's keys and values before them in the cache."""
        tokens = input_ids if input_ids is not None else kwargs["inputs_embeds"]
        if kwargs.get("past_key_values") is None:
            kwargs["past_key_values"] = DynamicCache(config=self._model.config)
        for layer, (keys, values) in enumerate(self._keys_values(tokens.shape[0])):
            kwargs["past_key_values"].update(keys, values, layer)
        return self._plain(input_ids=input_ids, **kwargs)

    def _keys_values(self, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(B, heads, v, head size) of each, by layer."""
        config = text_config(self._model)
        layers = config.num_hidden_layers
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        parts = self._weight.to(self._model.dtype).view(self.count, 2 * layers, heads, -1).permute(1, 2, 0, 3)
        for layer in range(layers):
            keys, values = parts[2 * layer], parts[2 * layer + 1]
            yield keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1)

    def _after_prompt(self, input_ids: Tensor | None, kwargs: dict[str, Any]) -> Any:
        """The tokens with the prompt's embeddings before them, and their states without those of the prompt."""
        embeddings = kwargs.pop("inputs_embeds", None)
        if embeddings is None:
            embeddings = self._model.get_input_embeddings()(input_ids)
        prompt = self._weight.to(embeddings.dtype).expand(embeddings.shape[0], -1, -1)
        positions = kwargs.get("position_ids")
        if positions is not None:
            own = torch.arange(self.count, device=positions.device).expand(positions.shape[0], -1)
            kwargs["position_ids"] = torch.cat([own, positions], 1)
        outputs = self._plain(inputs_embeds=torch.cat([prompt, embeddings], 1), **kwargs)
        outputs["last_hidden_state"] = outputs["last_hidden_state"][:, self.count :]
        if outputs.get("hidden_states") is not None:
            outputs["hidden_states"] = tuple(states[:, self.count :] for states in outputs["hidden_states"])
        return outputs

    def _longer_mask(self, mask: Tensor) -> Tensor:
        """The mask with virtual tokens that every token sees; among themselves those of a prompt are causal."""
        if not isinstance(mask, Tensor) or mask.dim() not in (2, 4):
            raise TypeError("virtual tokens need one mask, (B, T) or (B, 1, T, T)")
        if mask.dim() == 2:
            return nn.functional.pad(mask, (self.count, 0), value=1)
        longer = nn.functional.pad(mask, (self.count, 0), value=0.0)
        if self._prefix:
            return longer
        rows, width = mask.shape[0], longer.shape[-1]
        hidden = torch.ones(self.count, width, dtype=torch.bool, device=mask.device).triu(1)
        own = torch.zeros_like(hidden, dtype=mask.dtype).masked_fill(hidden, torch.finfo(mask.dtype).min)
        return torch.cat([own.expand(rows, 1, -1, -1), longer], 2)


def _on(model: PreTrainedModel) -> VirtualTokens | None:
    """What stands before the model's sequences now."""
    found = getattr(vars(model.get_decoder()).get("forward"), "__self__", None)
    return found if isinstance(found, VirtualTokens) and found.active else None


def virtual_tokens(model: PreTrainedModel) -> int:
    """How many virtual tokens stand before every sequence of this model now; 0 for most."""
    found = _on(model)
    return 0 if found is None else found.count


@contextmanager
def without_virtual_tokens(model: PreTrainedModel) -> Iterator[None]:
    """Whoever puts the virtual tokens before a sequence in another way runs the model inside."""
    found = _on(model)
    if found is None:
        yield
        return
    with found.off():
        yield


@torch.no_grad()
def drawn_prefix(model: PreTrainedModel, count: int) -> Tensor:
    """Keys and values (v, 2 L K) of `count` drawn tokens: where a prefix starts (arXiv 2101.00190, section 7.4).

    Drawn with torch's global generator, which the caller has seeded.
    """
    vocabulary = model.get_input_embeddings().num_embeddings
    drawn = torch.randint(0, vocabulary, (1, count), device="cpu").to(model.device)
    cache = DynamicCache()
    model.get_decoder()(input_ids=drawn, past_key_values=cache, use_cache=True)
    parts = torch.stack([torch.stack([layer.keys[0], layer.values[0]]) for layer in cache.layers])
    return parts.permute(3, 0, 1, 2, 4).reshape(count, -1)


# ---- put on and loaded -----------------------------------------------------------------------------------------------


def _put_prompt_on(model: PreTrainedModel, arm: Arm) -> Installed:
    """A prompt that starts as the embeddings of tokens that PEFT draws."""
    config = PromptTuningConfig(
        num_virtual_tokens=arm.setting("virtual_tokens"), prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB,
        task_type="CAUSAL_LM",
    )  # fmt: skip
    peft = wrapped(model, config)
    made = _in_front(model, peft.prompt_encoder["default"].embedding.weight, prefix=False)
    return Installed(made.parameters, partial(save_peft, peft), made.off, peft=peft)


def _put_prefix_on(model: PreTrainedModel, arm: Arm) -> Installed:
    """A prefix that starts as the keys and values of drawn tokens."""
    count = arm.setting("virtual_tokens")
    start = drawn_prefix(model, count)
    peft = wrapped(model, PrefixTuningConfig(num_virtual_tokens=count, task_type="CAUSAL_LM"))
    peft.prompt_encoder["default"].load_prompt_embeddings(start)
    made = _in_front(model, peft.prompt_encoder["default"].embedding.weight, prefix=True)
    return Installed(made.parameters, partial(save_peft, peft), made.off, peft=peft)


def _load(model: PreTrainedModel, folder: Path) -> Installed:
    """A saved prompt or prefix. Raises InputProblems where it cannot be used, or has another width than the model."""
    prefix = read_peft_config(folder)["peft_type"] == "PREFIX_TUNING"
    weight = adapter_tensors(folder).get("prompt_embeddings")
    if weight is None:
        raise InputProblems([misfit(model, folder, "no tensor for prompt_embeddings")])
    config = text_config(model)
    width = 2 * config.num_hidden_layers * key_value_width(model) if prefix else config.hidden_size
    if weight.shape[-1] != width:
        found = f"virtual tokens of width {weight.shape[-1]}, for a model of width {width}"
        raise InputProblems([misfit(model, folder, found)])
    try:
        return _in_front(model, nn.Parameter(weight.to(model.device), requires_grad=False), prefix=prefix)
    except PromptTooLong as error:
        raise InputProblems([misfit(model, folder, str(error))]) from error


def _in_front(model: PreTrainedModel, weight: nn.Parameter, *, prefix: bool) -> Installed:
    tokens = VirtualTokens(model, weight, prefix=prefix)
    tokens.put_on()
    return Installed({"embedding.weight": weight}, _unsaved, tokens.off)


def _unsaved(folder: Path) -> None:
    raise ValueError("a prompt that was loaded is saved already")


def _reads(folder: Path) -> bool:
    return reads_peft(folder, ("PROMPT_TUNING", "PREFIX_TUNING"))


MODULES = {
    "prompt-tuning": MethodModules(_put_prompt_on, _load, _reads),
    "prefix-tuning": MethodModules(_put_prefix_on, _load, _reads),
}
