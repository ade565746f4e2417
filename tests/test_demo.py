"""The demo as a user runs it: every file of the contract, a verdict, an adapter that loads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # beside another test a slow machine needs over ten minutes

PAPER_CLAIMS = Path(__file__).resolve().parents[1] / "scripts" / "paper_claims.py"


def call(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rankscope", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("demo") / "demo"
    result = call("demo", "--out", out)
    assert result.returncode == 0, result.stderr
    return out, result.stdout


def test_the_demo_prints_every_arm_and_a_verdict(demo: tuple[Path, str]) -> None:
    out, printed = demo
    plan = json.loads((out / "plan.json").read_text())
    labels = {run["arm"]["label"] for run in plan["runs"]}
    assert len(labels) >= 5
    assert len({run["seed"] for run in plan["runs"]}) >= 3
    assert all(label in printed for label in labels)
    verdict = json.loads((out / "verdict.json").read_text())["verdicts"][0]
    assert verdict["kind"] in {"recommended", "tradeoff", "no_gain", "cannot_distinguish"}
    assert call("verdict", out).returncode == (0 if verdict["decided"] else 3)


def test_the_demo_scores_a_thousand_items_for_every_arm(demo: tuple[Path, str]) -> None:
    out, _ = demo
    scores = pd.read_parquet(out / "tables" / "scores.parquet")
    assert (scores.groupby(["arm", "seed"], dropna=False)["n"].sum() >= 1000).all()


def test_the_demo_writes_every_file_of_the_contract(demo: tuple[Path, str]) -> None:
    out, _ = demo
    for name in ("study.yaml", "plan.json", "verdict.json", "report.html", "base/predictions.parquet"):
        assert (out / name).is_file(), name
    inside = ("spectra", "hidden", "attention", "neurons", "subspaces", "diagnostics", "derived")
    for table in ("scores", "forgetting", "flips", "cost", *inside):
        assert len(pd.read_parquet(out / "tables" / f"{table}.parquet")), table
    page = (out / "report.html").read_text(encoding="utf-8")
    assert len(page) < 4_000_000
    for section in ("spectra", "drift", "attention", "overlap", "diagnostics", "derived"):
        assert f'id="{section}"' in page, section


def test_what_the_demo_teaches_is_learned_and_the_base_knew_nothing_of_it(demo: tuple[Path, str]) -> None:
    out, _ = demo
    scores = pd.read_parquet(out / "tables" / "scores.parquet")
    taught = scores[scores["relation"] == "in-domain"].groupby("arm")["accuracy"].mean()
    assert taught["base"] < 0.35, "chance is a quarter"
    assert taught.drop("base").max() > 0.6


def test_the_paper_s_claims_are_held_against_the_demo_in_the_report_s_own_numbers(demo: tuple[Path, str]) -> None:
    out, _ = demo
    result = subprocess.run(
        [sys.executable, str(PAPER_CLAIMS), str(out)], capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    chosen, trained, inside, layers = result.stdout.split("### ")[1:]
    points = pd.read_parquet(out / "tables" / "operating_points.parquet")
    for rows, text in ((points[points["chosen"]], chosen), (points[points["dial"] == 1], trained)):
        judged = rows.dropna(subset=["gain"])
        assert set(judged["arm"]) == {"full", "lora-r1", "lora-r4", "lora-r16", "lora-r64"}
        for row in judged.to_dict("records"):
            gain = f"{100 * row['gain']:+.1f} ({100 * row['gain_low']:.1f} to {100 * row['gain_high']:.1f})"
            assert f"| {row['arm']} | {gain} |" in text
        assert "| lora-r64 minus full |" in text
        assert "| lora-r64 minus lora-r16 |" in text
    assert "| lora-r64 minus lora-r1 |" in inside
    for text in (inside, layers):
        assert text.count("| lora-r") >= 4
        assert "not measured" not in text


def test_the_demo_is_compared_with_itself_and_its_page_may_be_without_items(demo: tuple[Path, str]) -> None:
    out, _ = demo
    found = json.loads(call("compare", out, out, "--json").stdout)
    (pair,) = found["pairs"]
    assert found["settings"] == []
    assert len(pair["arms"]) >= 5
    assert all(arm["paired"] and arm["gain"]["low"] < arm["gain"]["mean"] == 0 for arm in pair["arms"])
    assert "Question:" in (out / "report.html").read_text(encoding="utf-8")
    assert call("report", out, "--without-items").returncode == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Question:" not in page
    answers = set(pd.read_parquet(out / "base" / "predictions.parquet")["answer"].str.strip())
    assert not [answer for answer in answers if len(answer) > 8 and answer in page]


def test_an_arm_of_the_demo_is_exported_with_its_card(demo: tuple[Path, str], tmp_path: Path) -> None:
    out, _ = demo
    label = next(
        run["arm"]["label"] for run in json.loads((out / "plan.json").read_text())["runs"] if run["arm"]["rank"]
    )
    result = call("export", out, "--arm", label, "--out", tmp_path / "adapter")
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "trade-off.png",
    }  # fmt: skip
