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
    const rows = [...table.rows].map((row) => [...row.cells].map((cell) => cell.textContent.trim().replaceAll("−", "-").replaceAll("\u00a0", " ")));
    saveCsv(button.dataset.csv, rows);
  });
}

// ---- the numbers of a chart: for whoever cannot see it, or wants to calculate with it ------------------------------
const NUMBERS = 500;  // rows of a chart's table that are shown
// Columns that only place marks and writing.
const PLACING = new Set(["order", "rank_position", "curve", "panel", "shown", "label_at"]);
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
    const names = Object.keys(found[0] || {});
    // `where` is `relation` as people are told it.
    const columns = names.filter((column) => !PLACING.has(column) && !(column === "relation" && names.includes("where")));
    return [columns, ...found.map((row) => columns.map((column) => row[column] === null ? "" : row[column]))];
  };
  details.querySelector("button").addEventListener("click", () => saveCsv(details.dataset.chart, rows()));
  details.addEventListener("toggle", () => {
    const place = details.querySelector("table");
    if (!details.open || place.rows.length) return;
    const [head, ...body] = rows();
    place.createTHead().append(element("tr"));
    for (const name of head) {
      const cell = element("th", name.replaceAll("_", " "));
      cell.scope = "col";
      place.tHead.rows[0].append(cell);
    }
    const shown = body.slice(0, NUMBERS);
    place.createTBody().append(...shown.map((line) => {
      const made = element("tr");
      made.append(...line.map((value, place) => {
        const cell = element("td", String(value), typeof value === "number" ? "number" : undefined);
        cell.dataset.name = head[place].replaceAll("_", " ");
        return cell;
      }));
      return made;
    }));
    if (shown.length < body.length) details.append(element("p", "The first " + NUMBERS + " of " + body.length + " rows; the CSV has them all.", "reads"));
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
