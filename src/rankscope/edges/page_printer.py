"""Prints a page of this machine to a PDF, by a browser that is there: Chromium, Chrome or Edge without a window."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from rankscope.study.problems import InputProblems, Problem

BROWSERS = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge", "msedge",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
)  # fmt: skip
"""What is looked for, in this order, after the program that CHROME names."""

LONGEST_SECONDS = 180
_OFFLINE = (
    "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--no-pdf-header-footer",
    "--window-size=1400,900",
)  # fmt: skip


def browser() -> str:
    """The program that prints. Raises InputProblems where there is none, or CHROME names none."""
    named = os.environ.get("CHROME")
    found = next((path for name in ([named] if named else BROWSERS) if (path := shutil.which(name))), None)
    if found is None:
        what = f"no program {named!r}, which CHROME names" if named else "no Chromium, Chrome or Edge on this machine"
        raise InputProblems([Problem("rankscope report", "--pdf", what, "one, or report.html printed from a browser")])
    return found


def print_page(page: Path, program: str) -> bytes:
    """The PDF of a page that loads nothing, printed as soon as its scripts have drawn everything.

    The browser has a profile of its own that is gone afterwards. Raises InputProblems where it ends without a PDF.
    """
    with tempfile.TemporaryDirectory(prefix="rankscope-print-", ignore_cleanup_errors=True) as folder:
        pdf = Path(folder) / "page.pdf"
        rooted = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # Chromium demands it of root
        command = [program, *_OFFLINE, *rooted, f"--user-data-dir={folder}/profile", f"--print-to-pdf={pdf}"]
        command.append(page.resolve().as_uri())
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _failed(program, str(error)) from None
        if not pdf.is_file() or not pdf.stat().st_size:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise _failed(program, said[-1] if said else f"it ended with {done.returncode}")
        return pdf.read_bytes()


def _failed(program: str, why: str) -> InputProblems:
    return InputProblems([Problem("rankscope report", "--pdf", f"{program} printed nothing ({why})", "a PDF")])
