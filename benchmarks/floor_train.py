"""The hardware's floor under a training run: its matrix products alone, at the same shapes, strides and dtypes.

Products inside a fused attention are not counted: no run can skip those either, so the true floor is a little higher.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from sides_train import run_pack
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from train_rows import Task, examples, load

from rankscope.study.study import Arm

aten = torch.ops.aten
PRODUCTS = {
    aten.mm.default: torch.mm, aten.addmm.default: torch.addmm, aten.bmm.default: torch.bmm,
    aten.baddbmm.default: torch.baddbmm,
}  # fmt: skip
Shape = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
"""Sizes, strides, dtype."""


class Recorder(TorchDispatchMode):
    """Counts every matrix product of what runs inside, forward and backward, by its operands' shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.products: Counter[tuple[Any, tuple[Shape, ...]]] = Counter()
        self.grouped = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in PRODUCTS:
            shapes = [(tuple(a.shape), a.stride(), a.dtype) for a in args if isinstance(a, Tensor)]
            self.products[func, tuple(shapes)] += 1
        self.grouped += "grouped_mm" in str(func)
        return out


def products(task: Task, arms: Sequence[Arm]) -> Callable[[], None]:
    """Records one run of each arm; the work is to do its products again, into memory that is there already."""
    loaded = load(task)
    rows = examples(task, loaded)
    with Recorder() as recorder:
        for arm in arms:
            run_pack(task, [arm], loaded, rows)
    del loaded
    if recorder.grouped:
        raise SystemExit("grouped products are not replayed; record a solo run")
    return _replay(recorder.products, task.device)


def _replay(found: Counter[tuple[Any, tuple[Shape, ...]]], device: str) -> Callable[[], None]:
    """Every operand is a view of one of four buffers, so that nothing is allocated while the clock runs."""
    sizes: Counter[tuple[int, torch.dtype]] = Counter()
    for (_, shapes), _ in found.items():
        for place, (size, stride, dtype) in enumerate(shapes):
            reach = 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
            sizes[place, dtype] = max(sizes[place, dtype], reach)
    buffers = {key: torch.randn(count, device=device).to(key[1]) for key, count in sizes.items()}
    calls = []
    for (func, shapes), count in found.items():
        given = [buffers[place, dtype].as_strided(size, stride) for place, (size, stride, dtype) in enumerate(shapes)]
        out = PRODUCTS[func](*given)
        calls.append((PRODUCTS[func], given, out, count))

    def work() -> None:
        for product, given, out, count in calls:
            for _ in range(count):
                product(*given, out=out)

    return work
