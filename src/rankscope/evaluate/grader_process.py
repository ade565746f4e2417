"""The worker process that runs the user's own grader: started as a script, with nothing but the standard library.

It reads lines of JSON from its standard input and answers each with one: first the code to load, then answers to grade.
What the grader prints goes to standard error.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import types
from collections.abc import Callable
from numbers import Real
from typing import Any

_SHOWN = 120


def main() -> None:
    """Load the code that the first line holds, then grade an answer for each further line."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a print in the grader is no answer
    sys.path[0] = ""  # the folder of this script is none of the grader's

    def say(reply: dict[str, Any]) -> None:
        answers.write(json.dumps(reply) + "\n")
        answers.flush()

    try:
        function = load(**json.loads(sys.stdin.readline()))
        takes = accepted(function)
    except BaseException as error:  # of code that is not ours: told as it is
        say({"error": told(error)})
        return
    say({"ready": True})
    for line in sys.stdin:
        try:
            given = json.loads(line)
            value = function(**{name: given[name] for name in given if takes is None or name in takes})
            say({"score": float(value)} if isinstance(value, Real) else {"value": repr(value)[:_SHOWN]})
        except BaseException as error:
            say({"error": told(error)})


def load(path: str, code: str, function: str, memory_bytes: int) -> Callable[..., object]:
    """The function of the code, which runs as the module that `path` would be, within so much address space."""
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    folder = os.path.dirname(path)
    sys.path[0] = folder
    module = types.ModuleType("grader")
    module.__file__ = path
    sys.modules["grader"] = module
    exec(compile(code, path, "exec"), module.__dict__)  # the user's own, by consent
    found = getattr(module, function)
    if not callable(found):
        raise TypeError(f"{function} is no function")
    return found


def accepted(function: Callable[..., object]) -> set[str] | None:
    """The parameters that are given to the function; None where it takes any."""
    parameters = inspect.signature(function).parameters.values()
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
        return None
    return {one.name for one in parameters}


def told(error: BaseException) -> str:
    """An exception on one line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


if __name__ == "__main__":
    main()
