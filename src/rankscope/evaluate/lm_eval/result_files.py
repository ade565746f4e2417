"""Writes scores in lm-eval's layout: MODEL/results_DATE.json and MODEL/samples_SUITE_DATE.jsonl (lm-eval 0.4.13)."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import transformers

from rankscope import __version__
from rankscope.records import Item, Prediction, Suite, SuiteFacts

_METRICS = {"choices": ("acc", "acc_norm"), "open": ("exact_match", "f1"), "number": ("exact_match",)}
_FIELDS = {"acc": "score", "exact_match": "score", "acc_norm": "score_normalized", "f1": "f1"}


@dataclass(frozen=True)
class ScoredModel:
    """A base model with an adapter or without, as it was scored: its name or folder, the adapter's folder, the compute
    dtype, the suites by name and the predictions on all of them."""

    model: str
    adapter: str | None
    dtype: str
    suites: Mapping[str, tuple[Suite, SuiteFacts]]
    predictions: Sequence[Prediction]


def write_result_files(scored: Sequence[ScoredModel], folder: Path) -> list[Path]:
    """One folder for each, named as lm-eval names them; the files written."""
    date = datetime.now().isoformat().replace(":", "-")
    written = []
    for one in scored:
        name = one.model if one.adapter is None else f"{one.model},adapter={one.adapter}"
        own = folder / sanitized(name)
        own.mkdir(parents=True, exist_ok=True)
        tasks: dict[str, list[dict[str, Any]]] = {}
        for suite, facts in one.suites.values():
            mine = [prediction for prediction in one.predictions if prediction.suite == suite.name]
            tasks[suite.name] = samples = _samples(suite, facts, mine)
            path = own / f"samples_{suite.name}_{date}.jsonl"
            path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in samples), encoding="utf-8")
            written.append(path)
        path = own / f"results_{date}.json"
        results = _results(one, name, tasks)
        path.write_text(json.dumps(results, indent=2, ensure_ascii=False), encoding="utf-8")
        written.append(path)
    return written


def sanitized(name: str) -> str:
    """A model's name as lm-eval makes a folder of it (Ref.: `lm_eval.utils.sanitize_model_name`)."""
    return re.sub(r"[\"<>:/\|\\?\*\[\]]+", "__", name)


# ---- samples --------------------------------------------------------------------------------------------------------


def _samples(suite: Suite, facts: SuiteFacts, predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    rows = zip(suite.items, predictions, strict=True)
    return [_sample(place, item, prediction, facts) for place, (item, prediction) in enumerate(rows)]


def _sample(place: int, item: Item, prediction: Prediction, facts: SuiteFacts) -> dict[str, Any]:
    doc = {
        "id": item.item_id,
        "prompt": item.prompt_text,
        "choices": list(item.choice_texts),
        "answer": prediction.answer,
    }
    values = _values(prediction, facts)
    asked: list[tuple[str, ...]]
    responses: list[list[Any]]
    if prediction.choice_logprobs is not None:
        asked = [(item.prompt_text, text) for text in item.choice_texts]
        responses = [[[str(value), "None"]] for value in prediction.choice_logprobs]
    elif facts.form == "text":
        asked, responses = [(item.item_id,)], [[str(-(prediction.loss_nats or 0.0))]]
    else:
        asked, responses = [(item.prompt_text,)], [[prediction.predicted or ""]]
    return {
        "doc_id": int(item.item_id) if facts.harness is not None else place,
        "doc": doc,
        "target": str(prediction.answer),
        "arguments": {f"gen_args_{i}": {f"arg_{j}": text for j, text in enumerate(one)} for i, one in enumerate(asked)},
        "resps": responses,
        "filtered_resps": [one[0] for one in responses],
        "filter": _filter(facts),
        "metrics": list(values),
        "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": _hash(item.prompt_text),
        "target_hash": _hash(str(prediction.answer)),
        **values,
    }


def _values(prediction: Prediction, facts: SuiteFacts) -> dict[str, Any]:
    """The item's metrics by lm-eval's names."""
    if facts.form == "text":
        return {"bits_per_byte": [-(prediction.loss_nats or 0.0), prediction.text_bytes]}
    names = _METRICS[facts.form]
    if facts.harness is not None and facts.harness.metric is not None:
        value = {facts.harness.metric: prediction.score}
        normalized = prediction.score_normalized
        return value if normalized is None or "acc_norm" in value else {**value, "acc_norm": normalized}
    return {name: getattr(prediction, _FIELDS[name]) for name in names}


def _filter(facts: SuiteFacts) -> str:
    return facts.harness.filter if facts.harness is not None else "none"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


# ---- results --------------------------------------------------------------------------------------------------------


def _results(scored: ScoredModel, name: str, tasks: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    facts = {suite: facts for suite, (_, facts) in scored.suites.items()}
    arguments = {
        "pretrained": scored.model,
        "dtype": scored.dtype,
        **({"adapter": scored.adapter} if scored.adapter else {}),
    }
    hashes = {
        suite: _hash("".join(one["doc_hash"] + one["prompt_hash"] + one["target_hash"] for one in samples))
        for suite, samples in tasks.items()
    }
    shots = {suite: one.harness.num_fewshot if one.harness is not None else 0 for suite, one in facts.items()}
    versions = {suite: one.harness.version if one.harness is not None else None for suite, one in facts.items()}
    return {
        "results": {suite: _aggregated(suite, samples, facts[suite]) for suite, samples in tasks.items()},
        "group_subtasks": {suite: [] for suite in tasks},
        "configs": {suite: _config(one) for suite, one in facts.items()},
        "versions": versions,
        "n-shot": shots,
        "higher_is_better": {
            suite: {metric: metric != "bits_per_byte" for metric in (samples[0]["metrics"] if samples else [])}
            for suite, samples in tasks.items()
        },
        "n-samples": {
            suite: {"original": len(samples) + sum(facts[suite].left_out.values()), "effective": len(samples)}
            for suite, samples in tasks.items()
        },
        "config": {"model": "rankscope", "model_args": arguments, "rankscope_version": __version__},
        "date": datetime.now().timestamp(),
        "transformers_version": transformers.__version__,
        "task_hashes": hashes,
        "model_source": "rankscope",
        "model_name": name,
        "model_name_sanitized": sanitized(name),
    }


def _aggregated(suite: str, samples: Sequence[dict[str, Any]], facts: SuiteFacts) -> dict[str, Any]:
    """Means with lm-eval's standard errors: the sample deviation over the root of n, "N/A" for a single item."""
    found: dict[str, Any] = {"alias": suite, "sample_len": len(samples)}
    for metric in samples[0]["metrics"]:
        key = f"{metric},{_filter(facts)}"
        values = [one[metric] for one in samples if one[metric] is not None]
        if metric == "bits_per_byte":
            nats, size = (sum(column) for column in zip(*values, strict=True))
            found |= {key: -nats / size / math.log(2), f"{metric}_stderr,{_filter(facts)}": "N/A"}
        elif values:
            error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else "N/A"
            found |= {key: mean(values), f"{metric}_stderr,{_filter(facts)}": error}
    return found


def _config(facts: SuiteFacts) -> dict[str, Any]:
    output_type = {"choices": "multiple_choice", "text": "loglikelihood_rolling"}.get(facts.form, "generate_until")
    own = facts.harness.model_dump(mode="json") if facts.harness is not None else {}
    return {"task": facts.name, "output_type": output_type, "content_sha256": facts.content_sha256, **own}
