"""The matrices of a model, and what training changed in each: B A times a scale for LoRA, a dense matrix else.

Shapes: a weight and its change are (out, in), `a` is (R, in), `b` is (out, R), K = min(out, in, R) singular values. An
embedding's weight is (V, D).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rankscope.model.load import WITHOUT_ADAPTER, inspect_model
from rankscope.model.model_source import model_path, no_progress_bars, refusing
from rankscope.model.weights.gram_spectrum import gram_values
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.study import ModelSpec


@dataclass(frozen=True)
class Svd:
    """A singular value decomposition: left (out, K), values (K,) from the largest, right (K, in), whose product
    left @ diag(values) @ right is the matrix."""

    left: Tensor
    values: Tensor
    right: Tensor

    def truncated(self, rank: int) -> Svd:
        """The `rank` largest parts: the best approximation of that rank (Eckart & Young 1936)."""
        return Svd(self.left[:, :rank], self.values[:rank], self.right[:rank])

    def low_rank(self, scale: float) -> LowRank:
        """This matrix as factors whose product times `scale` it is, each with the roots of half of the values."""
        root = (self.values / abs(scale)).sqrt()
        left = self.left * root if scale > 0 else -self.left * root
        return LowRank(root[:, None] * self.right, left, scale)


class LowRank(NamedTuple):
    """scale * B @ A: the change that a LoRA makes to one weight (arXiv 2106.09685, section 4.1), kept factored.

    `a` is (R, in), `b` is (out, R): PEFT's lora_A and lora_B; `scale` is alpha / r, or alpha / sqrt(r) for rsLoRA.
    """

    a: Tensor
    b: Tensor
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of the weight that is changed."""
        return self.b.shape[0], self.a.shape[1]

    @property
    def rank(self) -> int:
        """R, the directions that the factors have room for."""
        return self.a.shape[0]

    def to(self, *args: Any) -> LowRank:
        """Both factors moved or cast, as `Tensor.to` does it."""
        return LowRank(self.a.to(*args), self.b.to(*args), self.scale)

    def dense(self) -> Tensor:
        """(out, in), in the working precision of the factors."""
        return self.scale * (working(self.b) @ working(self.a))

    def singular_values(self) -> Tensor:
        """(K,) from the largest: those of R_B R_A^T, the triangular factors of B and A^T (QR of thin matrices).

        On the CPU wherever the factors are: a GPU waits for each column of a thin matrix (67 times slower on an H200).
        """
        with one_thread():
            core = _triangle(self.b.cpu()) @ _triangle(self.a.cpu().T).T
            return abs(self.scale) * torch.linalg.svdvals(core)

    def svd(self) -> Svd:
        """Exact SVD of the product from QR of both factors and an SVD of an R x R core."""
        with one_thread():
            left, left_core = torch.linalg.qr(working(self.b))
            right, right_core = torch.linalg.qr(working(self.a).T)
            u, values, vh = torch.linalg.svd(self.scale * left_core @ right_core.T, full_matrices=False)
        return Svd(left @ u, values, vh @ right.T)


@dataclass(frozen=True)
class DenseDelta:
    """The change of a weight that was trained as a whole: W - W0, (out, in)."""

    weight: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.weight.shape[0], self.weight.shape[1]

    @property
    def rank(self) -> int:
        """The smaller side."""
        return min(self.shape)

    def dense(self) -> Tensor:
        """(out, in), in the working precision."""
        return working(self.weight)

    def singular_values(self) -> Tensor:
        """(K,) from the largest, in the working precision."""
        return gram_values(self.weight).to(self.dense().dtype)

    def svd(self) -> Svd:
        """The thin SVD."""
        return Svd(*torch.linalg.svd(self.dense(), full_matrices=False))


Delta = LowRank | DenseDelta


def working(tensor: Tensor) -> Tensor:
    """The tensor in the precision of the decompositions: fp64 as it is, everything else as fp32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


@contextmanager
def one_thread() -> Iterator[None]:
    """CPU work in this block runs on one thread: for decompositions of thin matrices.

    LAPACK's threads meet once a column, which costs a thin matrix more than they save (4096 x 64: 1.1 ms on one thread,
    at least 2.3 ms on two), and a hundred times as much where another process has one of the cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _triangle(tall: Tensor) -> Tensor:
    """R of a QR, (min(n, R), R); Q is not formed."""
    return torch.linalg.qr(working(tall), mode="r").R


