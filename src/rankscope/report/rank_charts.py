"""Charts of gain and forgetting by rank, and the frame of arms that these and all other charts draw from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from rankscope.records import ArmVerdict, Interval, Verdict, VerdictFile
from rankscope.report.chart_drawing import (
    HEIGHT,
    SHAPES,
    WIDTH,
    Chart,
    Figure,
    Pair,
    Record,
    Section,
    Tables,
    chart,
    domain,
    figure,
    layer,
    records,
    spread,
    tooltips,
)
from rankscope.report.units import IN_POINTS, MEASURES, POINTS_ALONE, Unit, Units, units_in, units_of
from rankscope.study.study import Decision

ENDS = ("", "_low", "_high")
"""Suffixes of a mean's column and of its interval's."""

# ---- frames ---------------------------------------------------------------------------------------------------------


def make_pairs(verdicts: VerdictFile, tables: Tables, study: Mapping[str, Any]) -> list[Pair]:
    """The frames and margins of every base model and training set; `study` is the study's settings as a dict."""
    decision = Decision.model_validate(study.get("decision", {}))
    return [make_pair(verdict, tables, decision, units_of(verdict)) for verdict in verdicts.verdicts]


def make_pair(verdict: Verdict, tables: Tables, decision: Decision, units: Units) -> Pair:
    """The frames of one base model and training set in these units."""
    arms = arm_frame(verdict, units)
    seeds = seed_frame(of_pair(tables.get("seeds"), verdict), arms, units)
    return Pair(verdict, verdict.name, arms, seeds, decision, units)


def of_pair(frame: pd.DataFrame | None, verdict: Verdict) -> pd.DataFrame:
    """The rows of one base model and training set; a table without these columns belongs to every pair."""
    if frame is None or frame.empty:
        return pd.DataFrame()
    for column, value in (("model", verdict.model), ("train_set", verdict.train_set)):
        if column in frame.columns:
            frame = frame[frame[column].astype(object) == value]
    return frame


def seed_frame(outcomes: pd.DataFrame, arms: pd.DataFrame, units: Units = POINTS_ALONE) -> pd.DataFrame:
    """Gain and forgetting of each seed, as they are shown; needs arm, seed, and the columns of both in `units`."""
    named = {measure: f"{measure}{units[measure].suffix}" for measure in MEASURES}
    if outcomes.empty or not {"arm", "seed", *named.values()} <= set(outcomes.columns):
        return pd.DataFrame()
    frame = outcomes.merge(arms[["arm", "family"]], on="arm")
    frame = frame.assign(**{measure: units[measure].factor * frame[column] for measure, column in named.items()})
    return frame[["arm", "family", "seed", "gain", "forgetting"]].dropna()


def arm_frame(verdict: Verdict, units: Units | None = None) -> pd.DataFrame:
    """One row an arm. Gain and forgetting in the verdict's own units (None), percentage points or nats per token;
    `rank_position` sets families at one rank apart.

    Columns: arm, order, family, method, rank, rank_position, trainable_parameters, learning_rate, seeds, status,
    recommended, on_front, gain, gain_low, gain_high, forgetting, forgetting_low, forgetting_high, train_seconds,
    peak_memory_bytes, adapter_bytes.
    """
    units = units or units_of(verdict)
    arms = verdict.arms_by_size
    families = list(dict.fromkeys(family(arm.label, arm.rank) for arm in arms if arm.rank is not None))
    recommended = verdict.recommended.label if verdict.recommended else None
    rows: list[dict[str, Any]] = []
    for order, arm in enumerate(arms):
        name = family(arm.label, arm.rank)
        shift = 0.0 if arm.rank is None else families.index(name) - (len(families) - 1) / 2
        rows.append(
            {
                "arm": arm.label,
                "order": order,
                "family": name,
                "method": arm.method,
                "rank": arm.rank,
                "rank_position": None if arm.rank is None else arm.rank * 1.05**shift,
                "trainable_parameters": arm.trainable_parameters,
                "learning_rate": arm.learning_rate,
                "seeds": len(arm.seeds),
                "status": arm.status,
                "recommended": arm.label == recommended,
                **_interval("gain", arm, units),
                **_interval("forgetting", arm, units),
                "train_seconds": arm.cost.train_seconds,
                "peak_memory_bytes": arm.cost.peak_memory_bytes,
                "adapter_bytes": arm.cost.adapter_bytes,
            }
        )
    front = _front(rows)
    for row in rows:
        row["on_front"] = row["arm"] in front
    return pd.DataFrame(rows).astype(object).where(lambda frame: frame.notna(), None)


