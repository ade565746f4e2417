"""Configs of other tools, as public ones are but for names: five a tool, in tests/study/configs/cases."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from rankscope.study.configs.config_file import load_config, read_config
from rankscope.study.configs.config_record import DataSet, TrainingConfig
from rankscope.study.configs.config_study import ConfigStudy, config_study
from rankscope.study.configs.config_suites import KnownBeside, RowsTold

KNOWN = KnownBeside(look=lambda path: RowsTold(count=20, judged_by_loss=False))
"""Every file has 20 rows whose answers can be right by exact match, and ready suites can be had."""
CASES = Path(__file__).resolve().parents[1] / "study" / "configs" / "cases"
ALL = sorted(path for path in CASES.glob("*/*") if path.name != "dataset_info.json")
NAMES = [f"{path.parent.name}/{path.name}" for path in ALL]
_FILES = ("who_am_i.json", "orders_demo.json", "talks_demo.json", "plain_demo.jsonl", "rows.jsonl")


def case(name: str) -> Path:
    """The config of this name, such as `trl/short.yaml`."""
    return CASES / name


def beside(folder: Path) -> Path:
    """The files that configs name, without rows that anybody reads; the folder."""
    for name in _FILES:
        (folder / name).write_text('{"text": "An oak."}\n' * 20)
    shutil.copy(CASES / "llamafactory" / "dataset_info.json", folder)
    return folder


def read(name: str, folder: Path) -> TrainingConfig:
    """What a case says, read with the files of `beside`; of PEFT, which names no data, with rows of the user's."""
    path = case(name)
    config = read_config(load_config(path), path.name, [folder])
    if path.parent.name != "peft":
        return config
    from dataclasses import replace

    return replace(config, train=(DataSet("rows.jsonl", "--train", judged_by_loss=None),))


def study(name: str, folder: Path) -> ConfigStudy:
    """The study that a case becomes, as if written into the folder."""
    path = case(name)
    return config_study(read(name, folder), path.name, folder / "study.yaml", "mine", [folder], KNOWN)


def adapter_config(folder: Path, **settings: Any) -> Path:
    """A folder with PEFT's settings."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder
