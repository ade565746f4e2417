"""A first study from a user's own files: what `rankscope init` writes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rankscope.study.problems import InputProblems, Problem, show
from rankscope.study.read_study import read_study

_TEXT = """\
# A study for rankscope. See what it would do:  rankscope plan FILE      Do it:  rankscope run FILE
# Paths are relative to this file. A line that begins with # is a comment; what it shows is the default or another way.

name: {name}

# The base model: `bundled` (small, nothing to download), a folder saved by transformers, or a hub id.
model: {model}
# model: {{id: ./my-model, dtype: float32, trust_remote_code: false}}    # dtype auto: bfloat16 where it is fast
# model: {{id: org/name, revision: main, token_env: HF_TOKEN, chat: auto, system_prompt: Answer briefly.}}
# A tokenizer's chat template is used where there is one; `chat: never` asks in plain text all the same.

# What to learn: rows of a file (.jsonl, .json, .csv, .tsv, .parquet) or a hub data set, with one of these field sets:
#   question, choices, answer_index     question, answer     prompt, completion     text
#   messages     conversations     instruction, input, output
# `columns` names the columns of other data: {{question: problem, choices: [opa, opb, opc, opd], answer_index: cop}}.
# `domain` says which suites are in-domain. Several training sets give the in-domain/out-of-domain matrix.
train:
{train}

# What to score. A suite of the training set's domain measures the gain, every other one what is forgotten.
# `kind` is recall or reasoning; only a suite of plain text has none. `limit` draws that many items at random.
suites:
{suites}

# The arms to compare; the base model is the reference of them all. The label is the method unless `method` is given.
# learning_rate: auto finds a rate for each arm and rank on rows held out of training, never on a suite; this costs
# about four more runs an arm, and up to two beyond where the best rate ends the grid. A number uses that one: 1e-5 is
# usual for full, 2e-4 for lora.
arms:
{arms}
  # lora-attention: {{method: lora, ranks: [16], alpha: 2r, targets: [q_proj, v_proj], learning_rate: 2e-4}}
  # Other methods: rslora, dora, pissa (ranks); prompt-tuning, prefix-tuning (virtual_tokens); adapters (bottlenecks);
  # last-k-layers (layers); ia3, ln-tuning, full-frozen-embeddings (no size). docs/models.md says what each trains.
  # dora: {{ranks: [16]}}
  # prefix-tuning: {{virtual_tokens: [16]}}

# One seed describes; three or more can decide. {{start: 3, max: 8}} adds seeds for the arms that may still be the
# answer, until the verdict stands.
seeds: [0, 1, 2]

# The same for every arm.
budget: {{epochs: 3, batch_size: 16, max_sequence_tokens: 1024}}
# optimizer: {{weight_decay: 0.0, warmup_fraction: 0.03, schedule: cosine, clip_norm: 1.0}}
# validation: {{fraction: 0.1, max_items: 500}}    # training rows held out

# The rule of the verdict, fixed before any result; margins are differences of accuracy (0.03 is three points).
# An arm may forget `retention_margin`, and be worse than the best by `task_margin`, and still be good enough.
decision: {{task_margin: 0.03, retention_margin: 0.03, min_gain: 0.01, confidence: 0.95}}

# checkpoint: {{minutes: 10}}
# keep: {{full: none}}    # fully fine-tuned weights are deleted when they were scored; adapters are always kept
# execution: {{arms_together: auto}}    # LoRA arms that train in one pack; auto measures a few steps
# analysis: {{enabled: true}}    # look inside: spectra, hidden states, attention, neurons; takes time
# track: [tensorboard, mlflow]    # show runs there too; needs pip install 'rankscope[tensorboard,mlflow]'
"""

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


def study_template(
    name: str = "my-study",
    model: str = "bundled",
    *,
    train_path: str | None = None,
    domain: str = "mine",
    in_domain_path: str = "test.jsonl",
    other_paths: Mapping[str, str] | None = None,
    arms: str | None = None,
) -> str:
    """A study file that `read_study` takes. Without `train_path` it runs as it is, on the bundled world.

    With it, `in_domain_path` is the suite that measures the gain and `other_paths` maps the names of further suites to
    their files. `name`, `domain` and those names are names as studies have them (letters, digits, `.`, `_`, `-`).
    `arms` are the lines of that section, as `config.defaults.arms_lines` makes them.
    """
    arms = _ARMS if arms is None else arms
    if train_path is None:
        named = {"name": _scalar(name), "model": _scalar(model)}
        return _TEXT.format(**named, train=_WORLD_TRAIN, suites=_WORLD_SUITES, arms=arms)
    other = {} if other_paths is None else dict(other_paths)
    own = f"{domain}-test" if domain in other else domain
    lines = [f"  {_scalar(own)}: {{path: {_scalar(in_domain_path)}, domain: {_scalar(domain)}, kind: recall}}"]
    lines += [f"  {_scalar(suite)}: {{path: {_scalar(path)}, kind: recall}}" for suite, path in other.items()]
    if not other:
        lines.append("  # general: {path: what-it-must-not-forget.jsonl, kind: recall}")
    train = f"  {_scalar(domain)}: {{path: {_scalar(train_path)}, domain: {_scalar(domain)}}}"
    return _TEXT.format(name=_scalar(name), model=_scalar(model), train=train, suites="\n".join(lines), arms=arms)


def _scalar(text: str) -> str:
    """A string as YAML: plain where that is safe, else in double quotes, whose escapes are JSON's."""
    if re.fullmatch(r"[A-Za-z.][A-Za-z0-9_./-]*[A-Za-z0-9]", text) and re.search(r"[-/_]|[.][a-z]{2}", text[1:]):
        return text
    return text if text in ("bundled", "mine") else json.dumps(text, ensure_ascii=False)


