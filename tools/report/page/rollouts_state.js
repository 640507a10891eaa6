/* The data of a training run, and what the address says: the view and its parameters. The address is the only state. */

const DATA = JSON.parse(document.getElementById("data").textContent);
const UNKNOWN = "unknown";

/** The first and the last step of the run. */
const [FIRST, LAST] = [DATA.steps[0].step, DATA.steps.at(-1).step];

/** Parameters that say which groups are meant; `order` says in which order they are shown. */
const FILTERS = ["from", "to", "target", "outcome", "q"];

DATA.groups.forEach((group, place) => {
  group.place = place;
  group.highest = Math.max(...group.completions.map((own) => own.total));
  group.lowest = Math.min(...group.completions.map((own) => own.total));
});

/** The view and the parameters in the address. */
function readRoute() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?", 2);
  const view = ["groups", "group", "clip", "compare"].includes(path) ? path : "overview";
  return { view, parameters: Object.fromEntries(new URLSearchParams(query)) };
}

/** The address of a view; parameters that are empty are left out. */
function address(view, parameters = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== "" && value !== undefined));
  return `#/${view}${query.size ? `?${query}` : ""}`;
}

function go(view, parameters) {
  location.hash = address(view, parameters);
}

/** Change the address without a new entry in the history. */
function change(view, changes) {
  location.replace(address(view, { ...readRoute().parameters, ...changes }));
}

const OUTCOMES = {
  right: (group) => group.right === 1,
  some: (group) => group.right > 0 && group.right < 1,
  wrong: (group) => group.right === 0,
};

/* What to sort by, ascending. */
const ORDERS = {
  highest: (group) => -group.reward,
  lowest: (group) => group.reward,
  divided: (group) => -group.spread,
  best: (group) => -group.highest,
  worst: (group) => group.lowest,
};

const searched = new Map();

/** All that the search looks through, in lower case. */
function searchable(group) {
  if (!searched.has(group)) {
    const texts = [group.id, ...group.completions.map((own) => own.completion)];
    searched.set(group, texts.join("\n").toLowerCase());
  }
  return searched.get(group);
}

/** The groups that pass the filters, sorted. */
function select({ from, to, target, outcome, q, order }) {
  const groups = DATA.groups.filter((group) => (
    group.step >= Number(from || FIRST) && group.step <= Number(to || LAST) &&
    (!target || DATA.clips[group.id].targets.includes(target)) &&
    (OUTCOMES[outcome]?.(group) ?? true) &&
    (!q || searchable(group).includes(q.toLowerCase()))
  ));
  const key = ORDERS[order];
  return key ? groups.sort((a, b) => key(a) - key(b)) : groups;
}
