"""Each setting in plain words: what a message expects, and what an editor shows beside it."""

from __future__ import annotations

from rankscope.study.methods import METHODS
from rankscope.study.yaml_lines import Path

NAME = "a name of letters, digits, `.`, `_` or `-` that begins with a letter or digit (at most 64)"
_COUNT = "a whole number above 0"
_SHARE = "a number from 0 to below 1"
_MARGIN = "a difference of accuracy above 0 and below 1, such as 0.03"
_RATE = "a number above 0 such as 2e-4, or auto, or auto_shared"
_SETTINGS = "a mapping of settings"
_SIZES = {
    "virtual_tokens": "virtual tokens before every sequence, such as [16]",
    "bottlenecks": "units of each adapter, such as [16, 64]",
    "layers": "how many of the last blocks to train, such as [2, 4]",
}

_SOURCE = {
    "": "a mapping with one of `path`, `hub` and `world`",
    ".path": "the path of a file of rows (.jsonl, .json, .csv, .tsv, .parquet)",
    ".hub": "the id of a Hugging Face data set, or a folder with one",
    ".config": "the name of the data set's configuration",
    ".split": "the name of the data set's split",
    ".revision": "a branch, tag or commit; refs/convert/parquet for a set that is a loading script",
    ".columns": "a mapping from fields to the columns that hold them, such as {question: problem, answer: solution}",
    ".bad_rows": "refuse, or drop to leave out rows that cannot be read, and count them",
    ".world": "the name of a split of the bundled world",
    ".world_seed": "a whole number of 0 or more",
    ".domain": NAME,
    ".choices": "text or letters",
    ".template": "a jinja2 template",
    ".limit": f"{_COUNT}: how many rows to draw at random",
    ".kind": "recall or reasoning",
}

