/* The list of clips, with filters. Rows are made as they come into sight. */

/** The rows of the list in sight, see `growingList`. */
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

  rows = growingList(list, clips, (clip) => clipRow(clip, parameters));
}

function clipRow(clip, parameters) {
  const run = clip.runs[parameters.run];
  const text = run.sentences.map((sentence) => sentence.text).join(" ") || run.completion || "no rationale";
  return make("li", {}, make("a", { href: address("clip", parameters, clip.id), "data-id": clip.id },
    thumbnail(clip),
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

function filterForm(parameters) {
  const run = DATA.runs[parameters.run];
  const set = (changes) => replace("clips", { ...readRoute().parameters, ...changes });
  const classes = DATA.taxonomy.classes.map((name) => [name, name]);
  const any = ["", "any"];
  const field = (label, name, options) => choice(label, parameters[name], [any, ...options], (value) => set({ [name]: value }));
  const unlabelled = run.num_labelled < run.num_clips ? [[NO_TARGET, "none"]] : [];
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
    searchField(parameters.q, (q) => set({ q })));
}
