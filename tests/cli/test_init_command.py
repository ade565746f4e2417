"""`rankscope init` and `rankscope schema`: what is written, what is asked, and what is said of wrong answers."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
import yaml
from command_line import call, problems
from config_cases import adapter_config, case
from tiny_study import tiny_study
from typer.testing import CliRunner

from rankscope.cli import app
from rankscope.study.data_study import LEAST_ROWS
from rankscope.study.read_study import read_study, study_of


@pytest.fixture(autouse=True)
def _no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub at an address where nobody answers, and an empty cache."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_study(tmp_path_factory.mktemp("init") / "input", seeds=[0, 1])


def test_init_writes_a_study_that_is_valid_but_for_its_paths(tmp_path: Path) -> None:
    out = tmp_path / "study.yaml"
    assert call("init", "--out", out).exit_code == 0
    assert "arms:" in out.read_text()
    assert "exists" in problems(call("init", "--out", out))[0]


def test_init_takes_flags(study: Path, tmp_path: Path) -> None:
    """The study that it writes is planned as it is: the paths in it are found from where it lies."""
    data, out = study.parent, tmp_path / "made" / "study.yaml"
    out.parent.mkdir()
    words = ["--model", data / "model", "--train", data / "train.jsonl", "--test", data / "taught.jsonl"]
    done = call("init", "--out", out, *words, "--keep", data / "other.jsonl", "--domain", "trees", "--name", "oaks")
    assert done.exit_code == 0, done.output
    result = call("plan", out, "--json", "--out", tmp_path / "none", "--set", "arms.lora.ranks=[2]")
    planned = json.loads(result.stdout)
    assert planned["study"] == "oaks"
    assert {suite["name"] for suite in planned["suites"]} == {"trees", "other"}


def test_init_asks_and_asks_again_where_an_answer_is_wrong(study: Path, tmp_path: Path) -> None:
    data, out = study.parent, tmp_path / "study.yaml"
    answers = [
        "a b", "oaks", "./no-such-model", str(data / "model"), "none.jsonl", str(data), str(data / "train.jsonl"),
        "what is it", "trees", "gone.jsonl", str(data / "taught.jsonl"), "numbers", "recall", str(data / "other.jsonl"),
        str(data / "other.jsonl"), "",
    ]  # fmt: skip
    result = CliRunner().invoke(app, ["init", "--ask", "--out", str(out)], input="\n".join(answers) + "\n")
    assert result.exit_code == 0, result.output
    settings = yaml.safe_load(out.read_text())
    assert (settings["name"], set(settings["suites"])) == ("oaks", {"trees", "other"})
    told = [line for line in result.stderr.splitlines() if ": found " in line]
    assert [line.split(": found")[0] for line in told] == [
        "init: --name", "./no-such-model: --model", "none.jsonl: --train", f"{data}: --train", "init: --domain",
        "gone.jsonl: --test", "init: --kind", "init: --keep",
    ]  # fmt: skip
    assert settings["suites"]["trees"]["kind"] == settings["train"]["trees"]["kind"] == "recall"
    assert "kind" not in settings["suites"]["other"]


def test_an_empty_answer_takes_what_a_flag_said(study: Path, tmp_path: Path) -> None:
    data, out = study.parent, tmp_path / "study.yaml"
    flags = [
        "--name",
        "oaks",
        "--train",
        str(data / "train.jsonl"),
        "--test",
        str(data / "taught.jsonl"),
        "--domain",
        "trees",
    ]
    result = CliRunner().invoke(app, ["init", "--ask", "--out", str(out), *flags], input="\n" * 7)
    assert result.exit_code == 0, result.output
    made = read_study(out)
    assert (made.train["trees"].path, made.suites["trees"].kind) == (str(data / "train.jsonl"), None)
    assert "TODO kind" in out.read_text()


def test_who_has_no_questions_beside_the_rows_gets_a_share_of_them_held_out(tmp_path: Path) -> None:
    rows, out = tmp_path / "plants.jsonl", tmp_path / "study.yaml"
    lines = (json.dumps({"question": f"Which tree is number {i}?", "answer": f"oak {i}"}) for i in range(40))
    rows.write_text("\n".join(lines) + "\n")
    answers = ["plants", "acme/none", str(rows), "trees", str(rows), "", str(rows), "", "recall"]
    words = ["init", "--ask", "--time", "20m", "--out", str(out)]
    result = CliRunner().invoke(app, words, input="\n".join(answers) + "\n")
    assert result.exit_code == 0, result.output
    study = read_study(out)
    (suite,) = study.suites.values()
    assert suite.held_out == "trees"
    assert (study.name, suite.kind) == ("plants", "recall")
    assert result.stderr.count("found the rows that are trained on") == 2, "asked again at once"
    assert "Not sized to 20m" in result.stdout
    assert "or `rankscope init FILE`" in problems(call("init", "--train", rows, "--out", tmp_path / "other.yaml"))[0]


def test_what_came_to_stand_there_while_it_asked_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, out = tmp_path / "plants.jsonl", tmp_path / "study.yaml"
    rows.write_text("".join(json.dumps({"question": f"Tree {i}?", "answer": "oak"}) + "\n" for i in range(40)))

    def answered(*_: object, **__: object) -> str:
        out.write_text("mine")
        return ""

    monkeypatch.setattr("rankscope.cli.init_questions.typer.prompt", answered)
    words = ("init", rows, "--model", "acme/none", "--ask", "--out", out)
    assert problems(call(*words))[-1] == f"{out}: --out: found a file that exists, expected a new file"
    assert out.read_text() == "mine"


def test_kept_files_have_names_of_their_own(tmp_path: Path) -> None:
    """Two of one name are refused, and one that is called as what `init` writes is renamed."""
    rows = tmp_path / "plants.jsonl"
    rows.write_text("".join(json.dumps({"question": f"Tree {i}?", "answer": "oak"}) + "\n" for i in range(40)))
    for place in ("general", "a/law", "b/law"):
        file = tmp_path / f"{place}.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"question": "Which law?", "answer": "this"}) + "\n")
    words = ["init", rows, "--model", "acme/none", "--out", tmp_path / "s.yaml"]
    twice = ["--keep", tmp_path / "a/law.jsonl", "--keep", tmp_path / "b/law.jsonl"]
    assert "two files named" in problems(call(*words, *twice))[0]
    assert call(*words, "--keep", tmp_path / "general.jsonl").exit_code == 0
    assert "general-kept" in read_study(tmp_path / "s.yaml").suites


def test_nothing_is_asked_where_the_file_exists(tmp_path: Path) -> None:
    out = tmp_path / "study.yaml"
    out.touch()
    assert "--out" in problems(CliRunner().invoke(app, ["init", "--ask", "--out", str(out)], input=""))[0]


def test_init_says_what_is_missing(study: Path, tmp_path: Path) -> None:
    rows, out = study.parent / "train.jsonl", tmp_path / "study.yaml"
    assert "--test" in problems(call("init", "--out", out, "--train", rows))[0]
    assert "--train" in problems(call("init", "--out", out, "--test", rows))[0]
    assert "no such file" in problems(call("init", "--out", out, "--train", "none.jsonl", "--test", rows))[0]
    other = tmp_path / "other.jsonl"
    other.write_bytes(rows.read_bytes())
    words = ("init", "--out", out, "--train", rows, "--test", other, "--keep", other, "--keep", other)
    assert "two files" in problems(call(*words))[0]
    assert "a b" in problems(call("init", "--out", out, "--name", "a b"))[0]
    assert not out.exists(), "nothing half-written"


# ---- another tool's config -------------------------------------------------------------------------------------------


def test_a_config_becomes_a_study_and_what_is_lost_is_told(tmp_path: Path) -> None:
    out = tmp_path / "study.yaml"
    result = call("init", "--from", case("axolotl/qlora-small.yml"), "--out", out)
    assert result.exit_code == 0, result.output
    assert "from axolotl's config" in result.stdout
    told = [line for line in result.stderr.splitlines() if line.startswith("not carried over: ")]
    assert len(told) == 3
    assert "no `general` suite" in result.stderr
    assert read_study(out).name == "qlora-small"


def test_flags_stand_in_place_of_what_a_config_says(tmp_path: Path, study: Path) -> None:
    """An adapter's settings name no data: it is given, and so may be a model that is here."""
    data, out = study.parent, tmp_path / "study.yaml"
    folder = adapter_config(tmp_path / "mine", peft_type="LORA", r=4, lora_alpha=8, base_model_name_or_path="acme/a")
    assert "data: found no training data" in problems(call("init", "--from", folder, "--out", out))[0]
    assert not out.exists()
    words = ["--model", data / "model", "--train", data / "train.jsonl", "--keep", data / "other.jsonl"]
    result = call("init", "--from", folder, "--out", out, "--domain", "trees", *words)
    assert result.exit_code == 0, result.output
    made = read_study(out)
    assert (list(made.train), set(made.suites)) == (["trees"], {"trees-held-out", "other-kept"})
    assert (made.suites["trees-held-out"].kind, made.suites["other-kept"].kind) == (None, None)
    assert [arm.rank for arm in made.expand_arms()] == [None, 1, 4, 16]


