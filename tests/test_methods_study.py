"""Studies of many methods and of two base models, from the file to the verdict, at tiny scale."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import peft
import pytest
import torch
from test_pipeline import plan_of, run
from tiny_families import save_family
from tiny_models import save_tiny_model, tiny_tokenizer
from tiny_study import tiny_study
from transformers import AutoModelForCausalLM

from rankscope.edges.machine import look_at_machine
from rankscope.edges.study_folder import StudyFolder
from rankscope.jobs.planning import StudyPlanner
from rankscope.model.model_source import no_progress_bars
from rankscope.pipeline import Outcome
from rankscope.records import Verdict
from rankscope.results.export_arm import export_arm
from rankscope.study.problems import InputProblems
from rankscope.study.read_study import read_study

ARMS = {
    "full-frozen-embeddings": {"learning_rate": 1e-3},
    "last-k-layers": {"layers": [1], "learning_rate": 1e-3},
    "lora": {"ranks": [2], "learning_rate": 1e-2},
    "dora": {"ranks": [2], "learning_rate": 1e-2},
    "pissa": {"ranks": [2], "learning_rate": 1e-2},
    "ia3": {"learning_rate": 1e-1},
    "prompt-tuning": {"virtual_tokens": [4], "learning_rate": 1e-1},
    "prefix-tuning": {"virtual_tokens": [4], "learning_rate": 1e-1},
    "adapters": {"bottlenecks": [4], "learning_rate": 1e-2},
    "ln-tuning": {"learning_rate": 1e-2},
}
LABELS = {
    "full-frozen-embeddings", "last-k-layers-k1", "lora-r2", "dora-r2", "pissa-r2", "ia3", "prompt-tuning-v4",
    "prefix-tuning-v4", "adapters-b4", "ln-tuning",
}  # fmt: skip


def verdicts_of(out: Path) -> list[Verdict]:
    file = StudyFolder.open(out).read_verdicts()
    assert file is not None
    return file.verdicts


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("methods")
    study = tiny_study(
        folder / "input", arms=ARMS, budget={"epochs": 2, "batch_size": 8, "max_sequence_tokens": 128},
        model={"id": "model", "dtype": "float32"},  # whatever is fast on this machine: scores are compared with PEFT's
    )  # fmt: skip
    assert run(study, folder / "out") == Outcome()
    return folder / "out"


def test_a_study_of_ten_methods_ends_with_a_verdict(done: Path) -> None:
    (verdict,) = verdicts_of(done)
    assert {arm.label for arm in verdict.arms} == LABELS
    assert {arm.status for arm in verdict.arms} <= {"eligible", "ineligible", "open"}
    assert verdict.reasons
    counts = [arm.trainable_parameters or 0 for arm in verdict.arms]
    assert counts == sorted(counts), "arms stand by trainable parameters"


def test_every_run_trained_what_the_plan_counted_and_was_scored(done: Path) -> None:
    store = StudyFolder.open(done)
    for planned in plan_of(done).runs:
        status = store.read_status(planned.run_id)
        assert status is not None
        assert status.state == "done"
        assert status.trainable_parameters == planned.trainable_parameters
        assert len(pd.read_parquet(done / "runs" / planned.run_id / "predictions.parquet")) == 40 + 30 + 6 + 2
        assert planned.run_id.startswith(f"{planned.arm.label}-s{planned.seed}-")
        assert (done / "runs" / planned.run_id / "adapter").is_dir() != planned.arm.traits.whole


def test_training_lowers_the_loss_of_every_method(done: Path) -> None:
    for planned in plan_of(done).runs:
        steps = pd.read_json(done / "runs" / planned.run_id / "train.jsonl", lines=True)["loss_nats_per_token"]
        first, second = steps[:5].mean(), steps[5:].mean()  # the same rows, once each epoch
        assert second < first - 0.005, planned.arm.label


def test_an_exported_prompt_is_scored_by_plain_peft_as_by_the_study(done: Path, tmp_path: Path) -> None:
    """The exported arm's choice log-likelihoods, computed with nothing of ours, are those in predictions.parquet."""
    export_arm(StudyFolder.open(done), tmp_path / "out", arm="prompt-tuning-v4", merged=False)
    with no_progress_bars():
        base = AutoModelForCausalLM.from_pretrained(done.parent / "input" / "model", dtype=torch.float32).eval()
    model = peft.PeftModel.from_pretrained(base, str(tmp_path / "out")).eval()
    frames = [
        pd.read_parquet(done / "runs" / r.run_id / "predictions.parquet").query("suite == 'text'")
        for r in plan_of(done).runs
        if r.arm.label == "prompt-tuning-v4"
    ]
    text = tiny_tokenizer()("The oak is a tree.", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        losses = []
        for begin in ([], [1]):
            ids = [*begin, *text]
            logits = model(input_ids=torch.tensor([ids])).logits[0, 4:].log_softmax(-1)
            losses.append(-sum(float(logits[i, token]) for i, token in enumerate(ids[1:])))
    found = [float(frame[frame["item_id"] == "a"]["loss_nats"].iloc[0]) for frame in frames]
    assert any(abs(loss - value) < 1e-3 for loss in losses for value in found)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("pissa-r2", "A PiSSA adapter of rank 2 (saved as a plain LoRA of rank 4"),
        ("prefix-tuning-v4", "A tuned prefix of 4 virtual tokens"),
        ("adapters-b4", "Bottleneck adapters of 4 units"),
        ("ln-tuning", "Tuned normalisations"),
    ],
)
def test_the_card_says_what_it_is_and_its_code_loads_it(done: Path, tmp_path: Path, label: str, words: str) -> None:
    export_arm(StudyFolder.open(done), tmp_path / "out", arm=label, merged=False)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert words in card
    code = card.split("```python\n")[1].split("```")[0].replace("PATH_OF_THIS_FOLDER", str(tmp_path / "out"))
    code = code.replace("PATH_OF_THE_BASE", str(done.parent / "input" / "model"))
    space: dict[str, object] = {}
    with no_progress_bars():
        exec(code, space)
    model = space.get("model", space["base"])
    plain = AutoModelForCausalLM.from_pretrained(str(space["base_path"]))
    ids = torch.arange(10, 30)[None]
    with torch.no_grad():
        assert not torch.equal(model(input_ids=ids).logits[:, -20:], plain(ids).logits)  # type: ignore[operator]


