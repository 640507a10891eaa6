/* The page of a clip: pictures, player, and what each run said. */

function showClip(id, parameters) {
  const clip = DATA.clips.find((candidate) => candidate.id === id);
  if (!clip) {
    return make("div", { class: "view" }, make("h1", { tabindex: -1 }, "No such clip"),
      make("p", {}, "This report has no clip ", written("code", String(id)), "."),
      make("p", {}, make("a", { href: address("clips", parameters) }, "All clips")));
  }
  const runs = clip.runs.flatMap((run, index) => (run ? [runCard(clip, run, DATA.runs[index], index === parameters.run)] : []));
  return make("div", { class: "view clip" },
    clipNavigation(clip, parameters),
    make("h1", { tabindex: -1 }, written("span", clip.id), clip.dataset !== null && written("small", ` ${clip.dataset}`)),
    clip.target !== null && make("p", { class: "target" }, "target ", clip.targets.map((name) => emotion(name))),
    clip.truth && make("p", { class: "target" }, "face ", emotion(clip.truth.face_emotion), "voice ", emotion(clip.truth.voice_emotion)),
    make("div", { class: "media" }, pictures(clip), player(clip)),
    clip.transcript !== null && make("p", { class: "transcript" }, "said: ", written("q", clip.transcript)),
    clip.notes.map((note) => written("p", `⚠ ${note}`, { class: "note" })),
    legend(clip),
    make("div", { class: "runs" }, runs));
}

function neighbours(id, parameters) {
  const clips = select(parameters);
  const position = clips.findIndex((clip) => clip.id === id);
  const at = (index) => clips[index]?.id ?? null;
  return { clips, position, previous: position > 0 ? at(position - 1) : null, next: at(position + 1) };
}

function clipNavigation(clip, parameters) {
  const { clips, position, previous, next } = neighbours(clip.id, parameters);
  const link = (id, text, keys) => (id === null
    ? make("span", { class: "button off", "aria-disabled": "true" }, text)
    : make("a", { class: "button", href: address("clip", parameters, id), "aria-keyshortcuts": keys }, text));
  return make("nav", { class: "steps", "aria-label": "Clips" },
    make("a", { class: "button", href: address("clips", parameters), "aria-keyshortcuts": "Escape" }, "↑ list"),
    link(previous, "← previous", "k ArrowLeft"),
    link(next, "next →", "j ArrowRight"),
    make("span", { class: "place" }, position < 0 ? "not among the filtered clips" : `${position + 1} of ${clips.length}`));
}

function legend(clip) {
  const sentences = clip.runs.flatMap((run) => run?.sentences ?? []);
  return make("div", {}, relationLegend(sentences), sentences.some((sentence) => sentence.reliance !== null)
    && make("p", { class: "legend" }, "Bars: what a sentence rests on, in nats of its log-probability beside that with other clips’ "
      + "pictures, sound or both. About 0: it would be said of any clip. Below 0: what is seen or heard speaks against it."));
}

function runCard(clip, run, { name, judge }, isChosen) {
  const rewards = ["format", "accuracy", "explanation"].filter((reward) => run[reward] !== null);
  return make("article", { class: isChosen ? "card chosen" : "card", "aria-label": name },
    make("h2", {}, name),
    run.failure !== null && written("p", `⚠ The clip was not decoded: ${run.failure}`, { class: "note" }),
    make("dl", { class: "facts" },
      make("dt", {}, "answer"),
      make("dd", {}, emotion(run.prediction, UNKNOWN), mark(run.right, "right", "wrong"),
        run.answer !== null && run.answer !== run.prediction && written("q", run.answer, { class: "answer" })),
      judge !== null && [
        make("dt", {}, "judged"),
        make("dd", {}, emotion(run.judged, INVALID), agreement(run))],
      make("dt", {}, "rewards"),
      make("dd", { class: "rewards" }, rewards.map((reward) => make("span", {}, `${reward} `, make("b", {}, run[reward].toFixed(2)),
        make("meter", { min: 0, max: 1, value: run[reward], "aria-hidden": "true" }))))),
    sections(run),
    run.sentences.length
      ? make("div", { class: "rationale" }, run.sentences.map((sentence) => sentenceSpan(sentence, clip)))
      : make("p", { class: "hint" }, "There is no rationale."),
    run.completion !== null && make("details", {}, make("summary", {}, "completion as generated"), written("pre", run.completion)));
}
