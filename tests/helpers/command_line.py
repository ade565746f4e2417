"""The command line called in this process."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from rankscope.cli import app


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def problems(result: Result) -> list[str]:
    """The lines of bad input: exit 2, one line each, no traceback, nothing on stdout."""
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert all(": found " in line and ", expected " in line for line in lines), lines
    return lines
