"""Hub data sets: the real loading code on folders that datasets takes, and what it says of every refusal."""
# ruff: noqa: E501 - a table of messages reads better so

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import httpx2
import pyarrow
import pyarrow.parquet
import pytest
from datasets.exceptions import DataFilesNotFoundError, DatasetNotFoundError
from encoded_rows import load_rows
from huggingface_hub import errors

from rankscope.study.problems import InputProblems
from rankscope.study.study import Source, SuiteSource

GSM8K = [{"question": f"What is {i} + 1?", "answer": f"{i}+1={i + 1}\n#### {i + 1}"} for i in range(6)]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def save(folder: Path, rows: list[dict[str, Any]], split: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{split}-00000-of-00001.parquet")


def line_of(source: Source, base: Path) -> str:
    with pytest.raises(InputProblems) as caught:
        load_rows(source, base=base, name="train.set")
    (problem,) = caught.value.problems
    return str(problem)


def test_a_folder_is_read_as_the_hub_is(tmp_path: Path) -> None:
    save(tmp_path / "gsm8k" / "data", GSM8K[:4], "train")
    save(tmp_path / "gsm8k" / "data", GSM8K[4:], "test")
    suite = SuiteSource(
        hub="gsm8k", split="test", kind="reasoning", columns={"question": "question", "answer": "answer"}
    )
    rows = load_rows(suite, base=tmp_path, name="suites.gsm8k")
    assert [row.answer for row in rows.rows] == ["5", "6"]
    assert rows.rows[0].rationale == "4+1=5"
    assert rows.rows[0].place == "row 1"
    assert rows.file == "gsm8k/test"
    assert len(load_rows(Source(hub="gsm8k", split="train", limit=2), base=tmp_path, name="x").rows) == 2
    again = load_rows(suite, base=tmp_path, name="x")
    assert again.revision == rows.revision
    assert rows.revision
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in GSM8K[4:]))
    plain = load_rows(SuiteSource(path="rows.jsonl", kind="reasoning"), base=tmp_path, name="x")
    assert plain.rows[0].item_id == rows.rows[0].item_id


def test_one_split_needs_no_naming(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "train.csv").write_text("question,answer\nWho?,Ann\n")
    assert load_rows(Source(hub="one"), base=tmp_path, name="x").rows[0].answer == "Ann"
    save(tmp_path / "two", GSM8K, "train")
    save(tmp_path / "two", GSM8K, "test")
    assert "two: train.set: found a set of 2 splits, expected `split:` with one of train, test" in line_of(
        Source(hub="two"), tmp_path
    )
    said = line_of(Source(hub="two", split="dev"), tmp_path)
    assert "found no such split, expected `split:` with one of train, test" in said
    assert "found no such configuration, expected `config:` with one of default" in line_of(
        Source(hub="two", config="main"), tmp_path
    )


def test_configurations_of_a_card(tmp_path: Path) -> None:
    for name in ("main", "other"):
        save(tmp_path / "set" / name, [{"question": "q", "answer": name}], "test")
    configs = "".join(
        f"- config_name: {n}\n  data_files:\n  - split: test\n    path: {n}/*\n" for n in ("main", "other")
    )
    (tmp_path / "set" / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    rows = load_rows(Source(hub="set", config="other", split="test"), base=tmp_path, name="x")
    assert (rows.rows[0].answer, rows.file) == ("other", "set/other/test")
    assert "a set of several configurations, expected `config:` with one of main, other" in line_of(
        Source(hub="set", split="test"), tmp_path
    )


def test_an_empty_folder_and_a_name_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert line_of(Source(hub="empty"), tmp_path).startswith("empty: train.set: found ")
    assert "a hub id such as organisation/name" in line_of(Source(hub="bad id!!"), tmp_path)


# ---- refusals -------------------------------------------------------------------------------------------------------


def http(kind: type[Exception], status: int) -> Exception:
    response = httpx2.Response(status, request=httpx2.Request("GET", "https://huggingface.co"))
    return kind("first line\nsecond", response=response)  # type: ignore[call-arg]


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


GATED = caused(
    DatasetNotFoundError("Dataset 'org/set' is a gated dataset on the Hub."), http(errors.GatedRepoError, 401)
)
UNKNOWN = caused(
    DatasetNotFoundError("Dataset 'org/set' doesn't exist on the Hub or cannot be accessed."),
    http(errors.RepositoryNotFoundError, 404),
)
NO_REVISION = caused(DatasetNotFoundError("Revision 'v9' doesn't exist"), http(errors.RevisionNotFoundError, 404))
REFUSALS = [
    (GATED, "found a gated data set that this account may not read, expected its terms accepted on "
     "https://huggingface.co/datasets/org/set, and in HF_TOKEN a token of that account"),
    (DatasetNotFoundError("Dataset 'org/set' is a gated dataset on the Hub."), "found a gated data set"),
    (UNKNOWN, "found no such data set on the hub, or a private one, expected a hub id; for a private one a token in"),
    (NO_REVISION, "found no revision v9, expected a branch, tag or commit"),
    (ConnectionError("Couldn't reach 'org/set' on the Hub (LocalEntryNotFoundError)"), "found no connection to the hub"),
    (httpx2.ConnectError("[Errno -2] Name or service not known"), "found no connection to the hub"),
    (errors.OfflineModeIsEnabled("offline"), "found no connection to the hub"),
    (errors.LocalEntryNotFoundError("not in the cache"), "found no connection to the hub"),
    (http(errors.HfHubHTTPError, 403), "may not read (HTTP 403)"),
    (http(errors.HfHubHTTPError, 503), "a hub that refuses for now (HTTP 503)"),
    (http(errors.HfHubHTTPError, 429), "a hub that refuses for now (HTTP 429)"),
    (RuntimeError("Dataset scripts are no longer supported, but found set.py"), "found a set that is a loading script, "
     "which is not run, expected `revision: refs/convert/parquet`"),
    (DataFilesNotFoundError("No (supported) data files found in org/set"), "found no file of rows in it"),
    (ValueError("Config name is missing.\nPlease pick one among the available configs: ['main', 'socratic']\nExample"),
     "found a set of several configurations, expected `config:` with one of main, socratic"),
    (ValueError("BuilderConfig 'x' not found. Available: ['main', 'socratic']"), "with one of main, socratic"),
    (OSError("something\nelse"), "found something, expected a folder, or a hub id that can be read"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "said"), REFUSALS, ids=range(len(REFUSALS)))
def test_a_refusal_is_one_line_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset_builder", refuse)
    line = line_of(Source(hub="org/set", split="test", revision="v9"), tmp_path)
    assert line.startswith("org/set: train.set: found ")
    assert said in line


def test_what_is_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    asked: list[object] = []

    def builder(path: str, name: str | None, *, revision: str | None) -> SimpleNamespace:
        asked.append((path, name, revision))
        rows = datasets.Dataset.from_list(GSM8K)
        return SimpleNamespace(
            hash=commit, download_and_prepare=lambda: None, as_dataset=lambda split: asked.append(split) or rows
        )

    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    source = Source(hub="openai/gsm8k", config="main", split="test", revision="refs/convert/parquet")
    rows = load_rows(source, base=tmp_path, name="x")
    assert asked == [("openai/gsm8k", "main", "refs/convert/parquet"), "test"]
    assert rows.revision == commit
    assert len(rows.rows) == 6
    assert load_rows(source.model_copy(update={"revision": commit}), base=tmp_path, name="x").rows == rows.rows
    said = line_of(source.model_copy(update={"revision": "f" * 40}), tmp_path)
    assert f"found only the commit {commit} in the cache" in said
