"""studies/paper.yaml and its kin: what they cost on the hardware they are for, and the whole of one at tiny scale."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from rich.console import Console
from tiny_models import save_tiny_model
from tiny_study import choice_rows
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen2Config

from rankscope.edges.executors.this_machine import InProcess
from rankscope.edges.machine import look_at_machine
from rankscope.edges.study_folder import StudyFolder
from rankscope.jobs.planning import StudyPlanner
from rankscope.model.load import linear_shapes
from rankscope.pipeline import Outcome, run_study
from rankscope.plan.described_machine import described_machine
from rankscope.plan.make_plan import make_plan
from rankscope.plan.run_time import plan_totals
from rankscope.plan.schedule import what_is_left
from rankscope.records import MachineFacts, ModelFacts, Plan, Schedule, SuiteFacts, TrainFacts
from rankscope.report.terminal_tables import print_plan
from rankscope.study.read_study import read_study
from rankscope.study.study import Study

STUDIES = Path(__file__).resolve().parents[1] / "studies"
NAMES = ("Llama-3.1-8B-Instruct", "Qwen2.5-7B-Instruct")

# ---- what they cost -------------------------------------------------------------------------------------------------

CONFIGS: dict[str, PretrainedConfig] = {
    "Llama-3.1-8B": LlamaConfig(
        hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
        vocab_size=128_256, max_position_embeddings=131_072, tie_word_embeddings=False,
    ),
    "Qwen2.5-7B": Qwen2Config(
        hidden_size=3584, intermediate_size=18_944, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4,
        vocab_size=152_064, max_position_embeddings=32_768, tie_word_embeddings=False,
    ),
    "Llama-3.2-1B": LlamaConfig(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8,
        head_dim=64, vocab_size=128_256, max_position_embeddings=131_072, tie_word_embeddings=True,
    ),
}  # fmt: skip
PARAMETERS = {"Llama-3.1-8B": 8_030_261_248, "Qwen2.5-7B": 7_615_616_512, "Llama-3.2-1B": 1_235_814_400}


def facts_of(name: str) -> ModelFacts:
    config = CONFIGS[name.removesuffix("-Instruct")]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return ModelFacts(
        name=name, source=name, revision=None, content_sha256=name, architecture=type(model).__name__,
        parameter_count=sum(p.numel() for p in model.parameters()), hidden_size=config.hidden_size,
        layer_count=config.num_hidden_layers, vocab_size=config.vocab_size,
        context_tokens=config.max_position_embeddings, tied_embeddings=config.tie_word_embeddings,
        linear_shapes=linear_shapes(model),
    )  # fmt: skip


def alone(name: str) -> Study:
    """A study whose runs take one GPU and no host's memory, or do not fit."""
    study = read_study(STUDIES / f"{name}.yaml")
    return study.model_copy(update={"execution": study.execution.model_copy(update={"offload": "never"})})


def plan_on(study: Study, gigabytes: int, machine: MachineFacts | None = None) -> Plan:
    """The plan on a GPU of this size, with rows of the length that these data sets about have."""
    machine = machine or MachineFacts(
        device="cuda", device_name=f"a GPU of {gigabytes} GB", core_count=16, memory_bytes=256 * 10**9,
        device_memory_bytes=gigabytes * 10**9, bfloat16_is_fast=True, disk_free_bytes=10**12,
    )  # fmt: skip
    trains = [
        TrainFacts(
            name=name, domain=source.domain, content_sha256=name, row_count=6300, validation_count=500,
            token_count=6300 * 250, completion_token_count=6300 * 40,
        )
        for name, source in study.train.items()
    ]  # fmt: skip
    suites = [
        SuiteFacts(
            name=name, domain=source.domain, kind=source.kind, form="choices", content_sha256=name, item_count=1000,
            token_count=200_000, max_new_tokens=source.max_new_tokens,
        )
        for name, source in study.suites.items()
    ]  # fmt: skip
    models = [facts_of(spec.name) for spec in study.models]
    return make_plan(study, models, {m.name: trains for m in models}, {m.name: suites for m in models}, machine)


