"""A store that is not there, refuses or does not answer: one line, exit 2, before anything is trained."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import call, problems
from http_stubs import answering
from moto_server import KEY, SECRET, Moto, moto_server
from tiny_study import tiny_study

from rankscope.edges.storages import object_storage

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

    for name, value in {**moto.environment, "RANKSCOPE_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path))  # no ~/.aws
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(object_storage, "_OPENED", {})
    s3fs.S3FileSystem.clear_instance_cache()
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
    assert out.split("?")[0].split("@")[0] in lines[0] or "s3://" in lines[0]
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


def test_no_package(environment: pytest.MonkeyPatch, study: Path, tmp_path: Path) -> None:
    with contextlib.suppress(ImportError):
        import gcsfs  # noqa: F401

        pytest.skip("gcsfs is installed here")
    assert "pip install 'rankscope[gs]'" in one_line(study, tmp_path, out="gs://lab/study")


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
