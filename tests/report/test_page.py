"""The page: whole, self-contained, safe against what models write, honest about what is missing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pandas as pd
import pytest
import vl_convert
from made_inside import VERDICT, inside_tables
from made_report import HOSTILE, arm_labels, make_items, make_report, make_search, make_tables, make_verdict

from rankscope.records import BestBet, Interval, SuiteNoise, VerdictFile
from rankscope.report.chart_drawing import Section
from rankscope.report.first_screen import next_steps
from rankscope.report.flipped_items import MAX_ROWS, sample_flips
from rankscope.report.page import make_sections, render
from rankscope.report.rank_charts import make_pairs

SECTIONS = (
    "answer", "arms", "rank", "matrix", "suites", "items", "rates", "cost", "warnings", "repeat", "researcher",
    "statistics", "kinds", "learning", "provenance",
)  # fmt: skip
LOADING = {"src", "href", "srcset", "data", "action", "poster", "background"}


class Parsed(HTMLParser):
    """What a browser would see: tags with attributes, the text outside scripts, and the scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[tuple[str, str]] = []
        self._script: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._script = dict(attrs).get("id") or tag

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is None:
            self.text.append(data)
        else:
            self.scripts.append((self._script, data))

    def json(self, name: str) -> Any:
        return json.loads("".join(text for script, text in self.scripts if script == name))

    def ids(self) -> set[str]:
        return {value for _, attributes in self.tags if (value := attributes.get("id"))}


@pytest.fixture(scope="module")
def page() -> str:
    return render(make_report())


@pytest.fixture(scope="module")
def parsed(page: str) -> Parsed:
    return Parsed(page)


def test_every_section_and_its_contents_entry_is_there(parsed: Parsed) -> None:
    links = {attributes["href"] for tag, attributes in parsed.tags if tag == "a"}
    assert set(SECTIONS) <= parsed.ids()
    assert {f"#{name}" for name in SECTIONS} <= links


