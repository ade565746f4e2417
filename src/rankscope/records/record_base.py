"""What every record has, and the versions of what is written."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

FORMAT_VERSION = 1
"""The layout of the JSON records and of the tables; a reader refuses a newer one."""

RESULTS_VERSION = 2
"""Part of every run id: raised when the same settings would give other numbers."""


class Record(BaseModel):
    """A record that is written to disk as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")
