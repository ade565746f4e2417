"""A linear layer under several arms' factors against plain products, arm by arm."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rankscope.model.methods import packed_linear
from rankscope.model.methods.packed_linear import PackedLinear, Running
from rankscope.model.weights.weight_delta import LowRank

IN, OUT = 24, 40
DOUBLE = {"rtol": 1e-11, "atol": 1e-11}
SINGLE = {"rtol": 1e-4, "atol": 1e-4}


class InFewBits(nn.Linear):
    """As a module of bitsandbytes: its weight is no matrix, and only its own forward multiplies by it."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(1, 1)
        self.inner = [plain]

    def forward(self, x: Tensor) -> Tensor:
        return self.inner[0](x)


def make_base(kind: str, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(1)
    if kind == "Conv1D":
        module: nn.Module = Conv1D(OUT, IN)
        nn.init.normal_(module.bias)
    else:
        module = nn.Linear(IN, OUT, bias=kind != "no bias")
    module = module.to(dtype).requires_grad_(False)
    return InFewBits(module) if kind == "few bits" else module  # type: ignore[arg-type]


def make(
    kind: str, ranks: Sequence[int | None], dtype: torch.dtype, *, grouped: bool
) -> tuple[PackedLinear, list[LowRank | None]]:
    """The layer, and the factors of every arm that targets it."""
    base = make_base(kind, dtype)
    factors: list[LowRank | None] = []
    for i, rank in enumerate(ranks):
        if rank is None:
            factors.append(None)
            continue
        a, b = torch.randn(rank, IN, dtype=dtype) / IN**0.5, torch.randn(OUT, rank, dtype=dtype) / rank
        factors.append(LowRank(a.requires_grad_(), b.requires_grad_(), 0.5 + i))
    return PackedLinear(base, Running(tuple(range(len(ranks))), grouped), factors), factors


def plain(layer: PackedLinear, factors: Sequence[LowRank | None], x: Tensor) -> Tensor:
    """(rows, out): each arm's rows alone, by the layer itself and two products."""
    made = []
    for arm, rows in zip(layer.running.arms, x.chunk(len(layer.running.arms)), strict=True):
        y = layer.base_layer(rows)
        if (own := factors[arm]) is not None:
            y = y + own[2] * (rows @ own[0].T) @ own[1].T
        made.append(y)
    return torch.cat(made)


def assert_same(
    layer: PackedLinear, factors: Sequence[LowRank | None], tolerance: dict[str, float],
    rows: int = 5, *, input_gradient: bool = True,
) -> None:  # fmt: skip
    dtype = next(held.down.dtype for held in layer.by_arm if held is not None)
    x = torch.randn(rows * len(layer.running.arms), IN, dtype=dtype, requires_grad=input_gradient)
    dy = torch.randn(len(x), OUT, dtype=dtype)
    found, expected = layer(x[None]), plain(layer, factors, x)
    assert found.shape == (1, *expected.shape)
    torch.testing.assert_close(found[0], expected, **tolerance)
    inputs = [x] if input_gradient else []
    ran = [arm for arm in layer.running.arms if factors[arm] is not None]
    if not ran and not input_gradient:
        return
    leaves = [part for arm in ran for part in factors[arm][:2]]  # type: ignore[index]
    theirs = torch.autograd.grad(expected, [*inputs, *leaves], dy)
    by_arm = [held for held in layer.by_arm if held is not None]
    own = [part for arm in ran for part in (layer.by_arm[arm].down, layer.by_arm[arm].up)]  # type: ignore[union-attr]
    ours = torch.autograd.grad(found, [*inputs, *own], dy[None], retain_graph=True)
    for place, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        is_up = place >= len(inputs) and (place - len(inputs)) % 2 == 1
        torch.testing.assert_close(mine.T if is_up else mine, other, **tolerance)
    idle = [part for held in by_arm for part in (held.down, held.up) if all(part is not one for one in own)]
    if idle:
        untouched = torch.autograd.grad(found, idle, dy[None], allow_unused=True)
        assert all(part is None for part in untouched), "arms that do not run stay as they are"


HOW = [pytest.param(False, torch.float64, DOUBLE, id="by arm"), pytest.param(True, torch.float32, SINGLE, id="grouped")]
KINDS = ["bias", "no bias", "Conv1D", "few bits"]


@pytest.mark.parametrize(("grouped", "dtype", "tolerance"), HOW)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("input_gradient", [True, False])
def test_is_the_base_and_each_arms_update(
    kind: str, grouped: bool, dtype: torch.dtype, tolerance: dict[str, float], input_gradient: bool
) -> None:
    layer, factors = make(kind, [4, None, 17, 8], dtype, grouped=grouped)
    assert_same(layer, factors, tolerance, input_gradient=input_gradient)


@pytest.mark.parametrize(("grouped", "dtype", "tolerance"), HOW)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    ranks=st.lists(st.one_of(st.none(), st.integers(1, 128)), min_size=1, max_size=5).filter(any),
    kind=st.sampled_from(KINDS),
    rows=st.integers(1, 9),
    data=st.data(),
)
def test_ragged_ranks_and_any_arms_running(
    grouped: bool, dtype: torch.dtype, tolerance: dict[str, float], ranks: list[int | None], kind: str, rows: int,
    data: st.DataObject,
) -> None:  # fmt: skip
    layer, factors = make(kind, ranks, dtype, grouped=grouped)
    assert_same(layer, factors, tolerance, rows)
    some = data.draw(st.lists(st.sampled_from(range(len(ranks))), min_size=1, unique=True).map(sorted))
    layer.running.arms = tuple(some)
    assert_same(layer, factors, tolerance, rows)


