"""What a dial is worth: an arm at its setting against itself as trained, by plain paired arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from made_studies import Study

from rankscope.decide.dial_outcomes import dial_outcomes
from rankscope.decide.paired_items import Frames
from rankscope.records import ArmSetting

TRAINED = {"lora-r16": 0.84, "full": 0.90}
DIALLED = {"lora-r16": 0.80, "full": 0.85}
FORGOT = {"lora-r16": 0.66, "full": 0.60}
KEPT = {"lora-r16": 0.77, "full": 0.76}


def frames(learned: dict[str, float], kept: dict[str, float]) -> Frames:
    made = Study(learned=learned, kept=kept).frames()
    return made._replace(runs=made.runs.assign(remedy=None, extra_tokens_share=0.0, train_seconds=10.0))


def test_an_arm_at_its_dial_stands_against_itself_as_trained() -> None:
    dialled, trained = frames(DIALLED, KEPT), frames(TRAINED, FORGOT)
    model, train_set = str(dialled.runs["model"].iloc[0]), str(dialled.runs["train_set"].iloc[0])
    settings = [
        ArmSetting(
            model=model, train_set=train_set, arm=arm, learning_rate=1e-3, dial=dial, how="retention", rate_given=True
        )
        for arm, dial in (("lora-r16", 0.7), ("full", 1.0))
    ]
    settings.append(settings[0].model_copy(update={"train_set": "another"}))
    (found,) = dial_outcomes(dialled, trained, settings, model, train_set, 0.95)
    assert (found.arm, found.own_arm, found.remedy) == ("lora-r16", "lora-r16 as trained", "dial 0.7")

    def mean(made: Frames, suite: str) -> float:
        rows = made.predictions[(made.predictions["arm"] == "lora-r16") & (made.predictions["suite"] == suite)]
        return float(rows["score"].astype(float).mean())

    assert found.gain_lost.mean == pytest.approx(mean(trained, "med") - mean(dialled, "med"))
    saved = [mean(dialled, suite) - mean(trained, suite) for suite in ("law", "sums")]
    assert found.forgetting_saved.mean == pytest.approx(np.mean(saved))
    assert found.forgetting_saved.low is not None
    assert 0 < found.forgetting_saved.low < found.forgetting_saved.mean
    assert (found.extra_tokens_share, found.extra_seconds_share, found.parts) == (0.0, 0.0, [])
    assert found.sentence.startswith("lora-r16 at dial 0.7 keeps ")
    assert "% of its gain and forgets" in found.sentence
    assert "more" not in found.sentence
