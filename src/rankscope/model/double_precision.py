"""Sums in float64 on devices that have it, and what stands for them on a Mac's GPU, which has none."""

from __future__ import annotations

import torch
from torch import Tensor


def widest_float(device: torch.device) -> torch.dtype:
    """The dtype that sums are kept in on a device."""
    return torch.float32 if device.type == "mps" else torch.float64


def in_double(tensor: Tensor) -> Tensor:
    """The tensor in float64; from a device that has none it comes to the host."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()
