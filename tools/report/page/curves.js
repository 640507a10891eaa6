/* Figures over steps: curves, and means of windows of steps with intervals over groups. */

const FIGURES = {
  reward: "mean of the weighted sum of rewards",
  spread: "standard deviation of that sum within a group: where it is 0, the group teaches nothing",
  right: "share of answers that are the target",
  distinct: "share of a group’s rationales that differ from each other",
  tokens: "length of a completion",
  truncated: "share of completions that the largest length cut short",
};

const MOST_POINTS = 200;
const [WIDTH, HEIGHT] = [320, 90];

function meaning(name) {
  return FIGURES[name] ?? `what the reward ${name.replace("reward/", "")} gave, before weighting`;
}

/** A figure in the steps of a window: `mean`, its `error` (standard error over groups) and the `groups`; null without any. */
function windowed(index, from, to) {
  let [groups, sum, squares] = [0, 0, 0];
  for (const { step, sums } of DATA.steps) {
    if (step < from || step > to) continue;
    groups += sums[index][0];
    sum += sums[index][1];
    squares += sums[index][2];
  }
  if (!groups) return null;
  const mean = sum / groups;
  const variance = groups > 1 ? Math.max(squares - groups * mean * mean, 0) / (groups - 1) : null;
  return { groups, mean, error: variance === null ? null : Math.sqrt(variance / groups) };
}

/** Student's quantile; beyond the table the last, which is the normal distribution's. */
function quantile(freedom) {
  return DATA.quantiles[Math.min(Math.max(Math.floor(freedom), 1), DATA.quantiles.length) - 1];
}

/** The ends of the 95 % interval of a window's mean; null with fewer than two groups. */
function interval({ groups, mean, error }) {
  if (error === null) return null;
  const half = quantile(groups - 1) * error;
  return [mean - half, mean + half];
}

/** How much a window's mean is above another's, with Welch's interval. */
function difference(a, b) {
  const mean = b.mean - a.mean;
  if (a.error === null || b.error === null) return { mean, ends: null };
  const variance = a.error ** 2 + b.error ** 2;
  const freedom = variance ** 2 / (a.error ** 4 / (a.groups - 1) + b.error ** 4 / (b.groups - 1));
  const half = variance ? quantile(freedom) * Math.sqrt(variance) : 0;
  return { mean, ends: [mean - half, mean + half] };
}

/** A figure over the run, [step, mean] pairs: of several steps together where there are many. */
function series(index) {
  const size = Math.ceil(DATA.steps.length / MOST_POINTS);
  const points = [];
  for (let start = 0; start < DATA.steps.length; start += size) {
    const [from, to] = [DATA.steps[start].step, DATA.steps[Math.min(start + size, DATA.steps.length) - 1].step];
    const own = windowed(index, from, to);
    if (own) points.push([from, own.mean]);
  }
  return points;
}

/** An SVG element; attributes are set, never parsed. */
function draw(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
  element.append(...children);
  return element;
}

/** [step, value] pairs as a line with its lowest and highest value; `title` says what it is. */
function curve(title, points) {
  const values = points.map(([, value]) => value);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const [begin, end] = [points[0][0], points.at(-1)[0]];
  const x = (step) => 4 + (WIDTH - 8) * (step - begin) / (end - begin);
  const y = (value) => HEIGHT - 4 - (HEIGHT - 8) * (high > low ? (value - low) / (high - low) : 0.5);
  const drawn = end > begin ? points.map(([step, value]) => [x(step), y(value)]) : [[4, y(low)], [WIDTH - 4, y(low)]];
  const said = `${title}: ${figure(values[0])} at first, ${figure(values.at(-1))} at last, between ${figure(low)} and ${figure(high)}`;
  return make("div", { class: "curve" },
    draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": said },
      draw("polyline", { points: drawn.map((point) => point.map((number) => number.toFixed(1)).join()).join(" ") })),
    make("small", {}, `${figure(low)} to ${figure(high)}, steps ${begin} to ${end}`));
}
