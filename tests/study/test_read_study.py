"""Reading a study: what is right becomes settings, and everything that is wrong is said at once, in plain words."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_facts import STUDY
from wrong_studies import FILES, LATER, OVERRIDES, SECTIONS, WRONG

from rankscope.data.world import make_world
from rankscope.study.problems import InputProblems, Problem, holds, show
from rankscope.study.read_study import absolute, dump_study, read_study, study_of
from rankscope.study.study import Study
from rankscope.study.yaml_text import dump_yaml, load_yaml, parse_yaml

Lines = Callable[..., list[str]]
Read = Callable[..., Study]

# DESIGN's own example, with what this version builds
EXAMPLE = """\
name: medical
model: bundled
train:
  medical: {path: train.jsonl, domain: medical}
suites:
  medqa: {path: test.jsonl, domain: medical, kind: recall}
  law:   {path: law.jsonl,  domain: legal,   kind: recall}
arms:
  full: {learning_rate: auto}
  lora: {ranks: [8, 16, 32, 64, 128], alpha: 2r, targets: all-linear, learning_rate: auto}
  lora-attention: {method: lora, ranks: [16], alpha: 2r, targets: [q_proj, v_proj], learning_rate: 2e-4}
validation: {fraction: 0.1, max_items: 500}
budget: {epochs: 3, batch_size: 16, max_sequence_tokens: 1024}
optimizer: {weight_decay: 0.0, warmup_fraction: 0.03, schedule: cosine, clip_norm: 1.0}
seeds: [0, 1, 2]
decision: {task_margin: 0.03, retention_margin: 0.03, min_gain: 0.01, confidence: 0.95}
checkpoint: {minutes: 10}
keep: {full: none}
"""


def changed(old: str, new: str) -> str:
    assert old in STUDY
    return STUDY.replace(old, new)


# ---- what is right --------------------------------------------------------------------------------------------------


def test_the_example_is_read_whole(read: Read) -> None:
    study = read(EXAMPLE)
    labels = ["full", "lora-r8", "lora-r16", "lora-r32", "lora-r64", "lora-r128", "lora-attention-r16"]
    arms = study.expand_arms()
    assert [arm.label for arm in arms] == labels
    assert [arm.alpha for arm in arms] == [None, 16, 32, 64, 128, 256, 32]
    assert arms[-1].learning_rate == 2e-4
    assert arms[-1].targets == ("q_proj", "v_proj")
    assert arms[0].learning_rate == "auto"
    assert (study.budget.epochs, study.seeds, study.models[0].id) == (3.0, (0, 1, 2), "bundled")


@pytest.mark.parametrize(
    ("text", "rate"), [("2e-4", 2e-4), ("1E-3", 1e-3), ("2.5e-05", 2.5e-5), (".001", 1e-3), ("1_0e-4", 1e-3)]
)
def test_floats_are_numbers_as_people_write_them(read: Read, text: str, rate: float) -> None:
    assert read(changed("1e-5", text)).expand_arms()[0].learning_rate == pytest.approx(rate, rel=1e-12)


def test_words_of_old_yaml_are_texts(read: Read) -> None:
    study = read(changed("name: small", "name: no").replace("medical", "on"))
    assert study.name == "no"
    assert study.train["on"].domain == "on"


@pytest.mark.parametrize("full", ["full:", "full: {}", "full: null", "full: {method: full}"])
def test_an_arm_named_after_its_method_needs_no_settings(read: Read, full: str) -> None:
    arm = read(changed("full: {learning_rate: 1e-5}", full)).expand_arms()[0]
    assert (arm.label, arm.method, arm.learning_rate) == ("full", "full", "auto")


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("./base", ["base"]),
        ("{id: ./base, dtype: float32}", ["base"]),
        ("[bundled, org/other]", ["bundled", "other"]),
        ("[{id: bundled}, ./base]", ["bundled", "base"]),
    ],
)
def test_a_model_is_a_text_a_mapping_or_a_list(read: Read, tmp_path: Path, model: str, names: list[str]) -> None:
    (tmp_path / "base").mkdir()
    assert [spec.name for spec in read(changed("model: bundled", f"model: {model}")).models] == names


def test_a_section_whose_lines_are_all_comments_means_its_defaults(read: Read) -> None:
    assert read(STUDY + "budget:\n  # epochs: 3\noptimizer:\n").budget.epochs == 3


def test_a_hub_set_with_its_columns(read: Read) -> None:
    origin = "hub: org/set, config: main, split: test, revision: refs/convert/parquet, bad_rows: drop"
    columns = "columns: {question: q, choices: [opa, opb], answer_index: cop}"
    law = read(changed("path: law.jsonl", f"{origin}, {columns}, limit: 5")).suites["law"]
    assert (law.hub, law.config, law.split, law.revision) == ("org/set", "main", "test", "refs/convert/parquet")
    assert law.columns == {"question": "q", "choices": ("opa", "opb"), "answer_index": "cop"}


def test_a_settings_null_is_as_if_it_were_not_there(read: Read) -> None:
    text = changed("domain: legal", "domain: legal, hub: null, limit: null")
    assert read(text).suites["law"].limit is None


def test_aliases_and_anchors_are_plain_values(read: Read) -> None:
    text = changed("[0, 1, 2]", "&seeds [0, 1, 2]").replace("[4, 8]", "*ranks").replace("name: small", "name: &n small")
    assert read(text.replace("*ranks", "&r [4, 8]")).seeds == (0, 1, 2)


def test_a_resolved_study_reads_back_the_same(read: Read, tmp_path: Path) -> None:
    columns = "columns: {question: q, choices: [a, b], answer_index: c}"
    text = EXAMPLE.replace("path: law.jsonl", f"path: law.jsonl, {columns}")
    text = text.replace("model: bundled", "model: {id: bundled, chat: never, system_prompt: Brief.}")
    study = absolute(read(text), tmp_path)
    (tmp_path / "resolved.yaml").write_text(dump_study(study))
    assert read_study(tmp_path / "resolved.yaml") == study


STUDIES = sorted((Path(__file__).parents[2] / "studies").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_of_the_project_is_valid(path: Path, request: pytest.FixtureRequest) -> None:
    overrides = []
    if "shared/data" in path.read_text():
        request.getfixturevalue("shared_data")  # skips where the public data sets are not beside the checkout
    if "../gemma-3-270m" in path.read_text():
        overrides = ["model=bundled"]  # scripts/gemma_base.py makes that folder, and nothing of it is committed
    study = read_study(path, overrides)
    names = make_world(0).names()
    worlds = [source.world for source in [*study.train.values(), *study.suites.values()] if source.world is not None]
    assert [world for world in worlds if world not in names] == []


# ---- --set ----------------------------------------------------------------------------------------------------------


def test_overrides_change_one_setting_each(read: Read) -> None:
    study = read(
        STUDY,
        "budget.epochs=0.5",
        "arms.lora.ranks=[2, 16]",
        "arms.lora.ranks[0]=1",
        "seeds=[7]",
        "model.dtype=float32",
        "suites.law.limit=5",
    )
    assert study.budget.epochs == 0.5
    assert [arm.rank for arm in study.expand_arms()] == [None, 1, 16]
    assert study.seeds == (7,)
    assert (study.models[0].id, study.models[0].dtype) == ("bundled", "float32")
    assert study.suites["law"].limit == 5


def test_an_override_finds_names_with_dots(read: Read) -> None:
    text = changed("  law:", "  law.v2:")
    assert read(text, "suites.law.v2.limit=3").suites["law.v2"].limit == 3


@pytest.mark.parametrize(
    ("override", "line"),
    OVERRIDES,
)
def test_a_wrong_override_is_named_as_one(lines: Lines, override: str, line: str) -> None:
    assert lines(STUDY, override) == [line]


# ---- files that are no study ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "line"),
    FILES,
    ids=range(len(FILES)),
)
def test_a_file_that_is_no_study(tmp_path: Path, content: bytes, line: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(content)
    with pytest.raises(InputProblems) as caught:
        read_study(path)
    assert [str(p).replace(f"{tmp_path}/", "") for p in caught.value.problems] == [line]


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path, found in ((tmp_path / "none.yaml", "no such file"), (tmp_path, "a folder"), (Path("a\0b"), "a path")):
        with pytest.raises(InputProblems) as caught:
            read_study(path)
        assert [p.file for p in caught.value.problems] == [str(path)]
        assert caught.value.problems[0].found.startswith(found)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_that_may_not_be_read(write: Callable[[str], Path]) -> None:
    path = write(STUDY)
    path.chmod(0)
    with pytest.raises(InputProblems, match="Permission denied"):
        read_study(path)


def test_an_alias_cannot_make_the_reader_run_forever(lines: Lines) -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    for before, name in zip("abcdef", "bcdefg", strict=True):
        bomb += f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    assert lines(bomb) == ["study.yaml: found more than 20000 values, expected a study in YAML"]
    assert "line 1, name[0]: found an alias to what it stands in, expected a value" in lines("name: &a [*a]")[0]


# ---- settings that are wrong ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new", "line"), WRONG, ids=[f"{i}-{new[:24]}" for i, (_, new, _) in enumerate(WRONG)])
def test_one_wrong_setting_is_one_line(lines: Lines, tmp_path: Path, old: str, new: str, line: str | None) -> None:
    found = [text.replace(str(tmp_path), "FOLDER") for text in lines(changed(old, new))]
    if line is None:  # more than one line is right here
        assert found
    else:
        assert found[0] == f"study.yaml: {line}"
        allowed = 2 if "tag" in line else 1  # a refused tag leaves nothing for the name
        assert len(found) <= allowed


@pytest.mark.parametrize(("section", "setting", "rest"), SECTIONS)
def test_ranges_of_the_sections(lines: Lines, section: str, setting: str, rest: str) -> None:
    key = setting.split(":")[0]
    assert lines(f"{STUDY}{section}:\n  {setting}\n") == [f"study.yaml: line 14, {section}.{key}: found {rest}"]


@pytest.mark.parametrize(("old", "new", "name"), LATER, ids=range(len(LATER)))
def test_what_a_later_version_builds_is_refused_by_name(lines: Lines, old: str, new: str, name: str) -> None:
    found = lines(changed(old, new))
    assert len(found) == 1
    assert name in found[0]
    assert "which is not built yet, expected" in found[0]


def test_every_problem_is_said_at_once_in_the_files_order(lines: Lines) -> None:
    text = (
        STUDY.replace("model: bundled", "model: {id: x, dtype: fp8}")
        .replace("test.jsonl", "gone.jsonl")
        .replace("[4, 8]", "[4, -8, x]")
        .replace("full: {learning_rate: 1e-5}", "adalora: {}")
        .replace("[0, 1, 2]", "[1, 1]")
        + "budget: {epoch: 3}\ndecision: {confidence: 2}\nseeds: [0]\n"
    )
    found = lines(text, "keep.full=maybe", "oops")
    places = [line.split(": found")[0] for line in found]
    assert places == [
        "study.yaml: line 2, model.dtype",
        "study.yaml: line 6, suites.medqa.path",
        "study.yaml: line 10, arms.adalora",
        "study.yaml: line 11, arms.lora.ranks[1]",
        "study.yaml: line 11, arms.lora.ranks[2]",
        "study.yaml: line 12, seeds[1]",
        "study.yaml: line 13, budget.epoch",
        "study.yaml: line 14, decision.confidence",
        "study.yaml: line 15, seeds",
        "--set",
        "--set: keep.full",
    ]


def test_a_problem_is_one_short_line_whatever_was_found() -> None:
    nasty = "line\nbreak\x1b[31m" + "x" * 500
    line = str(Problem("f", "a", show(nasty), "b"))
    assert "\n" not in line
    assert "\x1b" not in line
    assert len(line) < 120
    assert show([1, None, True, {"a": 1}]) == "[1, nothing, true, a mapping with a]"
    assert show(10**400) == "a number of more than 20 digits"


def test_reading_a_study_loads_no_stage_s_libraries() -> None:
    code = """
