"""A system that rankscope does not run on is told at the start."""

from __future__ import annotations

import pytest

from rankscope import cli


def test_windows_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setattr("sys.argv", ["rankscope", "--version"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "rankscope: found Windows, expected Linux or macOS; it runs in the Windows Subsystem for Linux (WSL 2)"
    ]
