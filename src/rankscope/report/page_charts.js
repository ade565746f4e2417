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
const NARROW = 560;  // a place that is no wider lays its chart out as on a phone
const TWO = 1000;  // from here on two charts stand side by side in the part that is folded
const AIR = 110;  // what axes and names beside a plot may take of a place, in pixels
function config(name, narrow) {
  const c = colours[name];
  const font = getComputedStyle(document.body).fontFamily;
  const gray = { color: c.gray };
  return {
    background: "transparent", font: font,
    view: { stroke: null },
    axis: { labelColor: c.soft, titleColor: c.soft, gridColor: c.line, domainColor: c.gray, tickColor: c.gray,
      labelFontSize: 11, titleFontSize: 12, titleFontWeight: "normal", titlePadding: 8 },
    legend: { labelColor: c.ink, titleColor: c.soft, labelFontSize: 12, titleFontSize: 11, titleFontWeight: "normal", symbolSize: 80,
      ...(narrow ? { orient: "bottom", gradientDirection: "horizontal" } : {}) },
    title: { color: c.ink, subtitleColor: c.soft, fontSize: narrow ? 13 : 14, subtitleFontSize: 12, fontWeight: 600, anchor: "start", offset: 12 },
    header: { labelColor: c.ink, titleColor: c.soft, labelFontSize: 12 },
    text: { color: c.ink }, bar: { color: c.category[0] }, line: { color: c.category[0] },
    point: { color: c.category[0] }, rule: gray, tick: gray,
    range: { category: c.category, diverging: c.diverging, heatmap: c.diverging, ramp: c.sequential },
  };
}

// ---- a chart as wide as its place: never wider, and its writing never smaller ----------------------------------------
function lines(text, most) {
  const found = [""];
  for (const word of text.split(" ")) {
    const last = found[found.length - 1];
    if (last && last.length + word.length + 1 > most) found.push(word); else found[found.length - 1] = last ? last + " " + word : word;
  }
  return found.length > 1 ? found : text;
}
function eachPart(value, visit) {
  if (!value || typeof value !== "object") return;
  for (const [key, part] of Object.entries(value)) {
    if (key === "datasets" || key === "data") continue;
    visit(value, key, part);
    eachPart(part, visit);
  }
}
// Vega fits one plot of fixed height into a width by itself; what is composed of parts, or as high as its rows, it does not.
const fits = (spec) => typeof spec.width === "number" && typeof spec.height === "number"
  && !["facet", "concat", "hconcat", "vconcat"].some((key) => key in spec);
function fitted(spec, room) {
  const copy = structuredClone(spec);
  const narrow = room <= NARROW;
  const most = Math.floor((room - 40) / 6.6);
  if (narrow) {
    if (copy.hconcat) { copy.vconcat = copy.hconcat; delete copy.hconcat; }
    eachPart(copy, (owner, key, part) => {
      const heading = owner === copy.title || owner === copy;  // bolder and larger than an axis, and a button beside it
      const letters = heading ? Math.floor((room - 50) / 7.6) : most;
      if ((key === "title" || (key === "text" && heading)) && typeof part === "string") owner[key] = lines(part, letters);
      if (key === "labels" && part === false) owner[key] = true;  // what stood beside now stands below
      if (key === "legend" && part && part.columns) part.columns = Math.min(part.columns, room < 450 ? 3 : 5);
    });
  }
  if (fits(copy)) {
    copy.width = Math.min(room, copy.width + AIR);
    copy.autosize = { type: "fit-x", contains: "padding" };
  }
  return copy;
}
function narrower(spec, room, drawn) {
  // What is composed has a width for each part: fewer columns first, then smaller parts.
  const copy = structuredClone(spec);
  if (copy.columns > 1) { copy.columns = Math.max(1, Math.min(copy.columns - 1, Math.floor(copy.columns * room / drawn))); return copy; }
  const share = Math.max(0.2, (room - AIR) / Math.max(drawn - AIR, 1));
  eachPart(copy, (owner, key, part) => {
    if (key !== "width") return;
    if (typeof part === "number") owner.width = Math.max(40, part - Math.ceil((drawn - room) / (copy.columns || 1)) - 1);
    else if (part && part.step) owner.width = { step: Math.max(14, Math.floor(part.step * share)) };
  });
  eachPart(copy, (owner, key, part) => {
    if (key === "x" && part.axis && part.axis.labelAngle === 0) part.axis.labelAngle = -40;
  });
  return copy;
}
function roomOf(place) {
  const part = place.closest("details.part");
  if (place.clientWidth && (!part || part.open)) return place.clientWidth;
  const main = $("main").clientWidth;  // folded away: as wide as it would be
  return main > TWO ? Math.floor((main - 32) / 2) : main;
}

