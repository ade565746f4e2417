"""Predictions as the table that predictions.parquet holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd

from rankscope.records import Prediction


def predictions_frame(run_id: str, predictions: Sequence[Prediction]) -> pd.DataFrame:
    """One row for each item, with the columns of docs/records.md; nullable types, so that missing stays missing."""
    rows = [asdict(prediction) for prediction in predictions]
    frame = pd.DataFrame(rows, columns=list(Prediction.__dataclass_fields__))
    frame.insert(0, "run_id", run_id)
    floats = ["score", "score_normalized", "f1", "loss_nats"]
    integers = ["prompt_tokens", "scored_tokens", "text_bytes"]
    return frame.astype({**dict.fromkeys(floats, "Float64"), **dict.fromkeys(integers, "Int64"), "cluster": "str"})
