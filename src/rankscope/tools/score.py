"""A base model and adapters of it scored on the same suites, and what comes out: accuracies, differences, flips.

The base is loaded once, adapters come and go on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from rankscope.data.encoder import Encoder
from rankscope.decide.crossed_statistics import SuiteArrays, estimate, gain_contrasts, mcnemar_exact
from rankscope.decide.gain_and_forgetting import intervals
from rankscope.decide.paired_items import cluster_numbers
from rankscope.evaluate.adapter_scoring import Logprobs, suites_logprobs
from rankscope.evaluate.answer_count import AnswerProgress, answers_asked, counting_answers
from rankscope.evaluate.answer_drafts import answers_in
from rankscope.evaluate.lm_eval.load_task import run_lm_eval
from rankscope.evaluate.lm_eval.result_files import ScoredModel, write_result_files
from rankscope.evaluate.score_suites import SuitePlan, predictions_frame, score_suite
from rankscope.model.forward import NotFinite
from rankscope.model.load import LoadedModel, inspect_model, load_model
from rankscope.model.methods.attach import SavedAdapter, attach
from rankscope.model.methods.peft_folder import other_base, virtual_token_count
from rankscope.records import Interval, Prediction, Suite, SuiteFacts
from rankscope.study.init_file import write_new
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.study import Arm, ModelSpec
from rankscope.tools.first_look import LONG_ANSWER_WORDS
from rankscope.tools.score_request import SuiteOptions, read_suites

__all__ = ["Scored", "run_lm_eval", "score_models"]

TOKEN_BUDGET = {"cpu": 2048, "cuda": 16384}


@dataclass(frozen=True)
class Scored:
    """What `rankscope score` found. `predictions` by adapter, None for the base; `failed` maps an adapter to why its
    numbers are none; `notes` are what a reader should know."""

    model: str
    dtype: str
    suites: dict[str, tuple[Suite, SuiteFacts]]
    predictions: dict[str | None, list[Prediction]]
    failed: dict[str | None, str]
    notes: tuple[str, ...]

    @property
    def arms(self) -> list[str | None]:
        """The base (None), then every adapter, scored or failed."""
        return [None, *(adapter for adapter in (*self.predictions, *self.failed) if adapter is not None)]

    def frame(self) -> pd.DataFrame:
        """The columns of predictions.parquet (docs/records.md); run_id is `base` or the adapter's folder."""
        return pd.concat(
            [predictions_frame(adapter or "base", found) for adapter, found in self.predictions.items()],
            ignore_index=True,
        )

    def write_lm_eval_files(self, folder: Path) -> list[Path]:
        """The scores in lm-eval's own layout, a folder for the base and for each adapter; the files written."""
        return write_result_files(
            [
                ScoredModel(self.model, adapter, self.dtype, self.suites, found)
                for adapter, found in self.predictions.items()
            ],
            folder,
        )


