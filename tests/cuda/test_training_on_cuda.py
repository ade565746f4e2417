"""Training on a GPU: as on the CPU in fp32, packed as alone, in half precision by the kernels made for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from one_adapter import open_pack
from scoring_models import make_model
from trained_on import FULL, NotKept, loaded_on, lora, losses, rows, settings, trained

from rankscope.data.training_batches import collate
from rankscope.model.attention import unpadded_rows
from rankscope.model.attention.registration import attention_installed
from rankscope.model.attention.unpadded_rows import training_forward
from rankscope.model.methods.packed_lora import grouped_kernel_holds
from rankscope.study.study import Arm, Budget, Optimizer
from rankscope.train.fit import fit

MIXED = [lora(1), lora(8, 2e-3), lora(64, 1e-3)]


@pytest.mark.parametrize("arm", [lora(8), FULL], ids=lambda arm: arm.label)
def test_fp32_losses_are_those_of_the_cpu(small_folder: Path, device: str, arm: Arm) -> None:
    (found,) = trained(loaded_on(small_folder, device), [arm])
    (expected,) = trained(loaded_on(small_folder, "cpu"), [arm])
    assert found.state == "done"
    assert losses(found) == pytest.approx(losses(expected), abs=2e-4)
    assert losses(found)[-1] < losses(found)[0] - 0.01


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_packed_arms_are_those_that_train_alone(small_folder: Path, device: str, dtype: str) -> None:
    packed = trained(loaded_on(small_folder, device, dtype), MIXED)
    for arm, found in zip(MIXED, packed, strict=True):
        (alone,) = trained(loaded_on(small_folder, device, dtype), [arm])
        # In bf16 the order of sums differs between one kernel for all arms and one for each.
        assert losses(found) == pytest.approx(losses(alone), abs=2e-4 if dtype == "float32" else 3e-2)


@pytest.mark.usefixtures("on_cuda")
@pytest.mark.parametrize("family", ["Llama", "Mistral", "Qwen2"])
def test_half_precision_rows_run_in_the_kernel_for_unequal_lengths(family: str, device: str) -> None:
    """Grouped heads of keys, and sliding windows; states against those of buckets of products."""
    model = make_model(family, hidden_size=256, head_dim=64, initializer_range=0.05, pad_token_id=None)
    model = model.to(device, torch.bfloat16).requires_grad_(False)  # type: ignore[arg-type]
    forward = training_forward(model)
    assert forward.unpadded
    assert forward.varlen
    batch = collate(rows(12, longest=80), device)
    with torch.no_grad(), attention_installed(model):
        kernel = unpadded_rows._unpadded_states(model, batch, varlen=True).float()
        products = unpadded_rows._unpadded_states(model, batch, varlen=False).float()
    assert float((kernel - products).norm() / products.norm()) < 2e-2


@pytest.mark.usefixtures("on_cuda")
def test_one_kernel_serves_the_products_of_all_arms(small_folder: Path, device: str) -> None:
    assert grouped_kernel_holds(loaded_on(small_folder, device, "bfloat16").model)


@pytest.mark.usefixtures("on_cuda")
def test_what_does_not_fit_is_done_in_halves(small_folder: Path, device: str) -> None:
    """A device that is made small: the run ends, with the losses of one that had room."""
    base = loaded_on(small_folder, device)
    many = rows(256, longest=600)
    budget = Budget(epochs=1, batch_size=256, max_sequence_tokens=1024)
    given = settings(1e-3, budget=budget, micro_batch_tokens=1 << 22)

    def run() -> tuple[list[float], int]:
        with open_pack(base, [lora(8)], 3) as pack:
            (result,) = fit(pack, many, [given], checkpoints=NotKept())
        return losses(result), result.micro_batch_tokens

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    expected, tokens = run()
    assert tokens == 1 << 22
    needed = torch.cuda.max_memory_allocated()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        torch.cuda.set_per_process_memory_fraction(0.6 * needed / total)
        found, tokens = run()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert tokens < 1 << 22
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.usefixtures("on_cuda")
def test_moments_in_8_bits(small_folder: Path, device: str) -> None:
    pytest.importorskip("bitsandbytes")
    for arm in (lora(8), FULL):
        (found,) = trained(loaded_on(small_folder, device), [arm], optimizer=Optimizer(name="adamw_8bit"))
        (exact,) = trained(loaded_on(small_folder, device), [arm], optimizer=Optimizer())
        assert losses(found) == pytest.approx(losses(exact), abs=0.05)
        assert losses(found)[-1] < losses(found)[0] - 0.01


@pytest.mark.usefixtures("on_cuda")
def test_a_base_in_4_bits(small_folder: Path, device: str) -> None:
    """Packed arms on it learn, and one alone is the same."""
    pytest.importorskip("bitsandbytes")
    together = trained(loaded_on(small_folder, device, "bfloat16", quantization="nf4"), MIXED)
    (alone,) = trained(loaded_on(small_folder, device, "bfloat16", quantization="nf4"), MIXED[1:2])
    assert losses(together[1]) == pytest.approx(losses(alone), abs=3e-2)
    assert all(losses(found)[-1] < losses(found)[0] - 0.01 for found in together)


def test_moments_and_weights_of_16_bits_learn(small_folder: Path, device: str) -> None:
    (found,) = trained(loaded_on(small_folder, device, "bfloat16"), [FULL], optimizer=Optimizer(name="adamw_bf16"))
    (exact,) = trained(loaded_on(small_folder, device, "bfloat16"), [FULL])
    assert losses(found)[-1] == pytest.approx(losses(exact)[-1], abs=0.1)
    assert losses(found)[-1] < losses(found)[0] - 0.01
