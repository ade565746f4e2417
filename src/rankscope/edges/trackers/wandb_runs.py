"""Weights & Biases: a run of its own for each run of the study, in a project of the study's name."""

from __future__ import annotations

import hashlib
import netrc
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rankscope.edges.trackers import Point, TrackedRun, Tracker

NAME = "wandb"
PACKAGES = ("wandb",)


def make(study: str, folder: Path) -> Tracker:
    """Files below the study's folder, or where WANDB_DIR says; sent where WANDB_MODE or a key of the user's says so."""
    return WeightsAndBiases(study, folder)


class WeightsAndBiases:
    """Runs in a project of the study's name. Without a key, and with WANDB_MODE=offline, they are files in
    `STUDY_FOLDER/wandb`, for `wandb sync`. Numbers, settings and the verdict's words are sent: no code, no console,
    nothing of the machine, no report (it has the user's items)."""

    def __init__(self, study: str, folder: Path) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # nothing phones home
        self._study, self._folder = study, folder.resolve()
        self._mode = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
        self._runs: dict[str, Any] = {}

    def begin(self, run: TrackedRun, *, anew: bool) -> None:
        began = self._runs[run.run_id] = self._init(run.run_id, run.name, run.params, dict(run.tags))
        began.define_metric("*", step_metric="step")

    def log(self, run_id: str, points: Sequence[Point]) -> None:
        for step, values in points:
            self._runs[run_id].log({"step": step, **values})

    def end(self, run: TrackedRun, last_step: int) -> None:
        ended = self._runs.pop(run.run_id)
        ended.summary.update({**run.metrics, "state": run.state, **run.tags})
        ended.finish(exit_code=0 if run.came_through else 1)

    def log_outcome(self, texts: Mapping[str, str], files: Sequence[Path]) -> None:
        outcome = self._init("outcome", f"{self._study}: the verdict", {}, {})
        outcome.summary.update(dict(texts))
        outcome.finish()

    def close(self) -> None:
        for run in self._runs.values():
            run.finish(exit_code=1)  # W&B has no word for "goes on another day"; a run that goes on is `running` again

    def _init(self, name: str, title: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> Any:
        import wandb

        quiet = wandb.Settings(
            silent=True, console="off", disable_git=True, disable_code=True, save_code=False, x_disable_stats=True,
            x_disable_meta=True, x_disable_machine_info=True, x_save_requirements=False, disable_job_creation=True,
        )  # fmt: skip
        mode: Any = self._mode  # a text here, a Literal there
        return wandb.init(
            project=re.sub(r"[^\w.-]", "-", self._study), name=title, id=self._id(name),
            dir=os.environ.get("WANDB_DIR", str(self._folder)), config={**params, **tags}, mode=mode,
            resume=None if self._mode == "offline" else "allow", reinit="create_new", settings=quiet,
        )  # fmt: skip

    def _id(self, name: str) -> str:
        """The same in every session, and another for a study of the same name that lies elsewhere."""
        where = hashlib.sha256(str(self._folder).encode()).hexdigest()[:8]
        return re.sub(r"[^\w.-]", "-", name)[:100] + f"-{where}"


def _has_key() -> bool:
    """Whether the user has given W&B a key: a run without one would stop and ask for it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname
    try:
        return host is not None and netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
