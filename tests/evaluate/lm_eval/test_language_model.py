"""lm-eval's own evaluation with its `hf` model and with ours: the same result for every sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from harness_tasks import CONTINUED, GENERATED, ROLLING, save_task
from peft import LoraConfig, get_peft_model
from tiny_models import save_tiny_model
from transformers import AutoModelForCausalLM

lm_eval = pytest.importorskip("lm_eval")

from lm_eval.api.registry import get_model  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from rankscope.evaluate.lm_eval.language_model import RankscopeLM  # noqa: E402
from rankscope.evaluate.lm_eval.task import generation_settings  # noqa: E402
from rankscope.study.problems import InputProblems  # noqa: E402

pytestmark = pytest.mark.usefixtures("own_datasets_cache")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), initializer_range=0.3, max_position_embeddings=160)


def evaluate(model: Any, task: Path, **settings: Any) -> list[dict[str, Any]]:
    manager = TaskManager(include_defaults=False)
    found = lm_eval.simple_evaluate(
        model=model,
        tasks=[str(task)],
        task_manager=manager,
        bootstrap_iters=0,
        confirm_run_unsafe_code=False,
        **settings,
    )
    return [sample for samples in found["samples"].values() for sample in samples]


def theirs(folder: Path, **settings: Any) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=4, **settings)


def assert_same(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    assert len(found) == len(wanted) > 0
    for ours, reference in zip(found, wanted, strict=True):
        assert ours["doc_id"] == reference["doc_id"]
        assert ours["prompt_hash"] == reference["prompt_hash"]
        for one, other in zip(ours["resps"], reference["resps"], strict=True):
            for a, b in zip(one, other, strict=True):
                if isinstance(a, tuple):
                    assert a[0] == pytest.approx(b[0], abs=1e-3)
                    assert a[1] == b[1]
                else:
                    assert a == (pytest.approx(b, abs=1e-3) if isinstance(b, float) else b)
        for metric in reference["metrics"]:
            value = reference[metric]
            assert ours[metric] == (value if isinstance(value, int | str) else pytest.approx(value, abs=1e-3))


TASKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "choices": ({}, {}),
    "choices few-shot": ({}, {"num_fewshot": 3}),
    "generated": (GENERATED, {"num_fewshot": 1}),
    "rolling": (ROLLING, {}),
    "continued": (CONTINUED, {}),
}
QUICK = ("generated",)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TASKS]
)
def test_the_same_samples_as_lm_evals_hf_model(name: str, folder: Path, tmp_path: Path) -> None:
    changes, settings = TASKS[name]
    task = save_task(tmp_path, **changes)
    wanted = evaluate(theirs(folder), task, **settings)
    assert_same(evaluate(RankscopeLM(str(folder), dtype="float32"), task, **settings), wanted)


@pytest.mark.slow
def test_what_is_too_long_is_cut_and_windowed_as_there(folder: Path, tmp_path: Path) -> None:
    for changes, settings in (({}, {"num_fewshot": 4}), (ROLLING, {}), (GENERATED, {"num_fewshot": 4})):
        task = save_task(tmp_path, **changes)
        wanted = evaluate(theirs(folder, max_length=48), task, **settings)
        assert_same(evaluate(RankscopeLM(str(folder), dtype="float32", max_length=48), task, **settings), wanted)
        # Were nothing cut, the numbers would be others.
        whole = evaluate(RankscopeLM(str(folder), dtype="float32", max_length=4000), task, **settings)
        assert any(a["resps"] != b["resps"] for a, b in zip(whole, wanted, strict=True))


@pytest.mark.slow
def test_a_chat_template_and_a_system_prompt_as_there(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "chat", chat=True, initializer_range=0.3)
    task = save_task(tmp_path)
    chat = {"apply_chat_template": True, "system_instruction": "Answer.", "num_fewshot": 2}
    wanted = evaluate(theirs(folder), task, **chat)
    assert "<|system|>Answer.<|user|>Question" in wanted[0]["arguments"][0][0]
    assert_same(evaluate(RankscopeLM(str(folder), dtype="float32"), task, **chat), wanted)


def save_adapter(base: Path, out: Path, **settings: Any) -> Path:
    model = AutoModelForCausalLM.from_pretrained(base)
    defaults = {"r": 2, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    peft = get_peft_model(model, LoraConfig(**{**defaults, **settings}))
    dice = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=dice) * 0.3)
    peft.save_pretrained(out)
    return out


@pytest.mark.slow
def test_an_adapter_as_hf_with_peft(folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(folder, tmp_path / "adapter")
    task = save_task(tmp_path)
    wanted = evaluate(theirs(folder, peft=str(adapter)), task)
    ours = RankscopeLM(str(folder), adapter=str(adapter), dtype="float32")
    assert_same(evaluate(ours, task), wanted)
    ours.close()
    assert_same(evaluate(ours, task), evaluate(theirs(folder), task))


def test_it_is_registered_and_refuses_what_it_cannot_do(folder: Path) -> None:
    assert get_model("rankscope") is RankscopeLM
    with pytest.raises(InputProblems, match=r"parallelize: found an argument that this model does not have"):
        RankscopeLM(str(folder), parallelize=True)
    with pytest.raises(InputProblems, match=r"dtype: found .*float16"):
        RankscopeLM(str(folder), dtype="float16")
    with pytest.raises(InputProblems, match=r"do_sample: true"):
        generation_settings({"do_sample": True, "temperature": 0.7}, "task")
    assert generation_settings({"until": "\n", "max_new_tokens": 7}, "task") == (("\n",), 7)
