/* The overview: figures with intervals, alarms, confusion matrices. */

const RATES = [
  ["war", "WAR", "share of clips whose answer is the target"],
  ["uar", "UAR", "the same, averaged over the classes"],
  ["eea", "EEA", "share of clips in which the judge reads the target in the rationale"],
  ["epc", "EPC", "share of clips in which the judge reads the answer in the rationale"],
  ["fcr", "FCR", "share of clips in which both the answer and the rationale are the target"],
];

/** Which filters a cell stands for, and what rows and columns are. */
const MATRICES = {
  answer_target: { title: "Answer × target", row: ["target", "target"], column: ["answer", "answer"] },
  explanation_target: { title: "Explanation × target", row: ["target", "target"], column: ["judged", "judged"] },
  explanation_answer: { title: "Explanation × answer", row: ["answer", "answer"], column: ["judged", "judged"] },
};

function showOverview(parameters) {
  const notes = DATA.notes.map((note) => make("p", { class: "note" }, note));
  return make("div", { class: "view" },
    make("h1", { tabindex: -1 }, `${plural(DATA.runs.length, "run")}, ${plural(DATA.clips.length, "clip")}`,
      make("small", {}, ` taxonomy ${DATA.taxonomy.name}`)),
    notes.length > 0 && make("div", { class: "notes", role: "note" }, notes),
    make("section", { "aria-labelledby": "figures" }, make("h2", { id: "figures" }, "Figures"), figures()),
    DATA.runs[0].grounding && make("section", { "aria-labelledby": "grounding" }, make("h2", { id: "grounding" }, "True of the clips"), grounding()),
    make("section", { "aria-labelledby": "alarms" }, make("h2", { id: "alarms" }, "Alarms"), alarms()),
    make("section", { "aria-labelledby": "matrices" }, make("h2", { id: "matrices" }, "Confusion"), matrices(parameters)),
  );
}

function figures() {
  const head = make("tr", {}, make("th", { scope: "col" }, "run"),
    RATES.map(([, name, meaning]) => make("th", { scope: "col", title: meaning }, make("abbr", { title: meaning }, name))),
    ["clips", "unknown answers", "judge failures", "not decoded"].map((name) => make("th", { scope: "col", class: "count" }, name)));
  const rows = DATA.runs.flatMap((run, index) => [make("tr", {},
    make("th", { scope: "row" }, make("a", { href: address("clips", { run: index }) }, run.name),
      make("small", {}, run.judge === null ? "no judge" : `judge: ${run.judge}`)),
    RATES.map(([key, , meaning]) => make("td", { class: "rate" }, rate(run.rates[key], meaning))),
    [run.num_clips, run.unknown_answers, run.judge_failures, run.num_undecoded].map((count, column) =>
      make("td", { class: "count" }, count === null ? "–" : String(count),
        column === 0 && run.num_labelled < count && make("small", {}, `${run.num_labelled} with a target`)))),
    ...Object.entries(run.corpora).map(([corpus, own]) => make("tr", { class: "corpus" },
      make("th", { scope: "row" }, make("small", {}, corpus)),
      RATES.map(([key, , meaning]) => make("td", { class: "rate" }, rate(own.rates[key], meaning))),
      make("td", { class: "count" }, String(own.num_clips)), make("td"), make("td"), make("td")))]);
  return make("div", {},
    scrolling("Figures of each run", make("table", { class: "figures" }, make("thead", {}, head), make("tbody", {}, rows))),
    make("p", { class: "hint" }, `In percent of the clips; ${DATA.intervals} `
      + "– marks a figure that needs a judge, or one target for each clip, where there is none."));
}

/** A rate with its interval, as numbers and as a bar with a whisker. */
function rate(interval, meaning) {
  if (!interval) return "–";
  const bar = make("span", { class: "bar-of-rate", "aria-hidden": "true", title: meaning,
    style: { "--value": `${100 * interval.value}%` } });
  const whisker = interval.low !== null && make("span", { class: "whisker",
    style: { left: `${100 * interval.low}%`, right: `${100 - 100 * interval.high}%` } });
  if (whisker) bar.append(whisker);
  const range = interval.low !== null && make("small", {}, `${percent(interval.low)} – ${percent(interval.high)}`);
  return make("span", {}, make("b", {}, percent(interval.value)), range, bar);
}

/** A row per figure, a column per run: shares in percent, and what of what they are. */
function grounding() {
  const head = make("tr", {}, make("th", { scope: "col" }, "figure"), DATA.runs.map((run) => make("th", { scope: "col", class: "count" }, run.name)));
  const body = Object.entries(DATA.grounding).map(([name, meaning]) => make("tr", {},
    make("th", { scope: "row" }, name.replaceAll("_", " "), make("small", {}, meaning)),
    DATA.runs.map(({ grounding: { [name]: { value, numerator, denominator } } }) => make("td", { class: "count" },
      value === null ? "–" : percent(value), make("small", {}, ` ${numerator} of ${denominator}`)))));
  return scrolling("What is true of the clips", make("table", { class: "alarms" }, make("thead", {}, head), make("tbody", {}, body)));
}

