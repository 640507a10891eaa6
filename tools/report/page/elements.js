/* Building blocks of every view. Text reaches the page as text nodes and attributes only, never as markup. */

const main = document.getElementById("main");
const keyHelp = document.getElementById("keys");

/**
 * Make an element.
 * Properties that begin with "on" are listeners, `style` holds CSS properties; null, undefined and false are left out.
 * Children are nodes or text.
 */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.entries(value).forEach(([key, text]) => element.style.setProperty(key, text));
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** What someone or a model wrote: its direction of writing stays its own. */
function written(tag, text, properties = {}) {
  return make(tag, { dir: "auto", ...properties }, text);
}

/** Heard by screen readers, not seen. */
function spoken(text) {
  return make("span", { class: "spoken" }, text);
}

/** A wide table may scroll sideways, also from the keyboard. */
function scrolling(label, child) {
  return make("div", { class: "scroll", role: "region", "aria-label": label, tabindex: 0 }, child);
}

/* Halves to even, as the command line prints the same figures. */
const oneDecimal = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1, roundingMode: "halfEven" });

function percent(share) {
  return oneDecimal.format(100 * share);
}

/** A number with the three digits that matter. */
function figure(value) {
  return value === null ? "–" : String(Number(value.toPrecision(3))).replace("-", "−");
}

function plural(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/** A labelled choice; `options` are [value, text] pairs. */
function choice(label, value, options, onchange) {
  const select = make("select", { onchange: () => onchange(select.value) });
  select.append(...options.map(([key, text]) => make("option", { value: key, selected: key === value }, text)));
  return make("label", { class: "field" }, make("span", {}, label), select);
}

/** An emotion with its colour; `absent` says what null means. */
function emotion(name, absent) {
  if (name === null) return make("span", { class: "emotion absent" }, absent);
  const colour = DATA.colours.emotions[name] ?? "transparent";
  return make("span", { class: "emotion", style: { "--dot": colour } }, name);
}

/** ✓ or ✗ with its meaning; nothing where there is nothing to compare. */
function mark(holds, yes, no) {
  if (holds === null) return null;
  return make("span", { class: holds ? "mark yes" : "mark no", title: holds ? yes : no }, holds ? "✓" : "✗", spoken(holds ? ` ${yes}` : ` ${no}`));
}

/** Whether the judge reads the answer and the target in the rationale. */
function agreement(run) {
  const pairs = [[run.judged_is_answer, "answer"], [run.judged_is_target, "target"]];
  return pairs.filter(([holds]) => holds !== null).map(([holds, name]) =>
    make("span", { class: holds ? "pair" : "pair apart" }, holds ? "=" : "≠", ` ${name}`));
}
