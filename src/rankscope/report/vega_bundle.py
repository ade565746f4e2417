"""Vega, Vega-Lite and Vega-Embed as one script, from the package that is installed.

To put it together takes two seconds and gives the same each time, so that it is kept in the user's cache folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from importlib.metadata import version
from pathlib import Path

import vl_convert

from rankscope.study.store_urls import cache_folder

PACKAGE = "vl-convert-python"
"""Whose version names the file: another version, another script."""

ENTRY = "window.rankscopeEmbed=vegaEmbed;"
"""What the script does beside defining itself."""


def vega_bundle() -> str:
    """The script. Raises RuntimeError for one that could not stand inside a page."""
    kept = _kept_file()
    script = _read(kept)
    if script is None:
        script = vl_convert.javascript_bundle(ENTRY)
        _keep(kept, script)
    if re.search(r"</script|<!--", script, re.IGNORECASE):
        raise RuntimeError("this version of vl-convert's bundle cannot stand inside a page")
    return script


def _kept_file() -> Path:
    """Where this version's script is kept."""
    own = hashlib.sha256(ENTRY.encode()).hexdigest()[:8]
    return cache_folder() / f"vega-{version(PACKAGE)}-{own}.js"


def _read(kept: Path) -> str | None:
    """None where nothing is kept, or not all of what was written: its first line says what the rest must be."""
    try:
        with kept.open(encoding="utf-8", newline="") as file:
            first, script = file.readline(), file.read()
    except (OSError, UnicodeDecodeError):
        return None
    return script if first == _first_line(script) else None


def _first_line(script: str) -> str:
    return f"// sha256 of what follows: {hashlib.sha256(script.encode()).hexdigest()}\n"


def _keep(kept: Path, script: str) -> None:
    """Whole or not at all; a folder that cannot be written to costs no more than the time."""
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(dir=kept.parent, suffix=".part")
        try:
            with os.fdopen(number, "w", encoding="utf-8", newline="") as file:
                file.write(_first_line(script) + script)
            os.replace(name, kept)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
