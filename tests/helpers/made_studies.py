"""Made-up studies as the frames that the decide stage gets: every arm's accuracy is said, items flip at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from rankscope.decide.paired_items import Frames

SUITES = pd.DataFrame(
    [
        {"suite": "med", "domain": "medical", "kind": "recall", "form": "choices"},
        {"suite": "law", "domain": "legal", "kind": "recall", "form": "choices"},
        {"suite": "sums", "domain": None, "kind": "reasoning", "form": "number"},
        {"suite": "prose", "domain": None, "kind": None, "form": "text"},
    ]
)
PARAMETERS = {"lora-r1": 1_000, "lora-r4": 4_000, "lora-r16": 16_000, "lora-r64": 64_000, "full": 1_000_000}


@dataclass
class Study:
    """Accuracies by arm: in-domain (`learned`) and on the two others (`kept`); the base has 0.3 and 0.8."""

    learned: Mapping[str, float]
    kept: Mapping[str, float]
    seeds: Sequence[int] = (0, 1, 2)
    items: int = 1500
    seed_sd: float = 0.002
    noise: float = 0.02
    rng_seed: int = 0
    states: Mapping[tuple[str, int], tuple[str, str | None]] = field(default_factory=dict)

    def frames(self) -> Frames:
        rng = np.random.default_rng(self.rng_seed)
        predictions = [*self._texts("base", None, 2.0)]
        difficulty = {name: rng.random(self.items) for name in ("med", "law", "sums")}
        for name, level in (("med", 0.3), ("law", 0.8), ("sums", 0.8)):
            predictions.append(self._rows("base", None, name, difficulty[name] < level))
        for arm in self.learned:
            for seed in self.seeds:
                if self._state(arm, seed)[0] not in ("done", "diverged"):
                    continue
                for name in ("med", "law", "sums"):
                    level = (self.learned if name == "med" else self.kept)[arm] + rng.normal() * self.seed_sd
                    right = (difficulty[name] + rng.normal(size=self.items) * self.noise) < level
                    predictions.append(self._rows(arm, seed, name, right))
                predictions += self._texts(arm, seed, 2.2)
        return Frames(pd.concat(predictions, ignore_index=True), SUITES.copy(), self._runs())

    def _state(self, arm: str, seed: int) -> tuple[str, str | None]:
        return self.states.get((arm, seed), ("done", None))

    def _rows(self, arm: str, seed: int | None, suite: str, right: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "model": "small",
                "train_set": None if arm == "base" else "facts",
                "arm": arm,
                "seed": pd.array([seed] * len(right), dtype="Int64"),
                "run_id": "base" if arm == "base" else f"{arm}-s{seed}",
                "suite": suite,
                "item_id": [f"i{number:05d}" for number in range(len(right))],
                "score": right.astype(float),
                "loss_nats": np.nan,
                "scored_tokens": np.nan,
                "text_bytes": np.nan,
            }
        )

    def _texts(self, arm: str, seed: int | None, loss: float) -> list[pd.DataFrame]:
        frame = self._rows(arm, seed, "prose", np.ones(4))
        frame = frame.assign(score=np.nan, loss_nats=loss * 10, scored_tokens=10.0, text_bytes=40.0)
        return [frame]

    def _runs(self) -> pd.DataFrame:
        rows = []
        for arm in self.learned:
            for seed in self.seeds:
                state, reason = self._state(arm, seed)
                done = state == "done"
                rows.append(
                    {
                        "run_id": f"{arm}-s{seed}",
                        "model": "small",
                        "train_set": "facts",
                        "train_domain": "medical",
                        "arm": arm,
                        "method": "full" if arm == "full" else "lora",
                        "rank": None if arm == "full" else int(arm.split("-r")[1]),
                        "alpha": None if arm == "full" else 2.0 * int(arm.split("-r")[1]),
                        "targets": None if arm == "full" else "all-linear",
                        "learning_rate": 2e-4,
                        "seed": seed,
                        "state": state,
                        "reason": reason,
                        "trainable_parameters": PARAMETERS[arm],
                        "train_seconds": 10.0 + seed if done else None,
                        "evaluate_seconds": 1.0 if done else None,
                        "search_seconds": 5.0,
                        "peak_memory_bytes": 1000 + seed if done else None,
                        "adapter_bytes": 500 if done else None,
                        "final_train_loss": 0.5 if done else None,
                        "validation_loss": 1.0 + (seed * 7 % 3) / 10 if done else None,
                        "steps": 100,
                    }
                )
        return pd.DataFrame(rows)


def by_loss(frames: Frames, suite: str, gained: Mapping[str, float], spread: float = 0.05) -> Frames:
    """`suite` judged by its losses: the base has 2 nats a token and an arm `gained` fewer on average."""
    rng = np.random.default_rng(3)
    rows, suites = frames.predictions.copy(), frames.suites.copy()
    if "metric" not in suites:
        suites["metric"] = "score"
    suites.loc[suites["suite"] == suite, "metric"] = "loss"
    here = rows["suite"] == suite
    difficulty = {item: rng.gamma(4.0, 0.5) for item in rows.loc[here, "item_id"].unique()}
    level = rows.loc[here, "item_id"].map(difficulty) - rows.loc[here, "arm"].map({"base": 0.0, **gained})
    tokens = rng.integers(5, 20, here.sum())
    rows.loc[here, "scored_tokens"] = tokens
    rows.loc[here, "loss_nats"] = tokens * (level + spread * rng.normal(size=here.sum()))
    rows.loc[here, "score"] = np.nan
    return Frames(rows, suites, frames.runs)
