"""The first study file: it reads as it is and with its comments taken away, and what is wrong names its flag."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rankscope.data.world import make_world
from rankscope.study.init_file import InitFlags, study_template, write_first_study
from rankscope.study.problems import InputProblems
from rankscope.study.read_study import read_study
from rankscope.study.study import Study


def test_the_template_runs_as_it_is_on_the_bundled_world(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(study_template())
    study = read_study(path)
    sources = [*study.train.values(), *study.suites.values()]
    assert {source.world for source in sources} <= set(make_world(0).names())
    assert len(study.seeds) >= 3
    assert {suite.domain for suite in study.suites.values()} > {"medical"}


def test_the_template_takes_names_and_paths_of_any_kind(tmp_path: Path, write: Callable[[str], Path]) -> None:
    odd = tmp_path / 'my: "data" #1.jsonl'
    odd.write_text("{}\n")
    text = study_template(
        "2024",
        "./true",
        train_path=odd.name,
        domain="mine",
        test_path="test.jsonl",
        keep_paths={"law": "law.jsonl", "mine": "law.jsonl", "1e3": str(odd)},
    )
    (tmp_path / "true").mkdir()
    study: Study = read_study(write(text))
    assert (study.name, study.models[0].id) == ("2024", "./true")
    assert study.train["mine"].path == odd.name
    assert list(study.suites) == ["mine-test", "law", "mine", "1e3"]
    assert study.suites["1e3"].path == str(odd)


def test_commented_lines_of_the_template_are_valid_too(write: Callable[[str], Path]) -> None:
    text = study_template()
    for old in ("optimizer", "validation", "checkpoint", "keep", "  lora-attention", "  mine"):
        before = text
        text = text.replace(f"\n{' ' * (len(old) - len(old.lstrip()))}# {old.strip()}:", f"\n{old}:")
        assert text != before, old
    text = text.replace("mine: {path: test.jsonl", "mine-test: {path: test.jsonl")
    study = read_study(write(text))
    assert "lora-attention-r16" in [arm.label for arm in study.expand_arms()]
    assert study.train["mine"].path == "train.jsonl"


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"name": "a b"}, 'init: --name: found "a b", expected a name of letters'),
        ({"domain": "a/b"}, 'init: --domain: found "a/b", expected a name of letters'),
        ({"model": "./none"}, "./none: --model: found no such folder"),
        ({"model": " "}, 'init: --model: found "", expected `bundled`'),
        ({"model": "a\x07"}, "init: --model: found"),
        ({"train": Path("none.jsonl")}, "none.jsonl: --train: found no such file"),
        ({"test": Path("none.jsonl")}, "none.jsonl: --test: found no such file"),
        ({"train": Path(".")}, ".: --train: found a folder"),
        ({"train": Path("a\x1b.jsonl")}, '"a .jsonl": --train: found a name with control characters'),
        ({"keep": (Path("none.jsonl"),)}, "none.jsonl: --keep: found no such file"),
        ({"keep": (Path("x" * 300),)}, f"{'x' * 300}: --keep: found no such file"),
    ],
)
def test_what_is_wrong_names_its_flag(
    write: Callable[[], Path], tmp_path: Path, flags: dict[str, object], line: str
) -> None:
    write().unlink()
    given = {"train": tmp_path / "train.jsonl", "test": tmp_path / "test.jsonl"} | flags
    with pytest.raises(InputProblems) as caught:
        write_first_study(tmp_path / "study.yaml", InitFlags(**given))  # type: ignore[arg-type]
    assert [str(problem)[: len(line)] for problem in caught.value.problems] == [line]
    assert not (tmp_path / "study.yaml").exists()


def test_an_empty_file_and_one_that_exists_are_refused(write: Callable[[], Path], tmp_path: Path) -> None:
    study = write()
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(InputProblems, match="--out: found a file that exists"):
        write_first_study(study, InitFlags())
    study.unlink()
    os.symlink(tmp_path / "gone", study)
    with pytest.raises(InputProblems, match="--out: found a file that exists"):
        write_first_study(study, InitFlags())
    with pytest.raises(InputProblems, match="--train: found an empty file"):
        write_first_study(tmp_path / "b.yaml", InitFlags(train=tmp_path / "empty.jsonl", test=tmp_path / "test.jsonl"))


def test_suites_have_names_of_their_own_whatever_files_are_called(write: Callable[[], Path], tmp_path: Path) -> None:
    write().unlink()
    for name in ("mine", "mine-test", "1e3"):
        (tmp_path / f"{name}.jsonl").write_text("{}\n")
    keep = [tmp_path / f"{name}.jsonl" for name in ("mine", "mine-test", "1e3")]
    rows = {"train": tmp_path / "train.jsonl", "test": tmp_path / "test.jsonl"}
    write_first_study(tmp_path / "study.yaml", InitFlags(**rows, keep=keep))
    study = read_study(tmp_path / "study.yaml")
    assert list(study.suites) == ["mine-test-test", "mine", "mine-test", "1e3"]
    assert study.suites["mine-test-test"].domain == study.train["mine"].domain == "mine"


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputProblems, match="--out: found a file that cannot be written"):
        write_first_study(tmp_path / ("x" * 300), InitFlags())
    write_first_study(tmp_path / "new" / "folder" / "study.yaml", InitFlags())
    assert read_study(tmp_path / "new" / "folder" / "study.yaml").name == "my-study"


def test_the_rows_that_are_trained_on_are_no_test(tmp_path: Path) -> None:
    """By another way to the same file too."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "Who?", "answer": "Ann"}\n' * 20)
    (tmp_path / "link.jsonl").symlink_to(rows)
    for test in (rows, tmp_path / "link.jsonl"):
        with pytest.raises(InputProblems, match="--test: found the rows that are trained on"):
            write_first_study(tmp_path / "s.yaml", InitFlags(train=rows, test=test))
    assert not (tmp_path / "s.yaml").exists()
