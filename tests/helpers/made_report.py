"""A made-up study as the report gets it: plausible numbers, a diverged arm, model output that is HTML."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from rankscope.decide.verdict_kinds import KINDS, Facts
from rankscope.records import (
    ArmCost,
    ArmVerdict,
    DetectableEffect,
    Interval,
    MoreNeeded,
    Recommended,
    SearchRecord,
    SuiteOutcome,
    Verdict,
    VerdictFile,
    WorthAt,
)
from rankscope.report.flipped_items import sample_flips
from rankscope.report.page import ReportData

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>\u2028 & \"quoted\""
RANKS = (1, 4, 16, 64)
SUITES = (
    ("medqa", "medical", "recall", 400, 0.31),
    ("pubmedqa", "medical", "recall", 300, 0.42),
    ("law", "legal", "recall", 350, 0.77),
    ("world", None, "recall", 500, 0.88),
    ("gsm8k", None, "reasoning", 250, 0.46),
)
NOTHING = Interval(mean=None, low=None, high=None)


def arm_labels(ranks: tuple[int, ...] = RANKS, extra: int = 0) -> list[tuple[str, int | None]]:
    """(label, rank); `extra` more arms in further families of eight."""
    seconds = [(f"lora-{('attention', 'mlp')[i // 8]}-r{2 ** (i % 8)}", 2 ** (i % 8)) for i in range(extra)]
    return [(f"lora-r{rank}", rank) for rank in ranks] + seconds + [("lora-r256", 256), ("full", None)]


def interval(mean: float, half: float) -> Interval:
    return Interval(mean=mean, low=mean - half, high=mean + half)


def change_of(rank: int | None, suite: tuple[Any, ...], train_domain: str) -> float:
    """What an arm does to a suite: more rank learns more, saturating, and forgets more."""
    size = math.log2(rank or 400)
    if suite[1] == train_domain:
        return 0.10 + 0.26 * (1 - math.exp(-size / 2.2)) - (0.03 if suite[0] == "pubmedqa" else 0)
    weight = 1.9 if suite[2] == "reasoning" else 1.0
    return -weight * (0.002 + 0.0009 * size**1.7) + (0.004 if suite[1] == "legal" else 0)


def make_arm(label: str, rank: int | None, train_set: str) -> ArmVerdict:
    failed = rank == 256
    outcomes = []
    for suite in SUITES:
        change = change_of(rank, suite, train_set)
        relation = "in-domain" if suite[1] == train_set else "general" if suite[1] is None else "out-of-domain"
        outcomes.append(
            SuiteOutcome(
                suite=suite[0],
                relation=relation,
                kind=suite[2],
                item_count=suite[3],
                base_accuracy=suite[4],
                accuracy=suite[4] + change,
                change=interval(change, 0.5 / math.sqrt(suite[3])),
            )
        )
    inside = [o.change.mean or 0.0 for o in outcomes if o.relation == "in-domain"]
    outside = [-(o.change.mean or 0.0) for o in outcomes if o.relation != "in-domain"]
    gain, forgetting = float(np.mean(inside)), float(np.mean(outside))
    status = "eligible" if forgetting < 0.028 else "open" if forgetting < 0.034 else "ineligible"
    cost = ArmCost(
        train_seconds=21.0 + 0.02 * (rank or 700),
        search_seconds=40.0,
        peak_memory_bytes=int(4.1e8 + 1.5e6 * (rank or 500)),
        adapter_bytes=None if rank is None else rank * 61_440,
    )
    return ArmVerdict(
        label=label,
        method="full" if rank is None else "lora",
        rank=rank,
        learning_rate=None if failed else 1e-4 if rank is None else 1e-3,
        trainable_parameters=2_812_160 if rank is None else 30_720 * rank,
        seeds=[] if failed else [0, 1, 2],
        gain=NOTHING if failed else interval(gain, 0.021),
        forgetting=NOTHING if failed else interval(forgetting, 0.009),
        per_suite=[] if failed else outcomes,
        status="diverged" if failed else status,
        cost=ArmCost(train_seconds=None, search_seconds=None, peak_memory_bytes=None, adapter_bytes=None)
        if failed
        else cost,
    )


def make_verdict(train_set: str = "medical", kind: str = "recommended", **changes: Any) -> Verdict:
    labels = changes.pop("labels", arm_labels())
    chosen = Recommended(
        label="lora-r16", method="lora", rank=16, alpha=32.0, targets="all-linear", learning_rate=1e-3,
        trainable_parameters=491_520,
    )  # fmt: skip
    fields: dict[str, Any] = {
        "model": "bundled",
        "train_set": train_set,
        "kind": kind,
        "decided": kind != "cannot_distinguish",
        "recommended": chosen if kind == "recommended" else None,
        "candidates": ["lora-r4"] if kind == "recommended" else ["lora-r4", "lora-r16", "lora-r64"],
        "refuted": ["lora-r1", "full"],
        "rule": "Recommend the arm with the fewest trainable parameters that surely gains, surely forgets at most 3 "
        "points and is surely less than 3 points behind every rival that does not forget more.",
        "reasons": [
            "lora-r16 (491,520 trainable parameters) is the smallest arm that surely learns.",
            "lora-r1 learns 10.0 points (7.9 to 12.1) and forgets -0.2 points (-1.1 to 0.7), within your margin of 3.",
            "lora-r256 could not be compared: diverged (3 of its 3 runs: loss above 20 nats at step 41).",
        ],
        "minimum_detectable_effect": DetectableEffect(gain=0.038, forgetting=0.017),
        "more_needed": MoreNeeded(seeds=2, items=900) if kind == "cannot_distinguish" else MoreNeeded(seeds=0, items=0),
        "arms": [make_arm(label, rank, train_set) for label, rank in labels],
    }
    fields |= changes
    said = next(one for one in KINDS if one.name == kind)
    facts = Facts(fields["recommended"], fields["arms"], fields["candidates"], fields["more_needed"])
    words = {"headline": said.headline(facts), "sentence": said.sentence(facts), "tone": said.tone}
    return Verdict(**words, reasons_with_answer=said.reasons_with_answer, **fields)


def make_tables(verdicts: list[Verdict], seeds: int = 3, steps: int = 90) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(0)
    changes: list[dict[str, Any]] = []
    outcomes: list[dict[str, Any]] = []
    cost: list[dict[str, Any]] = []
    learning: list[dict[str, Any]] = []
    domains = {suite[0]: suite[1] for suite in SUITES}
    for verdict in verdicts:
        for arm in verdict.arms:
            named = {"model": verdict.model, "train_set": verdict.train_set, "arm": arm.label}
            more = {"method": arm.method, "rank": arm.rank}
            for outcome in arm.per_suite:
                changes.append(
                    {
                        **named, **more, "suite": outcome.suite, "domain": domains[outcome.suite],
                        "kind": outcome.kind, "relation": outcome.relation, "n": outcome.item_count, "seeds": seeds,
                        "base_accuracy": outcome.base_accuracy, "accuracy": outcome.accuracy,
                        "change": outcome.change.mean, "low": outcome.change.low, "high": outcome.change.high,
                    }
                )  # fmt: skip
            for seed in range(seeds):
                bad = arm.status == "diverged"
                run = {"run_id": f"{arm.label}-s{seed}-{verdict.train_set}", **named, **more, "seed": seed}
                reason = "loss above 20 nats at step 41" if bad else None
                cost.append({**run, "state": "diverged" if bad else "done", "reason": reason})
                if arm.gain.mean is not None and arm.forgetting.mean is not None:
                    noise = rng.normal(0, [0.012, 0.005])
                    outcomes.append(
                        {**run, "gain": arm.gain.mean + noise[0], "forgetting": arm.forgetting.mean + noise[1]}
                    )
                for step in range(1, (41 if bad else steps) + 1):
                    loss = 0.4 + 2.6 * math.exp(-step / (25 + 3 * math.log2(arm.rank or 400))) + rng.normal(0, 0.09)
                    held_out = 0.6 + 2.3 * math.exp(-step / 28) if step % 30 == 0 else None
                    learning.append(
                        {
                            **run, "step": step, "loss_nats_per_token": abs(loss),
                            "validation_loss_nats_per_token": held_out,
                        }
                    )  # fmt: skip
    forgetting = pd.DataFrame(changes)
    return {
        "forgetting": forgetting,
        "matrix": _grouped(forgetting.assign(domain=forgetting["domain"].fillna("(no domain)")), "domain"),
        "kinds": _grouped(forgetting, "kind"),
        "seeds": pd.DataFrame(outcomes),
        "cost": pd.DataFrame(cost).astype({"rank": "Int64"}),
        "learning": pd.DataFrame(learning),
        "scores": _text_scores(verdicts),
    }


def _grouped(forgetting: pd.DataFrame, column: str) -> pd.DataFrame:
    keys = ["model", "train_set", "arm", "method", "rank", column, "relation"]
    wanted = {"n": "sum", "seeds": "first"} | dict.fromkeys(
        ["base_accuracy", "accuracy", "change", "low", "high"], "mean"
    )
    return forgetting.groupby(keys, dropna=False, sort=False).agg(wanted).reset_index()


def _text_scores(verdicts: list[Verdict]) -> pd.DataFrame:
    rows = [
        {"model": verdict.model, "train_set": verdict.train_set, "arm": arm, "seed": seed, "suite": "wiki",
         "accuracy": math.nan, "loss_nats_per_token": 1.2345, "item_loss_nats": 1.3, "bits_per_byte": 0.987}
        for verdict in verdicts
        for arm, seed in (("base", None), ("full", 0))
    ]  # fmt: skip
    accuracies = [
        {"model": verdict.model, "train_set": verdict.train_set, "arm": arm.label, "seed": seed, "suite": o.suite,
         "relation": o.relation, "n": o.item_count, "accuracy": o.accuracy,
         "loss_nats_per_token": math.nan, "item_loss_nats": math.nan}
        for verdict in verdicts
        for arm in verdict.arms
        for o in arm.per_suite
        for seed in (0, 1, 2)
    ]  # fmt: skip
    return pd.DataFrame(rows + accuracies).astype({"seed": "Int64"})


def make_items(verdicts: list[Verdict], each: int = 4) -> pd.DataFrame:
    """`each` items lost and won by every arm of every suite; some prompts hold HTML, some are long."""
    rows: list[dict[str, Any]] = []
    for verdict in verdicts:
        arms = [arm for arm in verdict.arms if arm.per_suite]
        for arm, suite, number, lost in itertools.product(arms, SUITES, range(each), (True, False)):
            prompt = f"Question: In which ward is patient {number} of case {suite[0]} treated?\nAnswer:"
            if number == 1:
                prompt = f"Question: {HOSTILE}\nAnswer:"
            if number == 2:
                prompt = "Context: " + "The council met again about the old statute. " * 12 + prompt
            rows.append(
                {
                    "model": verdict.model, "train_set": verdict.train_set, "arm": arm.label, "suite": suite[0],
                    "item_id": f"{suite[0]}-{number}-{lost}", "relation": "general", "kind": suite[2],
                    "base_correct": lost, "seeds_total": 3, "seeds_lost": 2 if lost else 0,
                    "seeds_won": 0 if lost else 1, "prompt": prompt, "answer": "the north ward",
                    "choices": ["the north ward", "the south ward"] if number == 0 else [],
                    "base_predicted": "the north ward" if lost else "nobody knows",
                    "arm_predicted": HOSTILE if number == 3 else "the south ward" if lost else "the north ward",
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def make_search(arm: str, train_set: str = "medical") -> SearchRecord:
    rates = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]
    losses: list[list[float | None]] = [
        [1.9, None, None], [1.5, 1.2, None], [1.2, 0.9, 0.7], [1.3, 1.0, 0.85], [9.5, None, None],
    ]  # fmt: skip
    return SearchRecord(
        search_id=f"search-{arm}", model="bundled", train_set=train_set, arms=[arm], seed=7, rates=rates,
        rung_steps=[22, 45, 90], losses=losses, chosen=1e-3, at_end_of_grid=False, train_seconds=40.0,
    )  # fmt: skip


def make_report(verdicts: list[Verdict] | None = None, **changes: Any) -> ReportData:
    verdicts = verdicts if verdicts is not None else [make_verdict()]
    fields: dict[str, Any] = {
        "study": {
            "name": "medical-demo",
            "model": [{"id": "bundled", "dtype": "auto"}],
            "train": {"medical": {"world": "medical", "domain": "medical"}},
            "seeds": [0, 1, 2],
            "keep": {"full": "none"},
            "decision": {"task_margin": 0.03, "retention_margin": 0.03, "min_gain": 0.01, "confidence": 0.95},
            "budget": {"epochs": 3, "batch_size": 16, "max_sequence_tokens": 256},
        },
        "plan": None,
        "verdicts": VerdictFile(verdicts=verdicts, notes=["12 rows of medical are near items of medqa (13-grams)"]),
        "tables": make_tables(verdicts) if verdicts else {},
        "items": make_items(verdicts),
        "searches": [make_search(label) for label in ("lora-r1", "lora-r4", "lora-r16", "lora-r64", "full")],
        "provenance": {
            "commit": "0123456789abcdef",
            "versions": {"torch": "2.13.0", "peft": "0.21.2"},
            "machine": "2 cores, 8 GB",
            "model_sha256": "ab" * 32,
            "train_sha256": None,
        },
        "warnings": ["lora-r256 on medical, seed 0: diverged, loss above 20 nats at step 41"],
        "command": "rankscope run medical-demo/study.yaml --out medical-demo",
        "place": "medical-demo",
    }
    return ReportData(**{**fields, **changes})


def make_large_report(item_count: int = 10_000, flip_share: float = 0.3) -> ReportData:
    """20 arms, 5 seeds and 10,000 items, of which every arm flips a share."""
    rng = np.random.default_rng(0)
    labels = arm_labels((1, 2, 4, 8, 16, 32, 64, 128), 10)
    verdicts = [make_verdict(labels=labels)]
    names = np.array([suite[0] for suite in SUITES])
    prompts = np.array(
        [f"Question: {i} {'In which ward is the patient treated? ' * 9}\nAnswer:" for i in range(item_count)]
    )
    frames = []
    for label, _ in labels:
        places = np.flatnonzero(rng.random(item_count) < flip_share)
        lost = rng.random(len(places)) < 0.6
        frames.append(
            pd.DataFrame(
                {
                    "model": "bundled", "train_set": "medical", "arm": label, "suite": names[places % len(names)],
                    "item_id": [f"i{place}" for place in places], "seeds_total": 5, "seeds_lost": 2 * lost,
                    "seeds_won": 2 * ~lost, "prompt": prompts[places], "answer": "the north ward",
                    "choices": [["the north ward", "the south ward"]] * len(places), "base_predicted": "nobody knows",
                    "arm_predicted": "the south ward",
                }
            )
        )  # fmt: skip
    items = pd.concat(frames, ignore_index=True)
    tables = make_tables(verdicts, seeds=5, steps=600) | {"flips": items}
    return make_report(
        verdicts, tables=tables, items=sample_flips(items), searches=[make_search(label) for label, _ in labels]
    )


# ---- the same, judged by losses -------------------------------------------------------------------------------------

_NATS = ("gain", "forgetting")


def in_nats(report: ReportData) -> ReportData:
    """The same study with every suite judged by its loss: what were shares of accuracy are nats per token, with points
    at two dials and settings at other margins."""
    verdicts = [_verdict_in_nats(verdict) for verdict in report.verdicts.verdicts]
    tables = dict(report.tables)
    for name in ("forgetting", "matrix", "kinds"):
        tables[name] = tables[name].assign(metric="loss")
    shares = {measure: f"{measure}_nats" for measure in _NATS}
    seeds = tables["seeds"].rename(columns=shares)
    tables["seeds"] = seeds.assign(**dict.fromkeys(_NATS, math.nan))
    tables["operating_points"] = pd.DataFrame([row for v in verdicts for row in _points_in_nats(v)])
    tables["scores"] = tables["scores"][tables["scores"]["accuracy"].isna()]
    file = report.verdicts.model_copy(update={"verdicts": verdicts})
    return replace(report, verdicts=file, tables=tables, items=pd.DataFrame())


def _verdict_in_nats(verdict: Verdict) -> Verdict:
    arms = []
    for arm in verdict.arms:
        suites = [
            outcome.model_copy(
                update={"metric": "loss", "base_accuracy": None, "accuracy": None, "base_loss_nats": 2.0,
                        "loss_nats": 2.0 - (outcome.change.mean or 0.0)}
            )
            for outcome in arm.per_suite
        ]  # fmt: skip
        own = {"gain": NOTHING, "forgetting": NOTHING, "per_suite": suites}
        own |= {f"{measure}_nats": getattr(arm, measure) for measure in _NATS} if arm.per_suite else {}
        arms.append(arm.model_copy(update=own))
    said = next(one for one in KINDS if one.name == verdict.kind)
    facts = Facts(verdict.recommended, arms, verdict.candidates, verdict.more_needed)
    worth = [
        WorthAt(
            allowed=0.03 * times, allowed_nats=0.02 * times, arm=arm.label, learning_rate=arm.learning_rate,
            dial=1.0, admissible=True, runs_needed=0, gain_nats=times * arm.gain_nats.mean, forgetting_nats=0.01,
            **dict.fromkeys(f"{measure}{end}" for measure in _NATS for end in ("", "_low", "_high")),
        )
        for times in (0.5, 1.0, 2.0)
        for arm in arms
        if arm.gain_nats is not None and arm.gain_nats.mean is not None
    ]  # fmt: skip
    new = {"arms": arms, "sentence": said.sentence(facts), "headline": said.headline(facts), "at_other_margins": worth}
    effect = DetectableEffect(gain=None, forgetting=None, gain_nats=0.03, forgetting_nats=0.01)
    return verdict.model_copy(update={**new, "reasons": [], "rule": "", "minimum_detectable_effect": effect})


def _points_in_nats(verdict: Verdict) -> list[dict[str, Any]]:
    rows = []
    for arm in verdict.arms:
        for dial in (0.5, 1.0):
            row = {"model": verdict.model, "train_set": verdict.train_set, "arm": arm.label, "dial": dial,
                   "learning_rate": arm.learning_rate, "seeds": 3, "validation_loss": 2.0 - dial, "chosen": dial == 1,
                   "forgetting_select": None, "forgetting_select_nats": 0.01}  # fmt: skip
            for measure in _NATS:
                part = getattr(arm, f"{measure}_nats") or NOTHING
                for end in ("mean", "low", "high"):
                    name = f"{measure}_nats" if end == "mean" else f"{measure}_nats_{end}"
                    row[name] = None if getattr(part, end) is None else dial * getattr(part, end)
            rows.append(row)
    return rows
