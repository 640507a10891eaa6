/* From the address to a view; keys; light and dark. */

const main = document.getElementById("main");
const keyHelp = document.getElementById("keys");
let shown = null;

function show() {
  const route = readRoute();
  const { view, id, parameters } = route;
  const before = shown;
  shown = route;
  hideTooltip();
  for (const link of document.querySelectorAll("nav [data-view]")) {
    const isHere = link.dataset.view === (view === "clip" ? "clips" : view);
    isHere ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current");
  }
  const isTyping = before?.view === "clips" && view === "clips" && document.activeElement.id === "search";
  if (isTyping) return refreshClips(main, parameters);

  const scrolled = scrollY;
  const field = before?.view === view ? focusedField() : null;
  const [title, content] = {
    overview: () => ["Overview", showOverview(parameters)],
    clips: () => ["Clips", showClips(parameters)],
    clip: () => [id, showClip(id, parameters)],
  }[view]();
  main.replaceChildren(content);
  document.title = `${title} · ${DATA.title}`;
  if (field) {
    fieldNamed(field)?.focus();
    return scrollTo(0, scrolled);
  }
  scrollTo(0, 0);
  const row = view === "clips" && before?.view === "clip" && rows.of(before.id);
  if (row) {
    row.focus();
    row.scrollIntoView({ block: "center" });
  } else if (before) {
    main.querySelector("h1").focus({ preventScroll: true });
  }
}

/** Name of the field that has the focus: a view made anew gives it back. */
function focusedField() {
  return document.activeElement.closest?.("label.field")?.firstChild.textContent ?? null;
}

function fieldNamed(name) {
  const label = [...main.querySelectorAll("label.field")].find((label) => label.firstChild.textContent === name);
  return label?.querySelector("select, input");
}

/** The next (1) or previous (-1) clip or row. */
function step(direction) {
  const { view, id, parameters } = readRoute();
  if (view === "clip") {
    const { previous, next } = neighbours(id, parameters);
    const wanted = direction > 0 ? next : previous;
    if (wanted !== null) go("clip", parameters, wanted);
  } else if (view === "clips") {
    const list = main.querySelector(".clips");
    const row = document.activeElement.closest?.(".clips li");
    if (direction > 0 && row?.nextElementSibling?.matches(".more")) rows.add();
    const wanted = row ? (direction > 0 ? row.nextElementSibling : row.previousElementSibling) : list.firstElementChild;
    wanted?.querySelector("a")?.focus();
  }
}

function search() {
  const { view, parameters } = readRoute();
  if (view === "clips") return document.getElementById("search").focus();
  go("clips", parameters);
  addEventListener("hashchange", () => document.getElementById("search").focus(), { once: true });
}

function back() {
  const { view, parameters } = readRoute();
  if (!tooltip.hidden) return hideTooltip();
  if (document.activeElement.matches("input, select")) return document.activeElement.blur();
  if (view === "clip") go("clips", parameters);
  if (view === "clips") go("overview", { run: parameters.run });
}

const KEYS = {
  j: () => step(1), ArrowRight: () => step(1),
  k: () => step(-1), ArrowLeft: () => step(-1),
  "/": search, Escape: back, "?": () => keyHelp.showModal(),
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || keyHelp.open || !Object.hasOwn(KEYS, event.key)) return;
  const takesKeys = event.target.matches("input, select, textarea, video, audio, .scroll");
  if (takesKeys && event.key !== "Escape" && !(event.key === "/" && event.target.matches("select, video, .scroll"))) return;
  event.preventDefault();
  KEYS[event.key]();
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  const button = document.getElementById("theme");
  button.textContent = theme === "dark" ? "Light" : "Dark";
  button.setAttribute("aria-label", `Switch to ${theme === "dark" ? "light" : "dark"} colours`);
}

function toggleTheme() {
  setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
}

const darkPreferred = matchMedia("(prefers-color-scheme: dark)");
setTheme(darkPreferred.matches ? "dark" : "light");
darkPreferred.addEventListener("change", () => setTheme(darkPreferred.matches ? "dark" : "light"));
document.getElementById("theme").addEventListener("click", toggleTheme);
document.getElementById("help").addEventListener("click", () => keyHelp.showModal());
document.addEventListener("keydown", onKey);
document.addEventListener("scroll", hideTooltip, { passive: true });
for (const [name, colour] of Object.entries(DATA.colours.relations)) {
  document.documentElement.style.setProperty(`--${name}`, colour);
}
addEventListener("hashchange", show);
show();
