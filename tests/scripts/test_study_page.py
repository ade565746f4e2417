"""docs/study-file.md is what the types say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "study_page.py"


def test_the_page_of_settings_is_what_the_types_say() -> None:
    spec = importlib.util.spec_from_file_location("study_page", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), "run scripts/study_page.py"