def score_models(
    spec: ModelSpec,
    adapters: Sequence[str],
    suites: Sequence[str],
    options: SuiteOptions,
    progress: Callable[[str, int, int], None] | None = None,
) -> Scored:
    """Score the base and every adapter on every suite. Raises InputProblems before anything is scored.

    `progress` is told what is scored, how many answers of all are done, and how many there are (of the base and of all
    adapters, choices and texts counted one by one).

    `dtype: auto` is bfloat16 on CUDA and float32 elsewhere: the same numbers whatever else the machine does.

    An item that does not fit into the context of some arm is left out of all.
    """
    problems = [Problem("--adapter", a, "the same adapter again", "each once") for a in _again(adapters)]
    try:
        virtual = max((virtual_token_count(Path(adapter)) for adapter in adapters), default=0)
    except InputProblems as error:
        raise InputProblems([*problems, *error.problems]) from error
    if problems:
        raise InputProblems(problems)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    facts = inspect_model(spec, Path(), device=device)
    dtype = spec.dtype if spec.dtype != "auto" else "bfloat16" if device == "cuda" else "float32"
    loaded = load_model(spec, Path(), dtype, device)
    context = facts.context_tokens - virtual
    encoder = Encoder(
        loaded.tokenizer, context_tokens=context, system_prompt=spec.system_prompt, vocabulary_size=facts.vocab_size
    )
    asked = read_suites(suites, options, encoder)
    for adapter in adapters:  # each is put on once before the first hour is spent
        with attach(loaded, SavedAdapter(Path(adapter))):
            pass
    plans = [SuitePlan(suite, TOKEN_BUDGET[device]) for suite, _ in asked.values()]
    predictions: dict[str | None, list[Prediction]] = {}
    failed: dict[str | None, str] = {}
    every: list[str | None] = [None, *adapters]
    told = AnswerProgress(progress, len(every) * sum(answers_asked(plan.items) for plan in plans))
    with counting_answers(told.add):
        told.what = f"{len(adapters)} adapters together"
        known = _known(loaded, adapters, plans)
        for arm in every:
            told.what = arm or "the base"
            try:
                with attach(loaded, SavedAdapter(Path(arm))) if arm is not None else nullcontext():
                    predictions[arm] = _score(loaded, plans, known.get(arm, {}), predictions.get(None, ()))
            except NotFinite as error:
                failed[arm] = str(error)
    notes = [
        *_notes(asked, predictions),
        *(note for adapter in adapters for note in other_base(loaded.model, Path(adapter))),
    ]
    return Scored(spec.id, dtype, asked, predictions, failed, tuple(notes))


def _again(adapters: Sequence[str]) -> list[str]:
    return [adapter for i, adapter in enumerate(adapters) if adapter in adapters[:i]]


def _known(
    loaded: LoadedModel, adapters: Sequence[str], plans: Sequence[SuitePlan]
) -> dict[str | None, dict[str, Logprobs]]:
    """By adapter and suite, what one forward for all adapters gives."""
    folders = [Path(adapter) for adapter in adapters]
    arms = [Arm(label=folder.name, method="lora", learning_rate=1.0) for folder in folders]
    return dict(zip(adapters, suites_logprobs(loaded, arms, folders, plans), strict=True))


def _score(
    loaded: LoadedModel, plans: Sequence[SuitePlan], known: Mapping[str, Logprobs], base: Sequence[Prediction]
) -> list[Prediction]:
    """`base`: its predictions, where it is not what is scored."""
    return [
        prediction
        for plan in plans
        for prediction in score_suite(
            loaded.model, loaded.tokenizer, plan, token_budget=plan.token_budget, logprobs=known.get(plan.suite.name),
            answers=answers_in(base, plan.suite.name),
        )
    ]  # fmt: skip


def _notes(asked: dict[str, tuple[Suite, SuiteFacts]], predictions: dict[str | None, list[Prediction]]) -> list[str]:
    notes = [
        f"{name}: {count} items left out ({why})"
        for name, (suite, _) in asked.items()
        for why, count in suite.left_out.items()
    ]
    notes += [
        f"{name}: answers of {words:.0f} words in the mean are compared word for word, which few models hit; a study "
        "can judge them by their loss (metric: loss) or by a grader"
        for name, (suite, _) in asked.items()
        if suite.grader is None and suite.grading is None and (words := _answer_words(suite)) > LONG_ANSWER_WORDS
    ]
    base = predictions.get(None)
    notes += [
        f"{adapter} changes nothing: every prediction is exactly the base's"
        for adapter, found in predictions.items()
        if adapter is not None and found == base
    ]
    return notes


def _answer_words(suite: Suite) -> float:
    """Words of a written answer in the mean; 0 where none is written."""
    counts = [len(item.answers[0].split()) for item in suite.items if item.form == "open" and item.answers]
    return sum(counts) / len(counts) if counts else 0.0


_NOTHING = Interval(mean=None, low=None, high=None)


@dataclass(frozen=True)
class ArmScore:
    """One adapter (None: the base) on one suite. `change` is paired, over the same items; `lost` and `won` count flips
    against the base and `p_value` is McNemar's. None where there is nothing to take it of."""

    adapter: str | None
    accuracy: Interval
    change: Interval = _NOTHING
    lost: int | None = None
    won: int | None = None
    p_value: float | None = None
    loss_nats_per_token: float | None = None


