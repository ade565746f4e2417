"""lm-eval's own command line, with the model `rankscope` registered: lm-eval 0.4.13 loads no plug-ins itself."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rankscope.data.harness_load import need_lm_eval


def run_lm_eval(words: Sequence[str]) -> None:
    """`lm-eval WORDS`, as if it were typed. Raises InputProblems where lm-eval is not installed, and what lm-eval
    raises."""
    need_lm_eval("rankscope harness")
    from lm_eval.__main__ import cli_evaluate

    import rankscope.evaluate.harness  # noqa: F401  (registers the model)

    before = sys.argv
    sys.argv = ["lm-eval", *words]
    try:
        cli_evaluate()
    finally:
        sys.argv = before