def test_wrong_files_to_start_from_are_a_line(tmp_path: Path) -> None:
    out = tmp_path / "study.yaml"
    (tmp_path / "colors.yaml").write_text("color: red\n")
    assert "no such file" in problems(call("init", "--from", tmp_path / "none.yaml", "--out", out))[0]
    assert "found the keys color" in problems(call("init", tmp_path / "colors.yaml", "--out", out))[0]
    two = call("init", tmp_path / "colors.yaml", "--from", tmp_path / "colors.yaml", "--out", out)
    assert "one file to start from" in problems(two)[0]
    wrong = call("init", "--from", case("trl/short.yaml"), "--tool", "axolot", "--out", out)
    assert "--tool: found axolot" in problems(wrong)[0]


# ---- rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_rows_become_a_study_of_the_size_that_fits(study: Path, tmp_path: Path) -> None:
    """The plan of what is written takes no longer than was allowed."""
    data, out = study.parent, tmp_path / "made" / "study.yaml"
    out.parent.mkdir()
    result = call("init", data / "train.jsonl", "--model", data / "model", "--keep", data / "other.jsonl",
                  "--out", out, "--time", "2h")  # fmt: skip
    assert result.exit_code == 0, result.output
    text = out.read_text()
    assert "TODO kind" in text
    assert "guessing is right in 33%" in text
    made = read_study(out)
    assert made.suites["train-held-out"].held_out == "train"
    assert {name: suite.kind for name, suite in made.suites.items()} == {"train-held-out": None, "other": None}
    assert list(made.seeds) == [0, 1, 2]  # type: ignore[arg-type]