@dataclass(frozen=True)
class SuiteScore:
    """One suite over all arms, the base first; `n` are the items that every arm scored."""

    name: str
    n: int
    arms: tuple[ArmScore, ...]


def summarise(scored: Scored, confidence: float) -> list[SuiteScore]:
    """Every suite's accuracies with two-sided intervals at `confidence`, over items (a study adds seeds).

    An accuracy is a contrast on one arm alone, a change one on an arm and the base (docs/measures.md, "Intervals and
    bounds"); an interval of an accuracy is cut to 0 to 1.
    """
    return [_suite(scored, name, confidence) for name in scored.suites]


def as_json(scored: Scored, suites: list[SuiteScore]) -> dict[str, Any]:
    """What `score --json` prints."""
    return {
        "model": scored.model,
        "suites": {
            suite.name: {
                "n": suite.n,
                "arms": [
                    {
                        "adapter": arm.adapter, "accuracy": arm.accuracy.mean,
                        "low": arm.accuracy.low, "high": arm.accuracy.high,
                    }
                    for arm in suite.arms
                ],
            }
            for suite in suites
        },
    }  # fmt: skip


def _suite(scored: Scored, name: str, confidence: float) -> SuiteScore:
    by_arm = {arm: [p for p in found if p.suite == name] for arm, found in scored.predictions.items()}
    count = len(scored.suites[name][0].items)
    if scored.suites[name][1].form == "text":
        arms = [ArmScore(arm, _NOTHING, loss_nats_per_token=_loss(by_arm.get(arm))) for arm in scored.arms]
        return SuiteScore(name, count, tuple(arms))
    present = list(by_arm)
    scores = np.array([[p.score for p in by_arm[arm]] for arm in present], dtype=float)
    found: dict[str | None, ArmScore] = {}
    if present[:1] == [None]:
        base = pd.DataFrame([{"arm": "base", "item_id": p.item_id, "cluster": p.cluster} for p in by_arm[None]])
        found = _against_base(present, scores, cluster_numbers(base, pd.Index(base["item_id"])), confidence)
    return SuiteScore(name, count, tuple(found.get(arm, ArmScore(arm, _NOTHING)) for arm in scored.arms))


def _against_base(
    present: list[str | None], scores: NDArray[np.float64], clusters: NDArray[np.int64] | None, confidence: float
) -> dict[str | None, ArmScore]:
    """`scores` (1 + N, I), the base first; `clusters` (I,) as in `SuiteArrays`."""
    base, arms = scores[0], SuiteArrays(scores[0], scores[1:, None, :], clusters)
    accuracies = intervals(estimate([arms], np.eye(len(scores))), confidence, len(scores))
    found: dict[str | None, ArmScore] = {None: ArmScore(None, _within_0_and_1(accuracies[0]))}
    if len(scores) == 1:
        return found
    changes = intervals(estimate([arms], gain_contrasts(len(scores) - 1)), confidence, len(scores) - 1)
    for place, adapter in enumerate(present[1:]):
        lost = int(((base > 0.5) & (scores[place + 1] <= 0.5)).sum())
        won = int(((base <= 0.5) & (scores[place + 1] > 0.5)).sum())
        accuracy = _within_0_and_1(accuracies[place + 1])
        found[adapter] = ArmScore(adapter, accuracy, changes[place], lost, won, mcnemar_exact(lost, won))
    return found


def _within_0_and_1(interval: Interval) -> Interval:
    low, high = interval.low, interval.high
    return Interval(
        mean=interval.mean, low=None if low is None else max(low, 0.0), high=None if high is None else min(high, 1.0)
    )


def _loss(predictions: list[Prediction] | None) -> float | None:
    """Nats per token over the whole suite."""
    tokens = sum(p.scored_tokens or 0 for p in predictions or [])
    return sum(p.loss_nats or 0.0 for p in predictions or []) / tokens if tokens else None


def write_items(scored: Scored, path: Path) -> None:
    """The columns of predictions.parquet, one row for each model and item."""
    frame = scored.frame()
    if path.suffix == ".parquet":
        content = frame.to_parquet(None, index=False)
    else:
        content = frame.to_json(orient="records", lines=True, force_ascii=False).encode("utf-8")
    write_new(path, content, "--items")
