"""What is made for others: beside other files never, into a store with the card last."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from memory_objects import MemoryBucket, MemoryObjects
from stub_hub import StubHub, stub_hub

from rankscope.edges import out_folder as made
from rankscope.edges.out_folder import check_out, out_folder
from rankscope.study.problems import InputProblems

URL = "s3://lab/exported"


@pytest.fixture
def puts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that were put or deleted in the store, in order."""
    names: list[str] = []
    bucket = MemoryBucket()
    monkeypatch.setattr(made, "FsspecObjects", lambda url: MemoryObjects(bucket, None, names.append))
    return names


def fill(folder: Path) -> None:
    folder.mkdir()
    for name in ("README.md", "adapter_config.json", "adapter_model.safetensors"):
        (folder / name).write_text(name)


def test_a_store_gets_the_files_with_the_card_last(puts: list[str]) -> None:
    check_out(URL)
    puts.clear()
    with out_folder(URL) as target:
        fill(target)
        assert puts == []
    assert puts == ["adapter_config.json", "adapter_model.safetensors", "README.md"]
    with pytest.raises(InputProblems, match=r"s3://lab/exported: --out: found something there already"):
        check_out(URL)


def fail_halfway(out: str | Path) -> None:
    with out_folder(out) as target:
        fill(target)
        raise RuntimeError("no")


def test_what_fails_leaves_nothing(puts: list[str], tmp_path: Path) -> None:
    for out in (URL, tmp_path / "out"):
        with pytest.raises(RuntimeError):
            fail_halfway(out)
    assert puts == []
    assert not (tmp_path / "out").exists()


def test_a_local_folder_that_has_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputProblems, match="something there already"):
        check_out(tmp_path)
    check_out(tmp_path / "new")


@pytest.mark.parametrize("url", ["hf://one", "hf://a/b/c", "hf://user:token@org/name"])
def test_a_name_that_is_no_model_of_the_hub_is_refused(url: str) -> None:
    with pytest.raises(InputProblems, match=r"expected hf://ORG/NAME") as refused:
        check_out(url)
    assert "token" not in str(refused.value)


_PUSH = """
import sys
from rankscope.edges.out_folder import check_out, out_folder
from rankscope.study.problems import InputProblems
try:
    check_out("hf://org/name")
    with out_folder("hf://org/name") as target:
        target.mkdir()
        (target / "README.md").write_text("the card")
        (target / "adapter_config.json").write_text("{}")
except InputProblems as problems:
    print(*problems.problems)
"""


def push(hub: StubHub, home: Path, token: str) -> str:
    """What a process says that pushes a card and a file; the endpoint and the token are read when it starts."""
    given = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": token, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _PUSH], env={**os.environ, **given, "HF_HUB_OFFLINE": "0"}, capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert token not in done.stdout + done.stderr
    for path in home.rglob("*"):
        assert not path.is_file() or token.encode() not in path.read_bytes(), path
    return done.stdout.strip()


@pytest.mark.slow  # three processes that import huggingface_hub
def test_a_push_makes_a_private_model_and_never_writes_over_one(tmp_path: Path) -> None:
    with stub_hub("hf_secret") as hub:
        said = push(hub, tmp_path, "hf_wrong")
        assert said.startswith("hf://org/name: found access denied, expected a token that may write there")
        assert hub.repos == {}
        assert push(hub, tmp_path, "hf_secret") == ""
        assert hub.repos["org/name"] == {".gitattributes": b"", "README.md": b"the card", "adapter_config.json": b"{}"}
        assert hub.private == {"org/name": True}
        assert hub.commits == ["Exported by rankscope"]
        hub.repos["org/name"]["README.md"] = b"somebody's own words"
        assert push(hub, tmp_path, "hf_secret") == (
            "hf://org/name: --out: found something there already, expected a new or empty folder"
        )
        assert hub.repos["org/name"]["README.md"] == b"somebody's own words"
        assert set(hub.tokens) - {""} == {"hf_wrong", "hf_secret"}
