"""A stranger adds a storage and an executor: one new file each, nothing else is touched, and a study runs with them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_study import tiny_study

import rankscope

pytestmark = pytest.mark.slow

SOURCE = Path(rankscope.__file__).parent

STORAGE = '''
"""A toy: every file of a study in one JSON file, its bytes as hex."""

import contextlib, json, shutil, tempfile
from pathlib import Path

SCHEMES = ("toy",)


def open_url(url):
    return Toy(url)


class Toy:
    def __init__(self, url):
        self.url, self.file = url, Path(url.removeprefix("toy://"))

    def _all(self):
        return json.loads(self.file.read_text()) if self.file.exists() else {}

    def _put(self, files):
        self.file.write_text(json.dumps(files))

    def check_writable(self): ...

    def read(self, name):
        found = self._all().get(name)
        return None if found is None else bytes.fromhex(found)

    def write(self, name, content, *, durable=True):
        self._put({**self._all(), name: content.hex()})

    def create(self, name, content):
        if name in self._all():
            return False
        self.write(name, content)
        return True

    def exists(self, name):
        return any(one == name or one.startswith(f"{name}/" if name else "") for one in self._all())

    def list(self, folder):
        start = f"{folder}/" if folder else ""
        return sorted({one[len(start):].split("/")[0] for one in self._all() if one.startswith(start)})

    def is_empty(self):
        return not self._all()

    def size_bytes(self, name):
        found = self.read(name)
        return None if found is None else len(found)

    def remove(self, name):
        self._put({k: v for k, v in self._all().items() if k != name and not k.startswith(f"{name}/")})

    def rename(self, name, new_name):
        files = self._all()
        if name in files:
            self._put({**{k: v for k, v in files.items() if k != name}, new_name: files[name]})

    def local_copy(self, name):
        if not self.exists(name):
            return None
        root = Path(tempfile.mkdtemp())
        for one, content in self._all().items():
            if one == name or one.startswith(f"{name}/"):
                path = root / one
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(bytes.fromhex(content))
        return root / name

    @contextlib.contextmanager
    def local_draft(self, name):
        draft = Path(tempfile.mkdtemp()) / "draft"
        yield draft
        made = [draft] if draft.is_file() else [p for p in draft.rglob("*") if p.is_file()]
        self.remove(name)
        for path in made:
            inner = "" if path == draft else "/" + str(path.relative_to(draft))
            self.write(name + inner, path.read_bytes())

    @contextlib.contextmanager
    def lock(self, name, *, shared=False):
        yield

    def is_locked(self, name):
        return False

    def refresh(self): ...

    def remove_drafts(self):
        return 0
'''

EXECUTOR = '''
"""A toy: the jobs backwards, in this process, with a word for each."""

from rankscope.edges.executors import WorkPlace, perform

NAME = "backwards"


def make(plan):
    return Backwards()


class Backwards:
    def run(self, jobs, idle):
        for job in reversed(jobs):
            print("backwards:", type(job).__name__, flush=True)
            yield perform(job, WorkPlace(lambda: False))

    def close(self): ...
'''


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the package that may be added to."""
    copy = tmp_path / "source" / "rankscope"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def run(source: Path, *words: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(source.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "rankscope", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)


def test_a_storage_is_one_file(source: Path, tmp_path: Path) -> None:
    (source / "edges" / "storages" / "toy.py").write_text(STORAGE)
    study, place = tiny_study(tmp_path / "input", seeds=[0]), tmp_path / "all.json"
    done = run(source, "run", study, "--out", f"toy://{place}", "--set", "execution.on=backwards")
    assert done.returncode == 2, "the executor is not there"
    assert "execution.on" in done.stderr
    (source / "edges" / "executors" / "backwards.py").write_text(EXECUTOR)
    done = run(source, "run", study, "--out", f"toy://{place}", "--set", "execution.on=backwards")
    assert done.returncode == 0, done.stderr
    files = json.loads(place.read_text())
    assert {"rankscope-study.json", "plan.json", "verdict.json", "report.html", "base/predictions.parquet"} <= set(
        files
    )
    assert "gain and forgetting" in run(source, "verdict", f"toy://{place}").stdout


def test_an_executor_is_one_file(source: Path, tmp_path: Path) -> None:
    (source / "edges" / "executors" / "backwards.py").write_text(EXECUTOR)
    study = tiny_study(tmp_path / "input", seeds=[0], execution={"on": "backwards"})
    done = run(source, "run", study, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.index("backwards: ChoosePacking" if "ChoosePacking" in done.stdout else "backwards: ScoreBase") >= 0
    )
    assert done.stdout.count("backwards: TrainRuns") == 2
    assert (tmp_path / "out" / "verdict.json").is_file()
