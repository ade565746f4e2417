"""A whole study whose arms replay old text and are kept near the base."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from test_pipeline import plan_of, run
from tiny_models import save_tiny_model
from tiny_study import choice_rows, tiny_study, write_rows

from rankscope.data.token_files import open_training
from rankscope.edges.machine import look_at_machine
from rankscope.edges.study_folder import StudyFolder
from rankscope.evaluate.generation import greedy
from rankscope.evaluate.score_suites import eos_ids
from rankscope.jobs.planning import StudyPlanner
from rankscope.model.load import load_model
from rankscope.pipeline import Outcome
from rankscope.records import Interval, PlannedRun
from rankscope.records.readable_numbers import percent
from rankscope.results.chosen_settings import settings_of
from rankscope.results.frames import suites_frame
from rankscope.results.item_roles import roles_of
from rankscope.study.read_study import read_study
from rankscope.study.study import ModelSpec

LORA = {"method": "lora", "ranks": [2], "learning_rate": 1e-2}
ARMS = {
    "lora": {"ranks": [2], "learning_rate": 1e-2},
    "near": {**LORA, "retain": {"kl": 0.5}},
    "old": {**LORA, "replay": {"path": "old.jsonl", "share": 0.25}},
    "own": {**LORA, "replay": {"self": 0.3, "samples": 20, "max_tokens": 8}},
    "asked": {
        **LORA,
        "replay": {"self": 0.3, "prompts": "prompts.txt", "samples": 5, "temperature": 0, "max_tokens": 6},
    },
    "suites": {**LORA, "replay": {"self": 0.3, "prompts": "selection", "samples": 12, "max_tokens": 6}},
    "full": {"learning_rate": 1e-3, "retain": {"kl": 0.2, "l2": 0.1}},
}
SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "remedies_table.py"
PROMPTS = ["Name an oak.", "What is a fir?"]


def with_remedies(folder: Path, **changes: object) -> Path:
    small: dict[str, object] = {"seeds": [0], "dial": [1], "selection": {"min_items": 10}}  # `sums` is not split
    small["budget"] = {"epochs": 1, "batch_size": 8, "max_sequence_tokens": 128}
    study = tiny_study(folder, **{"arms": ARMS, **small, **changes})
    old = choice_rows(20, "old", 5)
    asked = json.loads((folder / "other.jsonl").read_text().splitlines()[0])
    write_rows(folder / "old.jsonl", [*old, {**asked, "id": "asked"}])
    (folder / "prompts.txt").write_text("\n".join([*PROMPTS, "", PROMPTS[0]]), encoding="utf-8")
    return study


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("remedies")
    study = with_remedies(folder / "input")
    assert run(study, folder / "out") == Outcome()
    return study, folder / "out"


def runs_of(out: Path) -> dict[str, PlannedRun]:
    return {run.arm.label.removesuffix("-r2"): run for run in plan_of(out).runs}


def test_every_arm_sees_the_same_task_and_its_share_beside_it(done: tuple[Path, Path]) -> None:
    _, out = done
    folder, runs = StudyFolder.open(out), runs_of(out)
    assert len({run.train_tokens for run in runs.values()}) == 1
    lines = {label: folder.read_steps(run.run_id) for label, run in runs.items()}
    for label, steps in lines.items():
        assert [s["completion_tokens"] for s in steps] == [s["completion_tokens"] for s in lines["lora"]]
        assert ("kl_nats_per_token" in steps[0]) == (label in ("near", "full"))
        assert ("replay_tokens" in steps[-1]) == (label in ("old", "own", "asked", "suites"))
    for label, share in (("old", 0.25), ("own", 0.3)):
        run = runs[label]
        assert run.replay_tokens == pytest.approx(run.train_tokens * share / (1 - share), abs=1)
        status = folder.read_status(run.run_id)
        assert status is not None
        assert status.replay_tokens == sum(step.get("replay_tokens", 0) for step in lines[label])
    assert runs["near"].train_flops > 1.2 * runs["lora"].train_flops
    assert runs["old"].train_flops > 1.2 * runs["lora"].train_flops
    assert runs["full"].memory_parts_bytes["reference"] > 0


def test_every_remedy_stands_against_its_own_arm_in_verdict_and_page(done: tuple[Path, Path]) -> None:
    _, out = done
    verdicts = StudyFolder.open(out).read_verdicts()
    assert verdicts is not None
    outcomes = {one.arm.removesuffix("-r2"): one for one in verdicts.verdicts[0].remedies}
    assert {arm: one.own_arm for arm, one in outcomes.items()} == dict.fromkeys(
        ("near", "old", "own", "asked", "suites"), "lora-r2"
    )
    assert outcomes["near"].remedy == "retain kl 0.5"
    assert outcomes["own"].remedy == "replay of 30 % own samples"
    assert outcomes["old"].extra_tokens_share == pytest.approx(1 / 3, rel=0.01)
    assert outcomes["near"].extra_tokens_share == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    section = page[page.index('<section id="remedies"') :]
    section = section[: section.index("</section>")]
    assert "What would keep more" in section
    assert all(one.remedy in section and one.arm in section for one in outcomes.values())
    assert '<a href="#remedies">' in page
    costs = page[page.index("Cost of each arm") :].split("</table>")[0]
    assert "more training" in costs
    assert costs.count(f">{percent(outcomes['old'].extra_tokens_share)}<".replace(" ", "\u00a0")) == 1
    assert costs.count(">no remedy<") == 2, "more tokens and more training of the one plain arm"


def test_the_table_of_remedies_says_what_the_verdict_says(done: tuple[Path, Path]) -> None:
    spec = importlib.util.spec_from_file_location("remedies_table", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    _, out = done
    verdicts = StudyFolder.open(out).read_verdicts()
    assert verdicts is not None
    dials = {row.label: f"dial {row.dial:g}" for row in verdicts.verdicts[0].arms}
    study = script.read(out)
    for one in verdicts.verdicts[0].remedies:
        worth = script.against(study, (one.arm, dials[one.arm]), (one.own_arm, dials[one.own_arm]))
        assert (worth.gain_lost, worth.forgetting_saved) == (one.gain_lost, one.forgetting_saved)
    rows = script.main_rows(study)
    assert len(rows) == sum(len(run.dials) for run in runs_of(out).values())
    assert [row for row in rows if "| lora-r2 | dial 1 | 1 |" in row and row.endswith("|  |  |")]
    none = Interval(mean=None, low=None, high=None)

    def worth_of(gain: float, lost: float) -> object:
        shares = (Interval(mean=share, low=None, high=None) for share in (gain, lost))
        return script.Worth(3, *shares, none, none)

    front = {"dial 0.5": worth_of(0.1, 0.0), "dial 0.7": worth_of(0.2, 0.02), "dial 1": worth_of(0.3, 0.06)}
    assert [script.nearest(front, lost) for lost in (-0.02, 0.01, 0.03, 0.09)] == [
        "dial 0.5", "dial 0.7", "dial 0.7", "dial 1"
    ]  # fmt: skip


def test_rows_that_a_suite_asks_are_not_replayed(done: tuple[Path, Path]) -> None:
    _, out = done
    (train,) = plan_of(out).train_sets
    (facts,) = (one for one in train.replays if one.samples_sha256 is None)
    assert (facts.row_count, facts.dropped) == (20, {"also in suite other": 1})
    assert ": 1 left out of what is replayed (also in suite other)" in (out / "report.html").read_text(encoding="utf-8")
    rows = open_training(StudyFolder.open(out).tokens(facts.content_sha256)).train
    assert [row.item_id for row in rows] == [f"old{i}" for i in range(20)]


def test_a_rationale_is_replayed_before_its_answer(tmp_path: Path) -> None:
    study = with_remedies(tmp_path / "input", arms={"lora": ARMS["lora"], "old": ARMS["old"]})
    sums = [{"question": f"{i} and 1?", "answer": str(i + 1), "rationale": f"{i}+1={i + 1}"} for i in range(10, 14)]
    write_rows(study.parent / "old.jsonl", [{**row, "id": f"r{i}"} for i, row in enumerate(sums)])
    planner = StudyPlanner(read_study(study, []), study.parent)
    plan = planner.plan(look_at_machine(tmp_path, measure=False), StudyFolder.open(tmp_path / "out"))
    folder = StudyFolder.open(tmp_path / "out")
    planner.settle(folder, plan)
    (facts,) = plan.train_sets[0].replays
    base = load_model(ModelSpec(id=str(study.parent / "model")), study.parent, "float32", "cpu")
    texts = [
        base.tokenizer.decode(row.completion_ids) for row in open_training(folder.tokens(facts.content_sha256)).train
    ]
    assert len(texts) == 4
    assert all("#### " in text for text in texts)


def test_samples_are_what_the_base_writes_after_the_prompts(done: tuple[Path, Path]) -> None:
    study, out = done
    base = load_model(ModelSpec(id=str(study.parent / "model")), study.parent, "float32", "cpu")
    records = [json.loads(path.read_text()) for path in sorted((out / "replay").glob("*.json"))]
    by_count = {record["samples"]: record for record in records}
    assert set(by_count) == {20, 5, 12}
    greedy_ones = by_count[5]
    rows = open_training(out / "replay" / f"{greedy_ones['samples_id']}.arrow").train
    prompts = [tuple(base.tokenizer(text).input_ids) for text in PROMPTS]
    assert [row.prompt_ids for row in rows] == [prompts[i % 2] for i in range(5)]
    ends = eos_ids(base.model, base.tokenizer)
    expected = greedy(base.model, prompts, max_new_tokens=6, eos_ids=ends, token_budget=500)
    for row, i in zip(rows, [0, 1, 0, 1, 0], strict=True):
        assert [token for token in row.completion_ids if token not in ends] == expected[i]
    assert greedy_ones["temperature"] == 0
    bos = open_training(out / "replay" / f"{by_count[20]['samples_id']}.arrow").train
    assert {row.prompt_ids for row in bos} == {(base.tokenizer.bos_token_id,)}
    assert sum(len(row.completion_ids) for row in bos) == by_count[20]["tokens"]


def test_prompts_of_suites_are_those_that_never_judge(done: tuple[Path, Path]) -> None:
    study, out = done
    plan, folder = plan_of(out), StudyFolder.open(out)
    (train,) = plan.train_sets
    (facts,) = (one for one in train.replays if one.prompts_from)
    assert (facts.prompts_from, facts.arms) == (["other"], ["suites-r2"])
    predictions = folder.read_predictions(runs_of(out)["suites"].run_id)
    assert predictions is not None
    chosen = set(predictions[predictions["role"] == "select"]["item_id"])
    (split,) = (one for one in plan.choices[0].splits if one.select_count)
    assert (split.suite, split.select_count, len(chosen)) == ("other", 10, 10)
    base = load_model(ModelSpec(id=str(study.parent / "model")), study.parent, "float32", "cpu")
    items = [json.loads(line) for line in (study.parent / "other.jsonl").read_text().splitlines()]
    asked = {row["id"]: tuple(base.tokenizer(f"Question: {row['question']}\nAnswer:").input_ids) for row in items}
    prompts = [row.prompt_ids for row in open_training(folder.tokens(facts.content_sha256)).train]
    assert sorted(prompts) == sorted(asked[item_id] for item_id in chosen)
    (record,) = (r for r in map(_read, (out / "replay").glob("*.json")) if r["samples"] == 12)
    samples = open_training(out / "replay" / f"{record['samples_id']}.arrow").train
    assert {row.prompt_ids for row in samples} == set(prompts)
    points = {p.arm: p for s in settings_of(folder, plan, suites_frame(plan), roles_of(folder, plan)) for p in s.points}
    assert points["lora-r2"].select_items == 10
    assert points["suites-r2"].select_items == 0, "what an arm was trained on says nothing of it"


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_a_chat_model_goes_on_from_suites_in_its_template(tmp_path: Path) -> None:
    study = with_remedies(tmp_path / "input", arms={"lora": ARMS["lora"], "suites": ARMS["suites"]})
    save_tiny_model(study.parent / "model", chat=True)
    with StudyPlanner(read_study(study, []), study.parent) as planner:
        folder = StudyFolder.open(tmp_path / "out")
        plan = planner.plan(look_at_machine(tmp_path, measure=False), folder)
        planner.settle(folder, plan)
    (facts,) = plan.train_sets[0].replays
    base = load_model(ModelSpec(id=str(study.parent / "model")), study.parent, "float32", "cpu")
    texts = [base.tokenizer.decode(row.prompt_ids) for row in open_training(folder.tokens(facts.content_sha256)).train]
    turns = [[{"role": "user", "content": f"Question: Which tree is z{i}?"}] for i in range(30)]
    expected = {base.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) for turn in turns}
    assert len(texts) == 10
    assert set(texts) <= expected


def test_a_run_that_is_done_is_not_done_again_and_samples_stay(done: tuple[Path, Path]) -> None:
    study, out = done
    before = {path: path.stat().st_mtime_ns for path in (out / "replay").iterdir()}
    before |= {path: path.stat().st_mtime_ns for path in (out / "runs").glob("*/train.jsonl")}
    assert run(study, out) == Outcome()
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_what_decides_a_remedy_is_in_the_id_and_where_it_lies_is_not(done: tuple[Path, Path], tmp_path: Path) -> None:
    _, out = done
    ids = {label: one.run_id for label, one in runs_of(out).items()}
    assert len(set(ids.values())) == len(ids)
    other = with_remedies(tmp_path / "moved")
    run(other, tmp_path / "out", only=[ids["lora"]])
    assert {label: one.run_id for label, one in runs_of(tmp_path / "out").items()} == ids
    (other.parent / "prompts.txt").write_text("Something else.", encoding="utf-8")
    run(other, tmp_path / "again", only=[ids["lora"]])
    changed = {label: one.run_id for label, one in runs_of(tmp_path / "again").items()}
    assert {label for label in ids if ids[label] != changed[label]} == {"asked"}


WRONG = [
    ({"retain": {}}, "found neither `kl` nor `l2`, expected one of them, or both"),
    ({"retain": {"l2": 0.1}}, "arms.near.retain.l2: found a distance to the base's weights, which lora leaves as they"),
    ({"retain": {"kl": -1}}, "arms.near.retain.kl: found -1, expected a number above 0 such as 0.1, or null"),
    ({"retain": {"kl": 1, "on": "replay"}}, "arms.near.retain.on: found replay, without `replay`"),
    ({"retain": {"kl": 1, "of": 2}}, "found the unknown key `of`, expected one of kl, on, l2"),
    ({"replay": {"share": 0.2}}, "found neither `path` nor `self`, expected one of them"),
    ({"replay": {"path": "old.jsonl"}}, "found `path` without `share`, expected `path` with `share`, or `self: 0.2`"),
    ({"replay": {"self": 1}}, "arms.near.replay.self: found 1, expected a share of all tokens above 0 and below 1"),
    ({"replay": {"path": "old.jsonl", "share": 0.1, "samples": 5}}, "found `samples` with `path`"),
    ({"replay": {"self": 0.1, "prompts": "none.txt"}}, "none.txt: arms.near.replay.prompts: found no such file"),
    ({"replay": {"path": "none.jsonl", "share": 0.1}}, "none.jsonl"),
    ({"replay": {"self": 0.1, "prompts_from": ["other"]}}, "found `prompts_from` without `prompts: selection`"),
    (
        {"replay": {"self": 0.1, "prompts": "selection", "prompts_from": ["oters"]}},
        "arms.near.replay.prompts_from: found no suite oters, expected suites of the study: taught, other, sums, text",
    ),
    (
        {"replay": {"self": 0.1, "prompts": "selection", "prompts_from": ["taught"]}},
        "arms.near.replay.prompts_from: found no suite outside the domain of train.trees, expected some of other",
    ),
    ({"replay": {"self": 0.1, "max_tokens": 100_000}}, "found no prompt that leaves room for 100000 tokens"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "line"), WRONG, ids=lambda value: value if isinstance(value, str) else "")
def test_a_remedy_that_means_nothing_is_refused_in_one_line(
    tmp_path: Path, given: dict[str, object], line: str
) -> None:
    from rankscope.study.problems import InputProblems

    study = with_remedies(tmp_path / "input", arms={"near": {**LORA, **given}})
    with pytest.raises(InputProblems) as caught:
        run(study, tmp_path / "out")
    (problem,) = caught.value.problems
    assert line in str(problem)
    assert "\n" not in str(problem)
