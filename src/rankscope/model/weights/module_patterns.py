"""Settings that a foreign adapter brings along, looked at before PEFT sees them: their types, and regular expressions.

Expressions are tried under a limit of time, by `re` itself, which is what PEFT matches with; Python's engine answers a
signal while it searches.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rankscope.study.problems import InputProblems, Problem, show

LIMIT_SECONDS = 1.0
"""For all modules of a model together; those of a 70B take milliseconds."""

_FORMS = {
    "target_modules": "{}",
    "exclude_modules": "{}",
    "layers_pattern": r".*\.{}\.(\d+)\.",
    "rank_pattern": r"(.*\.)?({})$",
    "alpha_pattern": r"(.*\.)?({})$",
}
"""How PEFT puts each setting's expressions together (`check_target_module_exists`, `get_pattern_key`)."""


_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("target_modules", "exclude_modules", "layers_pattern"), (str, list)),
    **dict.fromkeys(("modules_to_save", "target_parameters", "layer_replication"), (list,)),
    **dict.fromkeys(("rank_pattern", "alpha_pattern"), (dict,)),
    **dict.fromkeys(("loftq_config", "eva_config", "corda_config", "lora_ga_config"), (dict,)),
    **dict.fromkeys(("lora_dropout", "lora_alpha", "alpha"), (int, float)),
    "r": (int,),
    "bias": (str,),
    "layers_to_transform": (int, list),
    "trainable_token_indices": (list, dict),
}
"""What a setting may be where it is not null."""

_NAMES = {"target_modules", "exclude_modules", "layers_pattern", "modules_to_save", "target_parameters"}
"""Settings whose lists hold texts."""


def wrong_types(config: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(setting, what was found, what was expected) of each that PEFT could make nothing of."""
    for key, types in _TYPES.items():
        value = config.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, types):
            yield key, show(value), f"{' or '.join(_WORDS[one] for one in types)}, or null"
        elif key in _NAMES and isinstance(value, list) and not all(isinstance(one, str) for one in value):
            yield key, show(value), "a list of texts"


_WORDS = {str: "a text", list: "a list", dict: "a mapping", int: "a whole number", float: "a number"}


def check_patterns(path: Path, config: Mapping[str, Any], modules: Iterable[str]) -> None:
    """Raises InputProblems for each expression that is none, or that does not end in time on these modules' names."""
    names = list(modules)
    problems = []
    for key, pattern in _patterns(config):
        try:
            whole = re.compile(_FORMS[key].format(pattern))
            with _time_limit(LIMIT_SECONDS):
                for name in names:
                    whole.fullmatch(name)
                    whole.match(name)
        except re.error as error:
            found = f"{show(pattern)}, no regular expression ({error})"
            problems.append(Problem(str(path), key, found, "a module pattern"))
        except (TimeoutError, RecursionError, OverflowError):
            found = f"{show(pattern)}, which does not end on the names of the modules"
            expected = f"a module pattern that takes less than {LIMIT_SECONDS:g} s"
            problems.append(Problem(str(path), key, found, expected))
    if problems:
        raise InputProblems(problems)


def _patterns(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(setting, expression). Lists of modules are names, but for `layers_pattern`."""
    for key in _FORMS:
        value = config.get(key)
        several = value if isinstance(value, dict) or (key == "layers_pattern" and isinstance(value, list)) else [value]
        yield from ((key, one) for one in several if isinstance(one, str))


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in this block after so long. Signals reach the main thread only: elsewhere there is none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    others = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *others)
        signal.signal(signal.SIGALRM, before)
