const data = JSON.parse(document.getElementById("data").textContent);
const KEYS = "123456789abcdefghijklmno";
const NONE = "none of these";
const choices = [...data.classes, NONE];
// Pages may share the browser's storage, as all files of a disk do in some browsers.
const place = `rate:${data.digest}`;
const element = (id) => document.getElementById(id);

let ratings = stored();
let current = Math.max(0, ratings.indexOf(null));

// What was rated before, by the position of the rationale; another set of rationales has another place.
function stored() {
  const empty = new Array(data.items.length).fill(null);
  try {
    const kept = JSON.parse(localStorage.getItem(place));
    return Array.isArray(kept) && kept.length === empty.length ? kept : empty;
  } catch {
    return empty;
  }
}

function keep() {
  try {
    localStorage.setItem(place, JSON.stringify(ratings));
  } catch {
    element("exported").textContent = "This browser keeps nothing: export before you close the page.";
  }
}

function show() {
  element("rationale").textContent = data.items[current].text;
  const rated = ratings.filter((rating) => rating !== null).length;
  element("progress").max = data.items.length;
  element("progress").value = rated;
  element("count").textContent = `${current + 1} of ${data.items.length}, ${rated} rated`;
  [...element("choices").children].forEach((button, i) => {
    button.setAttribute("aria-pressed", String(ratings[current] === choices[i]));
  });
}

function go(step) {
  current = Math.min(Math.max(current + step, 0), data.items.length - 1);
  show();
}

function rate(choice) {
  ratings[current] = choice;
  keep();
  go(1);
}

function download(name, lines) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "application/json" }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}

// One file of verdicts per run, in the form that `python main.py judge` writes.
function exportRatings() {
  const judge = `human:${element("name").value.trim() || "anonymous"}`;
  const sizes = data.runs.map((run) => {
    const lines = data.items.flatMap((item, i) => {
      if (item.run !== run || ratings[i] === null) return [];
      const emotion = ratings[i] === NONE ? null : ratings[i];
      return [JSON.stringify({ id: item.id, emotion, reply: ratings[i], judge, taxonomy: data.taxonomy, rationale: item.text })];
    });
    if (lines.length) download(`ratings_${run}_${judge.slice(6)}.jsonl`.replaceAll(/[^\w.-]/g, "_"), lines);
    return lines.length;
  });
  const total = sizes.reduce((sum, size) => sum + size, 0);
  element("exported").textContent = total ? `${total} ratings exported, a file per run.` : "Nothing is rated yet.";
}

choices.forEach((choice, i) => {
  const button = document.createElement("button");
  const key = document.createElement("kbd");
  key.textContent = choice === NONE ? "0" : KEYS[i];
  button.append(key, ` ${choice}`);
  button.addEventListener("click", () => rate(choice));
  element("choices").append(button);
});
document.addEventListener("keydown", (event) => {
  if (event.target.tagName === "INPUT" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "ArrowLeft") go(-1);
  else if (event.key === "ArrowRight") go(1);
  else if (event.repeat) return; // a key held down rates once
  else if (event.key === "0") rate(NONE);
  else if (KEYS.indexOf(event.key) in data.classes) rate(data.classes[KEYS.indexOf(event.key)]);
});
element("export").addEventListener("click", exportRatings);
show();
