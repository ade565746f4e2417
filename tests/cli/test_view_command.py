"""`rankscope view`: what it says where there is nothing to show, and where no browser is."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Any

import pytest

from rankscope.cli import view_command
from rankscope.study.problems import InputProblems

SAID = "no browser was found; open the address above in one\n"


def raises(_: str) -> bool:
    raise webbrowser.Error("could not locate runnable browser")


@pytest.mark.parametrize("opens", [raises, lambda _: False])
def test_without_a_browser_the_address_is_left_to_the_user(
    opens: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(webbrowser, "open", opens)
    view_command._open("http://127.0.0.1:1/secret/")
    assert capsys.readouterr() == ("", SAID)


def test_a_browser_that_opens_is_given_the_address_and_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: asked.append(url) is None)
    view_command._open("http://127.0.0.1:1/secret/")
    assert asked == ["http://127.0.0.1:1/secret/"]
    assert capsys.readouterr() == ("", "")


def test_a_folder_without_a_study_is_refused_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn", reason="uvicorn is an extra: pip install 'rankscope[view]'")
    with pytest.raises(InputProblems, match="found no study, expected a study folder"):
        view_command.view(str(tmp_path), 0, False)
