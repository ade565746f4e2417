"""An exported adapter on the plain base, loaded by plain PEFT, gives what the study recorded."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from peft import PeftModel
from tiny_study import tiny_study
from transformers import AutoModelForCausalLM, AutoTokenizer

from rankscope.edges.executors.this_machine import InProcess
from rankscope.edges.machine import look_at_machine
from rankscope.edges.study_folder import StudyFolder
from rankscope.jobs.planning import StudyPlanner
from rankscope.model.weights.gguf_file import NotForGguf
from rankscope.pipeline import run_study
from rankscope.results.export_arm import export_arm
from rankscope.study.problems import InputProblems
from rankscope.study.read_study import read_study


def plain_logprob(model: torch.nn.Module, prompt: list[int], continuation: list[int]) -> float:
    """Summed log-likelihood by the model's own forward, one sequence at a time."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + continuation])).logits[0, len(prompt) - 1 : -1].float()
    return float(logits.log_softmax(-1).gather(1, torch.tensor(continuation)[:, None]).sum())


def no_path_of_this_machine(exported: Path, here: Path) -> None:
    """Neither in the settings nor on the card; and files are as readable as any other that is made."""
    assert list(exported.rglob("*.json"))
    for path in exported.rglob("*"):
        assert str(here).encode() not in path.read_bytes(), path
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask(), path
    if (exported / "adapter_config.json").is_file():
        assert json.loads((exported / "adapter_config.json").read_text())["base_model_name_or_path"] == "model"


def umask() -> int:
    before = os.umask(0o022)
    os.umask(before)
    return before


def a_link_among_the_weights_is_refused(out: Path, tmp_path: Path) -> None:
    """What it points at may be anything that this user can read."""
    (tmp_path / "secret").write_text("of somebody else")
    links = [adapter / "notes.txt" for adapter in out.glob("runs/lora-r4-*/adapter")]
    for link in links:
        link.symlink_to(tmp_path / "secret")
    with pytest.raises(InputProblems, match=r"notes\.txt: export: found a link"):
        export_arm(StudyFolder.open(out), tmp_path / "with-link", arm="lora-r4", merged=False)
    assert not (tmp_path / "with-link").exists()
    for link in links:
        link.unlink()


@pytest.mark.parametrize("merged", [False, True])
def test_plain_peft_on_the_plain_base_reproduces_the_predictions(tmp_path: Path, merged: bool) -> None:
    arms = {"lora": {"ranks": [4], "learning_rate": 1e-2}}
    study = tiny_study(tmp_path / "input", arms=arms, seeds=[0, 1], model={"id": "model", "dtype": "float32"})
    out = tmp_path / "out"
    run_study(
        StudyPlanner(read_study(study, []), study.parent),
        StudyFolder.open(out),
        machine=look_at_machine(out, measure=False),
        make_executor=lambda plan: InProcess(1),
    )
    done = export_arm(StudyFolder.open(out), tmp_path / "exported", arm="lora-r4", merged=merged)
    no_path_of_this_machine(tmp_path / "exported", tmp_path)
    if not merged:
        a_link_among_the_weights_is_refused(out, tmp_path)
    seed = int(done.split("seed ")[1].split(",")[0])
    plan = StudyFolder.open(out).read_plan()
    assert plan is not None
    run_id = next(run.run_id for run in plan.runs if run.seed == seed)
    recorded = pd.read_parquet(out / "runs" / run_id / "predictions.parquet")
    asked = pd.read_parquet(out / "base" / "items.parquet")
    items = recorded[recorded["suite"] == "taught"].merge(asked, on=["suite", "item_id"])

    tokenizer = AutoTokenizer.from_pretrained(study.parent / "model")
    if merged:
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "exported", dtype=torch.float32)
    else:
        plain = AutoModelForCausalLM.from_pretrained(study.parent / "model", dtype=torch.float32)
        model = PeftModel.from_pretrained(plain, tmp_path / "exported")
    model.eval()
    base = pd.read_parquet(out / "base" / "predictions.parquet").set_index(["suite", "item_id"])["choice_logprobs"]
    moved = 0.0
    for row in items.itertuples():
        prompt = tokenizer(row.prompt, add_special_tokens=False)["input_ids"]
        found = []
        for choice in row.choices:
            whole = tokenizer(f"{row.prompt} {choice}", add_special_tokens=False)["input_ids"]
            found.append(plain_logprob(model, prompt, whole[len(prompt) :]))
        assert found == pytest.approx(list(row.choice_logprobs), abs=2e-3 if merged else 1e-3)
        assert row.choices[max(range(3), key=found.__getitem__)] == row.predicted
        moved = max(moved, abs(found[0] - base["taught", row.item_id][0]))
    assert moved > 0.1, "the adapter must have changed something"


def test_an_adapter_of_a_base_in_4_bits_is_not_merged(tmp_path: Path) -> None:
    """The sum would be a model that nobody scored: neither the base's 4 bits nor the adapter's base."""
    arms = {"lora": {"ranks": [4], "learning_rate": 1e-2}}
    study, out = tiny_study(tmp_path / "input", arms=arms, seeds=[0]), tmp_path / "out"
    run_study(
        StudyPlanner(read_study(study, []), study.parent),
        StudyFolder.open(out),
        machine=look_at_machine(out, measure=False),
        make_executor=lambda plan: InProcess(1),
    )
    store = StudyFolder.open(out)
    plan = store.read_plan()
    assert plan is not None
    in_4_bits = plan.models[0].model_copy(update={"quantization": "nf4"})
    store.write_study(store.read_study_text() or "", plan.model_copy(update={"models": [in_4_bits]}))
    with pytest.raises(InputProblems, match="trained on a base in 4 bits, expected the adapter, exported without"):
        export_arm(StudyFolder.open(out), tmp_path / "merged", arm="lora-r4", merged=True)
    assert not (tmp_path / "merged").exists()
    assert export_arm(StudyFolder.open(out), tmp_path / "adapter", arm="lora-r4", merged=False).startswith(
        "the adapter of lora-r4"
    )


