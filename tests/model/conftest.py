"""A tiny checkpoint of any family, and the model loaded from it, made once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from own_forward import fresh
from tiny_families import save_family

from rankscope.model.load import LoadedModel
from rankscope.model.model_source import no_progress_bars


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    @functools.cache
    def get(family: str) -> Path:
        with no_progress_bars():
            return save_family(tmp_path_factory.mktemp("family"), family)

    return get


@pytest.fixture(scope="module")
def base_of(folder_of: Callable[[str], Path]) -> Callable[[str], LoadedModel]:
    @functools.cache
    def get(family: str) -> LoadedModel:
        return fresh(folder_of(family))

    return get
