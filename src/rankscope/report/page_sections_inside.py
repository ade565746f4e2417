"""The page's sections on what changed inside. Without any analysis in the study there are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from rankscope.report import chart_frames, chart_frames_inside, charts_inside
from rankscope.report.chart_drawing import Chart
from rankscope.report.page_section import Figure, Pair, Section, each, figure

Tables = Mapping[str, pd.DataFrame]
_NEEDED = ("spectra", "hidden", "attention", "neurons", "derived")


def inside_sections(pairs: Sequence[Pair], tables: Tables) -> list[Section]:
    """Every section with charts, in reading order."""
    if all(tables.get(name, pd.DataFrame()).empty for name in _NEEDED):
        return []
    return [
        _weights(pairs, tables),
        _drift(pairs, tables),
        _attention(pairs, tables),
        _overlap(pairs, tables),
        _diagnostics(pairs, tables),
        _derived(pairs, tables),
    ]


def _of(tables: Tables, name: str, pair: Pair) -> pd.DataFrame:
    return chart_frames.of_pair(tables.get(name), pair.verdict)


def _weights(pairs: Sequence[Pair], tables: Tables) -> Section:
    found: list[Figure] = []
    maps = (
        ("relative_norm", "Size of the change", "% of the base's norm", ".1f"),
        ("utilisation", "Share of the rank that is used (stable rank over rank)", "%", ".1f"),
        ("intruders", "Intruder dimensions among the ten largest", "of 10", ".1f"),
    )
    for pair in pairs:
        name, spectra = pair.name if len(pairs) > 1 else "", _of(tables, "spectra", pair)
        drawn = charts_inside.spectra(chart_frames_inside.curve_frame(spectra, pair.arms))
        found += figure(drawn, "singular values of the change, a line an arm", name)
        modules = chart_frames_inside.module_frame(spectra, pair.arms)
        for value, title, unit, form in maps:
            drawn = charts_inside.module_map(modules, value, title, unit, form)
            found += figure(drawn, f"{title.lower()}, by layer and kind of matrix, a panel an arm", name)
    return Section(
        "spectra",
        "Inside: the weights",
        "What each arm did to each matrix: how large the change is, over how many directions, and whether directions "
        "that the base does not have came among its largest.",
        "A line that falls early uses few of its directions: such an adapter can be made smaller. Intruders mean "
        "something only beyond those of a random change of the same size (tables/spectra.parquet, intruders_random).",
        found,
        "No change of a weight could be read.",
    )


def _drift(pairs: Sequence[Pair], tables: Tables) -> Section:
    def draw(pair: Pair) -> Chart | None:
        hidden, neurons = _of(tables, "hidden", pair), _of(tables, "neurons", pair)
        return charts_inside.drift(chart_frames_inside.drift_frame(hidden, neurons, pair.arms))

    return Section(
        "drift",
        "Inside: hidden states and neurons",
        "How far the states after each layer, and the units of its MLP, moved from the base's on the same questions.",
        "0 is the base itself. CKA and the Procrustes residual do not see rotations, the cosine does: a high cosine "
        "drift with a low residual is a turn of the whole space, not a loss.",
        each(pairs, draw, "drift by layer, a line an arm"),
        "No hidden states were looked at.",
    )


def _attention(pairs: Sequence[Pair], tables: Tables) -> Section:
    found: list[Figure] = []
    for pair in pairs:
        heads = chart_frames_inside.head_frame(_of(tables, "attention", pair), pair.arms)
        for value, title, unit in (
            ("divergence", "Jensen-Shannon divergence of attention to the base", "nats"),
            ("entropy_change", "Change of attention's entropy", "nats"),
        ):
            drawn = charts_inside.head_map(heads, value, title, unit, ".3f")
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


def _overlap(pairs: Sequence[Pair], tables: Tables) -> Section:
    def draw(pair: Pair) -> Chart | None:
        subspaces, overlaps = _of(tables, "subspaces", pair), _of(tables, "neuron_overlaps", pair)
        return charts_inside.similarity(chart_frames_inside.similarity_frame(subspaces, overlaps, pair.arms))

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


def _diagnostics(pairs: Sequence[Pair], tables: Tables) -> Section:
    found = each(pairs, lambda pair: charts_inside.diagnostics(_of(tables, "diagnostics", pair)), "correlations")
    reasons = tables.get("diagnostics", pd.DataFrame(columns=["reason"]))["reason"].dropna()
    why = str(reasons.mode().iloc[0]) if len(reasons) else "no run was looked into"
    return Section(
        "diagnostics",
        "Do the diagnostics predict forgetting?",
        answer(tables.get("diagnostics", pd.DataFrame())),
        "Points are rank correlations over runs with what rank and learning rate explain taken out, bars their "
        "bootstrap intervals. A yes needs p below the study's error after correction for all measures tried. Seeds of "
        "one arm are no independent runs, so even a yes is a reason to look, not a cause.",
        found,
        f"Not tested: {why}.",
    )


def answer(table: pd.DataFrame) -> str:
    """What came out, in a sentence, `no` included."""
    tested = table[table["predicts"].notna()] if "predicts" in table.columns else pd.DataFrame()
    if tested.empty:
        return "Whether anything above says more about forgetting than rank and learning rate do."
    yes = list(dict.fromkeys(tested[tested["predicts"] == "yes"]["measure"]))
    count = int(tested.groupby(["model", "train_set"]).size().max())
    if not yes:
        return f"No: of {count} measures none predicts forgetting beyond rank and learning rate in these runs."
    return f"Of {count} measures these go with forgetting beyond rank and learning rate: {', '.join(yes)}."


def _derived(pairs: Sequence[Pair], tables: Tables) -> Section:
    found: list[Figure] = []
    for pair in pairs:
        derived, name = _of(tables, "derived", pair), pair.name if len(pairs) > 1 else ""
        curve = chart_frames_inside.derived_frame(derived, pair.arms)
        for measure in ("gain", "forgetting"):
            found += figure(charts_inside.truncated(curve, measure), f"{measure} by rank, trained and truncated", name)
        drawn = charts_inside.intervention(chart_frames_inside.intervention_frame(derived, pair.seeds, pair.arms))
        found += figure(drawn, "gain and forgetting with intruder dimensions scaled", name)
    return Section(
        "derived",
        "Smaller without training",
        "The largest adapter cut to each lower rank by SVD, and with its intruder dimensions made smaller.",
        "Where the truncated curve lies on the trained one, the rank curve costs one run. Intruders matter by "
        "themselves only where scaling them lowers forgetting more than taking as much off the whole change. One seed "
        "of the largest adapter; no candidate of the verdict.",
        found,
        "No run was derived.",
        wide=False,
    )