def test_a_kind_is_asked_for_and_then_no_todo(study: Path, tmp_path: Path) -> None:
    data, out = study.parent, tmp_path / "study.yaml"
    (tmp_path / "sums.jsonl").write_text((data / "sums.jsonl").read_text() * 3)
    words = ["init", str(tmp_path / "sums.jsonl"), "--model", "acme/none", "--ask", "--out", str(out)]
    result = CliRunner().invoke(app, words, input="numbers\nreasoning\n")
    assert result.exit_code == 0, result.output
    assert '--kind: found "numbers", expected recall or reasoning' in result.stderr
    assert "acme/none is not on this machine yet" in out.read_text()
    made = read_study(out)
    assert (made.suites["sums-held-out"].kind, "TODO kind" in out.read_text()) == ("reasoning", False)


def test_wrong_times_and_rows_are_a_line(study: Path, tmp_path: Path) -> None:
    data, out = study.parent, tmp_path / "study.yaml"
    for time in ("soon", "0m", "2d"):
        assert (
            "expected 20m, 2h or night" in problems(call("init", data / "train.jsonl", "--time", time, "--out", out))[0]
        )
    (tmp_path / "odd.jsonl").write_text('{"colour": "red"}\n')
    assert "found only the columns colour" in problems(call("init", tmp_path / "odd.jsonl", "--out", out))[0]
    assert '--kind: found "memory"' in problems(call("init", data / "train.jsonl", "--kind", "memory", "--out", out))[0]
    assert problems(call("init", data / "train.jsonl", "--domain", "a b", "--out", out)) == [
        'init: --domain: found "a b", expected a name of letters, digits, `.`, `_` or `-` that begins with a letter or '
        "digit (at most 64)"
    ]
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        (["ROWS", "--train", "x", "--tool", "nonsense"], ["--tool", "--train"]),
        (["--from", "CONFIG", "--time", "nonsense", "--ask"], ["--ask", "--time"]),
        (["--domain", "mine", "--kind", "recall", "--time", "1h"], ["--domain", "--kind", "--time"]),
        (["--ask", "--tool", "trl"], ["--tool"]),
    ],
)
def test_an_option_that_would_say_nothing_is_a_line(
    study: Path, tmp_path: Path, words: list[str], flags: list[str]
) -> None:
    out = tmp_path / "study.yaml"
    swapped = {"ROWS": str(study.parent / "train.jsonl"), "CONFIG": str(case("trl/short.yaml"))}
    told = problems(call("init", *(swapped.get(word, word) for word in words), "--out", out))
    assert [line.split(": found it beside")[0] for line in told] == [f"init: {flag}" for flag in flags]
    assert all(line.endswith(" alone there") for line in told)
    assert not out.exists()


