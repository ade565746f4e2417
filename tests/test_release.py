"""What is published: a wheel and an sdist, installed without the checkout, and what a stranger does with them first.

`make test-release`. The package is built from the files that git knows, so one that was forgotten is missing here too.
Libraries come from the environment that runs the tests; rankscope itself from the wheel alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

import rankscope

ROOT = Path(__file__).resolve().parents[1]
pytestmark = [pytest.mark.release, pytest.mark.timeout(900)]


def in_git(*folders: str) -> list[str]:
    """Files that are part of the project, tracked or new, by their path."""
    call = ["git", "ls-files", "-co", "--exclude-standard", "--deduplicate", *folders]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(wheel, sdist); the wheel is made from the sdist, as `python -m build` does."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in in_git():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    call = [sys.executable, "-m", "build", "--outdir", str(out), str(source)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


class Installed:
    """A fresh environment with the wheel, and what is typed in it, in an empty folder."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder = folder
        environment = folder / ".venv"
        self.programs = environment / "bin"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
        packages = Path(self.output([self.programs / "python", "-c", "import site; print(site.getsitepackages()[0])"]))
        # A plain path: the libraries of the environment that tests, without its own (editable) rankscope.
        (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "--python", str(self.programs / "python")]
        self.output([*pip, "install", "-q", "--no-deps", "--no-index", str(wheel)])

    def run(self, call: Sequence[object], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment["PATH"] = f"{self.programs}{os.pathsep}{environment['PATH']}"
        words = [str(word) for word in call]
        return subprocess.run(
            words, cwd=folder or self.folder, env=environment, capture_output=True, text=True, check=False, timeout=800
        )

    def output(self, call: Sequence[object], folder: Path | None = None) -> str:
        """What it printed; it must end with 0."""
        done = self.run(call, folder)
        assert done.returncode == 0, f"{call}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()


@pytest.fixture(scope="module")
def installed(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"), built[0])


def test_the_wheel_has_every_file_of_the_package_and_no_other(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        (metadata,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        described = wheel.read(metadata).decode()
        licences = [name for name in wheel.namelist() if name.endswith("licenses/LICENSE")]
    assert names == {name.removeprefix("src/") for name in in_git("src")}
    assert f"Version: {rankscope.__version__}\n" in described
    assert "License-Expression: Apache-2.0\n" in described
    assert licences


def test_the_sdist_has_what_a_packager_needs(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert set(in_git("src", "studies", "docs", "tests")) <= names
    assert {"LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "SECURITY.md", "constraints.txt"} <= names


def test_the_version_stands_in_the_citation() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == rankscope.__version__
    assert {"cff-version", "message", "title", "authors", "license"} <= cited.keys()


def test_the_package_comes_from_the_wheel(installed: Installed) -> None:
    assert installed.output(["rankscope", "--version"]) == f"rankscope {rankscope.__version__}"
    where = installed.output([installed.programs / "python", "-c", "import rankscope; print(rankscope.__file__)"])
    assert Path(where).is_relative_to(installed.folder / ".venv")


def test_the_smaller_demo_comes_to_an_answer(installed: Installed) -> None:
    done = installed.run(["rankscope", "demo", "--quick"])
    assert done.returncode == 0, done.stderr
    assert "The smaller demo: " in done.stdout
    assert "Best bet: " in done.stdout
    folder = installed.folder / "demo-quick"
    (verdict,) = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))["verdicts"]
    assert {arm["label"] for arm in verdict["arms"]} == {"lora-r1", "lora-r16", "full"}
    assert verdict["best_bet"]["label"] in {"lora-r1", "lora-r16", "full"}
    assert (folder / "report.html").stat().st_size > 100_000


def test_five_commands_lead_from_one_file_of_rows_to_a_report(installed: Installed) -> None:
    """docs/first-study.md as printed, none of its commands left out, nothing edited between them."""
    text = (ROOT / "docs" / "first-study.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S) for line in block.splitlines()]
    assert len(lines) <= 5
    folder = installed.folder / "first-study"
    folder.mkdir()
    shutil.copy(ROOT / "studies" / "own-data" / "train.jsonl", folder / "plants.jsonl")
    printed = {}
    for line in lines:
        done = installed.run(["bash", "-c", line], folder)
        allowed = (0, 3) if line.startswith("rankscope verdict ") else (0,)
        assert done.returncode in allowed, f"{line}\n{done.stdout}\n{done.stderr}"
        printed[line] = done.stdout
    said = re.search(r"^Next: .*$", text, re.M)
    assert said is not None
    assert said[0] in printed["rankscope doctor"]
    assert "Best bet: " in printed["rankscope verdict plants"]
    assert (folder / "plants" / "report.html").stat().st_size > 100_000


def test_the_study_of_own_data_runs_from_the_sdist(
    built: tuple[Path, Path], installed: Installed, tmp_path: Path
) -> None:
    """As in a fresh clone, with less of everything: one arm, two seeds, one pass."""
    with tarfile.open(built[1]) as sdist:
        sdist.extractall(tmp_path, filter="data")
    (clone,) = tmp_path.iterdir()
    less = ["arms={lora: {ranks: [4], learning_rate: 3e-3}}", "seeds=[0, 1]", "budget.epochs=1", "dial=[1]"]
    changes = [word for change in less for word in ("--set", change)]
    installed.output(["rankscope", "run", "studies/own-data.yaml", "--out", tmp_path / "out", *changes], clone)
    plan = json.loads((tmp_path / "out" / "plan.json").read_text(encoding="utf-8"))
    assert {suite["name"] for suite in plan["suites"]} == {"plants", "plants-open", "law", "general", "arithmetic"}
    assert plan["train_sets"][0]["row_count"] + plan["train_sets"][0]["validation_count"] == 306
    assert (tmp_path / "out" / "report.html").is_file()