def test_a_method_without_weights_is_not_merged(done: Path, tmp_path: Path) -> None:
    for label in ("adapters-b4", "prefix-tuning-v4"):
        with pytest.raises(InputProblems, match="adds modules or tokens, not weights"):
            export_arm(StudyFolder.open(done), tmp_path / label, arm=label, merged=True)
    assert "adapter of adapters-b4" in export_arm(
        StudyFolder.open(done), tmp_path / "plain", arm="adapters-b4", merged=False
    )
    assert {"bottleneck.safetensors", "bottleneck.json", "README.md"} == {
        p.name for p in (tmp_path / "plain").iterdir()
    }
    with no_progress_bars():
        assert "model of ia3" in export_arm(StudyFolder.open(done), tmp_path / "merged", arm="ia3", merged=True)
        AutoModelForCausalLM.from_pretrained(tmp_path / "merged")


def test_two_base_models_of_two_families_have_a_verdict_each(tmp_path: Path) -> None:
    study = tiny_study(
        tmp_path / "input",
        model=["llama", "gpt"],
        seeds=[0],
        arms={
            "lora": {"ranks": [2], "learning_rate": 1e-2},
            "prefix-tuning": {"virtual_tokens": [2], "learning_rate": 0.1},
        },
    )
    with no_progress_bars():
        save_tiny_model(tmp_path / "input" / "llama")
        save_family(tmp_path / "input" / "gpt", "GPT-2")
    out = tmp_path / "out"
    assert run(study, out) == Outcome()
    plan = plan_of(out)
    assert [facts.name for facts in plan.models] == ["llama", "gpt"]
    assert len(plan.runs) == len({r.run_id for r in plan.runs}) == 2 * 2
    assert {verdict.model for verdict in verdicts_of(out)} == {"llama", "gpt"}
    for name in ("llama", "gpt"):
        assert (out / "base" / name / "predictions.parquet").is_file()
    scores = pd.read_parquet(out / "tables" / "scores.parquet")
    assert set(scores["model"]) == {"llama", "gpt"}
    assert (out / "report.html").is_file()


def test_virtual_tokens_leave_room_in_every_arms_context(tmp_path: Path) -> None:
    """GPT-2 has learned positions: a row of the whole context and four virtual tokens would have none left."""
    arms = {
        "lora": {"ranks": [2], "learning_rate": 1e-2},
        "prompt-tuning": {"virtual_tokens": [4], "learning_rate": 0.1},
    }
    study = tiny_study(tmp_path / "input", arms=arms, seeds=[0])
    with no_progress_bars():
        save_family(tmp_path / "input" / "model", "GPT-2", n_positions=46)
    out = tmp_path / "out"
    plan = StudyPlanner(read_study(study, []), study.parent).plan(
        look_at_machine(out, measure=False), StudyFolder.open(out)
    )
    assert plan.train_sets[0].dropped or any(suite.left_out for suite in plan.suites)
    wanted = [r.run_id for r in plan.runs if r.arm.method == "prompt-tuning"]
    assert run(study, out, only=wanted) == Outcome()
