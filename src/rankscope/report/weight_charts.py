"""Charts of what arms did to the weights: spectra, maps of all matrices, and what arms changed in common."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

import altair as alt
import pandas as pd

from rankscope.report.chart_drawing import (
    HEIGHT,
    PLOT_WIDTH,
    SHAPES,
    Chart,
    Figure,
    Pair,
    Record,
    Section,
    Tables,
    arm_axis,
    chart,
    each,
    figure,
    inline,
    layer,
    records,
    tooltips,
)
from rankscope.report.rank_charts import of_pair

_CELL, _SMALLEST_CELL = 22, 12
"""Pixels of a cell of a map: the smallest where all arms' panels then stand in one row."""

_PANEL_EDGES = 60

_MATRICES = (
    "q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "c_attn", "gate_proj", "up_proj", "gate_up_proj", "c_fc",
)  # fmt: skip
"""The order in which a token meets the matrices of a block; others follow by name."""


class MatrixMap(NamedTuple):
    """A map of all matrices: the column of tables/spectra.parquet that it shows, times `factor`, and how it is told."""

    column: str
    title: str
    unit: str
    form: str
    factor: float = 1.0


MAPS = (
    MatrixMap("relative_norm", "Size of the change", "% of the base's norm", ".1f", 100.0),
    MatrixMap("utilisation", "Share of the rank that is used (stable rank over rank)", "%", ".1f", 100.0),
    MatrixMap("intruders", "Intruder dimensions among the ten largest", "of 10", ".1f"),
)
"""The measures of `analyse/update_spectra.py` that the page shows, matrix by matrix."""


# ---- frames ---------------------------------------------------------------------------------------------------------


def with_order(frame: pd.DataFrame, arms: pd.DataFrame) -> pd.DataFrame:
    """The rows of arms that are shown, with their place among them (`order`)."""
    return frame.merge(arms[["arm", "order"]], on="arm") if len(frame) and len(arms) else frame.head(0)


def curve_frame(spectra: pd.DataFrame, arms: pd.DataFrame) -> pd.DataFrame:
    """arm, order, index, share: the singular values over the largest, mean over matrices and seeds."""
    parts = []
    for arm, group in spectra.groupby("arm", sort=False) if len(spectra) else []:
        values = pd.DataFrame(list(zip_longest(*group["singular_values"], fillvalue=float("nan")))).T
        shares = values.div(values[0].where(values[0] > 0), axis=0).mean(axis=0)
        parts.append(pd.DataFrame({"arm": arm, "index": shares.index + 1, "share": shares.to_numpy()}))
    return with_order(pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(), arms)


def module_frame(spectra: pd.DataFrame, arms: pd.DataFrame) -> pd.DataFrame:
    """arm, order, layer, matrix, and means over seeds of what MAPS show; a column that the table lacks is left out."""
    if spectra.empty:
        return spectra
    factors = {one.column: one.factor for one in MAPS if one.column in spectra.columns}
    means = spectra[["arm", "layer", "kind"]].join(spectra[list(factors)].apply(pd.to_numeric))
    means = means.groupby(["arm", "layer", "kind"], as_index=False).mean()
    means = means.assign(**{column: means[column] * factor for column, factor in factors.items()})
    return with_order(means.rename(columns={"kind": "matrix"}), arms)


def similarity_frame(subspaces: pd.DataFrame, overlaps: pd.DataFrame, arms: pd.DataFrame) -> pd.DataFrame:
    """arm, other_arm, what, value: means over matrices (layers, suites) and seeds, both ways round.

    Of neurons the diagonal is one arm on two suites: see `decide.inside_tables.neuron_overlaps`.
    """
    parts = []
    if len(subspaces):
        parts.append(_pair_means(subspaces, "similarity", "directions of the change"))
    if len(overlaps):
        chance = f"most changed neurons (by chance {overlaps['chance'].mean():.2f})"
        parts.append(_pair_means(overlaps, "overlap", chance))
    parts = [part for part in parts if len(part)]
    if not parts or arms.empty:
        return pd.DataFrame()
    both = pd.concat(parts, ignore_index=True)
    turned = both[both["arm"] != both["other_arm"]].rename(columns={"arm": "other_arm", "other_arm": "arm"})
    both = pd.concat([both, turned], ignore_index=True).groupby(["what", "arm", "other_arm"], as_index=False).mean()
    return with_order(both[both["other_arm"].isin(arms["arm"])], arms)


