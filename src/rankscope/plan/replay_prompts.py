"""Which suites give the prompts that a base goes on from where `replay` says `prompts: selection`.

Prompts come from items that choose settings and never from items that judge; and at least one suite outside the domain
gives none, so that what a remedy keeps of suites that it never saw is measured too.
"""

from __future__ import annotations

from rankscope.records import PlannedChoice, PlannedSplit
from rankscope.study.methods.remedy_settings import Replay
from rankscope.study.problems import InputProblems, Problem


def giving_suites(replay: Replay, choice: PlannedChoice, place: str) -> list[PlannedSplit]:
    """The suites that give prompts, as they are split for one training set, in the study's order.

    Those of `prompts_from` that are outside the domain; without it every second one of the suites that are split, half
    of them and at least one. Raises InputProblems (at `place`) where a suite has no items that choose, where no suite
    gives any, and where none is left that gives none.
    """
    can = [split for split in choice.splits if split.select_count]
    outside = {split.suite for split in choice.splits}
    if not can:
        expected = "a suite outside the domain that is split, or no `prompts: selection`"
        found = f"no items that choose settings for train.{choice.train_set}"
        raise InputProblems([Problem("study", f"{place}.prompts", found, expected)])
    if replay.prompts_from is None:
        giving = can[::2][: max(1, len(can) // 2)]
    else:
        whole = [name for name in replay.prompts_from if name in outside and name not in {split.suite for split in can}]
        if whole:
            found = f"{', '.join(whole)}, too small to be split: all items judge"
            expected = f"suites of which items choose settings: {', '.join(split.suite for split in can)}"
            raise InputProblems([Problem("study", f"{place}.prompts_from", found, expected)])
        giving = [split for split in can if split.suite in replay.prompts_from]
    if not giving:
        found = f"no suite outside the domain of train.{choice.train_set}"
        expected = f"some of {', '.join(split.suite for split in can)}"
        raise InputProblems([Problem("study", f"{place}.prompts_from", found, expected)])
    if {split.suite for split in giving} == outside:
        found = f"every suite outside the domain of train.{choice.train_set} ({', '.join(sorted(outside))})"
        expected = "at least one suite that gives no prompts"
        raise InputProblems([Problem("study", f"{place}.prompts_from", found, expected)])
    return giving
