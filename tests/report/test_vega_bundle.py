"""The charts' library is put together once for a version and kept."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

import rankscope.report.vega_bundle as bundle_module
from rankscope.report.vega_bundle import vega_bundle


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was put together; each time another script."""
    asked: list[str] = []

    def make(entry: str) -> str:
        asked.append(entry)
        return f"script {len(asked)}; \u2212\r\n"

    monkeypatch.setenv("RANKSCOPE_CACHE", str(tmp_path / "caches"))
    monkeypatch.setattr(bundle_module.vl_convert, "javascript_bundle", make)
    return asked


def test_it_is_put_together_once(made: list[str], tmp_path: Path) -> None:
    assert [vega_bundle(), vega_bundle()] == ["script 1; \u2212\r\n"] * 2
    assert len(made) == 1
    (kept,) = (tmp_path / "caches").iterdir()
    assert version(bundle_module.PACKAGE) in kept.name


@pytest.mark.parametrize("damage", [lambda text: text[:-3], lambda text: text + "alert()", lambda text: ""])
def test_what_was_changed_since_is_not_used(made: list[str], tmp_path: Path, damage: object) -> None:
    vega_bundle()
    (kept,) = (tmp_path / "caches").iterdir()
    assert callable(damage)
    kept.write_bytes(damage(kept.read_bytes().decode()).encode())
    assert vega_bundle() == "script 2; \u2212\r\n"
    assert vega_bundle() == "script 2; \u2212\r\n"


def test_another_version_has_its_own(made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    vega_bundle()
    monkeypatch.setattr(bundle_module, "version", lambda package: "99.0")
    assert vega_bundle().startswith("script 2")


def test_a_cache_that_cannot_be_written_to_costs_only_time(
    made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    monkeypatch.setenv("RANKSCOPE_CACHE", str(tmp_path / "file"))
    assert [vega_bundle()[:8], vega_bundle()[:8]] == ["script 1", "script 2"]
    assert len(made) == 2
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_a_script_that_would_end_its_element_is_refused(made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module.vl_convert, "javascript_bundle", lambda entry: "a </SCRIPT> b")
    with pytest.raises(RuntimeError, match="cannot stand inside a page"):
        vega_bundle()
