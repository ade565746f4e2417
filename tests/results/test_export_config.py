"""The way back: a config that another tool reads, and with which TRL itself trains as rankscope did."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import call, problems
from tiny_study import tiny_study
from tool_keys import AXOLOTL, AXOLOTL_DATA, LLAMAFACTORY, misfits, trainer_keys

from rankscope.results.tool_configs import tool_writers
from rankscope.results.tool_configs.trained_arm import TrainedArm
from rankscope.study.configs.config_file import read_config
from rankscope.study.methods import Arm
from rankscope.study.problems import InputProblems
from rankscope.study.read_study import read_study
from rankscope.study.study import Study


def trained(tmp_path: Path, **changes: Any) -> TrainedArm:
    """A rank of LoRA that was trained and dialled; `changes` of the arm."""
    study: Study = read_study(
        tiny_study(tmp_path / "input", budget={"epochs": 2, "batch_size": 6, "max_sequence_tokens": 99})
    )
    arm = {
        "label": "lora-r8",
        "method": "lora",
        "rank": 8,
        "alpha": 12.0,
        "targets": ("q_proj", "v_proj"),
        "dropout": 0.1,
    }
    model = study.models[0].model_copy(update={"id": "acme/oak"})
    return TrainedArm(
        study=study, model=model, base="acme/oak", arm=Arm.model_validate({**arm, "learning_rate": "auto", **changes}),
        learning_rate=3e-4, dial=0.5, seed=2, dtype="float32", device="cpu", steps=100, warmup_steps=3,
        checkpointing=False,
    )  # fmt: skip


@pytest.mark.parametrize("tool", sorted(tool_writers()))
def test_what_is_written_is_read_back_by_our_own_reader(tmp_path: Path, tool: str) -> None:
    one = trained(tmp_path)
    files = tool_writers()[tool].write(one)
    text = next(text for name, text in files.items() if name != "README.md")
    config = read_config(yaml.safe_load(text), tool, [])
    assert config.model.id == "acme/oak"
    assert (config.adapter.method, config.adapter.rank, config.adapter.alpha) == ("lora", 8, 12)
    assert (config.adapter.dropout, set(config.adapter.targets or ())) == (0.1, {"q_proj", "v_proj"})
    assert not [line for line in config.not_carried if "not known" in line]
    if tool != "peft":
        assert (config.learning_rate, config.batch_size, config.epochs) == (3e-4, 6, 2)
        assert (config.warmup_steps, config.schedule, config.seed) == (3, "cosine", 2)
        assert (config.weight_decay, config.clip_norm, config.sequence_tokens) == (0, 1, 99)
    said = files.get("README.md", text)
    assert "dial 0.5: after training multiply lora_alpha by 0.5 in adapter_config.json: 6 in place of 12" in said


@pytest.mark.parametrize("method", ["full", "lora", "rslora", "dora", "pissa", "last-k-layers"])
@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_every_key_is_one_of_the_tool_s_own_schema(tmp_path: Path, method: str, quantization: str | None) -> None:
    """axolotl and LLaMA-Factory, whose code is not installed here: by the keys and types of their sources."""
    none: dict[str, Any] = {"rank": None, "alpha": None, "targets": None, "dropout": 0.0}
    own = {"full": none, "last-k-layers": {**none, "layers": 1}}.get(method, {"targets": "all-linear"})
    one = trained(tmp_path, method=method, **own)
    model = {"quantization": quantization, "trust_remote_code": True, "revision": "abc"}
    one = replace(one, learning_rate=1e-5, model=one.model.model_copy(update=model))
    named = {"axolotl": AXOLOTL, "llamafactory": {**LLAMAFACTORY, **trainer_keys()}}
    for tool, known in named.items():
        writer = tool_writers()[tool]
        if method not in writer.methods:
            continue
        (text,) = writer.write(one).values()
        settings = yaml.safe_load(text)
        assert misfits(settings, known) == []
        for data in (*settings.get("datasets", ()), *settings.get("test_datasets", ())):
            assert misfits(data, AXOLOTL_DATA) == []


def test_an_alpha_that_axolotl_refuses_is_a_line(tmp_path: Path) -> None:
    one = trained(tmp_path, alpha=1.5)
    with pytest.raises(InputProblems, match=r"--config: axolotl: found alpha 1\.5, expected a whole number"):
        tool_writers()["axolotl"].write(one)


@pytest.mark.parametrize("tool", sorted(tool_writers()))
@pytest.mark.parametrize("method", ["full", "rslora", "dora", "pissa"])
def test_methods_and_remedies(tmp_path: Path, tool: str, method: str) -> None:
    writer = tool_writers()[tool]
    if method not in writer.methods:
        return
    own = {"rank": None, "alpha": None, "targets": None, "dropout": 0.0} if method == "full" else {}
    one = trained(tmp_path, method=method, retain={"kl": 0.1}, replay={"self": 0.2}, **own)
    files = writer.write(one)
    said = " ".join(files.values())
    assert "not expressed: retain kl 0.1" in said
    assert "not expressed: replay of 20 % own samples" in said
    text = next(text for name, text in files.items() if name != "README.md")
    read = read_config(yaml.safe_load(text), tool, [])
    assert read.adapter.method == ("lora" if (tool, method) == ("trl", "pissa") else method)


def test_peft_loads_its_config(tmp_path: Path) -> None:
    from peft import LoraConfig

    for name, text in tool_writers()["peft"].write(trained(tmp_path, method="rslora")).items():
        (tmp_path / name).write_text(text)
    loaded = LoraConfig.from_pretrained(str(tmp_path))
    assert isinstance(loaded, LoraConfig)
    assert (loaded.r, loaded.lora_alpha, loaded.lora_dropout, loaded.use_rslora) == (8, 12, 0.1, True)
    assert (set(loaded.target_modules or ()), loaded.task_type) == ({"q_proj", "v_proj"}, "CAUSAL_LM")


# ---- TRL itself ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose every batch is the whole training set, so that no order of rows matters."""
    from rankscope.edges.executors.this_machine import InProcess
    from rankscope.edges.machine import look_at_machine
    from rankscope.edges.study_folder import StudyFolder
    from rankscope.jobs.planning import StudyPlanner
    from rankscope.pipeline import run_study

    root = tmp_path_factory.mktemp("export-config")
    arms = {
        "full": {"learning_rate": 1e-3, "dial": 1}, "lora": {"ranks": [4], "learning_rate": 1e-2, "dial": 0.5},
    }  # fmt: skip
    suites = {
        name: {"path": f"{name}.jsonl", "kind": "recall", "limit": 10, **domain}
        for name, domain in (("taught", {"domain": "trees"}), ("other", {}))
    }
    study = tiny_study(
        root / "input", arms=arms, seeds=[0], model={"id": "model", "dtype": "float32"},
        budget={"epochs": 2, "batch_size": 36, "max_sequence_tokens": 128}, optimizer={"warmup_fraction": 0},
        suites=suites,
    )  # fmt: skip
    out = root / "out"
    run_study(
        StudyPlanner(read_study(study, []), study.parent), StudyFolder.open(out),
        machine=look_at_machine(out, measure=False), make_executor=lambda plan: InProcess(1),
    )  # fmt: skip
    return out


