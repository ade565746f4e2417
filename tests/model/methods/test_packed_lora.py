"""Arms in a pack against the same arms alone in PEFT's own layers: one step's gradients, files, and the base."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from one_adapter import adapt, open_pack
from own_forward import fresh, plain, rows
from packed_step import ALL, alone, as_peft_has_it, assert_same, double, lora, packed, shaken
from safetensors.torch import load_file
from tiny_families import FAMILIES
from torch import Tensor

from rankscope.data.training_batches import collate, repeated
from rankscope.model.head_loss import summed_cross_entropy
from rankscope.model.methods import packed_lora
from rankscope.model.methods.attach import Adapted, NewAdapter, Pack, attach
from rankscope.model.methods.packed_linear import PackedLinear
from rankscope.study.study import Arm

MIXED = [lora(4), lora(1, "rslora"), lora(16, targets=("q_proj", "v_proj")), lora(9, targets=("down_proj",))]


@pytest.mark.parametrize("family", FAMILIES)
def test_one_step_of_every_family_is_each_arms_alone(folder_of: Callable[[str], Path], family: str) -> None:
    base = double(folder_of(family))
    arms = [lora(4), lora(3, "rslora"), lora(24)]
    tolerance = 1e-6 if family == "Gemma 2" else 1e-9  # its own attention takes the softmax in fp32
    for i, ours in enumerate(packed(base, arms, [rows()])):
        assert_same(ours, alone(base, arms[i], i, rows()), tolerance)
        assert_same(ours, packed(base, arms, [rows()], [i])[0], 1e-9)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    arms=st.lists(
        st.builds(
            lora,
            st.one_of(st.integers(1, 128), st.sampled_from([1, 8, 128])),
            st.sampled_from(["lora", "rslora"]),
            st.sampled_from([ALL, ("q_proj", "v_proj"), ("down_proj",), ("o_proj", "up_proj")]),
        ),
        min_size=1,
        max_size=5,
    ),
    cut=st.sampled_from([None, 1, 2, 3]),
    data=st.data(),
)
def test_one_step_of_any_arms_is_each_alone(
    folder_of: Callable[[str], Path], arms: list[Arm], cut: int | None, data: st.DataObject
) -> None:
    """Whatever the ranks, methods and targets, the micro-batches, and the arms that still run."""
    base = double(folder_of("Llama"))
    run = data.draw(st.lists(st.sampled_from(range(len(arms))), min_size=1, unique=True).map(sorted))
    parts = [rows()] if cut is None else [rows()[:cut], rows()[cut:]]
    found = packed(base, arms, parts, run)
    for arm, ours in zip(run, found, strict=True):
        assert_same(ours, alone(base, arms[arm], arm, rows()), 1e-9)


@pytest.mark.parametrize("family", ["Llama", "Gemma 2", "GPT-2"])
def test_one_kernel_for_all_arms_gives_the_same(folder_of: Callable[[str], Path], family: str) -> None:
    """It is no farther from the step in float64 than a few times the rounding of one product for each arm."""
    arms = [lora(4), lora(3, "rslora"), lora(24)]
    by_arm, by_kernel = (packed(fresh(folder_of(family)), arms, [rows()], grouped=grouped) for grouped in (False, True))
    exact = packed(double(folder_of(family)), arms, [rows()], grouped=False)
    for ours, theirs, true in zip(by_kernel, by_arm, exact, strict=True):
        assert ours[0] == pytest.approx(theirs[0], rel=1e-6)
        rounding, error = (
            max(float((step[1][name].double() - wanted).norm() / wanted.norm()) for name, wanted in true[1].items())
            for step in (theirs, ours)
        )
        assert rounding < 1e-4, "of single precision"
        assert error <= 4 * rounding, f"{error:.2g} against {rounding:.2g}"


@pytest.mark.parametrize(("value", "bad"), [(float("nan"), 0), (float("inf"), 1), (1e30, 0), (float("nan"), 2)])
@pytest.mark.parametrize("grouped", [False, True])
def test_an_arm_that_is_not_finite_leaves_the_others_alone(
    folder_of: Callable[[str], Path], bad: int, value: float, grouped: bool
) -> None:
    """In the very step in which it breaks, when its rows still run beside theirs."""
    base = fresh(folder_of("Llama"))
    arms = [lora(4), lora(8), lora(2)]
    examples = [row for row in rows() for _ in range(2)]  # in buckets with padding
    batch = repeated(collate(examples), len(arms))
    found = []
    for broken in (False, True):
        with open_pack(base, arms, 0, grouped=grouped) as pack, pack.training_forward().ready():
            for i, member in enumerate(pack.members):
                shaken(member.parameters, i, transposed=True)
            if broken:
                with torch.no_grad():
                    for weight in pack.members[bad].parameters.values():
                        weight.fill_(value)
            states = pack.training_forward().target_states(batch)
            losses = summed_cross_entropy(base.model, states, batch.target_ids, len(arms))
            losses.sum().backward()
            found.append(
                (losses.detach(), [{n: p.grad for n, p in member.parameters.items()} for member in pack.members])
            )
    (expected, theirs), (losses, ours) = found
    assert not torch.isfinite(losses[bad])
    for arm in {0, 1, 2} - {bad}:
        assert torch.equal(losses[arm], expected[arm])
        assert all(torch.equal(ours[arm][name], theirs[arm][name]) for name in theirs[arm])  # type: ignore[arg-type]


# ---- what a pack leaves behind, and writes ---------------------------------------------------------------------------

IDS = torch.arange(20, 50)[None]


def opened(pack: Pack) -> list[Adapted]:
    for i, member in enumerate(pack.members):
        shaken(member.parameters, i, transposed=True)
    return pack.members


def test_off_and_afterwards_it_is_the_base(folder_of: Callable[[str], Path]) -> None:
    base = fresh(folder_of("Llama"))
    modules = dict(base.model.named_modules())
    with torch.no_grad():
        expected = base.model(IDS).logits
        with open_pack(base, MIXED, 0) as pack:
            for member in opened(pack):
                with member.off():
                    assert torch.equal(base.model(IDS).logits, expected)
            with pack.running([2]):
                assert not torch.equal(base.model(IDS).logits, expected)
        assert torch.equal(base.model(IDS).logits, expected)
    assert dict(base.model.named_modules()) == modules, "the same modules stand where they stood"
    assert not [name for name, p in base.model.named_parameters() if p.requires_grad]


def test_an_error_inside_leaves_the_base_plain(folder_of: Callable[[str], Path]) -> None:
    base = fresh(folder_of("Llama"))
    modules = dict(base.model.named_modules())
    with pytest.raises(KeyboardInterrupt), open_pack(base, MIXED, 0):
        raise KeyboardInterrupt
    assert dict(base.model.named_modules()) == modules


@pytest.mark.parametrize("arm", MIXED, ids=lambda arm: arm.label)
def test_a_new_arm_is_the_one_that_peft_draws(folder_of: Callable[[str], Path], arm: Arm) -> None:
    base = fresh(folder_of("Llama"))
    with open_pack(base, [lora(2), arm, lora(7)], 5) as pack:
        found = as_peft_has_it({name: p.detach().clone() for name, p in pack.members[1].parameters.items()})
        count = pack.members[1].trainable_parameters
    with adapt(base, arm, 5) as adapted:
        assert list(found) == list(adapted.parameters)
        assert count == adapted.trainable_parameters
        assert all(torch.equal(found[name], p) for name, p in adapted.parameters.items())
        assert all(found[name].dtype == p.dtype for name, p in adapted.parameters.items())


@pytest.mark.parametrize("family", ["Llama", "GPT-2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_arm_is_the_file_that_peft_writes(
    folder_of: Callable[[str], Path], family: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    base = fresh(folder_of(family))
    base.model.to(dtype)
    arms = [lora(4), lora(5, "rslora")] if family == "GPT-2" else MIXED
    with open_pack(base, arms, 0) as pack:
        for i, member in enumerate(opened(pack)):
            (tmp_path / f"ours{i}").mkdir()
            member.save(tmp_path / f"ours{i}")
    for i, arm in enumerate(arms):
        ours, theirs = tmp_path / f"ours{i}", tmp_path / f"theirs{i}"
        with adapt(base, arm, 0) as adapted:
            shaken(adapted.parameters, i, transposed=False)
            theirs.mkdir()
            adapted.save(theirs)
        assert {path.name for path in ours.iterdir()} == {path.name for path in theirs.iterdir()}
        found, expected = (load_file(folder / "adapter_model.safetensors") for folder in (ours, theirs))
        assert found.keys() == expected.keys()
        assert all(found[key].dtype == expected[key].dtype == dtype for key in expected)
        assert all(torch.equal(found[key], expected[key]) for key in expected)
        configs = [json.loads((folder / "adapter_config.json").read_text()) for folder in (ours, theirs)]
        for config in configs:
            config["target_modules"] = sorted(config["target_modules"])  # PEFT writes a set in any order
        assert configs[0] == configs[1]


@pytest.mark.parametrize("family", ["Llama", "GPT-2", "Mixtral"])
def test_a_saved_arm_runs_in_plain_peft(folder_of: Callable[[str], Path], family: str, tmp_path: Path) -> None:
    base = fresh(folder_of(family))
    with torch.no_grad(), open_pack(base, [lora(4), lora(3, "rslora")], 0) as pack:
        opened(pack)
        with pack.running([1]):
            expected = base.model(IDS).logits
        pack.members[1].save(tmp_path)
    model = plain(folder_of(family))
    with torch.no_grad():
        assert (model(IDS).logits - expected).abs().max() > 1e-2
        found = peft.PeftModel.from_pretrained(model, str(tmp_path))(IDS).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


# ---- what cannot be packed -------------------------------------------------------------------------------------------

OTHERS = [
    lora(4, dropout=0.1),
    lora(4, "dora"),
    lora(4, "pissa"),
    Arm(label="full", method="full", learning_rate=1e-3),
    Arm(label="ia3", method="ia3", learning_rate=1e-3),
    Arm(label="prompt", method="prompt-tuning", virtual_tokens=3, learning_rate=1e-3),
    Arm(label="adapters", method="adapters", bottleneck=4, learning_rate=1e-3),
]


@pytest.mark.parametrize("arm", OTHERS, ids=lambda arm: f"{arm.label} {arm.dropout}")
def test_other_arms_are_refused_beside_another_and_run_alone(folder_of: Callable[[str], Path], arm: Arm) -> None:
    base = fresh(folder_of("Llama"))
    assert not arm.traits.can_pack(arm)
    for arms in ([lora(2), arm], [arm, lora(2)], [arm, arm]):
        with pytest.raises(ValueError, match="without dropout can be packed"), open_pack(base, arms, 0):
            pytest.fail("opened")
    with open_pack(base, [arm], 0) as pack:
        assert [member.arm for member in pack.members] == [arm]


def test_what_can_be_packed() -> None:
    assert all(arm.traits.can_pack(arm) for arm in MIXED)


# ---- whether a device may group the products -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_kernel_of_this_device_holds(folder_of: Callable[[str], Path], dtype: str) -> None:
    assert packed_lora.grouped_kernel_holds(fresh(folder_of("Llama")).model.to(getattr(torch, dtype)))


def _ungrouped(a: Tensor, b: Tensor, offs: Tensor) -> Tensor:
    """A kernel that takes every group's product with the first group's factors: wrong in all groups but one."""
    return TRUE_KERNEL(a, b, offs=offs).roll(1, 0)


def _coarse(a: Tensor, b: Tensor, offs: Tensor) -> Tensor:
    """A kernel that computes in fewer bits than it is given."""
    return TRUE_KERNEL(a, b, offs=offs).half().to(a.dtype)


def _missing(a: Tensor, b: Tensor, offs: Tensor) -> Tensor:
    raise RuntimeError("grouped gemm is not supported on this device")


TRUE_KERNEL = torch.nn.functional.grouped_mm


@pytest.mark.parametrize(
    ("kernel", "why"),
    [(_ungrouped, "the two differ by"), (_coarse, "the two differ by"), (_missing, "it refuses (RuntimeError: gr")],
)
def test_a_kernel_that_is_wrong_is_found_at_the_start_and_not_used(
    folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    kernel: Callable[..., Tensor], why: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.nn.functional, "grouped_mm", kernel)
    base = fresh(folder_of("Llama"))
    assert not packed_lora.grouped_kernel_holds(base.model)
    (record,) = caplog.records
    assert why in record.message
    assert "packed adapters take one product each, because" in record.message
    monkeypatch.setattr(Tensor, "is_cuda", property(lambda tensor: True))  # where a pack asks for the kernel by itself
    with attach(base, *(NewAdapter(arm, 0) for arm in MIXED)) as pack:
        layers = [module for module in base.model.modules() if isinstance(module, PackedLinear)]
        assert layers
        assert not any(layer.running.grouped for layer in layers)
        assert len(pack.members) == len(MIXED)


def test_several_arms_are_grouped_where_the_kernel_holds(
    folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = fresh(folder_of("Llama"))

    def grouped(count: int) -> bool:
        with attach(base, *(NewAdapter(arm, 0) for arm in MIXED[:count])):
            return any(m.running.grouped for m in base.model.modules() if isinstance(m, PackedLinear))

    assert not grouped(2), "on a CPU one product for each is as fast"
    monkeypatch.setattr(Tensor, "is_cuda", property(lambda tensor: True))
    assert grouped(2)
    assert not grouped(1)