def test_groups_are_made_once_for_each_set_of_arms(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor from a Python list is a stream sync on a GPU, and there are hundreds of layers."""
    layer, factors = make("bias", [4, None, 17, 8], torch.float32, grouped=True)
    made: list[int] = []
    real = packed_linear.groups_of_rows
    monkeypatch.setattr(packed_linear, "groups_of_rows", lambda *a: made.append(1) or real(*a))
    with torch.inference_mode():
        layer(torch.randn(8, IN))
    for arms in ((0, 1, 2, 3), (0, 2), (0, 1, 2, 3), (0, 2)):
        layer.running.arms = arms
        assert_same(layer, factors, SINGLE)
    assert len(made) == 2


@pytest.mark.parametrize("grouped", [False, True])
def test_no_arm_running_is_the_base_itself(grouped: bool) -> None:
    layer, _ = make("bias", [4, 8], torch.float32, grouped=grouped)
    layer.running.arms = ()
    x = torch.randn(3, IN)
    assert torch.equal(layer(x), layer.base_layer(x))


def test_one_arm_takes_any_number_of_rows_in_any_shape() -> None:
    layer, factors = make("bias", [4, 8], torch.float64, grouped=False)
    layer.running.arms = (1,)
    x = torch.randn(2, 7, IN, dtype=torch.float64)
    torch.testing.assert_close(layer(x), plain(layer, factors, x.flatten(0, 1)).view(2, 7, OUT), **DOUBLE)


@pytest.mark.parametrize("grouped", [False, True])
def test_arms_without_rows_of_their_own_are_refused(grouped: bool) -> None:
    layer, _ = make("bias", [4, 8, 2], torch.float32, grouped=grouped)
    with pytest.raises(RuntimeError, match="7 rows cannot be shared out among 3 arms"):
        layer(torch.randn(1, 7, IN))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_small_steps(kind: str) -> None:
    layer, _ = make(kind, [1, 3], torch.float64, grouped=False)
    x = torch.randn(4, IN, dtype=torch.float64, requires_grad=True)
    own = [part for held in layer.by_arm if held is not None for part in (held.down, held.up)]
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *own))


@pytest.mark.parametrize("kind", ["bias", "few bits"])
@pytest.mark.parametrize("grouped", [False, True])
def test_what_the_base_and_the_caller_hold_is_not_written_over(kind: str, grouped: bool) -> None:
    layer, _ = make(kind, [4, 8], torch.float32, grouped=grouped)
    x = torch.randn(6, IN, requires_grad=True)
    before = x.detach().clone(), layer.base_layer(x).detach().clone()
    y = layer(x)
    dy = torch.randn_like(y)
    kept = dy.clone()
    y.backward(dy)
    assert torch.equal(x.detach(), before[0])
    assert torch.equal(layer.base_layer(x).detach(), before[1])
    assert torch.equal(dy, kept)


@pytest.mark.parametrize("kind", KINDS)
def test_the_sum_of_weight_and_update_is_one_product_and_only_for_the_first_arm_alone(kind: str) -> None:
    layer, factors = make(kind, [4, 3], torch.float32, grouped=False)
    x, weight = torch.randn(6, IN), layer.sum_bytes
    if kind in ("Conv1D", "few bits"):
        assert weight is None, "only a plain weight has a sum"
        return
    assert weight == IN * OUT * 4
    with torch.no_grad(), layer.summed():
        together = layer(x)
        with layer.running.only([0]):
            found, wanted = layer(x.view(2, 3, IN)), plain(layer, factors, x).view(2, 3, OUT)
        with layer.running.only([]):
            assert torch.equal(layer(x), layer.base_layer(x)), "switched off it is the base, bit for bit"
    torch.testing.assert_close(found, wanted, **SINGLE)
    assert not torch.equal(found, wanted), "it was one product"
    torch.testing.assert_close(together, plain(layer, factors, x), **SINGLE)
    with torch.no_grad(), layer.running.only([0]):
        torch.testing.assert_close(layer(x), plain(layer, factors, x), rtol=1e-6, atol=1e-6)


def test_there_is_no_sum_in_other_than_single_precision() -> None:
    assert make("bias", [4], torch.bfloat16, grouped=False)[0].sum_bytes is None
    assert make("bias", [4], torch.float64, grouped=False)[0].sum_bytes is None
