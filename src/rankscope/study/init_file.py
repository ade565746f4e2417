"""Writes the first study file of a user: about the bundled world, or about the files that the flags of `init` name.

The arms may start from defaults pooled over studies, which `rankscope defaults` writes.
"""

from __future__ import annotations

import os
import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template
from typing import get_args

from rankscope.study.data_study import KIND_TODO
from rankscope.study.problems import InputProblems, Problem, show
from rankscope.study.read_study import read_study
from rankscope.study.study_settings import NAME, Kind, is_name
from rankscope.study.yaml_text import dump_yaml

_ARMS = """\
  full: {learning_rate: auto}
  lora: {ranks: [4, 16, 64], alpha: 2r, targets: all-linear, learning_rate: auto}"""

_WORLD_TRAIN = """\
  medical: {world: medical/taught/train, domain: medical}    # from the bundled world of invented facts
  # mine: {path: train.jsonl, domain: mine}"""

_WORLD_SUITES = """\
  medical: {world: medical/taught/test, domain: medical, kind: recall}
  medical-known: {world: medical/known/test, kind: recall}
  law: {world: legal/known/test, domain: legal, kind: recall}
  general: {world: general/known/test, kind: recall}
  arithmetic: {world: arithmetic/test, kind: reasoning}
  # mine: {path: test.jsonl, domain: mine, kind: recall, choices: letters, limit: 500}
  # gsm8k: {hub: openai/gsm8k, config: main, split: test, kind: reasoning, limit: 500}"""

_NO_SUITE = "\n  # general: {path: what-it-must-not-forget.jsonl}"


def study_template(
    name: str = "my-study",
    model: str = "bundled",
    *,
    train_path: str | None = None,
    domain: str = "mine",
    test_path: str = "test.jsonl",
    keep_paths: Mapping[str, str] | None = None,
    kind: Kind | None = None,
    arms: str | None = None,
) -> str:
    """The text of a commented study file. Without `train_path` it runs as it is, on the bundled world.

    With it, `test_path` is the suite that measures the gain and `keep_paths` maps the names of further suites to their
    files. `name`, `domain` and those names are names as studies have them (letters, digits, `.`, `_`, `-`). `kind` is
    that of the training rows and their suite, None where nobody said it; `arms` are the lines of that section, as
    `arms_lines` makes them.
    """
    train, suites = _WORLD_TRAIN, _WORLD_SUITES
    if train_path is not None:
        keep = {} if keep_paths is None else dict(keep_paths)
        own = domain
        while own in keep:
            own += "-test"
        said = {} if kind is None else {"kind": kind}
        train = _entries({domain: {"path": train_path, "domain": domain, **said}})
        asked = {own: {"path": test_path, "domain": domain, **said}}
        suites = _entries(asked | {suite: {"path": path} for suite, path in keep.items()})
        suites += "" if keep else _NO_SUITE
        suites = suites if kind is not None else f"{textwrap.indent(KIND_TODO, '  ')}\n{suites}"
    text = (resources.files("rankscope") / "assets" / "study_template.yaml").read_text("utf-8")
    return Template(text).substitute(
        name=dump_yaml({"name": name}).strip(),
        model=dump_yaml({"model": model}).strip(),
        train=train,
        suites=suites,
        arms=arms or _ARMS,
    )


def _entries(sources: dict[str, dict[str, str]]) -> str:
    """Training sets or suites as the lines of their section."""
    return textwrap.indent(dump_yaml(sources), "  ").rstrip("\n")


# ---- what the user gave ---------------------------------------------------------------------------------------------


NO_TEST = Problem(
    "init", "--test", "nothing",
    "questions on what --train teaches, which measure the gain, or `rankscope init FILE`, which holds out a share",
)  # fmt: skip


@dataclass(frozen=True)
class InitFlags:
    """What a user says of a first study. Without `train` it is about the bundled world; `keep` are further suites."""

    name: str = "my-study"
    model: str = "bundled"
    train: Path | None = None
    test: Path | None = None
    domain: str = "mine"
    keep: Sequence[Path] = ()
    kind: Kind | None = None


def write_first_study(out: Path, flags: InitFlags, arms: str | None = None) -> None:
    """Write a study file that reads without a problem. Raises InputProblems, and then nothing is left at `out`.

    Every problem names the flag that it is about. `arms` are the lines of its arms, where they are not the template's.
    """
    problems = _problems(out, flags)
    if problems:
        raise InputProblems(problems)
    text = study_template(
        flags.name,
        relative(Path(flags.model), out) if os.path.isdir(flags.model) else flags.model,
        train_path=None if flags.train is None else relative(flags.train, out),
        domain=flags.domain,
        test_path="" if flags.test is None else relative(flags.test, out),
        keep_paths={suite_name(path): relative(path, out) for path in flags.keep},
        kind=flags.kind,
        arms=arms,
    )
    write_checked(out, text)


