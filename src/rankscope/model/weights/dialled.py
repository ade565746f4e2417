"""A trained change in part: W0 + s (W - W0), of low-rank factors by their scale, of whole weights in place."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rankscope.model.sharding.shard import own_part
from rankscope.model.weights.weight_delta import LowRank


def dialled_factors(factors: Mapping[str, LowRank], dial: float) -> dict[str, LowRank]:
    """The factors with their scale (alpha/r) times `dial`: what PEFT has with alpha times `dial`."""
    return {module: delta._replace(scale=delta.scale * dial) for module, delta in factors.items()}


class Interpolation:
    """A fine-tuned model whose weights move between the base's and its own.

    `trained` is changed in place by `turn_to`; what it was is kept once, for the weights that differ from the base's.
    Of sharded models each process moves its parts.
    Raises ValueError where the two are not one architecture.
    """

    def __init__(self, trained: PreTrainedModel, base: PreTrainedModel) -> None:
        before = dict(base.named_parameters())
        own = dict(trained.named_parameters())  # a tied weight stands once
        if {name: p.shape for name, p in own.items()} != {name: p.shape for name, p in before.items()}:
            raise ValueError("the trained model and the base do not have the same weights")
        self._moved: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        self._dial = 1.0
        for name, parameter in own.items():
            now, start = own_part(parameter.detach()), own_part(before[name].detach())
            if not torch.equal(now, start):
                self._moved[name] = (now, start, now.clone())

    def turn_to(self, dial: float) -> None:
        """Set every weight to W0 + dial (W - W0), calculated in fp32; 1 gives back the trained bits."""
        if dial == self._dial:
            return
        self._dial = dial
        with torch.no_grad():
            for parameter, start, end in self._moved.values():
                parameter.copy_(end if dial == 1 else interpolated(start, end, dial))


def interpolated(start: Tensor, end: Tensor, dial: float) -> Tensor:
    """start + dial (end - start) in fp32."""
    first = start.float()
    return first + dial * (end.float() - first)
