"""What can be done to a trained change without training: the dial, a dial by layer, a cut of its spectrum.

Each is a value that turns the change of one matrix into another. Factors stay factors, exactly, and a dial multiplies
their scale, as alpha does; dense changes are (out, in). A dial of 1 is the change itself, bit for bit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rankscope.model.weights.spectrum_cut import cut_at_noise
from rankscope.model.weights.weight_delta import LowRank

_LAYER = re.compile(r"(?:^|\.)(\d+)\.")


def layer_of(name: str) -> int | None:
    """The number of the block that a module or parameter lies in: the first number of its path; None outside."""
    found = _LAYER.search(f"{name}.")
    return None if found is None else int(found[1])


@dataclass(frozen=True)
class AfterTraining:
    """One remedy: the spectrum is cut first, then what is left is scaled.

    `below` and `above` multiply the changes of the blocks below and above the middle; one number twice is the plain
    dial. What lies outside the blocks is scaled with those it is next to: embeddings with the lower, head and final
    norm with the upper. `cut`: `noise` drops the singular values below the Donoho-Gavish threshold, of matrices that
    were trained as a whole; `energy` keeps the largest that hold `energy` of the squared sum, of factors.
    """

    below: float = 1.0
    above: float = 1.0
    cut_noise: bool = False
    energy: float | None = None

    @property
    def name(self) -> str:
        """`dial 0.7`, `dial 0.5 below, 1 above`, `energy 0.9`, `spectrum cut, dial 0.7`."""
        parts = ["spectrum cut"] if self.cut_noise else []
        parts += [f"energy {self.energy:g}"] if self.energy is not None else []
        if self.below != self.above:
            parts.append(f"dial {self.below:g} below, {self.above:g} above")
        elif self.below != 1 or not parts:
            parts.append(f"dial {self.below:g}")
        return ", ".join(parts)

    def scale_of(self, name: str, layer_count: int) -> float:
        """The dial of a module or parameter in a model of so many blocks."""
        layer = layer_of(name)
        if layer is None:
            return self.below if "embed" in name or "wte" in name or "wpe" in name else self.above
        return self.below if layer < layer_count / 2 else self.above

    def factors(self, given: Mapping[str, LowRank], layer_count: int) -> dict[str, LowRank]:
        """Low-rank changes by module. Raises ValueError for a cut that is for dense changes."""
        if self.cut_noise:
            raise ValueError("the median singular value of a low-rank change is 0")
        return {name: self._factor(delta, self.scale_of(name, layer_count)) for name, delta in given.items()}

    def _factor(self, delta: LowRank, scale: float) -> LowRank:
        if self.energy is not None:
            svd = delta.to(torch.float64).svd()
            energies = svd.values.square().cumsum(0)
            rank = 1 + int((energies < self.energy * energies[-1]).sum()) if float(energies[-1]) > 0 else 1
            delta = svd.truncated(min(rank, len(svd.values))).low_rank(delta.scale).to(delta.a.dtype)
        return delta if scale == 1 else delta._replace(scale=delta.scale * scale)

    def weights(
        self, before: Mapping[str, Tensor], after: Mapping[str, Tensor], layer_count: int
    ) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Whole parameters by name, W0 + s (W - W0) with the cut change in the place of W - W0 for matrices; and the
        ranks that the cut left. Raises ValueError for a cut that is for factors."""
        if self.energy is not None:
            raise ValueError("an energy is for factors; changes of whole matrices are cut at their noise")
        made: dict[str, Tensor] = {}
        ranks: dict[str, int] = {}
        for name, new in after.items():
            old, scale = before[name], self.scale_of(name, layer_count)
            cuts = self.cut_noise and new.ndim == 2
            if scale == 1 and not cuts:
                made[name] = new
                continue
            change = new.float() - old.float()
            if cuts:
                change, ranks[name] = cut_at_noise(change)
            made[name] = (old.float() + scale * change).to(new.dtype)
        return made, ranks


AS_TRAINED = AfterTraining()
DIALS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85)
BY_LAYER = ((0.5, 1.0), (1.0, 0.5), (0.7, 1.0), (1.0, 0.7))
ENERGIES = (0.5, 0.7, 0.9)


def candidates(*, factored: bool) -> list[AfterTraining]:
    """What is tried, the change as it is first: dials, dials by layer, and cuts of the spectrum, alone and dialled."""
    cuts = [AfterTraining(energy=e) for e in ENERGIES] if factored else [AfterTraining(cut_noise=True)]
    dialled = (
        [AfterTraining(0.7, 0.7, energy=0.7)]
        if factored
        else [AfterTraining(s, s, cut_noise=True) for s in (0.5, 0.7, 0.85)]
    )
    return [
        AS_TRAINED,
        *(AfterTraining(s, s) for s in DIALS),
        *(AfterTraining(below, above) for below, above in BY_LAYER),
        *cuts,
        *dialled,
    ]