def normal(shape: tuple[int, int], like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers of `shape`, drawn on the CPU, in the dtype and on the device of `like`."""
    return torch.randn(shape, generator=generator, dtype=like.dtype).to(like.device)


def random_like(values: Tensor, shape: tuple[int, int], generator: torch.Generator) -> LowRank:
    """A change with these singular values (K,) in directions drawn uniformly: the norm-matched control."""
    with one_thread():
        left = torch.linalg.qr(normal((shape[0], len(values)), values, generator)).Q
        right = torch.linalg.qr(normal((shape[1], len(values)), values, generator)).Q
    return LowRank(right.T, left * values, 1.0)


# ---- the matrices of a model -----------------------------------------------------------------------------------------


def matrices(model: nn.Module, modules: Iterable[str]) -> dict[str, Tensor]:
    """The weights of these modules, each (out, in) however the model keeps it; an embedding's is (vocabulary, D).

    Modules that the model lacks, or that hold no matrix, are not in the answer.
    """
    found: dict[str, Tensor] = {}
    named = dict(model.named_modules())
    for name in modules:
        module = named.get(name)
        weight = getattr(getattr(module, "base_layer", module), "weight", None)
        if isinstance(weight, Tensor) and weight.ndim == 2:
            inner = getattr(module, "base_layer", module)
            found[name] = weight.detach().T if isinstance(inner, Conv1D) else weight.detach()
    return found


def changes(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, DenseDelta]:
    """W - W0 of the matrices that both have."""
    return {m: DenseDelta(working(after[m]) - working(before[m])) for m in before if m in after}


def merged_changes(model: nn.Module) -> Iterator[tuple[str, DenseDelta, Tensor]]:
    """(module, W - W0, W0) of every weight that an adapter in place changes, as merging it in fp32 would; the model is
    as it was afterwards."""
    for name, module in model.named_modules():
        layer: Any = module
        if not callable(getattr(module, "merge", None)) or not isinstance(
            getattr(module, "base_layer", None), nn.Module
        ):
            continue
        kept = layer.base_layer.weight.data
        before = matrices(model, [name])
        if not before:
            continue
        try:
            layer.base_layer.weight.data = kept.to(torch.promote_types(kept.dtype, torch.float32), copy=True)
            layer.merge()
            after = matrices(model, [name])[name].clone()
            layer.merged_adapters.clear()
        finally:
            layer.base_layer.weight.data = kept
        yield name, DenseDelta(after - before[name].to(after.dtype)), before[name]


def load_as_saved(path: str, revision: str | None = None) -> PreTrainedModel:
    """A model with its weights in the precision of its files. Raises InputProblems where there is none to load."""
    spec = ModelSpec(id=path, revision=revision)
    inspect_model(spec, Path())  # refuses what cannot be used, before any weight is read
    options = {"revision": revision} if revision is not None else {}
    with refusing(spec), no_progress_bars():
        return AutoModelForCausalLM.from_pretrained(
            model_path(spec, Path()), dtype="auto", use_safetensors=True, trust_remote_code=False,
            **WITHOUT_ADAPTER, **options,
        ).eval()  # fmt: skip


def matching_matrices(model: nn.Module, deltas: Mapping[str, LowRank], base: str) -> dict[str, Tensor]:
    """The base's matrix of every delta. Raises InputProblems with each module that is not there, has another shape, or
    holds NaN or infinity."""
    found = matrices(model, deltas)
    problems = []
    for module, delta in deltas.items():
        if module not in found:
            problems.append(Problem(base, "--base", f"no module {module}", "the model that the adapter was trained on"))
        elif tuple(found[module].shape) != delta.shape:
            shape, wanted = list(found[module].shape), list(delta.shape)
            problems.append(Problem(base, "--base", f"{module} of shape {shape}", f"{wanted}, as the adapter has it"))
        elif not bool(torch.isfinite(found[module]).all()):
            problems.append(Problem(base, "--base", f"NaN or infinity in {module}", "numbers"))
    if problems:
        raise InputProblems(problems)
    return found