def in_gguf_it_is_the_same_model(store: StudyFolder, here: Path, weights: dict[str, torch.Tensor]) -> None:
    told: list[str] = []
    done = export_arm(store, here / "gguf", arm="lora-r4", merged=False, gguf=True, notice=told.append)
    assert done == "the model, with model.gguf, of lora-r4 at the dial 0.5, seed 0,"
    assert told == []
    read = AutoModelForCausalLM.from_pretrained(here / "gguf", gguf_file="model.gguf", dtype=torch.float32).state_dict()
    assert all(torch.equal(tensor, read[name]) for name, tensor in weights.items())
    assert (here / "gguf" / "Modelfile").read_text() == "FROM ./model.gguf\n"
    card = (here / "gguf" / "README.md").read_text(encoding="utf-8")
    assert "ollama create " in card
    assert "PeftModel" not in card


def what_gguf_cannot_hold_is_told(store: StudyFolder, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is exported all the same, with the command of llama.cpp's own converter."""

    def refuse(folder: Path, file: Path, name: str) -> None:
        file.write_bytes(b"half of it")
        raise NotForGguf("its architecture is another")

    monkeypatch.setattr("rankscope.results.export_arm.write_gguf", refuse)
    told: list[str] = []
    export_arm(store, here / "other", arm="lora-r4", merged=False, gguf=True, notice=told.append)
    (line,) = told
    assert line.startswith("no model.gguf is written: its architecture is another; llama.cpp's own converter")
    assert line.endswith("python llama.cpp/convert_hf_to_gguf.py . --outfile model.gguf")
    names = {path.name for path in (here / "other").iterdir()}
    assert "model.safetensors" in names
    assert not names & {"model.gguf", "Modelfile"}


@pytest.mark.parametrize(("arm", "merged"), [("lora-r4", False), ("lora-r4", True), ("full", False)])
def test_what_is_exported_is_the_arm_at_its_dial(
    tmp_path: Path, arm: str, merged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain PEFT, or plain transformers, gives the predictions that the run has at that dial."""
    arms = {"full": {"learning_rate": 1e-3, "dial": 0.5}, "lora": {"ranks": [4], "learning_rate": 1e-2, "dial": 0.5}}
    study = tiny_study(
        tmp_path / "input", arms=arms, seeds=[0], model={"id": "model", "dtype": "float32"}, keep={"full": "all"}
    )
    out = tmp_path / "out"
    run_study(
        StudyPlanner(read_study(study, []), study.parent),
        StudyFolder.open(out),
        machine=look_at_machine(out, measure=False),
        make_executor=lambda plan: InProcess(1),
    )
    store = StudyFolder.open(out)
    assert export_arm(store, tmp_path / "exported", arm=arm, merged=merged).endswith(
        f"of {arm} at the dial 0.5, seed 0,"
    )
    plan = store.read_plan()
    assert plan is not None
    one = next(run for run in plan.runs if run.arm.label == arm)
    recorded, whole = store.read_at_dial(one.run_id, 0.5), store.read_predictions(one.run_id)
    assert recorded is not None
    assert whole is not None
    card = (tmp_path / "exported" / "README.md").read_text(encoding="utf-8")
    assert "0.5 of the trained change" in card
    assert "- dial: 0.5" in card
    results = yaml.safe_load(card.split("---\n")[1])["model-index"][0]["results"]
    (metric,) = next(one["metrics"] for one in results if one["dataset"]["name"] == "taught")
    assert metric["name"] == "accuracy, seed 0, these weights"
    assert metric["value"] == pytest.approx(recorded[recorded["suite"] == "taught"]["score"].mean(), abs=1e-6)

    tokenizer = AutoTokenizer.from_pretrained(study.parent / "model")
    if arm == "full" or merged:
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "exported", dtype=torch.float32)
    else:
        plain = AutoModelForCausalLM.from_pretrained(study.parent / "model", dtype=torch.float32)
        model = PeftModel.from_pretrained(plain, tmp_path / "exported")
    model.eval()
    asked = pd.read_parquet(out / "base" / "items.parquet")
    if merged:
        in_gguf_it_is_the_same_model(store, tmp_path, model.state_dict())
        what_gguf_cannot_hold_is_told(store, tmp_path, monkeypatch)
    moved = 0.0
    items = recorded[recorded["suite"] == "taught"].merge(asked, on=["suite", "item_id"])
    before = whole.set_index(["suite", "item_id"])["choice_logprobs"]
    for row in items.itertuples():
        prompt = tokenizer(row.prompt, add_special_tokens=False)["input_ids"]
        found = []
        for choice in row.choices:
            both = tokenizer(f"{row.prompt} {choice}", add_special_tokens=False)["input_ids"]
            found.append(plain_logprob(model, prompt, both[len(prompt) :]))
        assert found == pytest.approx(list(row.choice_logprobs), abs=2e-3)
        moved = max(moved, abs(found[0] - before["taught", row.item_id][0]))
    assert moved > 0.05, "half of a change is not all of it"
