"""The order in which the slow tests run: the longest files first, so that no worker ends up alone with one."""

from __future__ import annotations

import pytest

LONGEST_FIRST = (
    "test_demo.py",
    "test_ray_study.py",
    "faults/test_kills.py",
    "test_resume.py",
    "test_array_jobs.py",
    "test_store_study.py",
    "edges/executors/test_ray_cluster.py",
)
"""Below tests/. `make test-slow` gives whole files to its workers in this order (--no-loadscope-reorder)."""


def longest_first(items: list[pytest.Item]) -> None:
    """Sort in place; files that are not named, and the tests of one file, keep their order."""

    def place(item: pytest.Item) -> int:
        found = [i for i, name in enumerate(LONGEST_FIRST) if item.path.match(f"tests/{name}")]
        return found[0] if found else len(LONGEST_FIRST)

    items.sort(key=place)
