/* The views of a training run: overview, groups, a group, a clip over training, and a comparison of steps. */

const MISSING = "names no class";

function showOverview() {
  return make("div", { class: "view" },
    make("h1", { tabindex: -1 }, `${plural(DATA.steps.length, "step")}, ${plural(DATA.num_groups, "group")}, ${plural(DATA.num_completions, "completion")}`,
      written("small", ` ${DATA.run}`), make("small", {}, `, taxonomy ${DATA.taxonomy.name}`)),
    DATA.notes.length > 0 && make("div", { class: "notes", role: "note" }, DATA.notes.map((note) => written("p", note, { class: "note" }))),
    make("section", { "aria-labelledby": "curves" }, make("h2", { id: "curves" }, "By step"),
      make("div", { class: "matrices" }, DATA.figures.map((name, index) => make("figure", {},
        make("figcaption", {}, name, make("small", {}, ` ${meaning(name)}`)), curve(name, series(index))))),
      make("p", { class: "hint" }, "Means over the groups of a step",
        DATA.steps.length > MOST_POINTS && `; over ${plural(Math.ceil(DATA.steps.length / MOST_POINTS), "step")} each`, ".")),
    make("section", { "aria-labelledby": "extremes" }, make("h2", { id: "extremes" }, "Look at"),
      make("ul", {}, [["highest", "the groups with the highest mean reward"], ["lowest", "the groups with the lowest mean reward"],
        ["divided", "the most divided groups"], ["best", "the best completions"], ["worst", "the worst completions"]].map(([order, text]) =>
        make("li", {}, make("a", { href: address("groups", { order }) }, text))),
      make("li", {}, make("a", { href: address("compare") }, "the first steps beside the last ones")))));
}

/** The rows of the list in sight, see `growingList`. */
let rows = null;

function showGroups(parameters) {
  const list = make("ol", { class: "clips", "aria-label": "Groups" });
  const counted = make("p", { class: "counted", role: "status" });
  const view = make("div", { class: "view" }, make("h1", { class: "spoken", tabindex: -1 }, "Groups"),
    filterForm(parameters), counted, list);
  fillList(list, counted, parameters);
  return view;
}

/** Show the groups that pass, in place: the field that one types in keeps its focus and its caret. */
function refreshGroups(parameters) {
  fillList(main.querySelector(".clips"), main.querySelector(".counted"), parameters);
}

function fillList(list, counted, parameters) {
  const groups = select(parameters);
  counted.replaceChildren(`${groups.length} of ${plural(DATA.groups.length, "group")}`);
  if (DATA.groups.length < DATA.num_groups) counted.append(make("span", {}, `(the run has ${DATA.num_groups})`));
  if (FILTERS.some((name) => parameters[name])) {
    counted.append(make("a", { href: address("groups", { order: parameters.order }) }, "clear filters"));
  }
  if (!groups.length) counted.append(make("strong", { class: "empty" }, "No group is like this."));
  rows = growingList(list, groups, (group) => groupRow(group, parameters));
}

function groupRow(group, parameters) {
  const clip = DATA.clips[group.id];
  const best = ranked(group)[0];
  return make("li", {}, make("a", { href: address("group", { ...parameters, at: group.place }) },
    thumbnail(clip),
    make("span", { class: "what" },
      written("span", group.id, { class: "id" }),
      make("span", { class: "verdicts" }, make("span", {}, make("i", {}, "step "), String(group.step)),
        make("span", {}, make("i", {}, "target "), clip.targets.map((name) => emotion(name)))),
      make("span", { class: "verdicts" }, groupFigures(group))),
    written("span", rationale(best), { class: "excerpt" }),
    make("span", { class: "relations" }, relationBar(best.sentences))));
}

function groupFigures(group) {
  return [["reward", figure(group.reward)], ["spread", figure(group.spread)], ["right", `${percent(group.right)} %`]].map(([name, value]) =>
    make("span", { title: meaning(name) }, make("i", {}, `${name} `), value));
}

/** The completions of a group, the highest reward first. */
function ranked(group) {
  return [...group.completions].sort((a, b) => b.total - a.total);
}

function rationale(completion) {
  return completion.sentences.map((sentence) => sentence.text).join(" ") || completion.completion || "nothing";
}

function stepField(label, name, value, view) {
  const input = make("input", { type: "number", min: FIRST, max: LAST, value: value ?? "", onchange: () => change(view, { [name]: input.value }) });
  return make("label", { class: "field" }, make("span", {}, label), input);
}