import sys
from importlib import resources
from rankscope.study.read_study import read_study
from rankscope.study.read_study import dump_study, study_of
with resources.as_file(resources.files("rankscope") / "assets" / "demo.yaml") as path:
    study_of(dump_study(read_study(path)))
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "pandas", "transformers", "numpy", "datasets", "huggingface_hub", "yaml", "scipy"}
    assert not heavy & set(done.stdout.split())


def test_a_text_that_yaml_takes_for_a_number_is_told_so(lines: Lines) -> None:
    (line,) = lines(changed("domain: legal", "domain: 1e3"))
    assert line.endswith("; a text that looks like something else stands in quotes")
    assert "line 7, suites.law.domain: found 1000, expected a name of letters" in line


def test_a_short_form_takes_overrides_of_its_settings(read: Read) -> None:
    study = read(STUDY + "optimizer: adamw_8bit\n", "optimizer.clip_norm=0.5", "model.dtype=float32")
    assert (study.optimizer.name, study.optimizer.clip_norm, study.models[0].dtype) == ("adamw_8bit", 0.5, "float32")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", ""),
        ("name: x\n", "model"),
        ("name: [x\n", "line 2"),
        (STUDY.replace("[4, 8]", "[4, x]"), "line 11, arms.lora"),
    ],
)
def test_a_resolved_study_that_was_damaged_is_refused_in_lines(text: str, place: str) -> None:
    with pytest.raises(InputProblems) as caught:
        study_of(text, "study.yaml")
    assert any(problem.file == "study.yaml" and problem.place.startswith(place) for problem in caught.value.problems)