@dataclass(frozen=True)
class Wishes:
    """What a user says of a first study. Without `train` it is about the bundled world; `keep` are further suites."""

    name: str = "my-study"
    model: str = "bundled"
    train: Path | None = None
    test: Path | None = None
    domain: str = "mine"
    keep: Sequence[Path] = ()


def write_first_study(out: Path, wishes: Wishes, arms: str | None = None) -> None:
    """Write a study file that reads without a problem. Raises InputProblems, and then nothing is left at `out`.

    `arms` are the lines of its arms, where they are not the template's.
    """
    problems = _problems(out, wishes)
    if problems:
        raise InputProblems(problems)
    keep = {_suite_name(path): _relative(path, out) for path in wishes.keep}
    text = study_template(
        wishes.name,
        wishes.model if not _is_folder(wishes.model) else _relative(Path(wishes.model), out),
        train_path=None if wishes.train is None else _relative(wishes.train, out),
        domain=wishes.domain,
        in_domain_path="" if wishes.test is None else _relative(wishes.test, out),
        other_paths=keep,
        arms=arms,
    )
    out.write_text(text, encoding="utf-8")
    try:
        read_study(out, [])
    except InputProblems:
        out.unlink()
        raise


def ask_for(wishes: Wishes, prompt: Callable[[str, str], str]) -> Wishes:
    """`prompt(question, known)` gives an answer, or what is known where the user's line is empty."""

    def path(question: str, known: Path | None) -> Path | None:
        given = prompt(question, str(known or ""))
        return Path(given) if given else None

    name = prompt("Name of the study", wishes.name)
    model = prompt("Base model: bundled, a folder, or a hub id", wishes.model)
    train = path("File of rows to train on (empty: the bundled world)", wishes.train)
    if train is None:
        return replace(wishes, name=name, model=model)
    domain = prompt("What the rows are about, in one word", wishes.domain)
    test = path("File of questions on what they teach", wishes.test)
    keep = list(wishes.keep)
    while (more := path("File of questions it must not forget (empty: no more)", None)) is not None:
        keep.append(more)
    return replace(wishes, name=name, model=model, train=train, test=test, domain=domain, keep=keep)


def _problems(out: Path, wishes: Wishes) -> list[Problem]:
    found = []
    if out.exists():
        found.append(Problem(str(out), "--out", "a file that exists", "a new file"))
    if wishes.train is None and (wishes.test is not None or wishes.keep):
        found.append(Problem("init", "--train", "nothing", "the rows to train on, since there are suites"))
    if wishes.train is not None and wishes.test is None:
        found.append(Problem("init", "--test", "nothing", "questions on what --train teaches, which measure the gain"))
    options = [("--train", wishes.train), ("--test", wishes.test), *(("--keep", path) for path in wishes.keep)]
    for option, path in options:
        if path is not None and not path.is_file():
            found.append(Problem(str(path), option, "no such file", "a file of rows (docs/data.md has the shapes)"))
    names = [_suite_name(path) for path in wishes.keep]
    for name in sorted({name for name in names if names.count(name) > 1}):
        found.append(
            Problem("init", "--keep", f"two files named {show(name)}", "names that differ: suites are named so")
        )
    return found


def _suite_name(path: Path) -> str:
    """The file's name without its ending, as a name in a study."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-.") or "other"


def _is_folder(model: str) -> bool:
    return Path(model).is_dir()


def _relative(path: Path, out: Path) -> str:
    """Paths in a study are relative to its file."""
    return os.path.relpath(path, out.parent) if not path.is_absolute() else str(path)
