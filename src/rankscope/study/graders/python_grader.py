"""Grades by a function of the user's own, which `evaluate/code_grading.py` runs in a worker with limits.

Reading a study looks into the file without running anything of it, and it is never run without `trust_code: true`.
"""

from __future__ import annotations

import ast
import os
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from rankscope.study.graders.grader import Grader, mismatch

_FORM = "`FILE.py:FUNCTION`, such as my_grader.py:score"


class PythonGrader(Grader):
    """By a function of your own. It may take `answer`, `reference` (the first accepted one), `references`, `prompt` and
    `item_id`, by these names, and gives a number from 0 to 1.

    What the file says is kept with the suite and decides whether answers are graded anew; what it imports is not.
    """

    name: ClassVar[str] = "python"
    title: ClassVar[str] = "a function of the user's own"
    driver: ClassVar[Literal["call", "worker", "endpoint"]] = "worker"

    python: str = Field(description=f"{_FORM}. The file is relative to the study file; needs `trust_code: true`.")
    seconds: float = Field(
        default=10,
        gt=0,
        allow_inf_nan=False,
        description="a number above 0. What one answer may take; the worker is ended after it.",
    )
    memory_gib: float = Field(
        default=4,
        ge=0.25,
        allow_inf_nan=False,
        description="a number of at least 0.25. Address space that the worker may take, on Linux.",
    )

    @field_validator("python")
    @classmethod
    def _names_both(cls, text: str) -> str:
        file, _, function = text.rpartition(":")
        if not file.endswith(".py") or not function.isidentifier():
            raise mismatch(f'"{text[:60]}"', _FORM)
        return text

    @property
    def function(self) -> str:
        """The function's name in the file."""
        return self.python.rpartition(":")[2]

    def code_file(self) -> str:
        return self.python.rpartition(":")[0]

    def at(self, folder: Path) -> PythonGrader:
        file = Path(os.path.abspath(folder / Path(self.code_file()).expanduser()))
        return self.model_copy(update={"python": f"{file}:{self.function}"})

    def deciding(self) -> dict[str, Any]:
        return {"function": self.function}

    def problem(self, folder: Path) -> tuple[str, str] | None:
        """Read, never run: the file is there, is Python, and says what the function is."""
        path = folder / Path(self.code_file()).expanduser()
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            why = "which does not exist" if not path.exists() else f"which cannot be read ({error})"
            return f'"{self.code_file()}", {why}', f"a file of Python; relative paths start at {folder}"
        except (SyntaxError, RecursionError, MemoryError) as error:
            line = f" in line {error.lineno}" if isinstance(error, SyntaxError) else ""
            return f'"{self.code_file()}", which is no Python{line}', "a file of Python"
        if self.function not in _names(tree):
            return f"no `{self.function}` in {self.code_file()}", "a function that the file defines at its top"
        return None


def _names(tree: ast.Module) -> set[str]:
    """What a module's top level defines, imports or assigns, in branches too."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


GRADERS = (PythonGrader,)
