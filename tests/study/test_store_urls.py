"""What a store refuses, as it is told: by kind, in a line, without a secret."""

from __future__ import annotations

import pytest

from rankscope.study.store_urls import is_passing, problem_of, without_secrets

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


def test_secrets_of_the_environment_are_blotted_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    assert without_secrets("signed with wJalrXUtnFEMI in us-east-1") == "signed with *** in us-east-1"
    assert "wJalr" not in str(problem_of(ValueError("wJalrXUtnFEMI is odd"), URL))
