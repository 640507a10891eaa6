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

function pictures(clip) {
  if (!clip.strip) return null;
  return make("figure", { class: "pictures" },
    make("img", { src: clip.strip, alt: "Frames of the clip, from its begin to its end" }),
    clip.spectrogram && make("img", { src: clip.spectrogram, class: "spectrogram", alt: "Spectrogram of the sound, low frequencies below" }));
}

function player(clip) {
  if (clip.source === null) return null;
  const failed = make("p", { class: "note", hidden: true }, "⚠ This browser cannot play the file, or the file is no longer there.");
  const video = make("video", { controls: true, preload: "none", src: clip.source, "aria-label": "The clip", onerror: () => { failed.hidden = false; } });
  return make("div", { class: "player" }, video, failed);
}

function legend(clip) {
  const sentences = clip.runs.flatMap((run) => run?.sentences ?? []);
  return make("div", {}, relationLegend(sentences), sentences.some((sentence) => sentence.reliance !== null)
    && make("p", { class: "legend" }, "Bars: what a sentence rests on, in nats of its log-probability beside that with other clips’ "
      + "pictures, sound or both. About 0: it would be said of any clip. Below 0: what is seen or heard speaks against it."));
}

function relationLegend(sentences) {
  if (!sentences.some((sentence) => sentence.relation !== null)) return null;
  const meanings = { matching: "the verifier reads the target", neutral: "no emotion", contradicting: "other emotions only" };
  return make("p", { class: "legend" }, Object.entries(meanings).map(([relation, meaning]) =>
    make("span", {}, make("span", { class: `symbol ${relation}` }, DATA.colours.symbols[relation]), ` ${relation}: ${meaning}`)));
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
    run.sentences.length
      ? make("div", { class: "rationale" }, run.sentences.map((sentence) => sentenceSpan(sentence, clip)))
      : make("p", { class: "hint" }, "There is no rationale."),
    run.completion !== null && make("details", {}, make("summary", {}, "completion as generated"), written("pre", run.completion)));
}

/** Where the truth of the clip is known. */
const SUPPORTS = { true: "✓ true of the clip", untrue: "✗ untrue of the clip", unsupported: "? nothing supports it" };

/** What is taken away, and what the sentence then loses. */
const EVIDENCE = { pictures: "pictures", sound: "sound", both: "both" };

/** Nats that fill a bar. */
const FULL_BAR = 3;

/** What the sentence rests on: the nats that its log-probability loses with a modality of other clips, as bars. */
function nats(reliance) {
  return make("span", { class: "reliance" }, Object.entries(EVIDENCE).filter(([key]) => reliance[key] !== null).map(([key, name]) => {
    const value = reliance[key];
    const meaning = `with other clips’ ${key === "both" ? "pictures and sound" : name}, its log-probability is ${Math.abs(value).toFixed(2)} nats ${value < 0 ? "higher" : "lower"}`;
    return make("span", { title: meaning }, `${name} `,
      make("meter", { min: 0, max: FULL_BAR, value: Math.max(value, 0), "aria-hidden": "true" }),
      make("b", {}, ` ${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(1)}`), spoken(` (${meaning})`));
  }));
}

function sentenceSpan(sentence, clip) {
  const { relation, text, emotions, probabilities, support, reliance } = sentence;
  const isRead = probabilities !== null;
  const span = make("p", { class: `sentence ${relation ?? ""}`, tabindex: isRead ? 0 : null, "aria-describedby": isRead ? "tooltip" : null },
    relation !== null && make("span", { class: `symbol ${relation}` }, DATA.colours.symbols[relation], spoken(` ${relation}: `)),
    written("span", text, { class: "text" }),
    support !== null && make("span", { class: `support ${support}` }, SUPPORTS[support]),
    reliance !== null && nats(reliance),
    emotions !== null && make("span", { class: "read" }, emotions.map((name) => emotion(name))));
  if (isRead) explainOn(span, () => probabilityTable(sentence, clip));
  return span;
}

/** The most probable labels of a sentence, and the target's, with bars. */
function probabilityTable({ emotions, probabilities }, clip) {
  const wanted = new Set(clip.targets.map((name) => DATA.taxonomy.labels[name]));
  const rows = probabilities.map(([label, probability]) => make("tr", { class: emotions?.includes(label) ? "in-set" : "" },
    make("th", { scope: "row" }, emotion(label), wanted.has(label) && make("small", {}, " target")),
    make("td", { class: "bar" }, make("span", { style: { width: `${100 * Math.min(probability, 1)}%`, "--dot": DATA.colours.emotions[label] ?? "currentColor" } })),
    make("td", { class: "number" }, probability.toFixed(3))));
  return make("table", {}, make("caption", {}, "Verifier’s probabilities; bold: the labels it assigns"), make("tbody", {}, rows));
}

/** Show something beside an element while the pointer is over it or it has the focus. */
function explainOn(element, content) {
  element.addEventListener("pointerenter", () => showTooltip(element, content()));
  element.addEventListener("focus", () => showTooltip(element, content()));
  element.addEventListener("pointerleave", () => document.activeElement !== element && hideTooltip());
  element.addEventListener("blur", hideTooltip);
}

const tooltip = document.getElementById("tooltip");

function showTooltip(element, content) {
  tooltip.replaceChildren(content);
  tooltip.hidden = false;
  const box = element.getBoundingClientRect();
  const { width, height } = tooltip.getBoundingClientRect();
  const below = box.bottom + 6;
  const top = below + height < innerHeight ? below : Math.max(box.top - height - 6, 4);
  tooltip.style.setProperty("top", `${top}px`);
  tooltip.style.setProperty("left", `${Math.max(Math.min(box.left, innerWidth - width - 8), 8)}px`);
}

function hideTooltip() {
  tooltip.hidden = true;
}
