"""A few single items of what was scored last, with what was said and whether it is right, for the live page."""

from __future__ import annotations

from typing import Any

import pandas as pd

from rankscope.decide.result_tables import RIGHT_ABOVE
from rankscope.edges.study_folder import StudyFolder
from rankscope.records import Plan
from rankscope.report.conversations import conversation, middle_cut

MOST_ITEMS = 6
MOST_CHARACTERS = 240
_COLUMNS = ["suite", "item_id", "score", "predicted", "answer", "loss_nats", "scored_tokens"]


def scored_items(folder: StudyFolder, plan: Plan, model: str, run_id: str) -> list[dict[str, Any]]:
    """Some items of a run, or of the base, that has been scored: from each suite in turn, its last ones first.

    An item has suite, question, said, answer, and `right` (None where it has no score: then `loss`, nats per token).
    """
    scored = folder.read_predictions(run_id, _COLUMNS)
    if scored is None or scored.empty:
        return []
    turns = scored.iloc[::-1].groupby("suite", sort=False).cumcount()
    shown = scored.loc[turns.sort_values(kind="stable").index[:MOST_ITEMS]]
    asked = folder.read_items(plan.base_ids[model])
    prompts: dict[tuple[str, str], str] = {}
    if asked is not None:
        mine = asked[asked["item_id"].isin(shown["item_id"])]
        keys = zip(mine["suite"].astype(str), mine["item_id"].astype(str), strict=True)
        prompts = dict(zip(keys, mine["prompt"].astype(str), strict=True))
    return [_item(row, prompts) for row in shown.to_dict("records")]


def _item(row: dict[Any, Any], prompts: dict[tuple[str, str], str]) -> dict[str, Any]:
    turns = conversation(prompts.get((str(row["suite"]), str(row["item_id"])), ""))
    known = not pd.isna(row["score"])
    loss = None if pd.isna(row["loss_nats"]) or not row["scored_tokens"] else row["loss_nats"] / row["scored_tokens"]
    return {
        "suite": str(row["suite"]),
        "question": middle_cut(turns[-1].text.strip(), MOST_CHARACTERS) if turns else "",
        "said": _text(row["predicted"]),
        "answer": _text(row["answer"]),
        "right": float(row["score"]) > RIGHT_ABOVE if known else None,
        "loss": None if known or loss is None else float(loss),
    }


def _text(value: Any) -> str:
    return middle_cut(str(value).strip(), MOST_CHARACTERS) if isinstance(value, str) else ""
