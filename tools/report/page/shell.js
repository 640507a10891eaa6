/* The frame of a page: its views, keys, light and dark. The page has `VIEWS`, `KEYS` and `show`. */

/** Name of the field that has the focus: a view made anew gives it back. */
function focusedField() {
  return document.activeElement.closest?.("label.field")?.firstChild.textContent ?? null;
}

function fieldNamed(name) {
  const label = [...main.querySelectorAll("label.field")].find((label) => label.firstChild.textContent === name);
  return label?.querySelector("select, input");
}

/** Mark the view that is shown, in the list of views. */
function markView(view) {
  for (const link of document.querySelectorAll("nav [data-view]")) {
    link.dataset.view === view ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current");
  }
}

/**
 * Show a view. The focus goes to the field that had it, in the place scrolled to; else to the row that one comes from, if
 * it is still there; else to the heading, but not on the first view.
 */
function place(title, content, { field, scrolled, isFirst, cameFrom }) {
  main.replaceChildren(content);
  document.title = `${title} · ${DATA.title}`;
  if (field) {
    fieldNamed(field)?.focus();
    return scrollTo(0, scrolled);
  }
  scrollTo(0, 0);
  const row = cameFrom();
  if (row) {
    row.focus();
    row.scrollIntoView({ block: "center" });
  } else if (!isFirst) {
    main.querySelector("h1").focus({ preventScroll: true });
  }
}

/** Put the focus on the next (1) or previous (-1) row of the list, or on the first. */
function stepRows(direction) {
  const list = main.querySelector(".clips");
  const row = document.activeElement.closest?.(".clips li");
  if (direction > 0 && row?.nextElementSibling?.matches(".more")) rows.add();
  const wanted = row ? (direction > 0 ? row.nextElementSibling : row.previousElementSibling) : list.firstElementChild;
  wanted?.querySelector("a")?.focus();
}

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
document.getElementById("views").append(...VIEWS.map(([view, name]) => make("a", { href: `#/${view}`, "data-view": view }, name)));
addEventListener("hashchange", show);
show();
