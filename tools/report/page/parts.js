/* What several views show: lists that grow, the search, pictures, sentences with what the verifier reads in them. */

const ROWS_AT_ONCE = 40;

/** Fill a list with a row per item as they come into sight. Returned: `of` an item, made if need be; `add` some more. */
function growingList(list, items, makeRow) {
  let made = 0;
  const more = make("li", { class: "more", "aria-hidden": "true" });
  const add = () => {
    more.before(...items.slice(made, made + ROWS_AT_ONCE).map(makeRow));
    made = Math.min(made + ROWS_AT_ONCE, items.length);
    if (made === items.length) more.remove();
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
  const of = (item) => {
    const position = items.indexOf(item);
    while (made <= position) add();
    return list.querySelectorAll("a")[position];
  };
  return { add, of };
}

/** The search; `onchange` gets its text when typing pauses. */
function searchField(value, onchange) {
  let pause;
  const search = make("input", { type: "search", id: "search", value, placeholder: "in ids and completions",
    "aria-keyshortcuts": "/", autocomplete: "off", spellcheck: "false",
    oninput: () => {
      clearTimeout(pause);
      pause = setTimeout(() => search.isConnected && onchange(search.value), 120);
    } });
  return make("label", { class: "field search" }, make("span", {}, "search"), search);
}

function thumbnail(clip) {
  return make("span", { class: "thumb" }, clip.strip
    ? make("img", { src: clip.strip, alt: "", loading: "lazy", decoding: "async" })
    : make("span", { class: "no-picture" }, "no picture"));
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

function relationLegend(sentences) {
  if (!sentences.some((sentence) => sentence.relation !== null)) return null;
  const meanings = { matching: "the verifier reads the target", neutral: "no emotion", contradicting: "other emotions only" };
  return make("p", { class: "legend" }, Object.entries(meanings).map(([relation, meaning]) =>
    make("span", {}, make("span", { class: `symbol ${relation}` }, DATA.colours.symbols[relation]), ` ${relation}: ${meaning}`)));
}

/** A symbol for each sentence. */
function relationBar(sentences) {
  const known = sentences.filter((sentence) => sentence.relation !== null);
  return known.map((sentence) => make("span", { class: `symbol ${sentence.relation}`, title: sentence.relation },
    DATA.colours.symbols[sentence.relation], spoken(` ${sentence.relation} `)));
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

/** What a completion has in tags of its own before the rationale. */
function sections({ sections: before }) {
  return Object.entries(before).map(([name, text]) =>
    make("p", { class: "section" }, written("b", name), ": ", written("span", text)));
}
