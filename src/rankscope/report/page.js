"use strict";
(function () {
  const $ = (id) => document.getElementById(id);
  const root = document.documentElement;
  const NUMBERS = 500;  // rows of a chart's table that are shown
  function element(tag, text, className) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;  // model output is text, never markup
    if (className) made.className = className;
    return made;
  }

  // ---- one margin of the table of other margins; without JavaScript the table has all ------------------------------
  const allow = $("allow");
  if (allow) {
    const table = $("table-margins"), range = $("allow-range"), shown = $("allow-shown");
    const column = Array.from(table.tHead.rows[0].cells).findIndex((cell) => cell.textContent.trim() === "points allowed");
    const lines = Array.from(table.tBodies[0].rows);
    const amounts = Array.from(new Set(lines.map((line) => line.cells[column].textContent.trim())));
    range.max = range.value = String(amounts.length);
    range.addEventListener("input", () => {
      const amount = amounts[Number(range.value)];
      shown.textContent = amount === undefined ? "all" : amount;
      for (const line of lines) line.hidden = amount !== undefined && line.cells[column].textContent.trim() !== amount;
    });
    allow.hidden = false;
  }

  // ---- theme: the system's, or what the reader chose --------------------------------------------------------------
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try { chosen = window.localStorage.getItem("rankscope-theme"); } catch (error) { chosen = null; }  // storage may be off
  const theme = () => chosen || (system.matches ? "dark" : "light");
  const toggle = $("theme");
  function showTheme() {
    if (chosen) root.dataset.theme = chosen; else delete root.dataset.theme;
    toggle.setAttribute("aria-pressed", String(theme() === "dark"));
  }
  toggle.addEventListener("click", () => {
    chosen = theme() === "dark" ? "light" : "dark";
    try { window.localStorage.setItem("rankscope-theme", chosen); } catch (error) { /* kept for this visit only */ }
    showTheme();
    draw();
  });
  system.addEventListener("change", () => { showTheme(); draw(); });
  showTheme();

  // ---- charts -----------------------------------------------------------------------------------------------------
  // Colours after Okabe and Ito, made darker on white and lighter on black, so that each stands out for everybody.
  const colours = {
    light: { ink: "#1b1f24", soft: "#59626d", line: "#e3e6ea", gray: "#6d7681",
      category: ["#0072b2", "#d55e00", "#00845f", "#b0457f", "#8a6d00", "#3a9bd1", "#5b4ba8", "#4d4d4d"],
      diverging: ["#e38b3d", "#f4c999", "#f6f6f6", "#a9cdea", "#4f97cf"],
      sequential: ["#f1f4f7", "#a9cdea", "#4f97cf"] },
    dark: { ink: "#e8eaed", soft: "#a5adb7", line: "#2c3138", gray: "#98a1ab",
      category: ["#56b4e9", "#f28e3c", "#3fcf9f", "#e892c0", "#e5cf52", "#9fb8ff", "#b9a6f5", "#c9c9c9"],
      diverging: ["#b3611a", "#6d4526", "#262b32", "#27506f", "#2f7db5"],
      sequential: ["#262b32", "#27506f", "#2f7db5"] },
  };
  function config(name) {
    const c = colours[name];
    const font = getComputedStyle(document.body).fontFamily;
    const gray = { color: c.gray };
    return {
      background: "transparent", font: font,
      view: { stroke: null },
      axis: { labelColor: c.soft, titleColor: c.soft, gridColor: c.line, domainColor: c.gray, tickColor: c.gray,
        labelFontSize: 11, titleFontSize: 12, titleFontWeight: "normal", titlePadding: 8 },
      legend: { labelColor: c.ink, titleColor: c.soft, labelFontSize: 12, titleFontSize: 11, titleFontWeight: "normal", symbolSize: 80 },
      title: { color: c.ink, subtitleColor: c.soft, fontSize: 14, subtitleFontSize: 12, fontWeight: 600, anchor: "start", offset: 14 },
      header: { labelColor: c.ink, titleColor: c.soft, labelFontSize: 12 },
      text: { color: c.ink }, bar: { color: c.category[0] }, line: { color: c.category[0] },
      point: { color: c.category[0] }, rule: gray, tick: gray,
      range: { category: c.category, diverging: c.diverging, heatmap: c.diverging, ramp: c.sequential },
    };
  }
  const specs = JSON.parse($("charts-data").textContent);
  // Between two charts the page answers: it can be read and used before the last one is drawn.
  const pause = () => new Promise((go) => setTimeout(go, 0));
  let drawing = 0;
  async function draw() {
    const turn = ++drawing;
    const name = theme();
    root.dataset.charts = name;
    delete root.dataset.ready;
    for (const [id, spec] of Object.entries(specs)) {
      const place = $(id);
      if (!place || turn !== drawing) continue;
      const copy = JSON.parse(JSON.stringify(spec));
      try {
        await window.rankscopeEmbed(place, copy, {
          mode: "vega-lite", renderer: "svg", ast: true, config: config(name),
          tooltip: { theme: name }, downloadFileName: id,
          actions: { export: true, source: false, compiled: false, editor: false },
        });
        place.querySelector("summary").setAttribute("aria-label", "Save this chart as a picture");
        place.dataset.drawn = name;
        await pause();
      } catch (error) {
        const message = document.createElement("p");
        message.className = "failed";
        message.textContent = "This chart could not be drawn: " + error.message;
        place.replaceChildren(message);
      }
    }
    if (turn === drawing) root.dataset.ready = name;
  }

  // ---- CSV --------------------------------------------------------------------------------------------------------
  function csvCell(value) {
    let text = String(value);
    if (/^[=+@\t\r-]/.test(text) && Number.isNaN(Number(text))) text = "'" + text;  // not a formula to a spreadsheet
    return /[",\n\r]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
  }
  function saveCsv(name, rows) {
    const text = rows.map((row) => row.map(csvCell).join(",")).join("\r\n") + "\r\n";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(["\ufeff", text], { type: "text/csv" }));
    link.download = name + ".csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
  for (const button of document.querySelectorAll("[data-csv]")) {
    button.addEventListener("click", () => {
      const table = $(button.dataset.csv);
      const rows = [...table.rows].map((row) => [...row.cells].map((cell) => cell.textContent.trim().replaceAll("−", "-")));
      saveCsv(button.dataset.csv, rows);
    });
  }

  // ---- the numbers of a chart: for whoever cannot see it, or wants to calculate with it ------------------------------
  function rowsOf(spec) {
    // A chart's layers may hold parts of the same rows: the widest kind of row is what it was drawn from.
    const kinds = new Map();
    for (const rows of Object.values(spec.datasets)) for (const row of rows) {
      const kind = Object.keys(row).sort().join();
      if (!kinds.has(kind)) kinds.set(kind, new Map());
      kinds.get(kind).set(JSON.stringify(row), row);
    }
    const width = (kind) => kind.split(",").length;
    const widest = [...kinds.keys()].sort((a, b) => width(b) - width(a))[0];
    return widest === undefined ? [] : [...kinds.get(widest).values()];
  }
  for (const details of document.querySelectorAll("details.numbers")) {
    const rows = () => {
      const found = rowsOf(specs[details.dataset.chart]);
      const columns = Object.keys(found[0] || {});
      return [columns, ...found.map((row) => columns.map((column) => row[column] === null ? "" : row[column]))];
    };
    details.querySelector("button").addEventListener("click", () => saveCsv(details.dataset.chart, rows()));
    details.addEventListener("toggle", () => {
      const place = details.querySelector("table");
      if (!details.open || place.rows.length) return;
      const [head, ...lines] = rows();
      place.createTHead().append(element("tr"));
      for (const name of head) {
        const cell = element("th", name.replaceAll("_", " "));
        cell.scope = "col";
        place.tHead.rows[0].append(cell);
      }
      const shown = lines.slice(0, NUMBERS);
      place.createTBody().append(...shown.map((line) => {
        const made = element("tr");
        made.append(...line.map((value) => element("td", String(value), typeof value === "number" ? "number" : undefined)));
        return made;
      }));
      if (shown.length < lines.length) details.append(element("p", "The first " + NUMBERS + " of " + lines.length + " rows; the CSV has them all.", "reads"));
    });
  }

  // ---- sortable tables --------------------------------------------------------------------------------------------
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, index) => head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const numeric = head.classList.contains("number");
      const key = (row) => row.cells[index].dataset.sort;
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") return (x === "") - (y === "");  // what is missing stays last
        const order = numeric ? Number(x) - Number(y) : x.localeCompare(y, undefined, { numeric: true });
        return down ? -order : order;
      });
      table.tBodies[0].append(...rows);
    }));
  }

  // ---- items ------------------------------------------------------------------------------------------------------
  const WAY = 0, MODEL = 1, TRAIN = 2, ARM = 3, SUITE = 4, QUESTION = 5, SAID = 6, FLIPPED = 7, SEEDS = 8;
  const PAGE = 25;
  const data = JSON.parse($("items-data").textContent);
  const body = $("items-table") && $("items-table").tBodies[0];
  let found = [], page = 0;

  function folded(text, className) {
    const cell = element("td", undefined, className);
    if (text.length <= 180) { cell.textContent = text; return cell; }
    const details = element("details");
    details.append(element("summary", text.slice(0, 150).trimEnd() + " …"), element("div", text));
    cell.append(details);
    return cell;
  }
  const pairOf = (row) => row[MODEL] + " · " + row[TRAIN];
  function itemRow(row) {
    const [, prompt, answer, base] = data.questions[row[QUESTION]];
    const line = element("tr");
    const way = element("td");
    way.append(element("span", (row[WAY] === "forgotten" ? "▼ " : "▲ ") + row[WAY], "way " + row[WAY]));
    const where = element("td", row[SUITE]);
    where.append(element("span", row[ARM], "under"));
    if (!$("label-pair").hidden) where.append(element("span", pairOf(row), "under"));
    const seeds = element("td", row[SEEDS] === null ? String(row[FLIPPED]) : row[FLIPPED] + " of " + row[SEEDS], "number");
    line.append(way, where, seeds, folded(prompt, "said question"), folded(answer, "said"), folded(base, "said"), folded(row[SAID], "said"));
    return line;
  }
  function showItems() {
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    const rows = found.slice(page * PAGE, (page + 1) * PAGE);
    body.replaceChildren(...rows.map(itemRow));
    const count = (number) => number.toLocaleString("en");
    $("items-count").textContent = found.length === 0 ? "No item matches."
      : count(found.length) + " of " + count(data.rows.length) + " shown here match.";
    $("items-page").textContent = "page " + (page + 1) + " of " + pages;
    $("items-before").disabled = page === 0;
    $("items-after").disabled = page === pages - 1;
  }
  function filterItems() {
    const wanted = { [WAY]: $("filter-way").value, [SUITE]: $("filter-suite").value, [ARM]: $("filter-arm").value };
    const pair = $("filter-pair").value;
    const words = $("filter-text").value.toLowerCase().split(/\s+/).filter(Boolean);
    found = data.rows.filter((row) => {
      if (Object.entries(wanted).some(([column, value]) => value && row[column] !== value)) return false;
      if (pair && pairOf(row) !== pair) return false;
      if (!words.length) return true;
      const text = (data.questions[row[QUESTION]].join(" ") + " " + row[SAID]).toLowerCase();
      return words.every((word) => text.includes(word));
    });
    page = 0;
    showItems();
  }
  if (body) {
    const fill = (id, values) => [...new Set(values)].sort((a, b) => a.localeCompare(b, undefined, { numeric: true }))
      .forEach((value) => { const option = element("option", value); option.value = value; $(id).append(option); });
    fill("filter-suite", data.rows.map((row) => row[SUITE]));
    fill("filter-arm", data.rows.map((row) => row[ARM]));
    fill("filter-pair", data.rows.map(pairOf));
    $("label-pair").hidden = $("filter-pair").options.length < 3;
    for (const id of ["filter-way", "filter-suite", "filter-arm", "filter-pair"]) $(id).addEventListener("change", filterItems);
    $("filter-text").addEventListener("input", filterItems);
    $("filters").addEventListener("submit", (event) => event.preventDefault());
    $("items-before").addEventListener("click", () => { page -= 1; showItems(); });
    $("items-after").addEventListener("click", () => { page += 1; showItems(); });
    $("items-csv").addEventListener("click", () => {
      const head = ["change", "model", "trained_on", "arm", "suite", "item_id", "question", "answer", "base_said", "arm_said", "seeds_flipped", "seeds"];
      saveCsv("items", [head, ...found.map((row) => [row[WAY], row[MODEL], row[TRAIN], row[ARM], row[SUITE],
        ...data.questions[row[QUESTION]], row[SAID], row[FLIPPED], row[SEEDS] === null ? "" : row[SEEDS]])]);
    });
    filterItems();
  }

  // ---- the command ------------------------------------------------------------------------------------------------
  $("copy").addEventListener("click", async () => {
    const code = document.querySelector(".command code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      $("copy").textContent = "Copied";
    } catch (error) {  // no clipboard here: select it, so that one key copies it
      window.getSelection().selectAllChildren(code);
      $("copy").textContent = "Selected: press Ctrl+C";
    }
  });

  draw();
})();
