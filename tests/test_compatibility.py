"""docs/compatibility.md: each row names a test, each test that it names is there, and no tested form is left out."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from chat_templates import FAMILIES
from peft_forms import FORMS
from table_of_docs import DOCS, table

ROOT = DOCS.parent
PAGE = (DOCS / "compatibility.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
NAMED = re.findall(r"`(tests/[^`]+)`", PAGE)


@cache
def functions_in(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize("name", sorted(set(NAMED)))
def test_what_the_page_names_is_a_test(name: str) -> None:
    file, _, test = name.partition("::")
    assert (ROOT / file).is_file()
    if test:
        assert test.partition("[")[0] in functions_in(ROOT / file)


def test_every_row_names_a_test() -> None:
    headings = {
        line for line, below in zip(PAGE.splitlines(), PAGE.splitlines()[1:], strict=False) if "| --- |" in below
    }
    assert len(headings) >= 8
    assert [row for row in ROWS if row not in headings and "`tests/" not in row] == []


def test_the_forms_and_the_templates_are_those_that_are_tested() -> None:
    assert set(table("compatibility.md", "form")) == set(FORMS)
    assert set(table("compatibility.md", "template")) == set(FAMILIES)
    assert {"multiple_choice", "generate_until", "loglikelihood", "loglikelihood_rolling"} <= set(
        table("compatibility.md", "task type")
    )
