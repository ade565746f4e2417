"""The oldest versions that pyproject.toml claims are those that `make test-oldest` installs."""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]


def requirements(name: str) -> dict[str, Requirement]:
    """The lines of a file of constraints, by package."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(one.name): one for one in found}


def version(one: Requirement) -> Version:
    (only,) = one.specifier
    return Version(only.version)


def test_every_lower_bound_is_the_version_that_was_tried() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    claimed = {canonicalize_name(one.name): one for one in map(Requirement, project["dependencies"])}
    tried = requirements("constraints-oldest.txt")
    assert claimed.keys() == tried.keys()
    assert {name: version(one) for name, one in claimed.items()} == {name: version(one) for name, one in tried.items()}


def test_what_is_developed_with_is_no_older_than_what_is_claimed() -> None:
    tried, used = requirements("constraints-oldest.txt"), requirements("constraints.txt")
    assert not {name for name, one in tried.items() if version(used[name]) < version(one)}
