/* From the address to a view, and what the keys do. */

const VIEWS = [["overview", "Overview"], ["clips", "Clips"]];
let shown = null;

function show() {
  const route = readRoute();
  const { view, id, parameters } = route;
  const before = shown;
  shown = route;
  hideTooltip();
  markView(view === "clip" ? "clips" : view);
  const isTyping = before?.view === "clips" && view === "clips" && document.activeElement.id === "search";
  if (isTyping) return refreshClips(main, parameters);

  const scrolled = scrollY;
  const field = before?.view === view ? focusedField() : null;
  const [title, content] = {
    overview: () => ["Overview", showOverview(parameters)],
    clips: () => ["Clips", showClips(parameters)],
    clip: () => [id, showClip(id, parameters)],
  }[view]();
  const cameFrom = () => view === "clips" && before?.view === "clip" && rows.of(DATA.clips.find((clip) => clip.id === before.id));
  place(title, content, { field, scrolled, isFirst: !before, cameFrom });
}

/** The next (1) or previous (-1) clip or row. */
function step(direction) {
  const { view, id, parameters } = readRoute();
  if (view === "clip") {
    const { previous, next } = neighbours(id, parameters);
    const wanted = direction > 0 ? next : previous;
    if (wanted !== null) go("clip", parameters, wanted);
  } else if (view === "clips") {
    stepRows(direction);
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