@pytest.mark.parametrize("name", ["paper", "paper-base"])
def test_the_papers_plan_on_an_80_gb_gpu(name: str) -> None:
    plan = plan_on(alone(name), 80)
    assert len(plan.runs) == 2 * 3 * 6 * 8
    assert plan.looks == [3, 5, 8]
    assert {facts.parameter_count for facts in plan.models} == {8_030_261_248, 7_615_616_512}
    for run in plan.runs:
        facts = next(f for f in plan.models if f.name == run.model)
        if run.arm.method == "full":
            assert run.trainable_parameters == facts.parameter_count
            assert not run.fits
            assert run.checkpointing, "the way in which it needs least"
            assert 150e9 < run.memory_bytes < 175e9
            assert run.kept_disk_bytes < 1e8, "keep: {full: none}"
            assert run.disk_bytes > 14 * facts.parameter_count, "weights and a checkpoint while it runs"
        else:
            assert run.fits, run.reason
            assert not run.checkpointing, "its activations fit"
            assert run.memory_parts_bytes["weights"] > 2 * facts.parameter_count
    largest = {run.model.split("-I")[0]: run.trainable_parameters for run in plan.runs if run.arm.rank == 128}
    assert largest == {"Llama-3.1-8B": 335_544_320, "Qwen2.5-7B": 322_961_408}
    totals = plan_totals(plan)
    assert totals["runs_that_do_not_fit"] == 6 * 8
    adapters = sum(2 * run.trainable_parameters for run in plan.runs if run.fits)
    assert totals["disk_bytes"] == pytest.approx(adapters, rel=0.2)


def test_all_of_the_paper_fits_one_gpu_with_its_hosts_memory() -> None:
    plan = plan_on(read_study(STUDIES / "paper.yaml"), 80)
    assert all(run.fits for run in plan.runs)
    assert {run.arm.method for run in plan.runs if run.offload} == {"full"}


def of_first_seeds(plan: Plan) -> Schedule:
    """The schedule with three seeds of every arm."""
    assert plan.schedule is not None
    return what_is_left(plan.schedule, plan.runs, {run.run_id for run in plan.runs if run.seed >= plan.looks[0]})


@pytest.mark.parametrize(
    ("gpus", "first", "most"),
    [(1, "36.3 | 36.3", "72.6 | 72.6"), (8, "34.4 | 4.6", "70.0 | 9.1"), (64, "34.4 | 1.3", "70.0 | 2.0")],
)
def test_all_of_the_paper_fits_gpus_that_are_described(gpus: int, first: str, most: str) -> None:
    """The hours of docs/plan.md, of GPUs and on the clock: with three seeds of every arm, and eight, the most."""
    study = read_study(STUDIES / "paper.yaml")
    assert study.analysis.enabled
    plan = plan_on(study, 80, described_machine(f"{gpus}x80GB"))
    assert all(run.fits for run in plan.runs)
    assert any(run.offload for run in plan.runs) == (gpus == 1)
    gangs = {run.model: run.gang for run in plan.runs if run.arm.method == "full"}
    assert list(gangs.values()) == ([1, 1] if gpus == 1 else [4, 2])
    assert {(run.gang, run.checkpointing) for run in plan.runs if run.arm.method != "full"} == {(1, False)}
    for search in plan.searches:
        assert search.gang == max(run.gang for run in plan.runs if run.search_id == search.search_id)
    found = of_first_seeds(plan)
    assert plan.schedule is not None
    for schedule, said in ((found, first), (plan.schedule, most)):
        assert f"{schedule.gpu_hours:.1f} | {schedule.makespan_seconds / 3600:.1f}" == said
    assert f"| {gpus} | {first} | {most} |" in (STUDIES.parent / "docs" / "plan.md").read_text(encoding="utf-8")
    twice = study.budget.model_copy(update={"gradient_checkpointing": True})
    always = plan_on(study.model_copy(update={"budget": twice}), 80, described_machine(f"{gpus}x80GB"))
    assert of_first_seeds(always).gpu_hours > 1.2 * found.gpu_hours, "what keeping activations saves"
    assert [run.run_id for run in always.runs] == [run.run_id for run in plan.runs]
    assert any("described" in warning for warning in plan.warnings)


def test_the_printed_plan_says_that_all_of_it_fits_with_gangs_and_gpu_hours() -> None:
    out = StringIO()
    plan = plan_on(read_study(STUDIES / "paper.yaml"), 80, described_machine("8x80GB"))
    print_plan(Console(file=out, width=200), plan, {})
    text = out.getvalue()
    assert "fit" not in text, "nothing does not"
    for said in ("to do, in a gang of 4", "108 runs, then up to 288 as the verdict asks", "70.0 GPU hours in all"):
        assert said in text


def test_the_printed_plan_says_what_the_paper_needs() -> None:
    out = StringIO()
    print_plan(Console(file=out, width=200), plan_on(alone("paper"), 80), {})
    text = out.getvalue()
    for said in ("8.03 G", "7.62 G", "does not fit: needs 164 GB of memory, this machine has 72 GB to use", "112 GB"):
        assert said in text


def test_one_gpu_of_24_gb_holds_its_study() -> None:
    study = read_study(STUDIES / "one-gpu.yaml")
    plan = plan_on(study, 24)
    assert plan.models[0].parameter_count == PARAMETERS["Llama-3.2-1B"]
    assert all(run.fits for run in plan.runs)
    with_full = study.model_copy(update={"arms": read_study(STUDIES / "paper.yaml").arms})
    unfit = with_full.model_copy(update={"execution": alone("paper").execution})
    assert not any(run.fits for run in plan_on(unfit, 24).runs if run.arm.method == "full")


