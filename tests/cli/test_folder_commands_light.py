"""`--help`, `status` and `verdict` answer at once: none of the libraries that take seconds to import is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from made_plan import make_plan
from made_report import make_verdict

from rankscope.edges.study_folder import StudyFolder
from rankscope.records import RunStatus, VerdictFile

HEAVY = {
    "accelerate", "altair", "datasets", "jinja2", "numpy", "pandas", "peft", "pyarrow", "safetensors", "scipy", "torch",
    "transformers", "vl_convert",
}  # fmt: skip
RECORDS = {"psutil", "pydantic", "rich", "ruamel"}
"""Not heavy, and a third of a second together: what only prints words goes without."""
WRAPPER = """
import json, sys
sys.argv = ["rankscope", *sys.argv[1:]]
from rankscope.cli import main
try:
    main()
finally:
    print(json.dumps(sorted(name for name in sys.modules if "." not in name)), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with a plan, a finished run and a verdict."""
    path = tmp_path_factory.mktemp("light") / "study"
    study, plan = StudyFolder.open(path), make_plan(searches=2)
    study.claim("made", "name: made\n")
    study.write_study("name: made\n", plan)
    study.write_status(RunStatus(run_id=plan.runs[0].run_id, state="done", steps_done=40, steps_total=40))
    study.write_verdicts(VerdictFile(verdicts=[make_verdict(), make_verdict("legal", "cannot_distinguish")]))
    return path


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--help"], 0, "verdict"),
        (["run", "--help"], 0, "--only"),
        (["status", "DIR"], 0, ""),
        (["status", "DIR", "--json"], 0, '"done": 1'),
        (["verdict", "DIR"], 3, "Use lora-r16"),
        (["verdict", "DIR", "--json"], 3, '"headline"'),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_nothing_heavy_is_imported(folder: Path, words: list[str], code: int, said: str) -> None:
    call = [sys.executable, "-c", WRAPPER, *(str(folder) if word == "DIR" else word for word in words)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert said in done.stdout
    assert HEAVY & set(json.loads(done.stderr.splitlines()[-1])) == set()


@pytest.mark.parametrize("words", [["--help"], ["--version"], []], ids=str)
def test_help_and_version_import_no_more_than_the_command_line(words: list[str]) -> None:
    call = [sys.executable, "-c", WRAPPER, *words]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == (0 if words else 2), done.stderr
    assert (HEAVY | RECORDS) & set(json.loads(done.stderr.splitlines()[-1])) == set()


def test_the_package_alone_imports_nothing_that_is_not_python_s() -> None:
    code = "import sys; before = set(sys.modules); import rankscope; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = {name.partition(".")[0] for name in done.stdout.split()}
    assert imported - set(sys.stdlib_module_names) == {"rankscope"}


def test_watch_ends_and_says_so_where_nobody_works(folder: Path) -> None:
    call = [sys.executable, "-m", "rankscope", "status", str(folder), "--watch"]
    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"no process works on this study; to go on: rankscope run {folder}"


def test_watch_follows_while_a_process_works(folder: Path) -> None:
    call = [sys.executable, "-m", "rankscope", "status", str(folder), "--watch"]
    with StudyFolder.open(folder).lock():
        watching = subprocess.Popen(call, stdout=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            watching.wait(timeout=5)
    out, _ = watching.communicate(timeout=60)
    assert watching.returncode == 0
    assert "1 done, 14 planned" in out
