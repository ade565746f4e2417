"""Which rows of predictions judge arms, and which chose their settings and are left out of every statistic."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def judging(predictions: pd.DataFrame, model: str, train_set: str) -> NDArray[np.bool_]:
    """Of each row of one base model's predictions whether its item judges the runs of a training set.

    Rows of that set's runs say it themselves (`role`); an item that they call `select` judges in the base's rows
    neither. Without a `role` every item judges.
    """
    if "role" not in predictions.columns:
        return np.ones(len(predictions), dtype=bool)
    chosen = (predictions["role"] == "select").to_numpy()
    mine = (predictions["model"] == model).to_numpy()
    own = mine & chosen & (predictions["train_set"] == train_set).to_numpy()
    keys = predictions.loc[own, ["suite", "item_id"]].drop_duplicates().astype("str")
    base = mine & (predictions["arm"] == "base").to_numpy()
    named = pd.MultiIndex.from_frame(predictions.loc[base, ["suite", "item_id"]].astype("str"))
    judges = ~chosen
    judges[np.flatnonzero(base)] = ~named.isin(pd.MultiIndex.from_frame(keys))
    return judges
