"""A store that is not there, refuses or does not answer: one line, exit 2, before anything is trained."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import call, problems
from http_stubs import answering, gate_before
from moto_server import KEY, SECRET, Moto, moto_server
from store_machine import become_machine
from tiny_study import tiny_study

from rankscope.edges.storages.objects.object_store import FsspecObjects

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def moto() -> Iterator[Moto]:
    with moto_server() as server:
        server.bucket("lab")
        yield server


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_study(tmp_path_factory.mktemp("input"))


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, moto: Moto) -> Iterator[pytest.MonkeyPatch]:
    """A new machine that reaches the server."""
    import s3fs

    become_machine(monkeypatch, tmp_path / "machine", moto.environment)
    yield monkeypatch
    s3fs.S3FileSystem.clear_instance_cache()


def one_line(study: Path, tmp_path: Path, *, out: str = "s3://lab/study") -> str:
    """What `run` says, which is one line; nothing was trained or left behind."""
    result = call("run", study, "--out", out)
    assert result.exit_code == 2, result.output
    lines = problems(result)
    assert len(lines) == 1, lines
    assert KEY not in lines[0]
    assert SECRET not in lines[0]
    assert "found " in lines[0]
    assert lines[0].startswith(f"{out.split('@')[0].partition(':')[0]}://")
    return lines[0]


def test_no_such_bucket(environment: pytest.MonkeyPatch, study: Path, tmp_path: Path) -> None:
    assert "no such bucket" in one_line(study, tmp_path, out="s3://nowhere/study")


def test_no_credentials(environment: pytest.MonkeyPatch, study: Path, tmp_path: Path) -> None:
    environment.delenv("AWS_ACCESS_KEY_ID")
    environment.delenv("AWS_SECRET_ACCESS_KEY")
    assert "found no credentials" in one_line(study, tmp_path)


def test_nobody_at_the_address(environment: pytest.MonkeyPatch, study: Path, tmp_path: Path) -> None:
    environment.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "no answer (EndpointConnectionError)" in one_line(study, tmp_path)


@pytest.mark.parametrize(
    ("status", "code", "after", "said"),
    [
        (403, "AccessDenied", 0.0, "access denied"),
        (403, "InvalidAccessKeyId", 0.0, "credentials that the store does not know"),
        (403, "SignatureDoesNotMatch", 0.0, "credentials that the store does not know"),
        (400, "ExpiredToken", 0.0, "credentials that the store does not know"),
        (503, "SlowDown", 0.0, "no answer"),
        (200, "Slow", 2.0, "no answer (ReadTimeoutError)"),
    ],
)
def test_what_the_server_answers(
    environment: pytest.MonkeyPatch, study: Path, tmp_path: Path, status: int, code: str, after: float, said: str
) -> None:
    environment.setenv("RANKSCOPE_STORE_TIMEOUT_SECONDS", "0.5")
    with answering(status, code, after_seconds=after) as endpoint:
        environment.setenv("AWS_ENDPOINT_URL", endpoint)
        assert said in one_line(study, tmp_path)


def test_a_bucket_that_may_only_be_read(
    environment: pytest.MonkeyPatch, moto: Moto, study: Path, tmp_path: Path
) -> None:
    with gate_before(moto.port) as gate:
        gate.lets = "read"
        environment.setenv("AWS_ENDPOINT_URL", gate.endpoint)
        assert "access denied" in one_line(study, tmp_path)
        assert gate.denied == 1
    assert moto.bucket("lab").find("lab") == []


def test_a_connection_that_is_lost_for_a_while_is_waited_for(environment: pytest.MonkeyPatch, moto: Moto) -> None:
    with gate_before(moto.port) as gate:
        environment.setenv("AWS_ENDPOINT_URL", gate.endpoint)
        objects = FsspecObjects("s3://lab/waited")
        objects.put("a", b"1")
        gate.lets = "nobody"
        threading.Timer(3.0, lambda: setattr(gate, "lets", "all")).start()
        began = time.monotonic()
        objects.put("a", b"2")
        assert time.monotonic() - began > 2
        assert objects.read("a") == b"2"
        objects.delete(["a"])


@pytest.mark.parametrize("command", ["status", "verdict", "report", "audit"])
def test_the_hub_is_refused_in_a_line(environment: pytest.MonkeyPatch, command: str) -> None:
    lines = problems(call(command, "hf://org/name"))
    assert len(lines) == 1
    assert "hf:// is for `export --out` alone" in lines[0]


def test_the_hub_is_refused_as_a_study_s_folder_and_as_a_model(
    environment: pytest.MonkeyPatch, study: Path, tmp_path: Path
) -> None:
    said = "hf:// is for `export --out` alone"
    assert said in one_line(study, tmp_path, out="hf://org/name")
    lines = problems(call("plan", tiny_study(tmp_path / "input", model="hf://org/name")))
    assert len(lines) == 1
    assert said in lines[0]


def test_a_secret_in_the_url_is_not_repeated(environment: pytest.MonkeyPatch, study: Path, tmp_path: Path) -> None:
    line = one_line(study, tmp_path, out=f"s3://{KEY}:{SECRET}@lab/study")
    assert "credentials come from the environment" in line


def test_nothing_there(environment: pytest.MonkeyPatch) -> None:
    for command in ("status", "verdict", "report"):
        lines = problems(call(command, "s3://lab/empty"))
        assert len(lines) == 1
        assert "no such folder" in lines[0]


def test_somebody_elses_files(environment: pytest.MonkeyPatch, moto: Moto, study: Path, tmp_path: Path) -> None:
    filesystem = moto.bucket("others")
    filesystem.pipe_file("others/mine/photos.txt", b"x")
    result = call("run", study, "--out", "s3://others/mine")  # the plan is made before: rows may be told of
    assert result.exit_code == 2, result.output
    assert "s3://others/mine: --out: found files that are no study's" in result.stderr
    assert filesystem.cat_file("others/mine/photos.txt") == b"x"