def write_new(out: Path, content: bytes, option: str = "--out") -> None:
    """Write a file that is not there; what came to stand there since it was checked is never replaced. Raises
    InputProblems, which name the option that the file was given by."""
    made = False
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("xb") as stream:
            made = True
            stream.write(content)
    except FileExistsError as error:
        raise InputProblems([Problem(str(out), option, "a file that exists", "a new file")]) from error
    except OSError as error:
        if made:  # a part of it, on a disk that is full
            out.unlink(missing_ok=True)
        found = f"a file that cannot be written ({error.strerror})"
        raise InputProblems([Problem(str(out), option, found, "a new file")]) from error


def write_checked(out: Path, text: str) -> None:
    """Write a study file that reads without a problem. Raises InputProblems, and then nothing is left at `out`."""
    write_new(out, text.encode("utf-8"))
    try:
        read_study(out)
    except InputProblems:
        out.unlink()
        raise


def _problems(out: Path, flags: InitFlags) -> list[Problem]:
    check_out(out)
    found = [check_name("--name", flags.name), check_name("--domain", flags.domain), check_model(flags.model)]
    if flags.train is None and (flags.test is not None or flags.keep):
        found.append(Problem("init", "--train", "nothing", "the rows to train on, since there are suites"))
    if flags.train is not None and flags.test is None:
        found.append(NO_TEST)
    for option, paths in (("--test", [flags.test] if flags.test else []), ("--keep", flags.keep)):
        found += [check_not_trained(option, path, flags.train) for path in paths]
    options = [("--train", flags.train), ("--test", flags.test)]
    found += [check_rows(option, path) for option, path in options if path is not None]
    found += [check_keep(path, flags.keep[:i]) for i, path in enumerate(flags.keep)]
    return [problem for problem in found if problem is not None]


def plan_command(out: Path) -> str:
    """The command that plans a study file, as it can be pasted into a shell."""
    return f"rankscope plan {shlex.quote(str(out))}"


def check_out(out: Path) -> None:
    """Raises InputProblems where a study file would replace another file."""
    if os.path.lexists(out):
        raise InputProblems([Problem(str(out), "--out", "a file that exists", "a new file")])


def check_name(option: str, text: str) -> Problem | None:
    """What is wrong with the name of a study or a domain, None where nothing is."""
    return None if is_name(text) else Problem("init", option, show(text), NAME)


def check_model(text: str) -> Problem | None:
    """What is wrong with a base model's id, as far as can be told without loading it."""
    if not text.strip() or not text.isprintable():
        return Problem("init", "--model", show(text) if text else "nothing", "`bundled`, a folder, or a hub id")
    if text.startswith((".", "/", "~")) and not os.path.isdir(os.path.expanduser(text)):
        return Problem(text, "--model", "no such folder", "a folder that transformers saved, `bundled`, or a hub id")
    return None


def check_kind(text: str) -> Problem | None:
    """What is wrong with the kind of a suite."""
    return None if text in get_args(Kind) else Problem("init", "--kind", show(text), " or ".join(get_args(Kind)))


def check_rows(option: str, path: Path) -> Problem | None:
    """What is wrong with a file of rows, before any row is read."""
    expected = "a file of rows (docs/data.md has the shapes)"
    if not str(path).isprintable():
        return Problem(show(str(path)), option, "a name with control characters", expected)
    if os.path.isdir(path):
        return Problem(str(path), option, "a folder", expected)
    if not os.path.isfile(path):
        return Problem(str(path), option, "no such file", expected)
    if not os.access(path, os.R_OK):
        return Problem(str(path), option, "a file that may not be read", expected)
    return Problem(str(path), option, "an empty file", expected) if path.stat().st_size == 0 else None


def check_not_trained(option: str, path: Path, train: Path | None) -> Problem | None:
    """What is wrong with asking the very file that is trained on, by whatever way it is named."""
    if train is None or os.path.realpath(path) != os.path.realpath(train):
        return None
    return Problem("init", option, "the rows that are trained on", "others: what was trained says nothing")


def check_keep(path: Path, others: Sequence[Path]) -> Problem | None:
    """What is wrong with a further suite's file beside the `others`."""
    if suite_name(path) in map(suite_name, others):
        found = f"two files named {show(suite_name(path))}"
        return Problem("init", "--keep", found, "names that differ: suites are named so")
    return check_rows("--keep", path)


def suite_name(path: Path) -> str:
    """The file's name without its ending, as a name in a study."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._")[:64] or "other"


def relative(path: Path, out: Path) -> str:
    """Paths in a study are relative to its file."""
    return os.path.relpath(path, out.parent) if not path.is_absolute() else str(path)