function filterForm(parameters) {
  const set = (changes) => change("groups", changes);
  const field = (label, name, options) => choice(label, parameters[name] ?? "", [["", "any"], ...options], (value) => set({ [name]: value }));
  return make("form", { class: "filters", role: "search", onsubmit: (event) => event.preventDefault() },
    stepField("from step", "from", parameters.from, "groups"),
    stepField("to step", "to", parameters.to, "groups"),
    field("target", "target", DATA.taxonomy.classes.map((name) => [name, name])),
    field("answers are", "outcome", [["right", "all right"], ["some", "some right"], ["wrong", "all wrong"]]),
    choice("order", parameters.order ?? "", [["", "by step"], ["highest", "highest mean reward"], ["lowest", "lowest mean reward"],
      ["divided", "most divided"], ["best", "best completion"], ["worst", "worst completion"]], (order) => set({ order })),
    searchField(parameters.q ?? "", (q) => set({ q })));
}

function nothing(text) {
  return make("div", { class: "view" }, make("h1", { tabindex: -1 }, text), make("p", {}, make("a", { href: address("groups") }, "All groups")));
}

function neighbours(group, parameters) {
  const groups = select(parameters);
  const position = groups.indexOf(group);
  return { groups, position, previous: groups[position - 1] ?? null, next: groups[position + 1] ?? null };
}

function showGroup({ at, ...parameters }) {
  const group = DATA.groups[Number(at)];
  if (!group) return nothing("No such group");
  const clip = DATA.clips[group.id];
  const { groups, position, previous, next } = neighbours(group, parameters);
  const link = (other, text, keys) => (other === null
    ? make("span", { class: "button off", "aria-disabled": "true" }, text)
    : make("a", { class: "button", href: address("group", { ...parameters, at: other.place }), "aria-keyshortcuts": keys }, text));
  return make("div", { class: "view clip" },
    make("nav", { class: "steps", "aria-label": "Groups" },
      make("a", { class: "button", href: address("groups", parameters), "aria-keyshortcuts": "Escape" }, "↑ list"),
      link(previous, "← previous", "k ArrowLeft"),
      link(next, "next →", "j ArrowRight"),
      make("a", { class: "button", href: address("clip", { id: group.id }) }, "this clip over training"),
      make("span", { class: "place" }, position < 0 ? "not among the filtered groups" : `${position + 1} of ${groups.length}`)),
    make("h1", { tabindex: -1 }, written("span", group.id), make("small", {}, ` step ${group.step}`)),
    clipFacts(clip),
    make("p", { class: "verdicts" }, groupFigures(group)),
    relationLegend(group.completions.flatMap((own) => own.sentences)),
    make("div", { class: "runs" }, ranked(group).map((own) => completionCard(own, clip))));
}

function clipFacts(clip) {
  return make("div", {},
    make("p", {}, "target ", clip.targets.map((name) => emotion(name)), written("small", ` ${clip.dataset}`)),
    make("div", { class: "media" }, pictures(clip), player(clip)),
    clip.transcript !== null && make("p", { class: "transcript" }, "said: ", written("q", clip.transcript)),
    clip.notes.map((note) => written("p", `⚠ ${note}`, { class: "note" })));
}

function completionCard(own, clip) {
  const rewards = Object.entries(own.rewards);
  return make("article", { class: "card" },
    make("dl", { class: "facts" },
      make("dt", {}, "answer"), make("dd", {}, emotion(own.prediction, MISSING), mark(own.right, "right", "wrong")),
      make("dt", {}, "reward"), make("dd", { class: "rewards" }, make("b", {}, figure(own.total)),
        rewards.map(([name, value]) => make("span", {}, written("span", name), ` ${figure(value)}`))),
      make("dt", {}, "advantage"), make("dd", {}, `${own.advantage > 0 ? "+" : ""}${figure(own.advantage)}`),
      make("dt", {}, "length"), make("dd", {}, plural(own.tokens, "token"), own.truncated && make("strong", {}, " cut short"))),
    sections(own),
    sentences(own, clip),
    make("details", {}, make("summary", {}, "completion as generated"), written("pre", own.completion)));
}

function sentences(own, clip) {
  if (!own.sentences.length) return make("p", { class: "hint" }, "There is no rationale.");
  return make("div", { class: "rationale" }, own.sentences.map((sentence) =>
    sentenceSpan({ probabilities: null, support: null, reliance: null, ...sentence }, clip)));
}