WORDS: dict[str, str] = {
    "": "a mapping with name, model, train, suites, arms and seeds",
    "name": NAME,
    "model": "`bundled`, a folder, a hub id, a mapping with `id`, or a list of these",
    "model[]": "`bundled`, a folder, a hub id, or a mapping with `id`",
    "model[].id": "`bundled`, a folder, or a hub id",
    "model[].revision": "a branch, tag or commit",
    "model[].dtype": "auto, float32 or bfloat16",
    "model[].token_env": "the name of an environment variable",
    "model[].trust_remote_code": "true or false",
    "model[].quantization": "nf4, or null for none",
    "model[].chat": "auto (the tokenizer's chat template where it has one) or never",
    "model[].system_prompt": "a text that stands before every conversation",
    "train": "at least one training set, by name",
    **{f"train.*{key}": words for key, words in _SOURCE.items()},
    "suites": "at least one suite, by name",
    **{f"suites.*{key}": words for key, words in _SOURCE.items()},
    "suites.*": "a mapping with one of `path`, `hub`, `world` and `harness`",
    "suites.*.harness": "the name of an lm-eval task, or a YAML file of one",
    "suites.*.num_fewshot": "a whole number of 0 or more: examples before each question of a `harness` suite",
    "suites.*.metric": "a metric of the task, such as acc_norm, or with a filter: exact_match,flexible-extract",
    "suites.*.max_new_tokens": _COUNT,
    "arms": "at least one arm, by label",
    "arms.*": "a mapping of an arm's settings",
    "arms.*.method": f"{', '.join([*METHODS][:-1])} or {[*METHODS][-1]}",
    "arms.*.learning_rate": _RATE,
    "arms.*.ranks": "a list of different whole numbers above 0, such as [8, 16, 32]",
    "arms.*.ranks[]": _COUNT,
    "arms.*.alpha": "a number above 0, or a multiple of the rank such as 2r",
    "arms.*.targets": "all-linear, or a list of module names such as [q_proj, v_proj]",
    "arms.*.targets[]": "a module's name",
    "arms.*.dropout": _SHARE,
    **{f"arms.*.{key}": f"a list of different whole numbers above 0: {what}" for key, what in _SIZES.items()},
    **{f"arms.*.{key}[]": _COUNT for key in _SIZES},
    "validation": _SETTINGS,
    "validation.fraction": "a share of the training rows above 0 and below 1",
    "validation.max_items": _COUNT,
    "budget": _SETTINGS,
    "budget.epochs": "a number above 0",
    "budget.batch_size": _COUNT,
    "budget.max_sequence_tokens": "a whole number above 1",
    "budget.gradient_checkpointing": "true or false",
    "optimizer": "a mapping of AdamW's settings",
    "optimizer.name": "adamw or adamw_8bit",
    "optimizer.weight_decay": "a number of 0 or more",
    "optimizer.warmup_fraction": _SHARE,
    "optimizer.schedule": "cosine, linear or constant",
    "optimizer.clip_norm": "a number above 0",
    "seeds": "a list of different whole numbers of 0 or more, such as [0, 1, 2], or {start: 3, max: 8}",
    "seeds.start": "a whole number of 2 or more: the seeds that every arm gets",
    "seeds.max": "a whole number above `start`, at most 64: the seeds that an arm gets at most",
    "seeds[]": "a whole number from 0 to 2147483647",
    "decision": _SETTINGS,
    "decision.task_margin": _MARGIN,
    "decision.retention_margin": _MARGIN,
    "decision.min_gain": "a difference of accuracy from 0 to below 1, such as 0.01",
    "decision.confidence": "a number from 0.5 to below 1, such as 0.95",
    "checkpoint": _SETTINGS,
    "checkpoint.minutes": "a number above 0",
    "keep": _SETTINGS,
    "keep.full": "none, best or all",
    "analysis": _SETTINGS,
    "analysis.enabled": "true or false",
    "analysis.probe_items": f"{_COUNT}: how many items, drawn from all suites, are looked at inside the model",
    "analysis.derived": "true or false",
    "analysis.intruder_factor": "a number of 0 or more: what intruder dimensions are multiplied by",
    "track": "a list of tensorboard, mlflow",
    "track[]": "tensorboard or mlflow",
    "execution": _SETTINGS,
    "execution.arms_together": "auto or a whole number from 1 to 64: LoRA arms that train in one pack",
    "execution.micro_batch_tokens": "auto or a whole number of at least 16",
}

SECTIONS = ("validation", "budget", "optimizer", "decision", "checkpoint", "keep", "analysis", "execution")
"""Settings that all have defaults: a section left empty means these."""

LATER_METHODS = frozenset({"qlora", "adalora"})
HARNESS_KEYS = ("num_fewshot", "metric")
"""What only a task of lm-eval has."""
ROW_KEYS = {"columns": None, "choices": "text", "template": None, "bad_rows": "refuse", "max_new_tokens": 256}
"""What only rows have, and its default, which a resolved study writes out: a task brings its own prompts and limits."""
HUB_KEYS = ("config", "split", "revision")
"""What only a hub data set has."""
LATER_OPTIMIZERS = frozenset({"paged_adamw_8bit", "adafactor", "muon", "sgd"})


def pattern(path: Path) -> str:
    """The key of `WORDS` for a place: names given by the user are `*`, list positions `[]`."""
    text = ""
    for depth, key in enumerate(path):
        if isinstance(key, int):
            text += "[]"
        elif depth == 1 and path[0] in ("train", "suites", "arms"):
            text += ".*"
        else:
            text += f".{key}"
    return text.removeprefix(".")


def known_keys(path: Path) -> list[str]:
    """The keys that may stand in the mapping at `path`, those of later versions left out."""
    prefix = pattern(path) + "." if path else ""
    return [key[len(prefix) :] for key in WORDS if key.startswith(prefix) and _is_key(key[len(prefix) :])]


def _is_key(rest: str) -> bool:
    return rest != "" and not any(mark in rest for mark in ".[*")
