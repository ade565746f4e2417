"""Models by URL: fetched once to a machine, anew when the store has another, and named by their URL in the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem
from tiny_models import save_tiny_model

from rankscope.model import fetched_model
from rankscope.model.fetched_model import fetched, local_file
from rankscope.model.model_checks import changed_model_files, content_sha256, model_states
from rankscope.model.model_source import model_path
from rankscope.study.problems import InputProblems
from rankscope.study.study import ModelSpec

URL = "s3://lab/tiny"


class Counting(LocalFileSystem):
    """A store that is a folder, and says what was fetched."""

    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.got: list[str] = []

    def get_file(self, path: str, to: str, *arguments: Any, **options: Any) -> None:
        self.got.append(Path(path).name)
        super().get_file(path, to, *arguments, **options)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counting:
    filesystem, root = Counting(), tmp_path / "store"
    save_tiny_model(root)
    (root / "notes.bin").write_bytes(b"not read")
    monkeypatch.setenv("RANKSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetched_model, "open_store", lambda url: (filesystem, str(root)))
    fetched.cache_clear()
    return filesystem


def test_a_model_is_fetched_once_and_is_the_model(store: Counting, tmp_path: Path) -> None:
    folder = fetched(URL)
    assert "model.safetensors" in store.got
    assert "notes.bin" not in store.got
    count = len(store.got)
    fetched.cache_clear()  # another process of this machine
    assert fetched(URL) == folder
    assert len(store.got) == count
    assert model_path(ModelSpec(id=URL), Path()) == str(folder)
    ours = content_sha256(str(folder), None, model_states("tiny", str(folder), URL))
    theirs = content_sha256(str(tmp_path / "store"), None, model_states("tiny", str(tmp_path / "store")))
    assert ours == theirs


def test_its_files_are_known_by_their_url_on_every_machine(
    store: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = model_states("tiny", str(fetched(URL)), URL)
    assert {state.file.rpartition("/")[0] for state in states} == {URL}
    monkeypatch.setenv("RANKSCOPE_CACHE", str(tmp_path / "other"))
    fetched.cache_clear()
    assert changed_model_files(states) == []
    assert local_file(f"{URL}/config.json").is_relative_to(tmp_path / "other")
    config = tmp_path / "store" / "config.json"
    config.write_text(config.read_text() + "\n")
    fetched.cache_clear()
    assert [found for _, found in changed_model_files(states)] == ["another content"]


def test_nothing_there_is_a_line(store: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetched_model, "open_store", lambda url: (store, str(tmp_path / "nothing")))
    with pytest.raises(InputProblems, match=r"s3://lab/tiny: model: found nothing there"):
        fetched(URL)