// ---- drawing --------------------------------------------------------------------------------------------------------
const specs = JSON.parse($("charts-data").textContent);
const views = new Map();
// Between two charts the page answers: it can be read and used before the last one is drawn.
const pause = () => new Promise((go) => setTimeout(go, 0));
let drawing = 0;
async function drawOne(place, id, name) {
  const room = roomOf(place);
  let spec = fitted(specs[id], room);
  for (let round = 0; round < 4; round += 1) {
    const options = {
      mode: "vega-lite", renderer: "svg", ast: true, config: config(name, room <= NARROW),
      tooltip: { theme: name }, downloadFileName: id,
      actions: { export: true, source: false, compiled: false, editor: false },
    };
    const made = await window.rankscopeEmbed(place, structuredClone(spec), options);
    views.set(id, made.view);
    const svg = place.querySelector("svg");
    const drawn = Number(svg.getAttribute("width"));
    if (drawn <= room + 1 || fits(spec)) break;
    spec = narrower(spec, room, drawn);
  }
  place.querySelector("summary").setAttribute("aria-label", "Save this chart as a picture: " + id);
  place.querySelector("svg").setAttribute("aria-label", place.getAttribute("aria-label"));
  nameMarks(place);
  place.dataset.drawn = name;
  place.dataset.room = room;
  showMargin(id);
}
function nameMarks(place) {
  // Vega gives marks a role without a name where they hold nothing, or are parts of a picture that is named as a whole.
  for (const mark of place.querySelectorAll('[role="graphics-symbol"]:not([aria-label]), [role="graphics-object"]:not([aria-label])')) {
    mark.removeAttribute("role");
    mark.removeAttribute("aria-roledescription");
  }
}
async function draw(name = theme(), waits = true) {
  const turn = ++drawing;
  root.dataset.charts = name;
  delete root.dataset.ready;
  for (const id of Object.keys(specs)) {
    const place = $(id);
    if (!place || turn !== drawing) continue;
    try {
      await drawOne(place, id, name);
      if (waits) await pause();
    } catch (error) {
      place.replaceChildren(element("p", "This chart could not be drawn: " + error.message, "failed"));
    }
  }
  if (turn === drawing) root.dataset.ready = name;
}
let resizing = 0;
window.addEventListener("resize", () => {
  clearTimeout(resizing);
  resizing = setTimeout(() => {
    const moved = Object.keys(specs).some((id) => $(id) && Math.abs(Number($(id).dataset.room) - roomOf($(id))) > 8);
    if (moved && !printing) draw();
  }, 200);
});

// ---- the margin that a reader turns ----------------------------------------------------------------------------------
const turned = new Map();
for (const box of document.querySelectorAll(".allow")) {
  const range = box.querySelector("input"), shown = box.querySelector("output");
  const worth = Array.from(box.querySelectorAll(".worth"));
  const show = () => {
    const now = worth[Number(range.value)];
    shown.textContent = now.dataset.label;
    range.setAttribute("aria-valuetext", now.dataset.label);
    for (const line of worth) line.hidden = line !== now;
    const held = box.closest(".verdict").querySelector(".held");
    held.textContent = now.hasAttribute("data-own") ? "" : "The answer and its numbers are for the study's margin of "
      + held.dataset.margin + "; the picture shows " + now.dataset.label + ".";
    turned.set(box.dataset.chart, Number(now.dataset.amount));
    showMargin(box.dataset.chart);
  };
  range.addEventListener("input", show);
  box.querySelector(".slide").hidden = false;
  show();
}
function showMargin(id) {
  const view = views.get(id);
  if (view && turned.has(id)) view.signal("margin", turned.get(id)).runAsync().then(() => nameMarks($(id)));
}

// ---- print: everything drawn, light, and unfolded ---------------------------------------------------------------------
// Drawing waits for nothing but itself, so it ends before the printer is given the page.
let printing = false, unfolded = [];
window.addEventListener("beforeprint", () => {
  printing = true;
  unfolded = Array.from(document.querySelectorAll("details.part, details.how, details.why")).filter((part) => !part.open);
  for (const part of unfolded) part.open = true;
  if (root.dataset.ready !== "light") draw("light", false);
});
window.addEventListener("afterprint", () => {
  for (const part of unfolded) part.open = false;
  printing = false;
  if (root.dataset.charts !== theme()) draw();
});
