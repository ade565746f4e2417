// ---- items: each a conversation, with what was right, what the base said, and what the arm said ---------------------
const WAY = 0, MODEL = 1, TRAIN = 2, ARM = 3, SUITE = 4, QUESTION = 5, SAID = 6, FLIPPED = 7, SEEDS = 8;
const TURNS = 1, CHOICES = 2, ANSWER = 3, BASE = 4;
const PAGE = 4;
const LONG = 420;  // characters of a turn from which on its beginning is folded away: the question stands at its end
const data = JSON.parse($("items-data").textContent);
const list = $("items-list");
let found = [], page = 0;

function long(text, className) {
  const place = element("div", undefined, className);
  if (text.length <= LONG) { place.textContent = text; return place; }
  const end = text.slice(-(LONG - 120)), cut = end.indexOf(" ");
  const fold = element("details");
  fold.append(element("summary", "Show the beginning (" + (text.length - end.length + cut + 1).toLocaleString("en") + " characters)"));
  fold.append(element("div", text.slice(0, text.length - end.length + cut + 1)));
  place.append(fold, element("div", "… " + end.slice(cut + 1)));
  return place;
}
function differing(text, other) {
  // The words that the other answer has not, in its order: what remains of both beside their longest common part.
  const place = element("span");
  const [a, b] = [text.split(/(\s+)/), other.split(/(\s+)/)];
  if (a.length > 400 || b.length > 400) { place.textContent = text; return place; }
  const width = b.length + 1, common = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1) for (let j = b.length - 1; j >= 0; j -= 1) {
    common[i * width + j] = a[i] === b[j] ? common[(i + 1) * width + j + 1] + 1
      : Math.max(common[(i + 1) * width + j], common[i * width + j + 1]);
  }
  let i = 0, j = 0;
  while (i < a.length) {
    if (j < b.length && a[i] === b[j]) { place.append(a[i]); i += 1; j += 1; }
    else if (j < b.length && common[i * width + j + 1] >= common[(i + 1) * width + j]) j += 1;
    else { place.append(a[i].trim() ? element("mark", a[i]) : a[i]); i += 1; }
  }
  return place;
}
function reply(name, text, other, right) {
  const line = element("div", undefined, "reply " + (right ? "right" : "wrong"));
  line.append(element("b", (right ? "✓ " : "✗ ") + name));
  if (text.length > LONG) line.append(long(text, "words")); else {
    const words = element("div", undefined, "words");
    words.append(differing(text, other));
    line.append(words);
  }
  return line;
}
const pairOf = (row) => row[MODEL] + " · " + row[TRAIN];
function itemCard(row) {
  const question = data.questions[row[QUESTION]];
  const card = element("li", undefined, "item"), head = element("p", undefined, "head");
  const seeds = row[SEEDS] === null ? row[FLIPPED] + " seeds" : row[FLIPPED] + " of " + row[SEEDS] + " seeds";
  head.append(element("span", (row[WAY] === "forgotten" ? "▼ " : "▲ ") + row[WAY], "way " + row[WAY]));
  const pair = $("label-pair").hidden ? "" : " · " + pairOf(row);
  head.append(" " + row[SUITE] + " · " + row[ARM] + " · " + seeds + pair);
  card.append(head);
  for (const [who, text] of question[TURNS]) {
    const turn = element("div", undefined, "turn " + (who === "assistant" ? "assistant" : who === "system" ? "system" : "user"));
    turn.append(element("b", who), long(text, "words"));
    card.append(turn);
  }
  if (question[CHOICES].length) {
    const choices = element("ul", undefined, "choices");
    choices.append(...question[CHOICES].map((text) => element("li", text, text === question[ANSWER] ? "correct" : undefined)));
    card.append(choices);
  }
  const forgotten = row[WAY] === "forgotten";
  if (!question[CHOICES].includes(question[ANSWER])) {
    const right = element("div", undefined, "reply");
    right.append(element("b", "right answer"), long(question[ANSWER], "words"));
    card.append(right);
  }
  card.append(reply("base", question[BASE], row[SAID], forgotten), reply(row[ARM], row[SAID], question[BASE], !forgotten));
  return card;
}
function showItems() {
  const pages = Math.max(1, Math.ceil(found.length / PAGE));
  page = Math.min(Math.max(page, 0), pages - 1);
  list.replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map(itemCard));
  const count = (number) => number.toLocaleString("en");
  $("items-count").textContent = found.length === 0 ? "No item matches."
    : count(found.length) + " of " + count(data.rows.length) + " shown here match; page " + count(page + 1) + " of " + count(pages);
  $("items-before").disabled = page === 0;
  $("items-after").disabled = page === pages - 1;
}
const questionText = (question) => [...question[TURNS].map((turn) => turn[1]), ...question[CHOICES].map((text) => "– " + text)].join("\n");
function filterItems() {
  const wanted = { [WAY]: $("filter-way").value, [SUITE]: $("filter-suite").value, [ARM]: $("filter-arm").value };
  const pair = $("filter-pair").value;
  const words = $("filter-text").value.toLowerCase().split(/\s+/).filter(Boolean);
  found = data.rows.filter((row) => {
    if (Object.entries(wanted).some(([column, value]) => value && row[column] !== value)) return false;
    if (pair && pairOf(row) !== pair) return false;
    if (!words.length) return true;
    const question = data.questions[row[QUESTION]];
    const text = [questionText(question), question[0], question[ANSWER], question[BASE], row[SAID]].join(" ").toLowerCase();
    return words.every((word) => text.includes(word));
  });
  page = 0;
  showItems();
}
if (list) {
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
    saveCsv("items", [head, ...found.map((row) => {
      const question = data.questions[row[QUESTION]];
      return [row[WAY], row[MODEL], row[TRAIN], row[ARM], row[SUITE], question[0], questionText(question),
        question[ANSWER], question[BASE], row[SAID], row[FLIPPED], row[SEEDS] === null ? "" : row[SEEDS]];
    })]);
  });
  filterItems();
}

draw();
