/* The list of clips, with filters. Rows are made as they come into sight. */

const ROWS_AT_ONCE = 40;

/** The rows of the list in sight: `of` an id, made if need be, and `add` makes some more. */
let rows = null;

function showClips(parameters) {
  const list = make("ol", { class: "clips", "aria-label": "Clips" });
  const counted = make("p", { class: "counted", role: "status" });
  const view = make("div", { class: "view" },
    make("h1", { class: "spoken", tabindex: -1 }, "Clips"),
    filterForm(parameters),
    counted,
    list);
  fillList(list, counted, parameters);
  return view;
}

/** Show the clips that pass, in place: the search field keeps its focus and its caret. */
function refreshClips(view, parameters) {
  fillList(view.querySelector(".clips"), view.querySelector(".counted"), parameters);
}

function fillList(list, counted, parameters) {
  const clips = select(parameters);
  const all = DATA.clips.filter((clip) => clip.runs[parameters.run]).length;
  const isFiltered = FILTERS.some((name) => parameters[name] !== "");
  counted.replaceChildren(`${clips.length} of ${plural(all, "clip")}`);
  if (isFiltered) counted.append(make("a", { href: address("clips", { run: parameters.run, sort: parameters.sort }) }, "clear filters"));
  if (!clips.length) counted.append(make("strong", { class: "empty" }, "No clip is like this."));

  let made = 0;
  const more = make("li", { class: "more", "aria-hidden": "true" });
  const add = () => {
    more.before(...clips.slice(made, made + ROWS_AT_ONCE).map((clip) => clipRow(clip, parameters)));
    made = Math.min(made + ROWS_AT_ONCE, clips.length);
    if (made === clips.length) more.remove();
  };
  list.replaceChildren(more);
  add();
  const observer = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting) || !more.isConnected) return;
    add();
    observer.unobserve(more);
    if (more.isConnected) observer.observe(more);
  }, { rootMargin: "600px" });
  observer.observe(more);
  const of = (id) => {
    const position = clips.findIndex((clip) => clip.id === id);
    while (made <= position) add();
    return list.querySelectorAll("a")[position];
  };
  rows = { add, of };
}

function clipRow(clip, parameters) {
  const run = clip.runs[parameters.run];
  const text = run.sentences.map((sentence) => sentence.text).join(" ") || run.completion || "no rationale";
  const picture = clip.strip
    ? make("img", { src: clip.strip, alt: "", loading: "lazy", decoding: "async" })
    : make("span", { class: "no-picture" }, "no picture");
  return make("li", {}, make("a", { href: address("clip", parameters, clip.id), "data-id": clip.id },
    make("span", { class: "thumb" }, picture),
    make("span", { class: "what" },
      written("span", clip.id, { class: "id" }),
      make("span", { class: "verdicts" },
        clip.target !== null && make("span", {}, make("i", {}, "target "), emotion(clip.target)),
        make("span", {}, make("i", {}, "answer "), emotion(run.prediction, UNKNOWN), mark(run.right, "right", "wrong")),
        DATA.runs[parameters.run].judge !== null && make("span", {}, make("i", {}, "judged "), emotion(run.judged, INVALID),
          agreement(run)))),
    written("span", text, { class: "excerpt" }),
    make("span", { class: "relations" }, relationBar(run.sentences))));
}

/** A symbol for each sentence. */
function relationBar(sentences) {
  const known = sentences.filter((sentence) => sentence.relation !== null);
  return known.map((sentence) => make("span", { class: `symbol ${sentence.relation}`, title: sentence.relation },
    DATA.colours.symbols[sentence.relation], spoken(` ${sentence.relation} `)));
}

function filterForm(parameters) {
  const run = DATA.runs[parameters.run];
  const set = (changes) => replace("clips", { ...readRoute().parameters, ...changes });
  const classes = DATA.taxonomy.classes.map((name) => [name, name]);
  const any = ["", "any"];
  const field = (label, name, options) => choice(label, parameters[name], [any, ...options], (value) => set({ [name]: value }));
  const unlabelled = run.num_labelled < run.num_clips ? [[NO_TARGET, "none"]] : [];
  let pause;
  const search = make("input", { type: "search", id: "search", value: parameters.q, placeholder: "in ids and completions",
    "aria-keyshortcuts": "/", autocomplete: "off", spellcheck: "false",
    oninput: () => {
      clearTimeout(pause);
      pause = setTimeout(() => search.isConnected && set({ q: search.value }), 120);
    } });
  const outcomes = [["right", "right"], ["wrong", "wrong"], ["unknown", "names no class"]];
  return make("form", { class: "filters", role: "search", onsubmit: (event) => event.preventDefault() },
    DATA.runs.length > 1 && runChoice(parameters, (index) => set({ run: index })),
    run.num_labelled > 0 && field("target", "target", [...classes, ...unlabelled]),
    field("answer", "answer", [...classes, [UNKNOWN, UNKNOWN]]),
    run.judge !== null && field("judged", "judged", [...classes, [INVALID, INVALID]]),
    field("answer is", "outcome", [
      ...(run.num_labelled > 0 ? outcomes : outcomes.slice(2)),
      ...(DATA.runs.length > 1 ? [["differ", "not the same in all runs"]] : [])]),
    run.judge !== null && field("coherence", "coherence", [
      ["incoherent", "incoherent (either)"], ["answer", "judged ≠ answer"], ["target", "judged ≠ target"], ["coherent", "coherent"]]),
    run.num_labelled > 0 && choice("order", parameters.sort, [
      ["", "of the file"], ["lowest", "lowest explanation reward first"], ["highest", "highest explanation reward first"]],
      (value) => set({ sort: value })),
    make("label", { class: "field search" }, make("span", {}, "search"), search));
}
