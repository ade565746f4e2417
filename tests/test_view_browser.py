"""`rankscope view` in Chromium, beside a study that really runs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_study import tiny_study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


def start(*words: object, **how: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rankscope", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how)


def test_a_running_study_is_followed_to_its_verdict(tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright's Python package is not installed")
    pytest.importorskip("uvicorn", reason="uvicorn is an extra: pip install 'rankscope[view]'")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not installed")
    arms = {"lora": {"ranks": [2, 4], "learning_rate": 1e-2}}
    study = tiny_study(tmp_path / "input", arms=arms, seeds=[0, 1], model={"id": "model", "dtype": "float32"})
    out, environment = tmp_path / "studies" / "mine", {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    runs = start("run", study, "--out", out, env=environment, start_new_session=True)
    while not (out / "plan.json").exists():
        assert runs.poll() is None, runs.communicate()
    os.killpg(runs.pid, signal.SIGSTOP)  # or it could be done before a browser is open
    view = start("view", tmp_path / "studies", "--no-browser")
    assert view.stdout is not None
    address = view.stdout.readline().strip()
    asked: list[str] = []
    faults: list[str] = []
    try:
        with playwright.sync_playwright() as driver:
            opened = driver.chromium.launch(executable_path=chromium, args=ARGUMENTS)
            page = opened.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
            page.on("request", lambda request: asked.append(request.url))
            page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.goto(address)
            page.wait_for_selector("#runs > li[data-state=planned], #runs > li[data-state=running]", timeout=60_000)
            os.killpg(runs.pid, signal.SIGCONT)
            page.locator("#runs > li[data-state=done]").nth(3).wait_for(timeout=400_000)
            page.locator("#verdicts p").first.wait_for(timeout=120_000)
            page.locator("#runs polyline.held").nth(3).wait_for(state="attached", timeout=60_000)
            assert page.inner_text("h1") == "tiny"
            page.locator("#scored li").first.wait_for(timeout=60_000)
            assert "nats" in page.locator("#runs .upright").first.inner_text()
            assert page.locator("#runs .setting").first.inner_text().startswith("rate 1e-2")
            assert "4 done" in page.inner_text("#summary")
            assert page.locator("#runs td", has_text="taught").count() == 4
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is wider than a phone"
            opened.close()
    finally:
        os.killpg(runs.pid, signal.SIGCONT)
        view.send_signal(signal.SIGINT)
        said, errors = view.communicate(timeout=30)
        runs.communicate(timeout=120)
    assert runs.returncode in (0, 3)
    assert (view.returncode, errors) == (0, ""), (said, errors)
    assert faults == []
    assert all(url.startswith(address) for url in asked), asked
