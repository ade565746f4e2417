"""A machine of its own inside this process: an empty cache, another working folder, and nothing known of any store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from rankscope.edges.storages import object_storage
from rankscope.jobs import job_context
from rankscope.model.fetched_model import fetched


def become_machine(patch: pytest.MonkeyPatch, folder: Path, environment: Mapping[str, str] | None = None) -> None:
    """From here on this process is the machine whose cache and working folder lie in `folder`. It knows no credentials
    but those of `environment`."""
    import s3fs

    for name in ("cache", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    patch.chdir(folder / "work")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_PROFILE"):
        patch.delenv(name, raising=False)
    here = {"RANKSCOPE_CACHE": str(folder / "cache"), "HOME": str(folder), "AWS_EC2_METADATA_DISABLED": "true"}
    for name, value in {**here, **(environment or {})}.items():
        patch.setenv(name, value)
    patch.setattr(object_storage, "_OPENED", {})
    job_context._CONTEXTS.clear()
    fetched.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()
