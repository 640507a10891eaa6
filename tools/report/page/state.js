/* The data, and what the address says: the view, the run and the filters. The address is the only state. */

const DATA = JSON.parse(document.getElementById("data").textContent);
const UNKNOWN = "unknown";
const INVALID = "invalid";
const NO_TARGET = "none";

/** Parameters that say which clips are meant; `run` and `sort` say how they are shown. */
const FILTERS = ["target", "answer", "judged", "outcome", "coherence", "q"];

/** The view and the parameters in the address. */
function readRoute() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?", 2);
  const given = new URLSearchParams(query);
  const run = Number(given.get("run"));
  const parameters = { run: DATA.runs[run] ? run : 0, sort: given.get("sort") ?? "" };
  for (const name of FILTERS) parameters[name] = given.get(name) ?? "";
  return { view: ["clips", "clip"].includes(path) ? path : "overview", id: given.get("id"), parameters };
}

/** The address of a view; parameters that are empty, and the first run, are left out. */
function address(view, parameters, id = null) {
  const query = new URLSearchParams();
  if (id !== null) query.set("id", id);
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== "" && !(name === "run" && value === 0)) query.set(name, value);
  }
  return `#/${view}${query.size ? `?${query}` : ""}`;
}

function go(view, parameters, id = null) {
  location.hash = address(view, parameters, id);
}

/** Change the address without a new entry in the history. */
function replace(view, parameters) {
  location.replace(address(view, parameters));
}

const OUTCOMES = {
  right: (clip, run) => run.right === true,
  wrong: (clip, run) => run.right === false,
  unknown: (clip, run) => run.prediction === null,
  differ: (clip) => new Set(clip.runs.filter(Boolean).map((run) => run.prediction)).size > 1,
};

const COHERENCES = {
  incoherent: (run) => run.judged_is_answer === false || run.judged_is_target === false,
  answer: (run) => run.judged_is_answer === false,
  target: (run) => run.judged_is_target === false,
  coherent: (run) => run.judged_is_answer === true && run.judged_is_target !== false,
};

/* What to sort by, ascending; rewards lie in [0, 1], and clips without one come last. */
const SORTS = {
  lowest: (run) => run.explanation ?? 2,
  highest: (run) => (run.explanation === null ? 2 : -run.explanation),
};

const searched = new Map();

/** All that the search looks through, in lower case. */
function searchable(clip, index) {
  const key = `${index}/${clip.id}`;
  if (!searched.has(key)) {
    const run = clip.runs[index];
    const texts = [clip.id, clip.transcript, run.completion, run.failure, ...run.sentences.map((sentence) => sentence.text)];
    searched.set(key, texts.filter(Boolean).join("\n").toLowerCase());
  }
  return searched.get(key);
}

function passes(clip, filters) {
  const run = clip.runs[filters.run];
  return (
    Boolean(run) &&
    (!filters.target || (clip.targets.length ? clip.targets : [NO_TARGET]).includes(filters.target)) &&
    (!filters.answer || (run.prediction ?? UNKNOWN) === filters.answer) &&
    (!filters.judged || (run.judged ?? INVALID) === filters.judged) &&
    (OUTCOMES[filters.outcome]?.(clip, run) ?? true) &&
    (COHERENCES[filters.coherence]?.(run) ?? true) &&
    (!filters.q || searchable(clip, filters.run).includes(filters.q.toLowerCase()))
  );
}

/** The clips of a run that pass the filters, sorted. */
function select(filters) {
  const clips = DATA.clips.filter((clip) => passes(clip, filters));
  const key = SORTS[filters.sort];
  return key ? clips.sort((a, b) => key(a.runs[filters.run]) - key(b.runs[filters.run])) : clips;
}