def _pair_means(frame: pd.DataFrame, column: str, what: str) -> pd.DataFrame:
    means = frame.groupby(["arm", "other_arm"])[column].mean().rename("value").reset_index()
    return means.assign(what=what)


# ---- charts ---------------------------------------------------------------------------------------------------------


def arm_colour(arms: list[str]) -> alt.Color:
    """A colour for each arm, with its legend."""
    return alt.Color("arm:N", scale=alt.Scale(domain=arms), legend=alt.Legend(title=None, orient="top", columns=8))


def arm_shape(arms: list[str]) -> alt.Shape:
    """A shape for each arm, which the colour's legend names."""
    shapes = [SHAPES[i % len(SHAPES)] for i in range(len(arms))]
    return alt.Shape("arm:N", scale=alt.Scale(domain=arms, range=shapes), legend=None)


def spectra_chart(curves: pd.DataFrame) -> Chart | None:
    """Singular values of the change over the largest, by index. Columns: those of `curve_frame`."""
    rows = [row for row in records(curves, "index", "share") if row["share"] > 1e-6]
    if not rows:
        return None
    arms = arm_axis(rows)
    told = tooltips(("arm", "arm", ""), ("index", "singular value", "d"), ("share", "over the largest", ".3f"))
    base = chart(rows).encode(
        x=alt.X("index:Q", title="Singular value, from the largest", scale=alt.Scale(type="log", nice=False)),
        y=alt.Y("share:Q", title="Size over the largest", scale=alt.Scale(type="log", nice=False)),
        color=arm_colour(arms),
        tooltip=told,
    )
    dots = base.mark_point(filled=True, size=26).encode(shape=arm_shape(arms))
    return layer(base.mark_line(strokeWidth=1.8), dots).properties(
        width=PLOT_WIDTH, height=HEIGHT, title="Spectrum of the change, mean over matrices and seeds"
    )


def module_map(modules: pd.DataFrame, shown: MatrixMap) -> Chart | None:
    """Layer down, kind of matrix across, a panel an arm; None where the measure has no value. Columns: those of
    `module_frame`."""
    rows = records(modules, "layer", shown.column) if shown.column in modules.columns else []
    return layer_map(rows, "matrix", shown.column, shown.title, shown.unit, shown.form) if rows else None