def test_what_rows_a_study_needs_at_least(study: Path, tmp_path: Path) -> None:
    """One fewer is refused; so many are planned, which is how they are sized."""
    data = study.parent
    few, enough, out = tmp_path / "few.jsonl", tmp_path / "enough.jsonl", tmp_path / "study.yaml"
    for path, count in ((few, LEAST_ROWS - 1), (enough, LEAST_ROWS)):
        rows = [{"question": f"Which tree is {i}?", "answer": f"oak {i}"} for i in range(count)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--model", data / "model", "--out", out]
    assert problems(call("init", few, *words)) == [
        f"{few}: found {LEAST_ROWS - 1} rows, expected at least {LEAST_ROWS}: a tenth is asked instead of trained on, "
        "and one question decides nothing"
    ]
    result = call("init", enough, *words)
    assert result.exit_code == 0, result.output
    assert "is not said (--kind, --ask)" in result.stdout
    made = read_study(out)
    assert (made.train["enough"].kind, made.suites["enough-held-out"].kind) == (None, None)
    repeated = tmp_path / "repeated.jsonl"
    repeated.write_text(few.read_text().splitlines()[0].join(["", "\n"]) * 40)
    assert "found 0 of 1 rows" in problems(call("init", repeated, *words[:2], "--out", tmp_path / "b.yaml"))[0]
    assert not (tmp_path / "b.yaml").exists()


def test_ready_suites_stand_where_some_can_be_had(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What init wrote where nothing can be reached is planned there; the line that is left out is a line of a study."""
    data, out = study.parent, tmp_path / "study.yaml"
    words = [data / "train.jsonl", "--model", "acme/none"]
    assert call("init", *words, "--out", out).exit_code == 0
    assert set(read_study(out).suites) == {"train-held-out"}
    lines = out.read_text().splitlines()
    assert any("No ready suite can be reached" in line for line in lines)
    taken = [f"  {line[4:]}" if line.startswith(("  # general", "  #   ")) else line for line in lines]
    (tmp_path / "train.jsonl").touch()
    assert study_of("\n".join(taken)).suites["general"].auto == "ready"
    monkeypatch.setattr("rankscope.cli.init_sources.why_no_ready_suite", lambda: None)
    assert call("init", *words, "--out", tmp_path / "b.yaml").exit_code == 0
    assert read_study(tmp_path / "b.yaml").suites["general"].auto == "ready"
