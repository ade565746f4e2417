// What all parts share, the theme, and the contents that follow the reader.
const $ = (id) => document.getElementById(id);
const root = document.documentElement;
function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;  // model output is text, never markup
  if (className) made.className = className;
  return made;
}

// ---- theme: the system's, or what the reader chose ----------------------------------------------------------------
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

// ---- contents -------------------------------------------------------------------------------------------------------
const contents = $("contents"), contentsButton = $("contents-button");
const links = new Map(Array.from(contents.querySelectorAll("a"), (link) => [link.hash.slice(1), link]));
function showContents(open) {
  contents.classList.toggle("open", open);
  contentsButton.setAttribute("aria-expanded", String(open));
}
contentsButton.addEventListener("click", () => showContents(!contents.classList.contains("open")));
function openAround(node) {
  for (let at = node; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
}
contents.addEventListener("click", (event) => {
  const link = event.target.closest("a");
  if (!link) return;
  openAround($(link.hash.slice(1)));
  showContents(false);
});
if (location.hash.length > 1) openAround($(location.hash.slice(1)));

function follow() {
  // The last section that begins above a third of the window is the one that is read.
  const line = window.innerHeight / 3;
  const tops = new Map();
  for (const id of links.keys()) {
    const box = $(id).getBoundingClientRect();
    if (box.height) tops.set(id, box.top);
  }
  const read = [...tops].filter(([, top]) => top <= line).sort((a, b) => a[1] - b[1]);
  let current = read.length ? read[read.length - 1][0] : null;
  if (window.innerHeight + window.scrollY >= root.scrollHeight - 2) {
    current = [...tops.keys()].pop();
  }
  for (const [id, link] of links) {
    const beside = tops.has(id) && Math.abs(tops.get(id) - tops.get(current)) < 1;  // two that stand side by side
    if (beside) link.setAttribute("aria-current", "location"); else link.removeAttribute("aria-current");
  }
  const link = links.get(current);
  if (link && (link.offsetTop < contents.scrollTop || link.offsetTop > contents.scrollTop + contents.clientHeight - 40)) {
    contents.scrollTop = Math.max(0, link.offsetTop - contents.clientHeight / 2);
  }
}
let following = 0;
window.addEventListener("scroll", () => {
  if (!following) following = requestAnimationFrame(() => { following = 0; follow(); });
}, { passive: true });
follow();