def layer_map(rows: list[Record], across: str, value: str, title: str, unit: str, form: str) -> Chart:
    """A map with layers down and `across` (matrix, head), a panel an arm, in as few rows of panels as fit."""
    arms = arm_axis(rows)
    signed = min(row[value] for row in rows) < 0
    reach = max(abs(row[value]) for row in rows) or 1.0
    scale = (
        alt.Scale(domain=[-reach, reach], domainMid=0, interpolate="rgb")
        if signed
        else alt.Scale(domain=[0, reach], range="ramp", interpolate="rgb")
    )
    kind = "O" if across == "head" else "N"
    places = sorted({row[across] for row in rows}, key=_place)
    room = PLOT_WIDTH / len(arms) - _PANEL_EDGES / 2
    one_row = room / len(places) >= _SMALLEST_CELL
    cell = min(_CELL, int(room / len(places))) if one_row else _CELL
    shown = [{k: row[k] for k in ("arm", "layer", across, value)} for row in rows]
    cells = (
        alt.Chart()
        .mark_rect()
        .encode(
            x=alt.X(
                f"{across}:{kind}",
                sort=places,
                title=across.capitalize(),
                axis=alt.Axis(labelAngle=-45 if kind == "N" else 0),
            ),
            y=alt.Y("layer:O", title="Layer", sort="ascending"),
            color=alt.Color(f"{value}:Q", scale=scale, legend=alt.Legend(title=unit, gradientLength=100)),
            tooltip=tooltips(
                ("arm", "arm", ""),
                ("layer", "layer", "d"),
                (across, across, "" if kind == "N" else "d"),
                (value, unit, form),
            ),
        )
        .properties(width=alt.Step(cell), height=alt.Step(_CELL if len({row["layer"] for row in rows}) <= 16 else 9))
    )
    columns = len(arms) if one_row else max(1, PLOT_WIDTH // (len(places) * cell + _PANEL_EDGES))
    header = alt.Header(title=None, labelFontWeight="bold")
    facet = alt.Facet("arm:N", sort=arms, header=header)
    return cells.facet(facet=facet, columns=columns, data=inline(shown)).properties(title=title)


def _place(across: object) -> tuple[int, str, int]:
    """Where a head or a kind of matrix stands in a map."""
    if isinstance(across, int):
        return 0, "", across
    name = str(across)
    return (_MATRICES.index(name) if name in _MATRICES else len(_MATRICES)), name, 0


def similarity_chart(pairs: pd.DataFrame) -> Chart | None:
    """Arm against arm, a panel for directions and one for neurons. Columns: those of `similarity_frame`."""
    rows = records(pairs, "value")
    if not rows:
        return None
    arms = arm_axis(rows)
    x = alt.X("other_arm:N", sort=arms, title=None, axis=alt.Axis(labelAngle=-35, labelLimit=160))
    y = alt.Y("arm:N", sort=arms, title=None, axis=alt.Axis(labelLimit=160))
    colour = alt.Color(
        "value:Q", scale=alt.Scale(domain=[0, 1], range="ramp"), legend=alt.Legend(title="overlap", gradientLength=100)
    )
    told = tooltips(("arm", "arm", ""), ("other_arm", "and", ""), ("value", "overlap", ".3f"))
    cells = alt.Chart().mark_rect().encode(x=x, y=y, color=colour, tooltip=told)
    text = alt.Chart().mark_text(fontSize=11).encode(x=x, y=y, text=alt.Text("value:Q", format=".2f"), tooltip=told)
    sized = layer(cells, text).properties(width=alt.Step(46), height=alt.Step(26))
    facet = alt.Facet("what:N", header=alt.Header(title=None, labelFontWeight="bold"))
    return sized.facet(facet=facet, columns=2, data=inline(rows)).properties(title="What two arms have in common")


# ---- sections -------------------------------------------------------------------------------------------------------


def weights_section(pairs: Sequence[Pair], tables: Tables) -> Section:
    """Spectra and maps of the change of every matrix, for every pair."""
    found: list[Figure] = []
    for pair in pairs:
        name, spectra = pair.name if len(pairs) > 1 else "", of_pair(tables.get("spectra"), pair.verdict)
        drawn = spectra_chart(curve_frame(spectra, pair.arms))
        found += figure(drawn, "singular values of the change, a line an arm", name)
        modules = module_frame(spectra, pair.arms)
        for one in MAPS:
            drawn = module_map(modules, one)
            found += figure(drawn, f"{one.title.lower()}, by layer and kind of matrix, a panel an arm", name)
    return Section(
        "spectra",
        "Inside: the weights",
        "What each arm did to each matrix: how large the change is, over how many directions, and whether directions "
        "that the base does not have came among its largest.",
        "A line that falls early uses few of its directions: such an adapter can be made smaller. Intruders mean "
        "something only beyond those of a random change of the same size (tables/spectra.parquet, intruders_random).",
        found,
        "No change of a weight could be read.",
        wide=False,
    )


def overlap_section(pairs: Sequence[Pair], tables: Tables) -> Section:
    """What arms changed in common, for every pair."""

    def draw(pair: Pair) -> Chart | None:
        subspaces, overlaps = (
            of_pair(tables.get("subspaces"), pair.verdict),
            of_pair(tables.get("neuron_overlaps"), pair.verdict),
        )
        return similarity_chart(similarity_frame(subspaces, overlaps, pair.arms))

    return Section(
        "overlap",
        "Inside: what arms share",
        "Whether arms changed the weights along the same directions, and the same neurons.",
        "1 is the same space or the same neurons, 0 nothing in common. On the diagonal stand two seeds of one arm "
        "(directions), or one arm on two suites (neurons): two arms that share as much as two seeds of one changed the "
        "same.",
        each(pairs, draw, "overlap between arms"),
        "There are no two runs to compare.",
    )