/** Every visit of a clip, in the order of steps: its best completion, and the others on demand. */
function showClip({ id }) {
  const clip = Object.hasOwn(DATA.clips, id) ? DATA.clips[id] : null;
  if (!clip) return nothing("No such clip");
  const visits = DATA.groups.filter((group) => group.id === id);
  return make("div", { class: "view clip" },
    make("nav", { class: "steps", "aria-label": "Groups" }, make("a", { class: "button", href: address("groups"), "aria-keyshortcuts": "Escape" }, "↑ list"),
      make("span", { class: "place" }, plural(visits.length, "visit"))),
    make("h1", { tabindex: -1 }, written("span", id), make("small", {}, " over training")),
    clipFacts(clip),
    visits.length > 1 && make("section", { class: "matrices" }, [["mean reward", "reward"], ["spread", "spread"]].map(([title, name]) =>
      make("figure", {}, make("figcaption", {}, title), curve(title, visits.map((group) => [group.step, group[name]]))))),
    relationLegend(visits.flatMap((group) => group.completions.flatMap((own) => own.sentences))),
    visits.map((group) => visit(group, clip)));
}

function visit(group, clip) {
  const [best, ...others] = ranked(group);
  return make("section", { "aria-label": `step ${group.step}` },
    make("h2", {}, make("a", { href: address("group", { at: group.place }) }, `step ${group.step}`)),
    make("p", { class: "verdicts" }, groupFigures(group)),
    make("div", { class: "card" },
      make("p", {}, make("small", {}, `best of ${group.completions.length}: `), emotion(best.prediction, MISSING), mark(best.right, "right", "wrong"), ` ${figure(best.total)}`),
      sentences(best, clip),
      others.length > 0 && make("details", {}, make("summary", {}, `${others.length} more`), others.map((own) => make("div", {},
        make("p", {}, emotion(own.prediction, MISSING), mark(own.right, "right", "wrong"), ` ${figure(own.total)}`), sentences(own, clip))))));
}

/** Two windows of steps side by side: at first, the first and the last tenth of the run. */
function showCompare(parameters) {
  const tenth = Math.max(Math.ceil(DATA.steps.length / 10), 1);
  const given = (name, fallback) => Number(parameters[name] || fallback);
  const a = [given("a_from", FIRST), given("a_to", DATA.steps[tenth - 1].step)];
  const b = [given("b_from", DATA.steps.at(-tenth).step), given("b_to", LAST)];
  const head = make("tr", {}, ["figure", `steps ${a.join(" to ")}`, `steps ${b.join(" to ")}`, "difference"].map((text) => make("th", { scope: "col" }, text)));
  const body = DATA.figures.map((name, index) => {
    const [first, second] = [windowed(index, ...a), windowed(index, ...b)];
    return make("tr", {}, make("th", { scope: "row" }, name, make("small", {}, meaning(name))),
      [first, second].map((own) => make("td", { class: "rate" }, own ? [make("b", {}, figure(own.mean)), ends(interval(own)),
        make("small", {}, plural(own.groups, "group"))] : "–")),
      make("td", { class: "rate" }, first && second ? changed(difference(first, second)) : "–"));
  });
  return make("div", { class: "view" }, make("h1", { tabindex: -1 }, "Two windows of steps"),
    make("form", { class: "filters", onsubmit: (event) => event.preventDefault() },
      stepField("first: from step", "a_from", a[0], "compare"), stepField("first: to step", "a_to", a[1], "compare"),
      stepField("second: from step", "b_from", b[0], "compare"), stepField("second: to step", "b_to", b[1], "compare")),
    scrolling("Two windows of steps", make("table", { class: "figures" }, make("thead", {}, head), make("tbody", {}, body))),
    make("p", { class: "hint" }, "Means over all groups of these steps, with 95 % intervals over groups (Student’s; Welch’s of the difference, "
      + "in bold where it is not 0), which take groups as independent: with the same clips in both windows the difference is surer than it says, "
      + "with a clip several times in one less sure."));
}

function ends(range) {
  return range && make("small", {}, `${figure(range[0])} to ${figure(range[1])}`);
}

function changed({ mean, ends: range }) {
  const isSure = range !== null && range[0] * range[1] > 0;
  return [make(isSure ? "b" : "span", {}, `${mean > 0 ? "+" : ""}${figure(mean)}`), ends(range)];
}
