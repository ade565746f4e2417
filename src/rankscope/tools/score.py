"""A base model and adapters of it, scored on the same suites: the base is loaded once, adapters come and go on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from rankscope.data.encoder import Encoder
from rankscope.evaluate.adapter_scoring import Logprobs, suites_logprobs
from rankscope.evaluate.score_suites import SuitePlan, predictions_frame, score_suite
from rankscope.model.forward import NotFinite
from rankscope.model.load import LoadedModel, inspect_model, load_model
from rankscope.model.methods.attach import SavedAdapter, attach
from rankscope.model.methods.peft_folder import other_base, virtual_token_count
from rankscope.records import Prediction, Suite, SuiteFacts
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.study import Arm, ModelSpec
from rankscope.tools.score_request import SuiteOptions, read_suites

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
        return [None, *(adapter for adapter in (*self.predictions, *self.failed) if adapter is not None)]

    def frame(self) -> pd.DataFrame:
        """The columns of predictions.parquet (docs/records.md); run_id is `base` or the adapter's folder."""
        return pd.concat(
            [predictions_frame(adapter or "base", found) for adapter, found in self.predictions.items()],
            ignore_index=True,
        )


def score_models(spec: ModelSpec, adapters: Sequence[str], suites: Sequence[str], options: SuiteOptions) -> Scored:
    """Score the base and every adapter on every suite. Raises InputProblems before anything is scored.

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
    encoder = Encoder(loaded.tokenizer, context_tokens=context, system_prompt=spec.system_prompt)
    asked = read_suites(suites, options, encoder)
    for adapter in adapters:  # each is put on once before the first hour is spent
        with attach(loaded, SavedAdapter(Path(adapter))):
            pass
    plans = [SuitePlan(suite, TOKEN_BUDGET[device]) for suite, _ in asked.values()]
    predictions: dict[str | None, list[Prediction]] = {}
    failed: dict[str | None, str] = {}
    every: list[str | None] = [None, *adapters]
    known = _known(loaded, adapters, plans)
    for arm in every:
        try:
            with attach(loaded, SavedAdapter(Path(arm))) if arm is not None else nullcontext():
                predictions[arm] = _score(loaded, plans, known.get(arm, {}))
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


def _score(loaded: LoadedModel, plans: Sequence[SuitePlan], known: Mapping[str, Logprobs]) -> list[Prediction]:
    return [
        prediction
        for plan in plans
        for prediction in score_suite(
            loaded.model, loaded.tokenizer, plan, token_budget=plan.token_budget, logprobs=known.get(plan.suite.name)
        )
    ]


def _notes(asked: dict[str, tuple[Suite, SuiteFacts]], predictions: dict[str | None, list[Prediction]]) -> list[str]:
    notes = [
        f"{name}: {count} items left out ({why})"
        for name, (suite, _) in asked.items()
        for why, count in suite.left_out.items()
    ]
    base = predictions.get(None)
    notes += [
        f"{adapter} changes nothing: every prediction is exactly the base's"
        for adapter, found in predictions.items()
        if adapter is not None and found == base
    ]
    return notes
