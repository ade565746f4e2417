"""AdamW for bf16 weights without fp32 copies: stochastic rounding, and both moments in blocks of 8 bits.

Per trained parameter 2 bytes of weight, 2 of gradient, 2 of moments and 2 x 4/256 of their scales: 6.03, where fp32
masters and moments take 20. Other numerics than AdamW's, so a run has an id of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from rankscope.model.sharding.shard import own_part
from rankscope.study.study import Optimizer as OptimizerSettings

BLOCK = 256
"""Values that share a scale."""

_CHUNK = 1 << 22
"""Values that are in fp32 at once."""

_BETAS, _EPS = (0.9, 0.999), 1e-8


def rounded(values: Tensor, generator: torch.Generator) -> Tensor:
    """fp32 values in bf16, up or down with the chance that makes the mean right (arXiv 2010.06192, section 3.2).

    16 random bits are added below a bf16 number's last bit, and what is below is cut off. Infinities and NaN stay.
    """
    noise = torch.randint(0, 1 << 16, values.shape, generator=generator, device=values.device, dtype=torch.int32)
    bits = values.contiguous().view(torch.int32)
    moved = torch.where(values.isfinite(), bits + noise, bits).bitwise_and_(-1 << 16)
    return moved.view(torch.float32).to(torch.bfloat16)


@cache
def dynamic_codes(*, signed: bool) -> tuple[float, ...]:
    """The 256 values of the dynamic data type of 8 bits, ascending, in [-1, 1] or [0, 1] (arXiv 2110.02861, section 2).

    Seven decades below 1; each further up is cut twice as finely, and holds the middles of its equal parts.
    """
    found = [0.0, 1.0]
    for decade in range(7):
        count = 2 ** (decade + (0 if signed else 1))
        edges = [0.1 + 0.9 * i / count for i in range(count + 1)]
        middles = [10.0 ** (decade - 6) * (a + b) / 2 for a, b in pairwise(edges)]
        found += middles + ([-value for value in middles] if signed else [])
    return tuple(sorted(found))


@cache
def _nearest_below(signed: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of all fp32 numbers that share their upper 16 bits the smallest nearest code (65536,); the middles above codes
    (256,), the last without end."""
    table = torch.tensor(dynamic_codes(signed=signed))
    middles = (table[1:] + table[:-1]) / 2
    upper = torch.arange(1 << 16, dtype=torch.int64)
    least = torch.where(upper < 1 << 15, upper << 16, (upper << 16) + 0xFFFF)  # negative ones grow towards zero
    values = torch.where(least < 1 << 31, least, least - (1 << 32)).to(torch.int32).view(torch.float32)
    above = torch.cat([middles, torch.tensor([torch.inf])])
    return torch.bucketize(values, middles).int().to(device), above.to(device)


def nearest_codes(shares: Tensor, *, signed: bool) -> Tensor:
    """The code nearest to each of `shares`, fp32 within [-1, 1]: what `torch.bucketize` gives, several times faster.

    Numbers that share their upper 16 bits lie within 2^-7 of each other, closer than two middles do, so that a
    table and one comparison tell the code.
    """
    least, above = _nearest_below(signed, shares.device)
    codes = least[(shares.contiguous().view(torch.int32) >> 16).bitwise_and_(0xFFFF)]
    return codes + (shares > above[codes]).int()


