"""Tables of what changed inside -> ready columns for figures_inside.py: means over seeds, matrices, suites."""

from __future__ import annotations

from itertools import zip_longest

import pandas as pd

Frame = pd.DataFrame

DRIFTS = {
    "cka_loss": "1 - CKA to the base",
    "cosine_drift": "cosine drift",
    "procrustes": "Procrustes residual",
    "mean_change": "neurons: change of means (sd)",
    "firing_change": "neurons: change of firing rates",
}
"""What is drawn by layer, and how it is called."""


def with_order(frame: Frame, arms: Frame) -> Frame:
    """The rows of arms that are shown, with their place among them (`order`)."""
    return frame.merge(arms[["arm", "order"]], on="arm") if len(frame) and len(arms) else frame.head(0)


def curve_frame(spectra: Frame, arms: Frame) -> Frame:
    """arm, order, index, share: the singular values over the largest, mean over matrices and seeds."""
    parts = []
    for arm, group in spectra.groupby("arm", sort=False) if len(spectra) else []:
        values = pd.DataFrame(list(zip_longest(*group["singular_values"], fillvalue=float("nan")))).T
        shares = values.div(values[0].where(values[0] > 0), axis=0).mean(axis=0)
        parts.append(pd.DataFrame({"arm": arm, "index": shares.index + 1, "share": shares.to_numpy()}))
    return with_order(pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(), arms)


def module_frame(spectra: Frame, arms: Frame) -> Frame:
    """arm, order, layer, kind and the means over seeds of what the maps of matrices show, in percent where a share."""
    if spectra.empty:
        return spectra
    shown = ["relative_norm", "utilisation", "intruders", "intruders_random", "stable_rank"]
    means = spectra[["arm", "layer", "kind"]].join(spectra[shown].apply(pd.to_numeric))
    means = means.groupby(["arm", "layer", "kind"], as_index=False).mean()
    means[["relative_norm", "utilisation"]] *= 100
    return with_order(means.rename(columns={"kind": "matrix"}), arms)


def head_frame(attention: Frame, arms: Frame) -> Frame:
    """arm, order, layer, head, divergence and entropy change: means over suites and seeds."""
    if attention.empty:
        return attention
    frame = attention.assign(entropy_change=attention["entropy"] - attention["entropy_base"])
    return with_order(
        frame.groupby(["arm", "layer", "head"], as_index=False)[["divergence", "entropy_change"]].mean(), arms
    )


def drift_frame(hidden: Frame, neurons: Frame, arms: Frame) -> Frame:
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


def similarity_frame(subspaces: Frame, overlaps: Frame, arms: Frame) -> Frame:
    """arm, other_arm, what, value: means over matrices (layers, suites) and seeds, both ways round.

    Of neurons the diagonal is one arm on two suites: see inside.neuron_overlaps.
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


def _pair_means(frame: Frame, column: str, what: str) -> Frame:
    means = frame.groupby(["arm", "other_arm"])[column].mean().rename("value").reset_index()
    return means.assign(what=what)


def derived_frame(derived: Frame, arms: Frame) -> Frame:
    """series, rank, measure (gain, forgetting), value in points: the trained LoRA arms beside the truncated adapter."""
    rows = []
    for row in arms.to_dict("records"):
        if row["method"] in ("lora", "rslora", "pissa") and row["rank"] is not None and not pd.isna(row["rank"]):
            rows += [("trained at this rank", row["rank"], m, row[m], row["arm"]) for m in ("gain", "forgetting")]
    for key, means in _derived_means(derived):
        if key["derivation"] in ("truncated", "energy"):
            rank = key["rank"] if key["derivation"] == "truncated" else key["mean_rank"]
            name = "largest, truncated" if key["derivation"] == "truncated" else "largest, 90 % of energy"
            rows += [(name, rank, measure, value, key["arm"]) for measure, value in means.items()]
    frame = pd.DataFrame(rows, columns=["series", "rank", "measure", "value", "arm"]).dropna(subset=["value"])
    return (
        frame.astype({"rank": float, "value": float})
        if (frame["series"] != "trained at this rank").any()
        else frame.head(0)
    )


def intervention_frame(derived: Frame, seeds: Frame, arms: Frame) -> Frame:
    """what, measure, value in points: the adapter as trained, with its intruders scaled, and the control.

    `seeds` has gain and forgetting of each seed; without it the trained arm is shown as the mean of its seeds.
    """
    names = {"intruders": "intruders times {factor:g}", "control": "as much off the whole change"}
    found = [(key, means) for key, means in _derived_means(derived) if key["derivation"] in names]
    if not found:
        return pd.DataFrame()
    arm, seed = found[0][0]["arm"], found[0][0]["seed"]
    trained, called = arms[arms["arm"] == arm], "as trained (mean of seeds)"
    if len(seeds) and len(own := seeds[(seeds["arm"] == arm) & (seeds["seed"] == seed)]):
        trained, called = own, "as trained"
    rows = [(called, measure, value) for measure in ("gain", "forgetting") for value in trained[measure]]
    for key, means in sorted(found, key=lambda entry: list(names).index(str(entry[0]["derivation"]))):
        what = names[str(key["derivation"])].format(factor=key["factor"])
        rows += [(what, measure, value) for measure, value in means.items()]
    return pd.DataFrame(rows, columns=["what", "measure", "value"]).dropna(subset=["value"])


def _derived_means(derived: Frame) -> list[tuple[dict[str, object], dict[str, float]]]:
    """For each derived run its facts, and gain and forgetting in points: means over suites."""
    keys = ["arm", "seed", "derivation", "rank", "mean_rank", "factor"]
    found = []
    for values, group in derived.groupby(keys, dropna=False) if len(derived) else []:
        inside = group["relation"] == "in-domain"
        means = {"gain": 100 * group["change"][inside].mean(), "forgetting": -100 * group["change"][~inside].mean()}
        found.append((dict(zip(keys, values, strict=True)), means))
    return found
