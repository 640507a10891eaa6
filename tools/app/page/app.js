/* A clip is sent as it is; what the models say comes back line by line, a state of one card each. */

const DATA = JSON.parse(document.getElementById("data").textContent);
const RECORDED_SECONDS = 10;
const UNKNOWN = "names no class";
const INVALID = "no rationale to judge";

const [form, fileField, recordButton, recordHint, againButton, player, pictures, statusLine, problem, said] =
  ["input", "file", "record", "record-hint", "again", "player", "pictures", "status", "problem", "said"]
    .map((id) => document.getElementById(id));

let clip = null;
let request = null;
let recorder = null;

function say(text) {
  statusLine.textContent = text;
}

function complain(text) {
  say("");
  problem.textContent = `⚠ ${text}`;
  problem.hidden = false;
}

/** Show a clip in the player and have it explained. */
function take(blob) {
  clip = blob;
  const video = make("video", { controls: true, src: URL.createObjectURL(blob), "aria-label": "The clip" });
  const before = player.querySelector("video");
  if (before?.src) URL.revokeObjectURL(before.src);
  player.replaceChildren(video);
  player.hidden = false;
  againButton.hidden = false;
  explain();
}

async function explain() {
  request?.abort();
  const own = (request = new AbortController());
  problem.hidden = true;
  pictures.hidden = true;
  said.replaceChildren();
  if (clip.size > DATA.max_megabytes * 1e6) {
    return complain(`The file has ${(clip.size / 1e6).toFixed(1)} MB; ${DATA.max_megabytes} are taken at most.`);
  }
  say("Sending the clip …");
  try {
    const response = await fetch("explain", {
      method: "POST", headers: { "content-type": "application/octet-stream" }, body: clip, signal: own.signal,
    });
    if (!response.ok) return complain(await response.text());
    for await (const event of lines(response.body)) EVENTS[event.event](event);
  } catch (error) {
    if (!own.signal.aborted) complain(`The connection was lost (${error.message}). Is the program still running?`);
  }
}

/** The JSON values of a body, one per line, as they arrive. */
async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const whole = (rest + value).split("\n");
    rest = whole.pop();
    for (const line of whole) yield JSON.parse(line);
  }
}

const EVENTS = {
  place({ ahead }) {
    if (ahead) say(`${plural(ahead, "clip")} before yours …`);
    else if (!said.children.length) say("Decoding the clip …");
  },
  clip({ strip, spectrogram, seconds, modes }) {
    pictures.replaceChildren(
      make("img", { src: strip, alt: "Frames that the model sees, from the begin of the clip to its end" }),
      make("img", { src: spectrogram, alt: "Spectrogram of the sound, low frequencies below" }),
      make("small", {}, seconds ? `${seconds} s; the frames that the model sees` : "what the model sees"));
    pictures.hidden = false;
    said.replaceChildren(...DATA.models.map((name, model) => make("section", {}, written("h2", name),
      make("div", { class: "runs" }, modes.map((mode) => make("article", { class: "card", id: `card-${model}-${mode}` },
        make("h3", {}, DATA.modes[mode]), make("p", { class: "hint" }, "waits …")))))));
    said.dataset.left = DATA.models.length * modes.length;
    say("Writing …");
  },
  said(state) {
    card(state);
    if (state.done) said.dataset.left -= 1;
    if (said.dataset.left === "0") say("Done.");
  },
  error({ text }) {
    complain(text);
  },
};

function card({ model, mode, sentences, writing, completion, answer, prediction, judged, cut, done }) {
  const article = document.getElementById(`card-${model}-${mode}`);
  article.dataset.done = done;
  article.replaceChildren(...[
    make("h3", {}, DATA.modes[mode]),
    done && make("dl", { class: "facts" },
      make("dt", {}, "answer"),
      make("dd", {}, emotion(prediction, UNKNOWN), answer !== null && answer !== prediction && written("q", answer, { class: "answer" })),
      DATA.is_verified && [
        make("dt", {}, "explanation"),
        make("dd", {}, emotion(judged, INVALID), judged !== null
          && mark(judged === prediction, "the verifier reads the answer in the explanation", "the verifier reads another emotion than the answer"))]),
    make("div", { class: "rationale" }, sentences.map(sentenceOf), writing && written("p", writing, { class: "sentence writing" }),
      done && !sentences.length && make("p", { class: "hint" }, "There is no rationale.")),
    cut && make("p", { class: "note" }, "⚠ Cut at the longest length that is allowed (--max_new_tokens)."),
    done && make("details", {}, make("summary", {}, "completion as generated"), written("pre", completion)),
  ].filter(Boolean));
}

/** A sentence in the colour of the emotion that the verifier reads first, with all that it reads in words. */
function sentenceOf({ text, emotions }) {
  const colour = emotions && DATA.colours.emotions[emotions[0]];
  return make("p", { class: colour ? "sentence coloured" : "sentence", style: colour ? { "--dot": colour } : {} },
    written("span", text, { class: "text" }),
    emotions && make("span", { class: "read" }, emotions.map((name) => emotion(name))));
}

/** Record camera and microphone, or what there is of them, for some seconds. */
async function record() {
  if (recorder) return recorder.stop();
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: true, audio: true });
  } catch (error) {
    return complain(`Neither camera nor microphone could be opened (${error.message}).`);
  }
  const parts = [];
  recorder = new MediaRecorder(stream);
  recorder.ondataavailable = ({ data }) => parts.push(data);
  recorder.onstop = () => {
    stream.getTracks().forEach((track) => track.stop());
    recorder = null;
    recordButton.textContent = "● Record";
    take(new Blob(parts, { type: parts[0]?.type }));
  };
  const live = make("video", { autoplay: true, "aria-label": "The camera" });
  live.muted = true;
  live.srcObject = stream;
  player.replaceChildren(live);
  player.hidden = false;
  recordButton.textContent = "■ Stop";
  recorder.start();
  const own = recorder;
  setTimeout(() => own.state === "recording" && own.stop(), 1000 * RECORDED_SECONDS);
}

for (const [relation, colour] of Object.entries(DATA.colours.relations)) document.documentElement.style.setProperty(`--${relation}`, colour);
if (navigator.mediaDevices) {
  recordHint.textContent = `up to ${RECORDED_SECONDS} seconds`;
} else {
  recordButton.disabled = true;
  recordHint.textContent = "Browsers record on this very machine or over https only.";
}
fileField.addEventListener("change", () => fileField.files.length && take(fileField.files[0]));
recordButton.addEventListener("click", record);
againButton.addEventListener("click", explain);
form.addEventListener("dragover", (event) => { event.preventDefault(); form.classList.add("dropping"); });
form.addEventListener("dragleave", () => form.classList.remove("dropping"));
form.addEventListener("drop", (event) => {
  event.preventDefault();
  form.classList.remove("dropping");
  if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
});
