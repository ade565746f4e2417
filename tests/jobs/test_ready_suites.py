"""`general: auto`: what this machine can reach, chosen once and kept by a study that goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from made_facts import machine_facts
from tiny_study import choice_rows, tiny_study, write_rows

from rankscope.edges.study_folder import StudyFolder
from rankscope.evaluate import reachable_suites
from rankscope.evaluate.reachable_suites import READY_SUITES
from rankscope.jobs.planning import StudyPlanner
from rankscope.jobs.ready_suites import with_chosen_suites
from rankscope.records import Plan
from rankscope.study.problems import InputProblems
from rankscope.study.read_study import absolute, dump_study, read_study, study_of
from rankscope.study.study import Study, SuiteSource

MINE = {"path": "taught.jsonl", "domain": "trees", "kind": "recall"}


@pytest.fixture(autouse=True)
def _no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub at an address where nobody answers, and an empty cache."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))


def asking(folder: Path, general: Any, **more: Any) -> Study:
    return read_study(tiny_study(folder, suites={"taught": MINE, "general": general}, **more))


def as_hub_sets(folder: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """So many folders that stand for sets of the hub."""
    made = {}
    for i in range(count):
        own = folder / f"set{i}" / "data"
        own.mkdir(parents=True)
        table = pyarrow.Table.from_pylist(choice_rows(30, f"g{i}x", i))
        pyarrow.parquet.write_table(table, own / "test-00000-of-00001.parquet")
        made[f"set{i}"] = SuiteSource(hub=str(own.parent), split="test", kind="recall")
    monkeypatch.setattr(reachable_suites, "READY_SUITES", {"gone": SuiteSource(hub=str(folder / "no")), **made})


def planned(study: Study, base: Path, out: StudyFolder, *, settle: bool = False) -> Plan:
    with StudyPlanner(study, base) as planner:
        plan = planner.plan(machine_facts(), out)
        if settle:
            out.claim(study.name, planner.text(plan))
            planner.settle(out, plan)
        return plan


def test_of_the_ready_ones_the_first_that_can_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_hub_sets(tmp_path, monkeypatch, 6)
    chosen = with_chosen_suites(asking(tmp_path, "auto"), tmp_path, None)
    assert list(chosen.suites) == ["taught", *(f"general-set{i}" for i in range(4))]
    one = chosen.suites["general-set0"]
    assert (one.limit, one.chosen_for, one.domain) == (300, "general", None)
    assert (
        with_chosen_suites(asking(tmp_path, {"auto": "ready", "limit": 20}), tmp_path, None)
        .suites["general-set3"]
        .limit
        == 20
    )


def test_a_study_that_goes_on_keeps_what_was_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_hub_sets(tmp_path, monkeypatch, 2)
    study, out = asking(tmp_path, "auto"), StudyFolder.open(tmp_path / "out")
    plan = planned(study, tmp_path, out, settle=True)
    said = [text for text in plan.warnings if text.startswith("general: auto chose general-set0 (")]
    assert len(said) == 1
    monkeypatch.setattr(reachable_suites, "READY_SUITES", {})  # now nothing could be reached
    again = planned(study, tmp_path, out)
    assert [suite.content_sha256 for suite in again.suites] == [suite.content_sha256 for suite in plan.suites]
    assert said[0] in again.warnings
    stored = study_of(out.read_study_text() or "")
    assert "general-set1" in stored.suites
    assert planned(stored, Path.cwd(), out).suites == plan.suites


def test_the_files_of_a_folder_are_asked_as_their_rows_show(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    study = asking(tmp_path, {"auto": "old"})
    write_rows(tmp_path / "old" / "law.jsonl", choice_rows(20, "w", 1))
    write_rows(tmp_path / "old" / "sums.jsonl", [{"question": f"{i} and 2?", "answer": str(i + 2)} for i in range(9)])
    write_rows(
        tmp_path / "old" / "talk.jsonl", [{"instruction": f"Say {i}.", "output": f"It is {i}."} for i in range(9)]
    )
    (tmp_path / "old" / "notes.md").write_text("no rows")
    chosen = with_chosen_suites(study, tmp_path, None).suites
    asked = {name: (suite.kind, suite.metric) for name, suite in chosen.items()}
    assert asked == {
        "taught": ("recall", None),
        "general-law": (None, None),
        "general-sums": ("reasoning", None),
        "general-talk": (None, "loss"),
    }
    stored = study_of(dump_study(absolute(with_chosen_suites(study, tmp_path, None), tmp_path)))
    write_rows(tmp_path / "old" / "later.jsonl", choice_rows(20, "q", 2))
    assert list(with_chosen_suites(study, tmp_path, stored).suites) == list(chosen), "later files are none of it"
    assert "general-later" in with_chosen_suites(study, tmp_path, None).suites


@pytest.mark.parametrize(
    ("general", "line"),
    [
        ("auto", "tiny: suites.general: found no ready suite (no connection to the hub, and no copy of the data set in "
         "the cache), expected a network, their copies in the cache, `{auto: FOLDER}` with a folder of your own "
         "files of rows, or a study without this suite"),
        ({"auto": "empty"}, "tiny: suites.general.auto: found no file of rows in empty, expected a folder with files "
         "of rows (.jsonl, .json, .csv, .tsv, .parquet)"),
    ],
)  # fmt: skip
def test_where_nothing_can_be_reached_one_line_says_what_to_do(
    general: Any, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks_apart = {name: source for name, source in READY_SUITES.items() if source.harness is None}
    monkeypatch.setattr(reachable_suites, "READY_SUITES", tasks_apart)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputProblems) as caught:
        with_chosen_suites(asking(tmp_path, general), tmp_path, None)
    assert [str(problem) for problem in caught.value.problems] == [line]


def test_a_remedy_that_names_it_means_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_hub_sets(tmp_path, monkeypatch, 3)
    replay = {"self": 0.2, "prompts": "selection", "prompts_from": ["general"]}
    study = asking(tmp_path, "auto", arms={"lora": {"ranks": [2], "learning_rate": 1e-2, "replay": replay}})
    entry = with_chosen_suites(study, tmp_path, None).arms["lora"]
    assert entry.replay is not None
    assert entry.replay.prompts_from == ("general-set0", "general-set1", "general-set2")


def test_ready_suites_are_sound_settings() -> None:
    """Each is one that a study could name: with a kind, and of a set of the hub the columns that rows need."""
    for source in READY_SUITES.values():
        assert source.kind is not None
        assert (source.hub is None) != (source.harness is None)
        assert source.hub is None or "question" in (source.columns or {})
