"""The sections on what changed inside, on made tables: charts compile, show what the tables say, or say why not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import vl_convert
from made_report import make_report, make_verdict

from rankscope.records import VerdictFile
from rankscope.report import chart_frames_inside
from rankscope.report.page import render
from rankscope.report.page_sections import make_pairs
from rankscope.report.page_sections_inside import answer, inside_sections

VERDICT = make_verdict()
ARMS = [arm.label for arm in VERDICT.arms][:4]
RNG = np.random.default_rng(0)


def made_tables(diagnosed: bool = True) -> dict[str, pd.DataFrame]:
    front = {"model": VERDICT.model, "train_set": VERDICT.train_set}
    spectra, hidden, attention, neurons = [], [], [], []
    for arm in ARMS:
        for seed in range(2):
            named = {**front, "arm": arm, "seed": seed}
            for layer in range(3):
                for kind in ("q_proj", "up_proj"):
                    values = sorted(RNG.random(4), reverse=True)
                    spectra.append(
                        {**named, "module": f"layers.{layer}.{kind}", "layer": layer, "kind": kind, "rank": 4,
                         "singular_values": values, "relative_norm": 0.1, "utilisation": 0.5, "intruders": 2,
                         "intruders_random": 1, "stable_rank": 2.0}
                    )  # fmt: skip
                hidden.append(
                    {**named, "suite": "s", "layer": layer, "cka": 0.9, "cosine_drift": 0.1, "procrustes": 0.2}
                )
                neurons.append({**named, "suite": "s", "layer": layer, "mean_change": 0.3, "firing_change": 0.1})
                for head in range(2):
                    attention.append(
                        {**named, "suite": "s", "layer": layer, "head": head, "divergence": 0.05, "entropy": 1.0,
                         "entropy_base": 1.2}
                    )  # fmt: skip
    subspaces = [{**front, "arm": ARMS[0], "other_arm": ARMS[1], "similarity": 0.25}]
    subspaces += [{**front, "arm": ARMS[0], "other_arm": ARMS[0], "similarity": 0.75}]
    overlaps = [
        {**front, "arm": ARMS[0], "other_arm": o, "overlap": v, "chance": 0.02}
        for o, v in zip(ARMS, (0.6, 0.3), strict=False)
    ]
    found = {"measure": "CKA to the base", "correlation": -0.5, "partial": -0.4, "partial_low": -0.8,
             "partial_high": 0.1, "p_corrected": 0.2, "runs": 12, "predicts": "no", "reason": None}  # fmt: skip
    if not diagnosed:
        found |= {"partial": None, "predicts": None, "reason": "5 runs: at least 8 are needed"}
    derived = [
        {**front, "arm": ARMS[-1], "seed": 0, "derivation": d, "rank": r, "mean_rank": m, "factor": f,
         "relation": rel, "change": c}
        for d, r, m, f in (("truncated", 2, 2.0, None), ("energy", None, 3.5, None), ("intruders", None, 8.0, 0.5),
                           ("control", None, 8.0, 0.5))
        for rel, c in (("in-domain", 0.3), ("general", -0.1))
    ]  # fmt: skip
    return {
        "spectra": pd.DataFrame(spectra), "hidden": pd.DataFrame(hidden), "attention": pd.DataFrame(attention),
        "neurons": pd.DataFrame(neurons), "subspaces": pd.DataFrame(subspaces),
        "neuron_overlaps": pd.DataFrame(overlaps),
        "diagnostics": pd.DataFrame([{**front, **found}]), "derived": pd.DataFrame(derived),
    }  # fmt: skip


def test_every_section_draws_and_every_chart_compiles() -> None:
    pairs = make_pairs(VerdictFile(verdicts=[VERDICT]), {}, {})
    sections = inside_sections(pairs, made_tables())
    assert [s.id for s in sections] == ["spectra", "drift", "attention", "overlap", "diagnostics", "derived"]
    counts = {s.id: len(s.figures) for s in sections}
    assert counts == {"spectra": 4, "drift": 1, "attention": 2, "overlap": 1, "diagnostics": 1, "derived": 3}
    for section in sections:
        for figure in section.figures:
            assert vl_convert.vegalite_to_svg(figure.spec).startswith("<svg")


def test_a_study_without_analyses_has_no_such_sections_and_a_partial_one_says_why() -> None:
    pairs = make_pairs(VerdictFile(verdicts=[VERDICT]), {}, {})
    assert inside_sections(pairs, {}) == []
    tables = made_tables(diagnosed=False)
    tables["attention"] = pd.DataFrame()
    sections = {s.id: s for s in inside_sections(pairs, tables)}
    assert sections["attention"].figures == []
    assert sections["attention"].missing == "No attention was looked at."
    assert sections["diagnostics"].missing == "Not tested: 5 runs: at least 8 are needed."


def test_the_page_holds_the_sections() -> None:
    report = make_report()
    report.tables.update(made_tables())
    page = render(report)
    assert 'id="chart-spectra-0"' in page
    assert "none predicts forgetting beyond rank and learning rate" in page


@pytest.mark.parametrize(("predicts", "words"), [("yes", "go with forgetting"), ("no", "No: of 1 measures none")])
def test_the_answer_is_said_as_it_comes_out(predicts: str, words: str) -> None:
    table = made_tables()["diagnostics"].assign(predicts=predicts)
    assert words in answer(table)


def test_frames_hold_the_means_of_the_tables() -> None:
    tables = made_tables()
    arms = make_pairs(VerdictFile(verdicts=[VERDICT]), {}, {})[0].arms
    modules = chart_frames_inside.module_frame(tables["spectra"], arms)
    assert set(modules["relative_norm"].round(6)) == {10.0}
    drift = chart_frames_inside.drift_frame(tables["hidden"], tables["neurons"], arms)
    assert set(drift[drift["measure"] == "1 - CKA to the base"]["value"].round(6)) == {0.1}
    both = chart_frames_inside.similarity_frame(tables["subspaces"], tables["neuron_overlaps"], arms)
    neurons = both[both["what"] == "most changed neurons (by chance 0.02)"]
    assert set(neurons["value"]) == {0.6, 0.3}
    assert neurons[neurons["arm"] == neurons["other_arm"]]["value"].tolist() == [0.6]
    both = both[both["what"] == "directions of the change"]
    cells = {(r.arm, r.other_arm): r.value for r in both.itertuples()}
    assert cells[ARMS[0], ARMS[1]] == cells[ARMS[1], ARMS[0]] == 0.25
    assert cells[ARMS[0], ARMS[0]] == 0.75
    curve = chart_frames_inside.derived_frame(tables["derived"], arms)
    cut = curve[(curve["series"] == "largest, truncated") & (curve["measure"] == "forgetting")]
    assert cut["value"].tolist() == pytest.approx([10.0])
    assert curve[curve["series"] == "largest, 90 % of energy"]["rank"].unique().tolist() == [3.5]
    bars = chart_frames_inside.intervention_frame(tables["derived"], pd.DataFrame(), arms)
    own = pd.DataFrame({"arm": [ARMS[-1]], "seed": [0], "gain": [50.0], "forgetting": [7.0]})
    exact = chart_frames_inside.intervention_frame(tables["derived"], own, arms)
    assert exact[exact["what"] == "as trained"]["value"].tolist() == [50.0, 7.0]
    assert {"intruders times 0.5", "as much off the whole change", "as trained (mean of seeds)"} == set(bars["what"])
