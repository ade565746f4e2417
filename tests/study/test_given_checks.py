"""Arms that were trained elsewhere in studies that they cannot stand in: one line each."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_facts import STUDY

from rankscope.study.problems import InputProblems
from rankscope.study.read_study import read_study

GIVEN = STUDY.replace("full: {learning_rate: 1e-5}", "theirs: {adapters: [a0, a1, a2]}")
SETS = "  medical: {path: train.jsonl, domain: medical}\n"


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("[0, 1, 2]", "{start: 3, max: 5}", "found seeds that are added while it runs, expected a list of seeds, a "
         "folder for each: none can be added to what was trained elsewhere"),
        ("[0, 1, 2]", "[0]", "found 3 folders for 1 seed, expected a folder for each seed, or `seeds` of 3"),
        ("model: bundled", "model: [org/a, org/b]", "found a study of 2 base models, expected a study of one base model, "
         "that which it was trained from"),
        (SETS, SETS + SETS.replace("medical:", "more:", 1), "found a study of 2 training sets, expected a study of "
         "one training set, that which it was trained on"),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_so_is_one_line(tmp_path: Path, old: str, new: str, line: str) -> None:
    for name in ("train.jsonl", "test.jsonl", "law.jsonl"):
        (tmp_path / name).write_text("{}\n")
    for name in ("a0", "a1", "a2"):
        (tmp_path / name).mkdir()
    (tmp_path / "study.yaml").write_text(GIVEN.replace(old, new))
    with pytest.raises(InputProblems) as caught:
        read_study(tmp_path / "study.yaml")
    (problem,) = caught.value.problems
    assert problem.place.endswith("arms.theirs.adapters")
    assert f"found {problem.found}, expected {problem.expected}" == line


def test_they_are_read_with_three_seeds(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(GIVEN)
    (arm, *_) = read_study(tmp_path / "study.yaml", files=False).expand_arms()
    assert (arm.label, arm.method, arm.learning_rate) == ("theirs", "given-adapters", None)