def test_executors_and_trackers_are_names(read: Read) -> None:
    study = read(STUDY + "execution: {on: anything}\ntrack: [mine, mlflow]\n")
    assert (study.execution.on, study.track) == ("anything", ("mine", "mlflow"))
    assert read(STUDY).execution.on == "local"


# ---- anything -------------------------------------------------------------------------------------------------------

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(["lora", "base"])
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "a", "method", "ranks", "0"]), inner)
    ),
    max_leaves=5,
)
PLACES = [
    place
    for place, _ in parse_yaml(STUDY + "optimizer: {name: adamw}\nexecution: {on: local}\n", "").lines.items()
    if place
]


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(PLACES), ANYTHING, min_size=1, max_size=4))
def test_whatever_stands_anywhere_it_is_a_study_or_lines(changes: dict[tuple[str | int, ...], object]) -> None:
    value = load_yaml(STUDY.replace("path: ", "world: ") + "optimizer: {name: adamw}\nexecution: {on: local}\n", "", "")
    for place, new in changes.items():
        inner = value
        for key in place[:-1]:
            inner = inner[key] if holds(inner, key) else {}
        if holds(inner, place[-1]):
            inner[place[-1]] = new
    with TemporaryDirectory() as folder:
        path = Path(folder) / "study.yaml"
        problems: list[Problem] | None = None
        try:
            path.write_text(dump_yaml(value), encoding="utf-8")
            read_study(path)
        except InputProblems as caught:
            problems = caught.problems
    assert problems != []
    assert all(str(problem).isprintable() for problem in problems or ())


def test_a_file_of_nothing_but_mistakes_ends_soon(lines: Lines) -> None:
    began = time.process_time()
    assert len(lines(STUDY + "".join(f"k{i}: 1\n" for i in range(4_000)))) == 4_000
    assert len(lines(STUDY.replace("[0, 1, 2]", f"[{'7, ' * 8_000}7]"))) == 8_000
    assert time.process_time() - began < 20
