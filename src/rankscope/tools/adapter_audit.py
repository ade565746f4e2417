"""Adapters that users already have: how much of its rank one uses, and the same adapter with less of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rankscope.analyse.merged_spectra import INTRUDER_TOP
from rankscope.analyse.update_spectra import energy_rank, module_rows
from rankscope.edges.storages import open_storage
from rankscope.model.fetched_model import fetched
from rankscope.model.weights.adapter_file import (
    CONFIG,
    WEIGHTS,
    Adapter,
    initialisation_that_moves_the_base,
    read_adapter,
)
from rankscope.model.weights.adapter_writing import tokenizer_files, write_adapter
from rankscope.model.weights.svd_cache import SvdCache
from rankscope.model.weights.weight_delta import LowRank, Svd, load_as_saved, matching_matrices
from rankscope.study.problems import InputProblems, Problem, show
from rankscope.study.store_urls import is_url

_CONTROL_SEED = 0


# ---- audit ----------------------------------------------------------------------------------------------------------


def audit(folder: str | Path, base: str | None = None, cache: SvdCache | None = None) -> dict[str, Any]:
    """What `rankscope audit --json` prints: the adapter's spectrum, module by module (docs/records.md).

    `folder` may be a URL of a store, whose files are then fetched. With `base`, a model folder or hub id, also the norm
    relative to the base's and intruder dimensions; the SVD of each base matrix is computed once and cached. Raises
    InputProblems.
    """
    adapter = read_adapter(fetched(str(folder)) if is_url(str(folder)) else Path(folder))
    weights: dict[str, Tensor] = {}
    if base is not None:
        weights = matching_matrices(load_as_saved(base, adapter.config.get("revision")), adapter.deltas, base)
    rows = module_rows(
        adapter.deltas, weights, cache or SvdCache(), model_sha256=None, seed=_CONTROL_SEED, widest=None,
        many=INTRUDER_TOP,
    )  # fmt: skip
    modules = [_audit_row(row) for row in rows]
    ranks = [m["energy_rank"]["90"] for m in modules if m["energy_rank"]["90"] is not None]
    return {
        "adapter": str(folder),
        "suggested_rank": max(ranks) if ranks else None,
        "rank": adapter.rank,
        "notes": list(adapter.notes),
        "modules": modules,
    }


def _audit_row(row: dict[str, Any]) -> dict[str, Any]:
    kept = ("frobenius_norm", "spectral_norm", "stable_rank", "effective_rank", "utilisation")
    return {
        "module": row["module"],
        "shape": [row["out"], row["in"]],
        "rank": row["rank"],
        **{key: row[key] for key in kept},
        "energy_rank": {str(share): row[f"energy_rank_{share}"] for share in (90, 95, 99)},
        "relative_norm": row["relative_norm"],
        "intruders": row["intruders"],
        "intruder_energy": row["intruder_energy"],
        "intruders_random": row["intruders_random"],
    }


# ---- compress -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compressed:
    """What `compress` wrote. `discarded_energy` is ||D - D'||_F^2 / ||D||_F^2 over all modules, D' as written."""

    ranks: dict[str, int]
    discarded_energy: float
    bytes_before: int
    bytes_after: int
    notes: tuple[str, ...]


def compress(folder: Path, out: Path, *, rank: int | None = None, energy: float | None = None) -> Compressed:
    """Write the adapter with its `rank` largest singular parts in every module, or with the fewest that hold `energy`.

    The best approximation in the Frobenius norm (Eckart & Young 1936). The scale of every module stays, so alpha
    follows the rank; modules of other ranks stand in `rank_pattern` and `alpha_pattern`. Raises InputProblems.
    """
    _check_request(rank, energy, out)
    adapter = read_adapter(folder)
    _check_adapter(adapter, rank)
    deltas: dict[str, LowRank] = {}
    ranks: dict[str, int] = {}
    lost = total = 0.0
    for module, delta in adapter.deltas.items():
        svd = delta.to(torch.float64).svd()
        ranks[module] = _rank_of(svd, rank, energy)
        small = svd.truncated(ranks[module]).low_rank(delta.scale).to(adapter.dtypes[module])
        lost += difference_energy(delta, small)
        total += float(svd.values.square().sum())
        deltas[module] = small
    with whole_folder(out) as draft:
        write_adapter(adapter, deltas, draft)
    before, after = ((f / WEIGHTS).stat().st_size for f in (folder, out))
    links = (f"{f.name} is a link and was not copied" for f in tokenizer_files(folder) if f.is_symlink())
    return Compressed(ranks, lost / total if total else 0.0, before, after, (*adapter.notes, *links))


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out`, which is new or empty, to be filled and then renamed there: whole or absent."""
    with open_storage(out.absolute().parent).local_draft(out.name) as draft:
        draft.mkdir()
        yield draft


def difference_energy(delta: LowRank, other: LowRank) -> float:
    """||delta - other||_F^2 without either product, in double: both stacked are one factored matrix."""
    b = torch.cat([delta.scale * delta.b.double(), -other.scale * other.b.double()], 1)
    a = torch.cat([delta.a.double(), other.a.double()])
    return float(LowRank(a, b, 1.0).singular_values().square().sum())


def _rank_of(svd: Svd, rank: int | None, energy: float | None) -> int:
    if rank is not None:
        return min(rank, len(svd.values))
    assert energy is not None
    return energy_rank(svd.values, energy) if float(svd.values[0]) > 0 else 1


def _check_request(rank: int | None, energy: float | None, out: Path) -> None:
    problems = []
    if (rank is None) == (energy is None):
        found = "neither --rank nor --energy" if rank is None else "both --rank and --energy"
        problems.append(Problem("compress", "", found, "one of them"))
    if rank is not None and rank < 1:
        problems.append(Problem("compress", "--rank", show(rank), "a whole number above 0"))
    if energy is not None and not 0 < energy <= 1:
        problems.append(Problem("compress", "--energy", show(energy), "a share above 0 and at most 1, such as 0.9"))
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        problems.append(Problem(str(out), "--out", "something there already", "a new or empty folder"))
    if problems:
        raise InputProblems(problems)


def _check_adapter(adapter: Adapter, rank: int | None) -> None:
    where = str(adapter.folder)
    if rank is not None and rank > adapter.rank:
        raise InputProblems([Problem(where, "--rank", str(rank), f"at most the adapter's {adapter.rank}")])
    if moved := initialisation_that_moves_the_base(adapter.config):
        found = f"init_lora_weights {moved}, with which PEFT changes the base by the rank when it loads the adapter"
        expected = "a plain LoRA: save it with PEFT's `path_initial_model_for_weight_conversion` first"
        raise InputProblems([Problem(where, CONFIG, found, expected)])
