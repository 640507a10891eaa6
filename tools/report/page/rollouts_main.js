/* From the address to a view of a training run, and what the keys do. */

const VIEWS = [["overview", "Training"], ["groups", "Groups"], ["compare", "Compare"]];
let shown = null;

function show() {
  const route = readRoute();
  const { view, parameters } = route;
  const before = shown;
  shown = route;
  hideTooltip();
  markView(["group", "clip"].includes(view) ? "groups" : view);
  if (before?.view === view && view === "groups" && document.activeElement.id === "search") return refreshGroups(parameters);

  const scrolled = scrollY;
  const field = before?.view === view ? focusedField() : null;
  const [title, content] = {
    overview: () => ["Training", showOverview()],
    groups: () => ["Groups", showGroups(parameters)],
    group: () => [`Group ${parameters.at}`, showGroup(parameters)],
    clip: () => [parameters.id, showClip(parameters)],
    compare: () => ["Compare", showCompare(parameters)],
  }[view]();
  place(title, content, { field, scrolled, isFirst: !before, cameFrom: () => {
    const left = view === "groups" && before?.view === "group" ? DATA.groups[Number(before.parameters.at)] : null;
    return left && select(parameters).includes(left) ? rows.of(left) : null;
  } });
}

/** The next (1) or previous (-1) group or row. */
function step(direction) {
  const { view, parameters: { at, ...filters } } = readRoute();
  if (view === "group" && DATA.groups[Number(at)]) {
    const { previous, next } = neighbours(DATA.groups[Number(at)], filters);
    const wanted = direction > 0 ? next : previous;
    if (wanted !== null) go("group", { ...filters, at: wanted.place });
  } else if (view === "groups") {
    stepRows(direction);
  }
}

function search() {
  if (readRoute().view === "groups") return document.getElementById("search").focus();
  go("groups", {});
  addEventListener("hashchange", () => document.getElementById("search").focus(), { once: true });
}

function back() {
  const { view, parameters: { at, ...filters } } = readRoute();
  if (document.activeElement.matches("input, select")) return document.activeElement.blur();
  if (view === "group") return go("groups", filters);
  if (view !== "overview") go(view === "clip" ? "groups" : "overview", {});
}

const KEYS = {
  j: () => step(1), ArrowRight: () => step(1),
  k: () => step(-1), ArrowLeft: () => step(-1),
  "/": search, Escape: back, "?": () => keyHelp.showModal(),
};