def _front(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Arms to which no other measured arm, nor the base at (0, 0), is at least equal on both axes and better on one."""
    measured = [(row["arm"], row["gain"], row["forgetting"]) for row in rows]
    measured = [entry for entry in measured if entry[1] is not None and entry[2] is not None]
    rivals = [(gain, forgetting) for _, gain, forgetting in measured] + [(0.0, 0.0)]
    return {
        label
        for label, gain, forgetting in measured
        if not any(g >= gain and f <= forgetting and (g, f) != (gain, forgetting) for g, f in rivals)
    }


def family(label: str, rank: int | None) -> str:
    """Arms that differ by rank only share a family: `lora-r16` is of `lora`."""
    return re.sub(rf"-r{rank}$", "", label) if rank is not None else label


def _interval(measure: str, arm: ArmVerdict, units: Units) -> dict[str, float | None]:
    unit = units[measure]
    part: Interval | None = getattr(arm, f"{measure}{unit.suffix}")
    ends = (None, None, None) if part is None else (part.mean, part.low, part.high)
    return {f"{measure}{end}": unit.shown(value) for end, value in zip(ENDS, ends, strict=True)}


# ---- against rank ---------------------------------------------------------------------------------------------------


def measure_tooltip(units: Units, *measures: str) -> list[tuple[str, str, str]]:
    """(field, title, format) of these measures with their intervals."""
    return [
        (f"{measure}{end}", f"{measure} {word}", units[measure].form(measure))
        for measure in measures
        for end, word in zip(ENDS, (f"({units[measure].short})", "from", "to"), strict=True)
    ]


def arm_tooltip(units: Units, *measures: str) -> list[alt.Tooltip]:
    """What the mouse shows of an arm: its settings, and these measures with their intervals."""
    numbers = measure_tooltip(units, *measures)
    return tooltips(
        ("arm", "arm", ""),
        ("trainable_parameters", "trainable parameters", ",d"),
        ("learning_rate", "learning rate", ".2~e"),
        *numbers,
        ("seeds", "seeds", "d"),
        ("status", "status", ""),
    )


def family_marks(rows: list[Record], *, always: bool, columns: int) -> tuple[alt.Color, alt.Shape]:
    """Colour and shape of an arm's family, with one legend for both (none for a single family unless `always`)."""
    families = sorted({str(row["family"]) for row in rows}, key=lambda name: (name == "full", name))
    legend = (
        alt.Legend(title=None, orient="top", symbolOpacity=1, columns=columns) if always or len(families) > 1 else None
    )
    shapes = [SHAPES[i % len(SHAPES)] for i in range(len(families))]
    colour = alt.Color("family:N", scale=alt.Scale(domain=families), legend=legend)
    return colour, alt.Shape("family:N", scale=alt.Scale(domain=families, range=shapes), legend=legend)


def rank_chart(
    arms: pd.DataFrame, measure: str, *, margin: float, margin_name: str, unit: Unit = IN_POINTS
) -> Chart | None:
    """Gain or forgetting (`measure`) against rank, log axis; arms without a rank are lines with a band.

    `margin`, as it is shown, is drawn dashed and called `margin_name`. Columns: those of `arm_frame`, in `unit`.
    """
    rows = records(arms, measure)
    ranked = [row for row in rows if row["rank"] is not None]
    if not ranked:
        return None
    limits = domain((row[f"{measure}{end}"] for row in rows for end in ENDS), include=(0, margin))
    ranks = sorted({int(row["rank"]) for row in ranked})
    x_scale = alt.Scale(type="log", base=2, domain=[ranks[0] / 1.35, ranks[-1] * 1.35], nice=False)
    axis = alt.Axis(values=ranks, format="d", grid=False)
    x = alt.X("rank_position:Q", scale=x_scale, title="LoRA rank (log scale)", axis=axis)
    y_scale = alt.Scale(domain=list(limits), nice=False, zero=False)
    y_title = f"{measure.capitalize()} ({unit.name})"
    told = arm_tooltip({measure: unit}, measure)
    y = alt.Y(f"{measure}:Q", scale=y_scale, title=y_title)
    colour, shape = family_marks(ranked, always=False, columns=3)
    known = [row for row in ranked if row[f"{measure}_low"] is not None and row[f"{measure}_high"] is not None]
    low = alt.Y(f"{measure}_low:Q", scale=y_scale, title=y_title)
    bars = chart(known).mark_rule(strokeWidth=1.6).encode(x=x, y=low, y2=f"{measure}_high:Q", color=colour)
    line = chart(ranked).mark_line(strokeWidth=2).encode(x=x, y=y, color=colour)
    dots = chart(ranked).mark_point(filled=True, size=75, opacity=1)
    dots = dots.encode(x=x, y=y, color=colour, shape=shape, tooltip=told)
    others = [row for row in rows if row["rank"] is None]
    marks: list[Record] = [{"at": 0.0, "text": "base"}, {"at": margin, "text": margin_name}]
    back = [*_levels(others, measure, (low, y), told), *_marks(marks, others, measure, y_scale, limits)]
    title = {"gain": "What was learned, by rank", "forgetting": "What was forgotten, by rank"}[measure]
    return layer(*back, bars, line, dots).properties(width=WIDTH, height=HEIGHT, title=f"{title} ({unit.name})")


def _levels(
    others: list[Record], measure: str, heights: tuple[alt.Y, alt.Y], told: list[alt.Tooltip]
) -> list[alt.Chart]:
    """Arms without a rank, full fine-tuning above all: a line across, and the band of its interval."""
    low, y = heights
    known = [row for row in others if row[f"{measure}_low"] is not None and row[f"{measure}_high"] is not None]
    bands = chart(known).mark_rect(opacity=0.16, color="gray")
    lines = chart(others).mark_rule(strokeWidth=2, color="gray")
    return [
        bands.encode(y=low, y2=f"{measure}_high:Q"),
        lines.encode(y=y, tooltip=told),
    ]


def _marks(
    marks: list[Record], others: list[Record], measure: str, y_scale: alt.Scale, limits: tuple[float, float]
) -> list[alt.Chart]:
    """The base at zero, the margin dashed; all levels labelled outside, at the right, none over another."""
    at = alt.Y("at:Q", scale=y_scale)
    labels = [{"at": row[measure], "text": row["arm"]} for row in others] + [dict(mark) for mark in marks]
    for label, height in zip(labels, spread([row["at"] for row in labels], limits, HEIGHT), strict=True):
        label["label_at"] = height
    text = chart(labels).mark_text(align="left", dx=5, fontSize=11)
    return [
        chart(marks[:1]).mark_rule(strokeWidth=1, color="gray").encode(y=at),
        chart(marks[1:]).mark_rule(strokeDash=[5, 4], color="gray").encode(y=at),
        text.encode(x=alt.value("width"), y=alt.Y("label_at:Q", scale=y_scale), text="text:N"),
    ]


def rank_section(pairs: list[Pair]) -> Section:
    """Gain and forgetting against rank, for every pair, in each unit that they were measured in."""
    found: list[Figure] = []
    for pair in pairs:
        for measure, name in (("gain", "least gain"), ("forgetting", "margin")):
            for unit in units_in(pair.verdict, measure):
                arms = arm_frame(pair.verdict, {**pair.units, measure: unit})
                margin = unit.margin(pair.decision, measure)
                drawn = rank_chart(arms, measure, margin=margin, margin_name=name, unit=unit)
                caption = f"{measure} in {unit.short} against LoRA rank, with intervals"
                found += figure(drawn, caption, pair.name if len(pairs) > 1 else "")
    return Section(
        "rank",
        "Gain and forgetting by rank",
        "What each rank learned on the suites of its training domain, and what it forgot on all others.",
        "Points are means over seeds, bars their intervals. A grey line with its band is an arm without a rank, such "
        "as full fine-tuning, the dashed line the margin fixed in the study. A curve that is flat within its bars says "
        "that rank does not matter there.",
        found,
        "No arm with a rank has results to draw.",
        wide=False,
    )