@dataclass
class Moment:
    """Values (n,) as codes (n,) in uint8 and scales (n / BLOCK,) in fp32; n is a multiple of BLOCK."""

    codes: Tensor
    scales: Tensor
    signed: bool

    @staticmethod
    def zeros(count: int, device: torch.device, *, signed: bool) -> Moment:
        """All zero."""
        zero = dynamic_codes(signed=signed).index(0.0)
        codes = torch.full((count,), zero, dtype=torch.uint8, device=device)
        return Moment(codes, torch.zeros(count // BLOCK, device=device), signed)

    def read(self, part: slice) -> Tensor:
        """Values in fp32; `part` begins and ends with a block."""
        table = torch.tensor(dynamic_codes(signed=self.signed), device=self.codes.device)
        blocks = slice(part.start // BLOCK, part.stop // BLOCK)
        return (table[self.codes[part].int()].view(-1, BLOCK) * self.scales[blocks, None]).flatten()

    def write(self, part: slice, values: Tensor) -> None:
        """The nearest code of each; of what is not signed a positive value never becomes zero: it is divided by."""
        own = values.view(-1, BLOCK)
        scales = own.abs().amax(1)
        shares = own / scales.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
        codes = nearest_codes(shares, signed=self.signed)
        if not self.signed:
            codes = codes.clamp_min(1).where(own > 0, codes)
        self.codes[part] = codes.flatten().to(torch.uint8)
        self.scales[part.start // BLOCK : part.stop // BLOCK] = scales


class AdamWBf16:
    """AdamW (arXiv 1711.05101) whose weights are bf16 and change by stochastic rounding.

    Of the second moment the root is kept, whose range eight bits hold better. The rounding's noise follows from the
    count of updates, the weight and the process, so that a resumed run is the run that was never interrupted.
    """

    needs_masters = False

    def __init__(self, weights: Mapping[str, nn.Parameter], settings: OptimizerSettings) -> None:
        self._weights = dict(weights)
        self._decay = settings.weight_decay
        self._moments: dict[str, tuple[Moment, Moment]] = {}
        self._updates: dict[str, int] = {}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """As `Optimizer.step`."""
        for place, (name, weight) in enumerate(self._weights.items()):
            if weight.grad is None:
                continue
            if name not in self._moments:
                self._begin(name)
            self._updates[name] += 1
            self._update(name, place, own_part(weight.data), own_part(weight.grad), rate)

    def _begin(self, name: str) -> None:
        weight, count = self._weights[name], _room(self._weights[name])
        device = own_part(weight.data).device
        self._moments[name] = (
            Moment.zeros(count, device, signed=True),
            Moment.zeros(count, device, signed=False),
        )
        self._updates[name] = 0

    def _update(self, name: str, place: int, weight: Tensor, gradient: Tensor, rate: float) -> None:
        count, (first, second) = self._updates[name], self._moments[name]
        corrections = [1 - beta**count for beta in _BETAS]
        generator = torch.Generator(device=weight.device).manual_seed(_noise_seed(count, place))
        flat, steep = weight.view(-1), gradient.reshape(-1)
        for start in range(0, flat.numel(), _CHUNK):
            part = flat[start : start + _CHUNK]
            whole = slice(start, start + -(-part.numel() // BLOCK) * BLOCK)
            g = nn.functional.pad(steep[start : start + _CHUNK].float(), (0, whole.stop - start - part.numel()))
            m = first.read(whole).mul_(_BETAS[0]).add_(g, alpha=1 - _BETAS[0])
            v = second.read(whole).square_().mul_(_BETAS[1]).addcmul_(g, g, value=1 - _BETAS[1])
            root = v.sqrt()
            change = (m / corrections[0]) / (root / corrections[1] ** 0.5 + _EPS)
            moved = part.float() * (1 - rate * self._decay) - rate * change[: part.numel()]
            part.copy_(rounded(moved, generator) if weight.dtype == torch.bfloat16 else moved)
            first.write(whole, m)
            second.write(whole, root)

    def state(self) -> dict[str, Tensor]:
        """`exp_avg`, `exp_avg_scale`, `exp_avg_sq_root`, `exp_avg_sq_root_scale` and `step`, each with `/NAME`."""
        found: dict[str, Tensor] = {}
        for name, (first, second) in self._moments.items():
            parts = {
                "exp_avg": first.codes, "exp_avg_scale": first.scales, "exp_avg_sq_root": second.codes,
                "exp_avg_sq_root_scale": second.scales,
            }  # fmt: skip
            found |= {f"{kind}/{name}": _as_shared(value, self._weights[name]) for kind, value in parts.items()}
            found[f"step/{name}"] = torch.tensor(float(self._updates[name]))
        return found

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """As `Optimizer.load`."""
        for key, value in tensors.items():
            kind, _, name = key.partition("/")
            if name not in self._moments:
                self._begin(name)
            first, second = self._moments[name]
            if kind == "step":
                self._updates[name] = int(value)
                continue
            into = {
                "exp_avg": first.codes, "exp_avg_scale": first.scales, "exp_avg_sq_root": second.codes,
                "exp_avg_sq_root_scale": second.scales,
            }[kind]  # fmt: skip
            into.copy_(own_part(value))


def _room(weight: nn.Parameter) -> int:
    """Values that the moments of a weight have room for, in whole blocks; as many in every process of a gang."""
    count = weight.numel()
    if isinstance(weight, DTensor):
        rows = -(-weight.shape[0] // weight.device_mesh.size())
        count = rows * (weight.numel() // weight.shape[0])
    return -(-count // BLOCK) * BLOCK


def _as_shared(value: Tensor, weight: nn.Parameter) -> Tensor:
    """Of a weight that is shared out, its processes' parts as one tensor that is."""
    if not isinstance(weight, DTensor):
        return value
    return DTensor.from_local(value, weight.device_mesh, [Shard(0)], run_check=False)


def _noise_seed(updates: int, place: int) -> int:
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    return (updates * 1_000_003 + place) * 4_099 + rank
