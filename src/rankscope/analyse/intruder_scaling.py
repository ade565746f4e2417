"""Intruder dimensions of a fine-tuned weight scaled, and a control that takes as much off the whole change.

A hypothesis of arXiv 2410.21228 is that intruders cause forgetting: if so, scaling them keeps more than a norm-matched
control does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.analyse.merged_spectra import INTRUDER_TOP, intruder_columns, merged_top
from rankscope.model.weights.svd_cache import SvdCache
from rankscope.model.weights.weight_delta import LowRank


def intruder_change(cache: SvdCache, weight: Tensor, content: str | None, delta: LowRank, factor: float) -> LowRank:
    """(factor - 1) times the sum of sigma u v^T over the q intruders of W = `weight` (out, in) + delta, of rank q."""
    top = merged_top(cache.svd(weight, content), delta, INTRUDER_TOP, with_left=True)
    assert top.left is not None
    left = top.left[:, intruder_columns(top.cosines)].to(delta.a.device, torch.float32)
    rows = left.T @ weight.float() + delta.scale * (left.T @ delta.b.float()) @ delta.a.float()
    return LowRank(rows.cpu(), ((factor - 1) * left).cpu(), 1.0)


def with_change(delta: LowRank, change: LowRank) -> LowRank:
    """delta + change as one pair of factors of delta's scale; delta itself where the change has no rank."""
    if not change.rank:
        return delta
    b = torch.cat([delta.b, (change.b / delta.scale).to(delta.b.dtype)], 1)
    return LowRank(torch.cat([delta.a, change.a.to(delta.a.dtype)]), b, delta.scale)


def control(delta: LowRank, change: LowRank) -> LowRank:
    """As much taken off the whole of delta, in the Frobenius norm, as the change takes off its intruders."""
    size = float(change.singular_values().norm()) if change.rank else 0.0
    whole = float(delta.singular_values().norm())
    return delta._replace(b=delta.b * max(0.0, 1 - size / whole)) if whole > 0 else delta