def test_the_base_study_differs_in_its_models_alone() -> None:
    paper, base = (read_study(STUDIES / f"{name}.yaml") for name in ("paper", "paper-base"))
    assert [spec.name for spec in base.models] == [name.removesuffix("-Instruct") for name in NAMES]
    assert {spec.chat for spec in base.models} == {"never"}
    assert base.model_copy(update={"name": paper.name, "models": paper.models}) == paper


# ---- the whole of it, tiny ------------------------------------------------------------------------------------------

Rows = dict[str, list[dict[str, Any]]]


def hub_set(folder: Path, rows: Rows, config: str | None = None) -> Path:
    """Splits as Parquet files in a folder, as a hub data set lies there, its configuration named in its card."""
    for split, found in rows.items():
        path = folder / (config or "data") / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(found).to_parquet(path)
    if config is not None:
        files = "".join(f"  - split: {split}\n    path: {config}/{split}-*\n" for split in rows)
        (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{files}---\n")
    return folder


def lettered(choices: list[str]) -> str:
    return " , ".join(f"{letter} ) {choice}" for letter, choice in zip("abcde", choices, strict=False))


def write_hub(folder: Path, medical: Rows, legal: Rows, sums: Rows, multiple: Rows, general: Rows) -> dict[str, Path]:
    """Rows of our fields as the five data sets of the study, with the columns that they have on the hub."""

    def each(rows: Rows, form: Callable[[dict[str, Any]], dict[str, Any]]) -> Rows:
        return {split: [form(row) for row in found] for split, found in rows.items()}

    return {
        "medmcqa": hub_set(
            folder / "medmcqa",
            each(medical, lambda r: {
                "id": r["id"], "question": r["question"], "cop": r["answer_index"], "exp": r.get("rationale"),
                **{f"op{letter}": choice for letter, choice in zip("abcd", r["choices"], strict=True)},
            }),
        ),
        "lex_glue": hub_set(
            folder / "lex_glue",
            each(legal, lambda r: {"context": r["question"], "endings": r["choices"], "label": r["answer_index"]}),
            "case_hold",
        ),
        "gsm8k": hub_set(
            folder / "gsm8k",
            each(sums, lambda r: {
                "question": r["question"], "answer": f"{r.get('rationale') or 'It adds up.'}\n#### {r['answer']}",
            }),
            "main",
        ),
        "math_qa": hub_set(
            folder / "math_qa",
            each(multiple, lambda r: {
                "Problem": r["question"], "options": lettered(r["choices"]), "correct": "abcde"[r["answer_index"]],
                "Rationale": r.get("rationale"),
            }),
        ),
        "mmlu": hub_set(
            folder / "mmlu",
            each(general, lambda r: {"question": r["question"], "choices": r["choices"], "answer": r["answer_index"]}),
            "all",
        ),
    }  # fmt: skip


def tiny_changes(folder: Path, hub: dict[str, Path]) -> list[str]:
    """Overrides of studies/paper.yaml: two tiny models, saved in `folder`, and these data sets."""
    for seed, name in enumerate(NAMES):
        save_tiny_model(
            folder / name, seed=seed, chat=True, hidden_size=128, intermediate_size=128, num_hidden_layers=1,
            num_key_value_heads=4, max_position_embeddings=2048,
        )  # fmt: skip
    return [
        f"model={json.dumps([str(folder / name) for name in NAMES])}",
        f"train.medical.hub={hub['medmcqa']}", f"train.legal.hub={hub['lex_glue']}", f"train.math.hub={hub['gsm8k']}",
        f"suites.medmcqa.hub={hub['medmcqa']}", f"suites.casehold.hub={hub['lex_glue']}",
        f"suites.gsm8k.hub={hub['gsm8k']}", f"suites.mathqa.hub={hub['math_qa']}", f"suites.mmlu.hub={hub['mmlu']}",
        "arms.full.learning_rate=1e-3", "arms.lora.learning_rate=1e-2", "budget.epochs=1", "budget.batch_size=8",
    ]  # fmt: skip


def tiny_run(folder: Path, hub: dict[str, Path], *overrides: str) -> tuple[Path, Outcome]:
    """`rankscope run studies/paper.yaml` on two tiny models and these data sets; every other setting is the study's."""
    study = read_study(STUDIES / "paper.yaml", [*tiny_changes(folder, hub), *overrides])
    out = folder / "out"
    outcome = run_study(
        StudyPlanner(study, STUDIES),
        StudyFolder.open(out),
        machine=look_at_machine(out, measure=False),
        make_executor=lambda plan: InProcess(1),
    )
    return out, outcome


def check(out: Path, outcome: Outcome, runs: int) -> None:
    assert outcome == Outcome()
    store = StudyFolder.open(out)
    plan, verdicts = store.read_plan(), store.read_verdicts()
    assert plan is not None
    assert verdicts is not None
    assert len(plan.runs) == runs
    states = {store.read_status(run.run_id).state for run in plan.runs}  # type: ignore[union-attr]
    assert states <= {"done", "diverged"}
    assert "done" in states
    pairs = [(name, train) for name in NAMES for train in ("legal", "math", "medical")]
    assert sorted((v.model, v.train_set) for v in verdicts.verdicts) == sorted(pairs)
    scores = pd.read_parquet(out / "tables" / "scores.parquet")
    relations = scores[scores["train_set"] == "math"].groupby("suite")["relation"].first().to_dict()
    assert relations == {
        "medmcqa": "out-of-domain", "casehold": "out-of-domain", "gsm8k": "in-domain", "mathqa": "in-domain",
        "mmlu": "general",
    }  # fmt: skip
    base = pd.read_parquet(out / "base" / NAMES[0] / "predictions.parquet")
    lengths = base.groupby("suite")["choice_logprobs"].first().map(lambda found: 0 if found is None else len(found))
    assert lengths.drop("mathqa").to_dict() == {"medmcqa": 4, "casehold": 5, "gsm8k": 0, "mmlu": 4}
    assert lengths["mathqa"] in (4, 5)
    assert (out / "report.html").is_file()


def made(count: int, prefix: str, choices: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows with this many choices."""
    words = [f"{word}{i}" for i, word in enumerate(("oak", "elm", "ash", "fir", "yew"))][:choices]
    return [
        {**row, "choices": words, "answer_index": (i + seed) % choices}
        for i, row in enumerate(choice_rows(count, prefix, seed))
    ]


def sums(count: int, first: int) -> list[dict[str, Any]]:
    return [{"question": f"What is {i} and 3?", "answer": str(i + 3)} for i in range(first, first + count)]


def made_hub(folder: Path) -> dict[str, Path]:
    """A handful of made rows as each of the data sets."""
    return write_hub(
        folder,
        {"train": made(20, "m", 4), "validation": made(6, "v", 4)},
        {"train": made(20, "l", 5), "test": made(6, "c", 5)},
        {"train": sums(20, 0), "test": sums(4, 100)},
        {"train": made(2, "x", 5), "test": made(6, "q", 5)},
        {"test": made(6, "g", 4)},
    )


def test_the_paper_study_runs_at_tiny_scale(tmp_path: Path) -> None:
    hub = made_hub(tmp_path / "hub")
    few = ("arms.lora.ranks=[8, 128]", "seeds=[0]", "suites.gsm8k.max_new_tokens=4")
    out, outcome = tiny_run(tmp_path, hub, *few, "analysis.derived=false", "analysis.probe_items=5")
    check(out, outcome, 2 * 3 * 3)
    for table in ("spectra", "hidden", "attention", "neurons"):
        assert set(pd.read_parquet(out / "tables" / f"{table}.parquet")["arm"]) == {"full", "lora-r8", "lora-r128"}


def read_rows(path: Path, count: int, **needed: int) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if "choices" in needed:
        rows = [row for row in rows if len(row["choices"]) == needed["choices"]]
    return rows[:count]


@pytest.mark.slow
def test_the_paper_study_runs_on_real_questions(tmp_path: Path, shared_data: Path) -> None:
    """All its ranks and two seeds, on real rows in the columns of the hub; the legal ones are bar-exam questions."""
    legal = [
        {**row, "choices": [*row["choices"], "None of these."]}
        for row in read_rows(shared_data / "mmlu_law" / "test.jsonl", 60, choices=4)
    ]
    multiple = read_rows(shared_data / "aqua_rat" / "test.jsonl", 20, choices=5)
    hub = write_hub(
        tmp_path / "hub",
        {
            "train": read_rows(shared_data / "medmcqa" / "extra_train.jsonl", 40, choices=4),
            "validation": read_rows(shared_data / "medmcqa" / "validation.jsonl", 20, choices=4),
        },
        {"train": legal[:40], "test": legal[40:]},
        {
            "train": read_rows(shared_data / "gsm8k" / "train.jsonl", 40),
            "test": read_rows(shared_data / "gsm8k" / "test.jsonl", 8),
        },
        {"train": multiple[:1], "test": multiple},
        {"test": read_rows(shared_data / "mmlu_general" / "test.jsonl", 20, choices=4)},
    )
    out, outcome = tiny_run(
        tmp_path, hub, "seeds=[0, 1]", "suites.gsm8k.max_new_tokens=16", "budget.max_sequence_tokens=2048",
        "analysis.enabled=false",
    )  # fmt: skip
    check(out, outcome, 2 * 3 * 6 * 2)
