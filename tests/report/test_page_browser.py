"""The page in a real browser: draws, filters, sorts, both themes legible, and nothing leaves the file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from made_inside import inside_tables
from made_report import in_nats, make_large_report, make_report, make_verdict
from test_front_charts import POINTS, at_margins

from rankscope.report.page import render

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
CONTRAST = """(selectors) => {
  const channel = (v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const light = (rgb) => 0.2126 * channel(rgb[0]) + 0.7152 * channel(rgb[1]) + 0.0722 * channel(rgb[2]);
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parse(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const worst = {};
  for (const selector of selectors) for (const node of document.querySelectorAll(selector)) {
    const style = getComputedStyle(node);
    const ink = node instanceof SVGElement ? style.fill : style.color;
    if (ink === "none" || !node.textContent.trim()) continue;
    const host = node instanceof SVGElement ? node.closest("div") : node;
    const [a, b] = [light(parse(ink)), light(behind(host))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    worst[selector] = Math.min(worst[selector] ?? 99, ratio);
  }
  return worst;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright's Python package is not installed")
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(make_report([make_verdict("medical"), make_verdict("legal", "tradeoff")])), encoding="utf-8")
    return path


class Visit:
    """A page with all that it said and asked for."""

    def __init__(self, browser: Any, file: Path, **settings: Any) -> None:
        size = settings.pop("viewport", {"width": 1280, "height": 900})
        self.page = browser.new_context(viewport=size, **settings).new_page()
        self.said: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())
        self.wait()

    def wait(self) -> None:
        self.page.wait_for_selector("html[data-ready]", state="attached")  # the policy forbids to wait for a script


@pytest.fixture(scope="module")
def visit(browser: Any, file: Path) -> Visit:
    return Visit(browser, file, color_scheme="light", accept_downloads=True)


def test_it_draws_every_chart_without_a_word_on_the_console_or_a_request(visit: Visit, file: Path) -> None:
    charts = visit.page.locator(".chart")
    assert charts.count() >= 14
    for index in range(charts.count()):
        chart = charts.nth(index)
        assert chart.locator("svg").count() >= 1, chart.get_attribute("id")
        assert chart.locator("svg path[d]").count() >= 3, chart.get_attribute("id")
    assert visit.page.locator(".chart .failed").count() == 0
    assert visit.said == []
    assert visit.requests == [file.as_uri()]


def test_the_charts_of_what_changed_inside_draw_too(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "inside.html"
    report = make_report()
    path.write_text(render(replace(report, tables=report.tables | inside_tables())), encoding="utf-8")
    page = Visit(browser, path).page
    page.click("#researcher > summary")
    inside = page.locator("#spectra .chart, #drift .chart, #attention .chart, #overlap .chart, #derived .chart")
    assert inside.count() >= 11
    for index in range(inside.count()):
        assert inside.nth(index).locator("svg path[d]").count() >= 3, inside.nth(index).get_attribute("id")
    assert page.locator(".chart .failed").count() == 0


def test_model_output_is_text(visit: Visit) -> None:
    visit.page.fill("#filter-text", "window.hacked")
    assert "<img src=x" in visit.page.inner_text("#items-list")
    assert visit.page.locator("#items-list img, #items-list script").count() == 0
    assert visit.page.evaluate("window.hacked") is None
    visit.page.fill("#filter-text", "")


def test_items_filter_search_and_turn_pages(visit: Visit) -> None:
    page = visit.page
    everything = int(page.inner_text("#items-count").split()[0].replace(",", ""))
    page.select_option("#filter-way", "forgotten")
    page.select_option("#filter-arm", "full")
    page.select_option("#filter-suite", "gsm8k")
    page.select_option("#filter-pair", "bundled · legal")
    few = int(page.inner_text("#items-count").split()[0])
    assert page.inner_text("#items-count").startswith(f"{few} of {everything:,} shown here match; page 1 of ")
    assert 0 < few < everything
    rows = page.locator("#items-list > li")
    assert rows.count() == min(few, 4)
    for index in range(rows.count()):
        text = rows.nth(index).inner_text()
        assert "forgotten" in text
        assert "gsm8k" in text
        assert "full" in text
    page.fill("#filter-text", "no such words anywhere")
    assert page.inner_text("#items-count") == "No item matches."
    page.fill("#filter-text", "")
    for name in ("way", "arm", "suite", "pair"):
        page.select_option(f"#filter-{name}", "")
    first = rows.nth(0).inner_text()
    page.click("#items-after")
    assert "page 2 of" in page.inner_text("#items-count")
    assert rows.nth(0).inner_text() != first or rows.nth(1).inner_text() != first
    assert page.is_enabled("#items-before")


def test_tables_sort_by_value_and_from_the_keyboard_and_download(visit: Visit) -> None:
    page = visit.page
    heading = page.locator("#table-arms th", has_text="gain")
    column = heading.evaluate("(cell) => cell.cellIndex")
    heading.locator("button").focus()

    def values() -> list[str]:
        cells = page.locator(f"#table-arms tbody td:nth-child({column + 1})")
        return [cells.nth(index).get_attribute("data-sort") or "" for index in range(cells.count())]

    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    known = [float(value) for value in values() if value]
    assert known == sorted(known)
    assert values()[-1] == ""
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    assert [float(value) for value in values() if value] == sorted(known, reverse=True)
    assert values()[-1] == ""
    with page.expect_download() as waiting:
        page.click('[data-csv="table-arms"]')
    text = Path(waiting.value.path()).read_text(encoding="utf-8-sig")
    assert text.splitlines()[0].startswith("trained on,arm,")
    assert "lora-r16" in text


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_themes_are_legible(browser: Any, file: Path, theme: str) -> None:
    visit = Visit(browser, file, color_scheme=theme)
    texts = [".sentence", ".verdict h2", ".reads", ".shows", "td", "th button", ".status", ".way", ".contents a", "dt"]
    texts.append(".reply b")
    worst = visit.page.evaluate(CONTRAST, [*texts, "svg text"])
    assert set(texts) | {"svg text"} == set(worst)
    assert min(worst.values()) >= 4.5, worst  # WCAG 2.1, AA
    assert visit.said == []


def test_the_toggle_redraws_in_the_other_theme_and_tells_so(browser: Any, file: Path) -> None:
    visit = Visit(browser, file, color_scheme="light")
    before = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    visit.page.click("#theme")
    visit.page.wait_for_selector("html[data-ready=dark]", state="attached")
    assert visit.page.get_attribute("#theme", "aria-pressed") == "true"
    assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    assert visit.page.get_attribute(".chart >> nth=0", "data-drawn") == "dark"


WIDE = """() => [...document.querySelectorAll(".chart")].map((chart) =>
  [chart.id, Number(chart.querySelector("svg").getAttribute("width")) - Number(chart.dataset.room)])
  .filter(([, excess]) => excess > 0.06 * 390)"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_axe_finds_nothing_and_charts_are_no_wider_than_their_place(
    browser: Any, file: Path, width: int, theme: str
) -> None:
    """WCAG and best practices by axe-core, what is folded too; a chart that was laid out is not shrunk by more than a
    fifteenth, and never cut."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    visit = Visit(browser, file, color_scheme=theme, viewport={"width": width, "height": 844})
    visit.page.evaluate("document.querySelectorAll('.part, .how').forEach((part) => { part.open = true; })")
    found = axe.Axe().run(visit.page, options={"resultTypes": ["violations"]})
    assert [(one["id"], one["nodes"][0]["html"]) for one in found.response["violations"]] == []
    visit.page.locator("#arms ~ section .numbers").first.evaluate("(part) => { part.open = true; }")
    visit.page.wait_for_selector("#arms ~ section .numbers td")
    region = visit.page.locator("#arms ~ section .numbers .scroll").first
    assert width > 560 or region.evaluate("(box) => box.scrollWidth - box.clientWidth") <= 1, "numbers are not cut off"
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    assert visit.page.evaluate(WIDE) == []


@pytest.mark.parametrize(("unit", "width", "theme"), [("points", 390, "dark"), ("nats", 1400, "light")])
def test_axe_finds_nothing_where_the_margin_slides(
    browser: Any, tmp_path: Path, unit: str, width: int, theme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    report = make_report([at_margins()])
    report.tables["operating_points"] = POINTS
    path = tmp_path / "slider.html"
    path.write_text(render(report if unit == "points" else in_nats(report)), encoding="utf-8")
    visit = Visit(browser, path, color_scheme=theme, viewport={"width": width, "height": 844})
    assert visit.page.locator("input[type=range]").count() == 1
    visit.page.evaluate("document.querySelectorAll('.part, .how').forEach((part) => { part.open = true; })")
    found = axe.Axe().run(visit.page, options={"resultTypes": ["violations"]})
    assert [(one["id"], one["nodes"][0]["html"]) for one in found.response["violations"]] == []
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(("width", "height"), [(1400, 900), (390, 844)])
def test_the_first_screen_answers_without_scrolling(browser: Any, tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "one.html"
    path.write_text(render(make_report()), encoding="utf-8")
    page = Visit(browser, path, viewport={"width": width, "height": height}).page
    parts = [".said", ".three", ".next", ".picture"] if width > 1000 else [".said"]
    boxes = [page.locator(part).bounding_box() for part in parts]
    assert all(box["y"] + box["height"] <= height for box in boxes)
    assert page.locator(".picture .chart").bounding_box()["y"] <= height - 300, "the answer and most of the picture"


def test_print_is_light_unfolded_and_drawn_for_a_reader_of_the_dark(browser: Any, file: Path) -> None:
    page = Visit(browser, file, color_scheme="dark").page
    assert page.pdf().startswith(b"%PDF")
    page.wait_for_selector("html[data-ready=dark]", state="attached")  # and afterwards all is as it was
    assert page.get_attribute("#researcher", "open") is None
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.evaluate("null")  # what was drawn waited for nothing but itself
    assert page.get_attribute("html", "data-ready") == "light"
    assert page.get_attribute("#researcher", "open") is not None
    assert page.locator(".chart[data-drawn=light]").count() == page.locator(".chart").count()


def test_print_hides_the_tools(browser: Any, file: Path) -> None:
    visit = Visit(browser, file, color_scheme="dark")
    visit.page.emulate_media(media="print")
    assert not visit.page.is_visible("#theme")
    assert not visit.page.is_visible("#filters")
    assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


# ---- charts: tooltips, files, numbers -------------------------------------------------------------------------------


def test_the_margin_turns_in_the_picture_and_in_words(browser: Any, tmp_path: Path) -> None:
    report = make_report([at_margins()])
    report.tables["operating_points"] = POINTS
    path = tmp_path / "margins.html"
    path.write_text(render(report), encoding="utf-8")
    page = Visit(browser, path).page
    rule = page.locator("#chart-fronts-0 g.mark-rule.role-mark line").first
    before = rule.evaluate("(line) => line.getBoundingClientRect().top")
    page.focus(".slide input")
    page.keyboard.press("Home")
    assert page.inner_text(".slide output") == "1 point"
    said = "If 1 point may be forgotten, most gain: lora-r4 +12.3 points (dial 0.5)."
    assert page.locator(".worth:visible").inner_text().replace("\u00a0", " ") == said
    page.wait_for_timeout(300)
    assert rule.evaluate("(line) => line.getBoundingClientRect().top") > before
    held = "The answer and its numbers are for the study's margin of 3 points; the picture shows 1 point."
    assert page.inner_text(".held") == held


def test_the_contents_follow_the_reader_and_open_what_is_folded(visit: Visit) -> None:
    page = visit.page
    page.evaluate("document.getElementById('cost').scrollIntoView()")
    page.wait_for_selector(".contents a[href='#cost'][aria-current]")
    page.click(".contents a[href='#learning']")
    page.wait_for_selector(".contents a[href='#learning'][aria-current]")
    assert page.get_attribute("#researcher", "open") is not None
    page.evaluate("document.getElementById('researcher').open = false; window.scrollTo(0, 0)")
    page.wait_for_selector(".contents a[href='#answer'][aria-current]")


def test_a_point_tells_its_numbers(visit: Visit) -> None:
    visit.page.locator("#chart-rank-1 path[aria-roledescription='point']").first.hover(force=True)
    tooltip = visit.page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    assert "forgetting" in tooltip.inner_text()


@pytest.mark.parametrize(("link", "beginning"), [("Save as SVG", b"<svg"), ("Save as PNG", b"\x89PNG")])
def test_a_chart_is_saved_as_a_picture_from_the_keyboard(visit: Visit, link: str, beginning: bytes) -> None:
    page = visit.page
    page.focus("#chart-rank-0 summary")
    page.keyboard.press("Enter")
    with page.expect_download() as waiting:
        page.locator("#chart-rank-0 a", has_text=link).click()
    data = Path(waiting.value.path()).read_bytes()
    assert waiting.value.suggested_filename.startswith("chart-rank-0.")
    assert data.startswith(beginning)
    assert len(data) > 5_000
    page.focus("#chart-rank-0 summary")
    page.keyboard.press("Enter")  # closes the menu
    assert visit.said == []


def test_a_chart_s_numbers_stand_below_it_and_download(visit: Visit) -> None:
    page = visit.page
    numbers = page.locator("details[data-chart=chart-tradeoff-0]")
    numbers.locator("summary").focus()
    page.keyboard.press("Enter")
    numbers.locator("tbody tr").nth(4).wait_for()  # filled when it opens
    assert "forgetting high" in numbers.locator("thead").inner_text()
    with page.expect_download() as waiting:
        numbers.locator("button").click()
    lines = Path(waiting.value.path()).read_text(encoding="utf-8-sig").splitlines()
    assert len(lines) == 1 + numbers.locator("tbody tr").count()
    assert any("lora-r16" in line for line in lines)


def test_everything_that_can_be_pressed_is_reached_by_tab_and_has_a_name(visit: Visit) -> None:
    nameless = visit.page.evaluate("""() => [...document.querySelectorAll("button,input,select,summary,a,[tabindex]")]
      .filter((node) => node.tabIndex >= 0 && node.getClientRects().length)
      .filter((node) => !(node.getAttribute("aria-label") || node.textContent.trim() || node.title
        || (node.labels && node.labels.length)))
      .map((node) => node.outerHTML.slice(0, 120))""")
    assert nameless == []
    levels = visit.page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((node) => Number(node.tagName[1]))")
    assert levels[0] == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))


def test_a_large_study_opens_fast(browser: Any, tmp_path: Path) -> None:
    """20 arms, 5 seeds, 10,000 items. Seconds are of the page's own thread, which other work does not stretch."""
    path = tmp_path / "large.html"
    path.write_text(render(make_large_report()), encoding="utf-8")
    assert path.stat().st_size < 4_000_000
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def seconds() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return float(next(metric["value"] for metric in metrics if metric["name"] == "ThreadTime"))

    page.goto(path.as_uri())
    opened = seconds()
    assert page.locator("#chart-rank-0[data-drawn]").count() == 1
    assert "seeded sample of" in page.inner_text("#items")
    page.fill("#filter-text", "ward")
    assert page.locator("#items-list > li").count() == 4
    page.wait_for_selector("html[data-ready]", state="attached")
    print(f"opened after {opened:.2f} s, all charts drawn after {seconds():.2f} s")
    assert opened < 2.0
    assert page.locator(".chart .failed").count() == 0
