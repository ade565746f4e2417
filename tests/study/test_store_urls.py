"""What a store refuses, as it is told: by kind, in a line, without a secret."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest
from fsspec.registry import _registry as opened

from rankscope.edges.storages import open_storage
from rankscope.study.problems import InputProblems
from rankscope.study.store_urls import PACKAGES, is_passing, open_store, problem_of, without_secrets

URL = "s3://lab/study"


def made(name: str, text: str = "", base: type[Exception] = Exception) -> Exception:
    """An error of a class of this name, as a store's library has it."""
    return type(name, (base,), {})(text)


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (made("NoCredentialsError", "Unable to locate credentials"), "no credentials"),
        (made("DefaultCredentialsError"), "no credentials"),
        (PermissionError("Access Denied"), "access denied"),
        (PermissionError("The AWS Access Key Id you provided does not exist"), "credentials that the store"),
        (OSError("The provided token has expired."), "credentials that the store"),
        (FileNotFoundError("The specified bucket does not exist"), "no such bucket"),
        (
            made("ResourceNotFoundError", "The specified container does not exist. ErrorCode:ContainerNotFound"),
            "no such b",
        ),
        (OSError("Forbidden: https://storage.googleapis.com/b/lab"), "access denied"),
        (made("EndpointConnectionError", "http://somewhere"), "no answer (EndpointConnectionError)"),
        (ConnectionResetError(), "no answer (ConnectionResetError)"),
        (OSError("Please reduce your request rate."), "no answer (OSError)"),
        (ValueError("odd"), "ValueError: odd"),
    ],
)
def test_each_kind_has_its_line(error: Exception, found: str) -> None:
    line = str(problem_of(error, URL))
    assert line.startswith(f"s3://lab/study: lab: found {found}")
    assert "\n" not in line


def test_only_what_may_pass_is_tried_again() -> None:
    assert is_passing(made("ReadTimeoutError"))
    assert is_passing(OSError("SlowDown"))
    assert not is_passing(PermissionError("500 Access Denied"))
    assert not is_passing(made("NoCredentialsError"))
    caused = OSError("[Errno 5] wrapped")
    caused.__cause__ = made("ConnectTimeoutError")
    assert is_passing(caused)


def test_who_brought_no_credentials_is_told_so_by_every_store() -> None:
    google = OSError("Anonymous caller does not have storage.objects.list access, 401")
    azure = ValueError("Must provide either a connection_string or account_name with credentials!!")
    for error in (google, azure):
        assert "found no credentials" in str(problem_of(error, URL))


@pytest.mark.parametrize(
    ("scheme", "package", "extra"),
    [("s3", "s3fs", "s3"), ("gs", "gcsfs", "gs"), ("az", "adlfs", "az"), ("abfs", "adlfs", "az")],
)
def test_a_missing_package_is_a_line_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, scheme: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(opened, scheme, raising=False)
    with pytest.raises(InputProblems) as refused:
        open_store(f"{scheme}://lab/study")
    line = f"{scheme}://lab/study: found no package for {scheme}://, expected the package {package}: "
    assert [str(problem) for problem in refused.value.problems] == [f"{line}pip install 'rankscope[{extra}]'"]


def test_the_extras_bring_the_packages() -> None:
    """An extra of each name stands in pyproject.toml with the package that opens the scheme."""
    file = Path(__file__).parents[2] / "pyproject.toml"
    extras = tomllib.loads(file.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for scheme, package in PACKAGES.items():
        extra = {"abfs": "az"}.get(scheme, scheme)
        assert [re.split("[>=<]", one)[0] for one in extras[extra]] == [package]


def test_the_hub_is_for_export_alone() -> None:
    for open_url in (open_store, open_storage):
        with pytest.raises(InputProblems) as refused:
            open_url("hf://org/name")
        assert len(refused.value.problems) == 1
        line = str(refused.value.problems[0])
        assert line.startswith("hf://org/name: found the scheme hf://, expected ")
        assert line.endswith("; hf:// is for `export --out` alone, and a model of the hub is named ORG/NAME")


def test_secrets_of_the_environment_are_blotted_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("MY_JUDGES_TOKEN", "tok/en+1")  # whatever a study calls it
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "surely")
    assert without_secrets("signed with wJalrXUtnFEMI in us-east-1") == "signed with *** in us-east-1"
    assert without_secrets("tok/en+1, tok%2Fen%2B1, surely") == "***, ***, surely"
    assert "wJalr" not in str(problem_of(ValueError("wJalrXUtnFEMI is odd"), URL))


def test_secrets_in_urls_are_blotted_out() -> None:
    assert without_secrets("AccountName=a;AccountKey=Eby8v/=;Blob=b") == "AccountName=a;AccountKey=***;Blob=b"
    signed = "PUT https://x.blob.core.windows.net/lab/a?sv=2021&sig=abc%3D&se=1 and s3://key:secret@lab/study"
    assert (
        without_secrets(signed)
        == "PUT https://x.blob.core.windows.net/lab/a?sv=2021&sig=***&se=1 and s3://***@lab/study"
    )
