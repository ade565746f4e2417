"""Charts of attention, hidden states and neurons, and of whether any measure of what changed predicts forgetting."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from rankscope.report.chart_drawing import (
    PLOT_WIDTH,
    SHAPES,
    Chart,
    Figure,
    Pair,
    Section,
    Tables,
    arm_axis,
    chart,
    each,
    figure,
    layer,
    records,
    tooltips,
)
from rankscope.report.rank_charts import of_pair
from rankscope.report.weight_charts import arm_colour, arm_shape, layer_map, with_order

DRIFTS = {
    "cka_loss": "1 - CKA to the base",
    "cosine_drift": "cosine drift",
    "procrustes": "Procrustes residual",
    "mean_change": "neurons: change of means (sd)",
    "firing_change": "neurons: change of firing rates",
}
"""What is drawn by layer, and how it is called."""


# ---- attention ------------------------------------------------------------------------------------------------------


def head_frame(attention: pd.DataFrame, arms: pd.DataFrame) -> pd.DataFrame:
    """arm, order, layer, head, divergence and entropy change: means over suites and seeds."""
    if attention.empty:
        return attention
    frame = attention.assign(entropy_change=attention["entropy"] - attention["entropy_base"])
    return with_order(
        frame.groupby(["arm", "layer", "head"], as_index=False)[["divergence", "entropy_change"]].mean(), arms
    )


def head_map(heads: pd.DataFrame, value: str, title: str, unit: str, form: str) -> Chart | None:
    """Layer down, head across, a panel an arm. Columns: those of `head_frame`."""
    rows = records(heads, "layer", "head", value)
    return layer_map(rows, "head", value, title, unit, form) if rows else None


def attention_section(pairs: Sequence[Pair], tables: Tables) -> Section:
    """Maps of the heads that look elsewhere, for every pair."""
    found: list[Figure] = []
    for pair in pairs:
        heads = head_frame(of_pair(tables.get("attention"), pair.verdict), pair.arms)
        for value, title, unit in (
            ("divergence", "Jensen-Shannon divergence of attention to the base", "nats"),
            ("entropy_change", "Change of attention's entropy", "nats"),
        ):
            drawn = head_map(heads, value, title, unit, ".3f")
            found += figure(drawn, f"{title.lower()}, by layer and head", pair.name if len(pairs) > 1 else "")
    return Section(
        "attention",
        "Inside: attention",
        "Which heads look elsewhere than the base's.",
        "A cell is a head. Divergence: 0 where it attends as the base's does, at most 0.69 nats where to other tokens "
        "altogether. Entropy: above 0 it attends more widely than the base's, below more narrowly.",
        found,
        "No attention was looked at.",
    )


# ---- hidden states and neurons --------------------------------------------------------------------------------------


def drift_frame(hidden: pd.DataFrame, neurons: pd.DataFrame, arms: pd.DataFrame) -> pd.DataFrame:
    """arm, order, layer, measure, value: means over suites and seeds."""
    parts = []
    if len(hidden):
        parts.append(hidden.assign(cka_loss=1 - pd.to_numeric(hidden["cka"])))
    if len(neurons):
        parts.append(neurons)
    found = []
    for part in parts:
        columns = [column for column in DRIFTS if column in part.columns]
        means = part.groupby(["arm", "layer"], as_index=False)[columns].mean()
        found.append(means.melt(["arm", "layer"], var_name="measure", value_name="value"))
    if not found:
        return pd.DataFrame()
    joined = pd.concat(found, ignore_index=True)
    return with_order(joined.assign(measure=joined["measure"].map(DRIFTS)), arms)


def drift_chart(drifts: pd.DataFrame) -> Chart | None:
    """By layer, a line an arm, a panel a measure. Columns: those of `drift_frame`."""
    rows = records(drifts, "layer", "value")
    if not rows:
        return None
    arms, measures = arm_axis(rows), list(dict.fromkeys(str(row["measure"]) for row in rows))
    told = tooltips(("arm", "arm", ""), ("layer", "layer", "d"), ("value", "value", ".3f"))
    panels = []
    for measure in measures:
        base = chart([row for row in rows if row["measure"] == measure]).encode(
            x=alt.X("layer:O", title="Layer", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=True)),
            color=arm_colour(arms),
            tooltip=told,
        )
        lines = layer(
            base.mark_line(strokeWidth=1.8), base.mark_point(filled=True, size=40).encode(shape=arm_shape(arms))
        )
        heading = alt.TitleParams(measure, fontSize=12, anchor="middle")
        panels.append(lines.properties(width=PLOT_WIDTH // 3 - 60, height=120, title=heading))
    return alt.concat(*panels, columns=3, spacing=16).properties(
        title="How far each layer moved, mean over suites and seeds"
    )


def drift_section(pairs: Sequence[Pair], tables: Tables) -> Section:
    """How far states and neurons moved by layer, for every pair."""

    def draw(pair: Pair) -> Chart | None:
        hidden, neurons = of_pair(tables.get("hidden"), pair.verdict), of_pair(tables.get("neurons"), pair.verdict)
        return drift_chart(drift_frame(hidden, neurons, pair.arms))

    return Section(
        "drift",
        "Inside: hidden states and neurons",
        "How far the states after each layer, and the units of its MLP, moved from the base's on the same questions.",
        "0 is the base itself. CKA and the Procrustes residual do not see rotations, the cosine does: a high cosine "
        "drift with a low residual is a turn of the whole space, not a loss.",
        each(pairs, draw, "drift by layer, a line an arm"),
        "No hidden states were looked at.",
    )


# ---- do they predict forgetting? ------------------------------------------------------------------------------------


def diagnostics_chart(found: pd.DataFrame) -> Chart | None:
    """The partial rank correlation of each measure with forgetting. Columns: those of the diagnostics table."""
    rows = records(found, "partial")
    if not rows:
        return None
    rows.sort(key=lambda row: -abs(row["partial"]))
    names = [str(row["measure"]) for row in rows]
    y = alt.Y("measure:N", sort=names, title=None, axis=alt.Axis(labelLimit=260))
    scale = alt.Scale(domain=[-1, 1])
    x = alt.X("partial:Q", scale=scale, title="Partial rank correlation with forgetting, given rank and learning rate")
    told = tooltips(
        ("measure", "measure", ""),
        ("partial", "partial correlation", "+.2f"),
        ("partial_low", "from", "+.2f"),
        ("partial_high", "to", "+.2f"),
        ("correlation", "plain correlation", "+.2f"),
        ("p_corrected", "p, corrected", ".3f"),
        ("runs", "runs", "d"),
    )
    base = chart(rows)
    colour = alt.Color(
        "predicts:N", scale=alt.Scale(domain=["yes", "no"]), legend=alt.Legend(title="predicts", orient="top")
    )
    shape = alt.Shape("predicts:N", scale=alt.Scale(domain=["yes", "no"], range=SHAPES[:2]), legend=None)
    bars = base.transform_filter("isValid(datum.partial_low)").mark_rule(strokeWidth=1.6)
    return layer(
        base.mark_rule(color="gray").encode(x=alt.datum(0)),
        bars.encode(x=alt.X("partial_low:Q", scale=scale), x2="partial_high:Q", y=y, color=colour),
        base.mark_point(filled=True, size=70).encode(x=x, y=y, color=colour, shape=shape, tooltip=told),
    ).properties(width=PLOT_WIDTH - 260, height=alt.Step(17), title="Do the diagnostics predict forgetting?")


def diagnostics_section(pairs: Sequence[Pair], tables: Tables) -> Section:
    """Whether a measure of what changed predicts forgetting, for every pair."""
    found = each(
        pairs, lambda pair: diagnostics_chart(of_pair(tables.get("diagnostics"), pair.verdict)), "correlations"
    )
    reasons = tables.get("diagnostics", pd.DataFrame(columns=["reason"]))["reason"].dropna()
    why = str(reasons.mode().iloc[0]) if len(reasons) else "no run was looked into"
    return Section(
        "diagnostics",
        "Do the diagnostics predict forgetting?",
        diagnostics_answer(tables.get("diagnostics", pd.DataFrame())),
        "Points are rank correlations over runs with what rank and learning rate explain taken out, bars their "
        "bootstrap intervals. A yes needs p below the study's error after correction for all measures tried. Runs "
        "of one arm are alike, so whole arms are permuted and drawn again; a yes is a reason to look, not a cause.",
        found,
        f"Not tested: {why}.",
    )


def diagnostics_answer(table: pd.DataFrame) -> str:
    """What came out, in a sentence, `no` included."""
    tested = table[table["predicts"].notna()] if "predicts" in table.columns else pd.DataFrame()
    if tested.empty:
        return "Whether anything above says more about forgetting than rank and learning rate do."
    yes = list(dict.fromkeys(tested[tested["predicts"] == "yes"]["measure"]))
    count = int(tested.groupby(["model", "train_set"]).size().max())
    if not yes:
        return f"No: of {count} measures none predicts forgetting beyond rank and learning rate in these runs."
    return f"Of {count} measures these go with forgetting beyond rank and learning rate: {', '.join(yes)}."
