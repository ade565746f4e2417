"""Printing by a browser: found or named, told in a line where it is not there or prints nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rankscope.cli import app
from rankscope.edges import page_printer
from rankscope.edges.page_printer import browser, print_page
from rankscope.study.problems import InputProblems

PAGE = "<!doctype html><title>x</title>"


def program(folder: Path, body: str) -> str:
    """A program that stands in for a browser."""
    path = folder / "browser"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_a_browser_gets_the_page_and_gives_the_pdf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = 'for word in "$@"; do case $word in --print-to-pdf=*) out=${word#*=};; esac; done; echo "$@" > "$out"'
    monkeypatch.setenv("CHROME", program(tmp_path, said))
    page = tmp_path / "a page.html"
    page.write_text(PAGE)
    words = print_page(page, browser()).decode().split()
    assert words[-1] == page.as_uri()
    assert "--headless" in words
    assert ("--no-sandbox" in words) == (os.geteuid() == 0)
    profile = next(word for word in words if word.startswith("--user-data-dir="))
    assert not Path(profile.partition("=")[2]).exists()


def test_a_browser_that_prints_nothing_is_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(InputProblems) as caught:
        print_page(tmp_path / "page.html", program(tmp_path, "echo 'cannot open display' >&2; exit 1"))
    (problem,) = caught.value.problems
    assert "printed nothing (cannot open display)" in str(problem)


def test_without_a_browser_nothing_is_rebuilt_and_a_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROME", "no-such-browser")
    with pytest.raises(InputProblems) as caught:
        browser()
    assert "no program 'no-such-browser', which CHROME names" in str(caught.value.problems[0])
    monkeypatch.delenv("CHROME")
    monkeypatch.setattr(page_printer, "BROWSERS", ())
    with pytest.raises(InputProblems) as caught:
        browser()
    assert "no Chromium, Chrome or Edge on this machine" in str(caught.value.problems[0])


def test_two_folders_that_are_no_studies_end_with_2(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["compare", str(tmp_path), str(tmp_path)])
    assert done.exit_code == 2
    assert len(done.output.strip().splitlines()) == 1