/** A row per alarm, a column per run; those that warn come first, the others on demand. */
function alarms() {
  const names = [...new Set(DATA.runs.flatMap((run) => run.alarms.map((alarm) => alarm.name)))];
  const all = names.map((name) => DATA.runs.map((run) => run.alarms.find((alarm) => alarm.name === name) ?? null));
  const measured = all.filter((row) => row.some((alarm) => alarm && alarm.value !== null));
  const warning = measured.filter((row) => row.some((alarm) => alarm?.warns));
  const others = measured.filter((row) => !warning.includes(row));
  const missing = all.filter((row) => !measured.includes(row)).map((row) => alarmName(row.find(Boolean)));
  return make("div", {},
    make("p", { class: warning.length ? "summary warns" : "summary" }, warning.length
      ? `⚠ ${warning.length} of ${plural(measured.length, "figure")} out of bounds: does the model please the verifier instead of explaining?`
      : `✓ None of ${plural(measured.length, "figure")} is out of bounds.`),
    warning.length > 0 && alarmTable(warning, "Figures out of bounds"),
    others.length > 0 && make("details", {},
      make("summary", {}, `${plural(others.length, "figure")} within bounds, or without any`), alarmTable(others, "Other figures")),
    missing.length > 0 && make("p", { class: "hint" }, `Not to be had from these files: ${missing.join(", ")}.`));
}

function alarmName(alarm) {
  return alarm.name.replaceAll("_", " ");
}

function alarmTable(rows, label) {
  const head = make("tr", {}, ["figure", "expected"].map((name) => make("th", { scope: "col" }, name)),
    DATA.runs.map((run) => make("th", { scope: "col", class: "count" }, run.name)));
  const body = rows.map((row) => {
    const alarm = row.find((own) => own?.warns) ?? row.find(Boolean);
    return make("tr", {},
      make("th", { scope: "row" }, alarmName(alarm), make("small", {}, alarm.meaning),
        alarm.warns && make("small", { class: "advice" }, alarm.advice)),
      make("td", { class: "bounds" }, bounds(alarm)),
      row.map(alarmCell));
  });
  return scrolling(label, make("table", { class: "alarms" }, make("thead", {}, head), make("tbody", {}, body)));
}

function bounds(alarm) {
  if (alarm.low === null && alarm.high === null) return "–";
  if (alarm.low === null) return `≤ ${figure(alarm.high)}`;
  return alarm.high === null ? `≥ ${figure(alarm.low)}` : `${figure(alarm.low)} – ${figure(alarm.high)}`;
}

function alarmCell(alarm) {
  if (!alarm || alarm.value === null) return make("td", { class: "count" }, "–", spoken(" not available"));
  if (alarm.low === null && alarm.high === null) return make("td", { class: "count" }, figure(alarm.value));
  return make("td", { class: alarm.warns ? "count warns" : "count" },
    figure(alarm.value), alarm.warns ? " ⚠" : " ✓", spoken(alarm.warns ? " out of bounds" : " within bounds"));
}

function matrices(parameters) {
  const run = DATA.runs[parameters.run];
  const shown = Object.keys(MATRICES).filter((name) => run.confusions[name]);
  return make("div", {},
    DATA.runs.length > 1 && runChoice(parameters, (run) => replace("overview", { run })),
    make("div", { class: "matrices" }, shown.map((name) => matrix(MATRICES[name], run.confusions[name], parameters.run))),
    make("p", { class: "hint" }, shown.length
      ? "Clips; shade: share of the row. A cell opens its clips. Compound targets are in none that has a target."
      : "There is nothing to count: neither targets nor a judge."));
}

function runChoice(parameters, onchange) {
  const options = DATA.runs.map((run, index) => [String(index), run.name]);
  return choice("run", String(parameters.run), options, (value) => onchange(Number(value)));
}

function matrix({ title, row: [rowFilter, rowName], column: [columnFilter, columnName] }, { rows, columns, counts }, run) {
  const cells = rows.map((row, i) => {
    const total = counts[i].reduce((sum, count) => sum + count, 0);
    return make("tr", {}, make("th", { scope: "row" }, row), columns.map((column, j) => {
      const share = total ? counts[i][j] / total : 0;
      const what = `${rowName} ${row}, ${columnName} ${column}: ${plural(counts[i][j], "clip")}, ${percent(share)} % of the row`;
      const link = address("clips", { run, [rowFilter]: row, [columnFilter]: column });
      return make("td", { class: `${row === column ? "diagonal" : ""} ${share > 0.68 ? "strong" : ""}`, style: { "--share": `${100 * share}%` } },
        counts[i][j] ? make("a", { href: link, title: what, "aria-label": what }, String(counts[i][j])) : make("span", { title: what }, "·"));
    }));
  });
  const head = make("tr", {}, make("td", { class: "corner" }, `${rowName} ↓ ${columnName} →`),
    columns.map((column) => make("th", { scope: "col" }, make("span", {}, column))));
  return make("figure", {}, make("figcaption", {}, title),
    scrolling(title, make("table", { class: "matrix" }, make("thead", {}, head), make("tbody", {}, cells))));
}
