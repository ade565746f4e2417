"""Arms that were trained elsewhere, `adapters:` and `models:`: what a study file may say of them."""

from __future__ import annotations

import os
from pathlib import Path

from rankscope.study.methods.given_method import GivenEntry
from rankscope.study.problems import Document, Problem, show
from rankscope.study.study import AdaptiveSeeds, Study


def check_given(study: Study, document: Document, base: Path | None) -> list[Problem]:
    """A folder for each seed, of one base and one training set; where `base` is given, relative paths start there and
    each folder is there."""
    problems = []
    for key, entry in study.arms.items():
        if not isinstance(entry, GivenEntry):
            continue
        setting = entry.method.removeprefix("given-")
        count = len(entry.folders)
        seeds = f"{count} folder{'s' * (count != 1)} for {len(study.all_seeds)} seed{'s' * (len(study.all_seeds) != 1)}"
        if isinstance(study.seeds, AdaptiveSeeds):
            expected = "a list of seeds, a folder for each: none can be added to what was trained elsewhere"
            problems.append(document.problem(("arms", key, setting), "seeds that are added while it runs", expected))
        elif count != len(study.seeds):
            expected = f"a folder for each seed, or `seeds` of {count}"
            problems.append(document.problem(("arms", key, setting), seeds, expected))
        for count, what, how in ((len(study.models), "base model", "from"), (len(study.train), "training set", "on")):
            if count > 1:
                expected = f"a study of one {what}, that which it was trained {how}"
                problems.append(document.problem(("arms", key, setting), f"a study of {count} {what}s", expected))
        for i, folder in enumerate(entry.folders if base is not None else ()):
            if not os.path.isdir(os.path.join(base or "", os.path.expanduser(folder))):
                expected = f"a folder with {'an adapter' if setting == 'adapters' else 'a model'}; relative paths start"
                found = f"{show(folder)}, where no folder is"
                problems.append(document.problem(("arms", key, setting, i), found, f"{expected} at {base}"))
    return problems
