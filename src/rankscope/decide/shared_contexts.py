"""Finds questions that share a long text though nobody said so: they are no independent items.

Twenty questions on one text rise and fall together: an interval that takes them for twenty covers the truth in 68 % of
studies, not in 95 %. `cluster` in the suite's rows says which belong together.
"""

from __future__ import annotations

import pandas as pd

LONG_CHARACTERS = 200
"""Beside what all prompts of the suite begin with (instructions, examples)."""
FEWEST_SHARE = 0.2
"""Of the items that share a text with another one: below it the intervals are hardly touched."""


def shared_contexts(prompts: pd.DataFrame, clustered: frozenset[str] = frozenset()) -> list[str]:
    """A warning for each suite of `prompts` (columns suite, prompt) whose items often share a long beginning.

    Suites in `clustered` say which items belong together.
    """
    said = []
    for suite, group in prompts.dropna(subset=["prompt"]).groupby("suite", observed=True):
        texts = group["prompt"].astype(str).tolist()
        if str(suite) in clustered or len(texts) < 2:
            continue
        common = _alike(min(texts), max(texts))
        starts = pd.Series(
            [text[: common + LONG_CHARACTERS] for text in texts if len(text) >= common + LONG_CHARACTERS]
        )
        shared = int(starts.duplicated(keep=False).sum())
        if shared >= FEWEST_SHARE * len(texts):
            said.append(
                f"{suite}: {shared:,} of {len(texts):,} items begin with a long text that another item has too. Give "
                "their rows a `cluster`: taken for independent, they make intervals too narrow"
            )
    return said


def _alike(first: str, second: str) -> int:
    """How many characters two texts begin with alike; of the first and the last of sorted texts, all of them do."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(first), len(second)))