def test_nothing_is_loaded_from_anywhere(page: str, parsed: Parsed) -> None:
    for tag, attributes in parsed.tags:
        for name in LOADING & set(attributes):
            assert (attributes[name] or "").startswith("#"), (tag, name, attributes[name])
        assert tag not in ("link", "iframe", "object", "embed", "img", "base")
    style = "".join(text for name, text in parsed.scripts if name == "style")
    assert "url(" not in style
    assert "@import" not in style
    policy = next(a["content"] for t, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "unsafe-eval" not in policy
    assert len(page.encode()) < 4_000_000


def test_the_answer_is_said_in_words(parsed: Parsed) -> None:
    text = " ".join(" ".join(parsed.text).split())
    assert "Recommended: lora-r16" in text
    assert "it gains +30.3 points (+28.2 to +32.4) and forgets 1.4 points (0.5 to 2.3)" in text
    assert "95 % confidence" in text
    assert "loss above 20 nats at step 41" in text
    assert "rankscope run medical-demo/study.yaml --out medical-demo" in text
    assert "12 rows of medical are near items of medqa" in text


def test_findings_noise_and_rates_are_told() -> None:
    """What the study found beyond the verdict: in words at the top, and the rates that a search tried in a table."""
    noise = SuiteNoise(suite="law", item_count=350, changed_items=7)
    verdict = make_verdict(findings=["Of 900 items, 12 are forgotten by every arm."], noise=[noise])
    tried = {"model": "bundled", "train_set": "medical", "arm": "full", "learning_rate": 3e-4, "steps": 90,
             "validation_loss": 0.71, "chosen": True, "at_end_of_grid": False, "gain": 0.25, "forgetting": None,
             "probe_items": 40}  # fmt: skip
    lost = {**tried, "learning_rate": 3e-3, "validation_loss": None, "chosen": False, "gain": None}
    tables = make_tables([verdict]) | {"rates": pd.DataFrame([tried, lost])}
    text = " ".join(" ".join(Parsed(render(make_report([verdict], tables=tables))).text).split())
    assert "12 are forgotten by every arm." in text
    assert "Numerics alone change 7 of the base's 350 items" in text
    assert "3e-4 90 0.710 +25.0 not measured 40 chosen" in text
    assert "3e-3 90 diverged not measured not measured 40" in text


def test_units_are_those_of_the_study() -> None:
    report = make_report()
    assert "forgetting (points)" in render(report)
    verdict = report.verdicts.verdicts[0]
    lost = Interval(mean=0.01, low=-0.01, high=0.03)
    arms = [arm.model_copy(update={"forgetting_nats": lost}) for arm in verdict.arms]
    verdicts = report.verdicts.model_copy(update={"verdicts": [verdict.model_copy(update={"arms": arms})]})
    assert "forgetting (points or nats)" in render(replace(report, verdicts=verdicts))


def test_model_output_is_data_and_never_markup() -> None:
    verdict = make_verdict(rule=HOSTILE, reasons=[HOSTILE])
    report = make_report([verdict], warnings=[HOSTILE], provenance={"machine": HOSTILE}, command=HOSTILE)
    page = render(report)
    parsed = Parsed(page)
    assert sum(tag == "script" for tag, _ in parsed.tags) == 4
    assert not any(tag == "img" or "onerror" in attributes for tag, attributes in parsed.tags)
    assert "\u2028" not in "".join(text for name, text in parsed.scripts if name.endswith("-data"))
    asked = parsed.json("items-data")
    assert any(HOSTILE in text for question in asked["questions"] for _, text in question[1])
    assert any(row[6] == HOSTILE for row in asked["rows"])
    assert HOSTILE in "".join(parsed.text)


def test_every_chart_has_a_place_and_data(parsed: Parsed) -> None:
    charts = parsed.json("charts-data")
    places = {a["id"] for _, a in parsed.tags if "chart" in (a.get("class") or "").split()}
    assert set(charts) == places
    sections = {name.split("-")[1] for name in charts}
    assert sections == {"rank", "tradeoff", "matrix", "kinds", "learning", "rates", "cost"}
    assert all(spec["datasets"] for spec in charts.values())


def test_a_large_study_stays_under_the_limit_and_says_that_it_sampled() -> None:
    labels = arm_labels((1, 2, 4, 8, 16, 32, 64, 128), 11)
    verdicts = [make_verdict(labels=labels)]
    few = make_items(verdicts, each=4)
    items = pd.concat(
        [
            few.assign(item_id=few["item_id"] + f"-{copy}", prompt=few["prompt"] + f" {copy} " + "lorem ipsum " * 40)
            for copy in range(12)
        ]
    )
    tables = make_tables(verdicts, seeds=5, steps=400) | {"flips": items}
    searches = [make_search(label) for label, _ in labels]
    page = render(make_report(verdicts, tables=tables, items=sample_flips(items), searches=searches))
    assert len(page.encode()) < 4_000_000
    text = " ".join(" ".join(Parsed(page).text).split())
    found = re.search(r"A seeded sample of ([\d,]+) of ([\d,]+) flips", text)
    assert found is not None
    assert int(found[1].replace(",", "")) <= MAX_ROWS < int(found[2].replace(",", "")) == len(items)


def test_what_is_missing_says_why() -> None:
    nothing: dict[str, Any] = {"tables": {}, "items": pd.DataFrame(), "searches": [], "provenance": {}, "warnings": []}
    parsed = Parsed(render(make_report([], **nothing)))
    text = " ".join(" ".join(parsed.text).split())
    empty = {"rank", "matrix", "suites", "items", "rates", "cost", "kinds", "learning"}
    assert set(SECTIONS) - empty <= parsed.ids()
    assert not empty & parsed.ids(), "an empty section takes no room"
    assert not {f"#{name}" for name in empty} & {attributes.get("href") for _, attributes in parsed.tags}
    assert parsed.json("charts-data") == {}
    for reason in (
        "There is no verdict", "Gain and forgetting by rank: no arm with a rank has results",
        "Learning curves: no training steps were recorded", "Learning rates: no learning rate was searched",
        "Items: no item flipped", "No provenance was recorded",
    ):  # fmt: skip
        assert reason in text


def test_an_arm_without_forgetting_or_interval_is_drawn_where_it_can_be() -> None:
    verdict = make_verdict(kind="cannot_distinguish")
    unknown = Interval(mean=None, low=None, high=None)
    arms = [
        arm.model_copy(update={"forgetting": unknown, "gain": arm.gain.model_copy(update={"low": None, "high": None})})
        for arm in verdict.arms
    ]
    parsed = Parsed(render(make_report([verdict.model_copy(update={"arms": arms})])))
    charts = parsed.json("charts-data")
    text = " ".join(" ".join(parsed.text).split())
    assert [name for name in charts if name.startswith("chart-rank")] == ["chart-rank-0"]
    assert not any(name.startswith("chart-tradeoff") for name in charts)
    assert "that needs an in-domain suite" in text
    assert "no interval" in text


def test_two_training_sets_are_told_apart() -> None:
    verdicts = [make_verdict("medical"), make_verdict("legal", "tradeoff")]
    parsed = Parsed(render(make_report(verdicts)))
    text = " ".join(" ".join(parsed.text).split())
    assert "The answers" in text
    assert "bundled trained on legal" in text
    assert "the choice is yours" in text
    charts = parsed.json("charts-data")
    subtitles = {spec["title"]["subtitle"] for name, spec in charts.items() if name.startswith("chart-tradeoff")}
    assert {"answer-0", "answer-1"} <= parsed.ids()
    assert subtitles == {"bundled trained on medical", "bundled trained on legal"}


def test_a_page_without_items_holds_no_row_of_a_data_set() -> None:
    report = make_report()
    assert "north ward" in render(report)
    page = render(replace(report, items=None))
    assert "north ward" not in page
    assert "made without rows of data sets" in page
    assert Parsed(page).json("items-data") == {"questions": [], "rows": []}


def test_the_first_screen_has_three_numbers_and_the_next_step(parsed: Parsed) -> None:
    text = " ".join(" ".join(parsed.text).split())
    first = text[: text.index("What was tried")]
    assert "Gain of lora-r16 +30.3 points +28.2 to +32.4 on medqa and pubmedqa" in first
    assert "Forgetting of lora-r16 1.4 points 0.5 to 2.3 worst: 2.2 points" in first
    assert "Cost of a run of lora-r16 21 s 434 MB of memory" in first
    assert "rankscope export medical-demo --out lora-r16" in first


def test_of_an_arm_trained_elsewhere_the_first_screen_says_what_cannot_be_checked() -> None:
    verdict = make_verdict()
    chosen = next(arm for arm in verdict.arms if arm.label == "lora-r16")
    given = chosen.model_copy(update={"cost": chosen.cost.model_copy(update={"trained_here": False})})
    arms = [given if arm is chosen else arm for arm in verdict.arms]
    text = " ".join(" ".join(Parsed(render(make_report([verdict.model_copy(update={"arms": arms})]))).text).split())
    first = text[: text.index("What was tried")]
    assert "fair cannot be checked" in first
    assert "Take lora-r16 from where the study found it, at dial 1." in first
    assert "rankscope export" not in first


def test_of_a_full_model_that_was_not_kept_the_first_screen_says_how_to_have_it() -> None:
    verdict = make_verdict()
    assert verdict.recommended is not None
    full = verdict.model_copy(update={"recommended": verdict.recommended.model_copy(update={"label": "full"})})
    assert not [one for one in next_steps(full, "STUDY", "none") if "export" in one.command]
    (kept_none,) = next_steps(full, "STUDY", "none")
    assert kept_none.command == "rankscope run STUDY --out STUDY-kept --set keep.full=best"
    (kept_best,) = next_steps(full, "STUDY", "best")
    assert kept_best.command == "rankscope export STUDY --out full"


def test_where_nothing_is_decided_what_would_decide_comes_first() -> None:
    verdict = make_verdict(kind="cannot_distinguish")
    arm = next(one for one in verdict.arms if one.label == "lora-r16")
    bet = BestBet.model_construct(label=arm.label, least_bad=None, setting=object(), probability=0.5)
    more, taken = next_steps(verdict.model_copy(update={"best_bet": bet}), "STUDY", "none")
    assert more.text.startswith("2 more seeds would probably decide it")
    assert taken.text == "Or take lora-r16, the best bet, as it is:"
    assert taken.command == "rankscope export STUDY --out lora-r16 --arm lora-r16"


def test_the_first_picture_stands_in_the_page_for_who_has_no_script(page: str) -> None:
    still = page[page.index('<div class="still"') :]
    assert "<svg" in still[: still.index("</noscript>")]
    assert "full" in still[still.index("<svg") : still.index("</svg>")]


def test_general_is_only_ever_a_name_that_the_user_gave(page: str, parsed: Parsed) -> None:
    assert "general" not in " ".join(parsed.text)
    assert "no domain" in " ".join(parsed.text)


def test_the_same_report_gives_the_same_page(page: str) -> None:
    assert render(make_report()) == page


# ---- what changed inside --------------------------------------------------------------------------------------------


def sections_of(tables: dict[str, pd.DataFrame]) -> list[Section]:
    """The researcher's sections after the learning curves, which every page has."""
    verdicts = VerdictFile(verdicts=[VERDICT])
    found = make_sections(make_pairs(verdicts, {}, {}), verdicts, tables, []).researcher
    return found[[section.id for section in found].index("learning") + 1 :]


def test_every_section_draws_and_every_chart_compiles() -> None:
    sections = sections_of(inside_tables())
    assert [s.id for s in sections] == ["spectra", "drift", "attention", "overlap", "diagnostics", "derived"]
    counts = {s.id: len(s.figures) for s in sections}
    assert counts == {"spectra": 4, "drift": 1, "attention": 2, "overlap": 1, "diagnostics": 1, "derived": 3}
    for section in sections:
        for figure in section.figures:
            assert vl_convert.vegalite_to_svg(figure.spec).startswith("<svg")


def test_a_study_without_analyses_has_no_such_sections_and_a_partial_one_says_why() -> None:
    assert sections_of({}) == []
    tables = inside_tables(diagnosed=False)
    tables["attention"] = pd.DataFrame()
    sections = {s.id: s for s in sections_of(tables)}
    assert sections["attention"].figures == []
    assert sections["attention"].missing == "No attention was looked at."
    assert sections["diagnostics"].missing == "Not tested: 5 runs: at least 8 are needed."


def test_the_page_holds_the_sections() -> None:
    report = make_report()
    report.tables.update(inside_tables())
    page = render(report)
    assert 'id="chart-spectra-0"' in page
    assert "none predicts forgetting beyond rank and learning rate" in page