@pytest.mark.slow
@pytest.mark.parametrize(("arm", "steps"), [("lora-r4", 1), ("full", 2)])
def test_trl_trains_from_it_with_our_losses(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arm: str, steps: int
) -> None:
    """The first step of an adapter, whose A starts otherwise there; of full fine-tuning the second too, which shows
    that rate, optimizer and schedule are the same."""
    from trl import (
        DatasetMixtureConfig,
        ModelConfig,
        ScriptArguments,
        SFTConfig,
        SFTTrainer,
        TrlParser,
        get_dataset,
        get_peft_config,
    )

    from rankscope.edges.study_folder import StudyFolder
    from rankscope.results.export_config import export_config
    from rankscope.tools.trained_rows import write_trained_rows

    folder = StudyFolder.open(finished)
    done = export_config(folder, tmp_path / "trl", arm=arm, tool="trl", write_rows=write_trained_rows)
    assert done == f"the config of {arm} for TRL"
    monkeypatch.chdir(tmp_path / "trl")
    parser = TrlParser((ScriptArguments, SFTConfig, ModelConfig, DatasetMixtureConfig))
    _, arguments, model, data = parser.parse_args_and_config(
        ["--config", "trl.yaml", "--logging_steps", "1", "--use_cpu", "true"]
    )
    assert arguments.max_grad_norm == 1
    arguments.max_steps = steps if steps < 2 else -1
    arguments.model_init_kwargs = {"dtype": model.dtype}
    trainer = SFTTrainer(
        model=model.model_name_or_path, args=arguments, train_dataset=get_dataset(data)["train"],
        peft_config=get_peft_config(model),
    )  # fmt: skip
    trainer.train()
    theirs = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    plan = folder.read_plan()
    assert plan is not None
    seed = int(yaml.safe_load(Path("trl.yaml").read_text())["seed"])
    run_id = next(run.run_id for run in plan.runs if (run.arm.label, run.seed) == (arm, seed))
    lines = (finished / "runs" / run_id / "train.jsonl").read_text().splitlines()
    ours = [json.loads(line)["loss_nats_per_token"] for line in lines]
    assert len(theirs) == steps
    assert theirs == pytest.approx(ours[:steps], rel=2e-4)


@pytest.mark.slow
def test_rows_for_llamafactory_are_a_saved_data_set(finished: Path, tmp_path: Path) -> None:
    from datasets import load_from_disk

    from rankscope.edges.study_folder import StudyFolder
    from rankscope.results.export_config import export_config
    from rankscope.study.problems import InputProblems
    from rankscope.tools.trained_rows import write_trained_rows

    folder = StudyFolder.open(finished)
    export_config(folder, tmp_path / "lf", arm="lora-r4", tool="llamafactory", write_rows=write_trained_rows)
    settings = yaml.safe_load((tmp_path / "lf" / "llamafactory.yaml").read_text())
    rows = load_from_disk(str(tmp_path / "lf" / settings["tokenized_path"]))
    assert len(rows) == 36
    assert set(rows.column_names) == {"input_ids", "attention_mask", "labels"}
    result = call("export", finished, "--arm", "lora-r4", "--config", "axolotl", "--out", tmp_path / "ax")
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "ax").iterdir()} == {"axolotl.yaml", "train.jsonl", "validation.jsonl"}
    both = problems(call("export", finished, "--config", "axolotl", "--merged", "--out", tmp_path / "none"))
    assert both == ["export: --config: found --merged beside it, expected one of them: a config has no weights"]
    for tool, arm, line in (
        ("exolotl", "lora-r4", '--config: found "exolotl", expected one of axolotl, llamafactory, peft, trl'),
        ("peft", "full", "--config: peft: found full, an arm of full, expected an arm of lora"),
        ("trl", "lora-r9", "export: found no arm lora-r9, expected one of"),
    ):
        with pytest.raises(InputProblems) as caught:
            export_config(folder, tmp_path / "none", arm=arm, tool=tool, write_rows=write_trained_rows)
        assert line in str(caught.value)
        assert not (tmp_path / "none").exists()
