"""What a plan says of the suites where the base was scored before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from made_facts import model_facts, suite_facts, train_facts
from made_plan import make_plan

from rankscope.edges.study_folder import StudyFolder
from rankscope.results.suite_levels import context_warnings, suite_levels


def test_the_plan_tells_what_the_base_has_and_which_suites_say_nothing(tmp_path: Path) -> None:
    model = model_facts()
    suites = [
        suite_facts(name, domain=domain, model=model.name) for name, domain in (("medqa", "medical"), ("law", None))
    ]
    suites.append(suite_facts("talk", domain=None, model=model.name, metric="loss", form="open"))
    plan = make_plan().model_copy(
        update={"models": [model], "train_sets": [train_facts(model=model.name)], "suites": suites}
    )
    folder = StudyFolder.open(str(tmp_path))
    assert suite_levels(folder, plan) == []  # nothing was scored yet
    rows = [
        {"suite": name, "item_id": str(i), "score": float(i < right), "choice_logprobs": [-1.0] * 4,
         "loss_nats": np.nan, "scored_tokens": None}
        for name, right in (("medqa", 25), ("law", 27))
        for i in range(100)
    ]  # fmt: skip
    rows += [
        {
            "suite": "talk",
            "item_id": str(i),
            "score": np.nan,
            "choice_logprobs": None,
            "loss_nats": 6.0,
            "scored_tokens": 3,
        }
        for i in range(10)
    ]
    folder.write_predictions("base", pd.DataFrame(rows), {})
    levels, left_out = suite_levels(folder, plan)
    assert levels == (
        f"{model.name} before training: medqa 25.0 % (guessing 25.0 %), law 27.0 % (guessing 25.0 %) and talk 2.000 "
        "nats per token."
    )
    assert left_out.startswith("law: the base has 27.0 % of 100 items right where guessing has 25.0 %")
    assert left_out.endswith("it is left out of the mean of forgetting.")


def test_unlabelled_clusters_are_warned_of_until_they_are_labelled(tmp_path: Path) -> None:
    plan = make_plan().model_copy(update={"models": [model_facts()]})
    folder = StudyFolder.open(str(tmp_path))
    assert context_warnings(folder, plan) == []
    texts = [" ".join(f"word{number}x{place}" for place in range(60)) for number in range(4)]
    items = [{"suite": "law", "item_id": str(i), "prompt": f"{texts[i % 4]} {i}?", "choices": None} for i in range(12)]
    folder.write_items("base", pd.DataFrame(items))
    rows = pd.DataFrame(items)[["suite", "item_id"]].assign(score=1.0, cluster=None)
    folder.write_predictions("base", rows, {})
    (said,) = context_warnings(folder, plan)
    assert said.startswith("law: 12 of 12 items begin with a long text that another item has too")
    folder.write_predictions("base", rows.assign(cluster="one"), {})
    assert context_warnings(folder, plan) == []
