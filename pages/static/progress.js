// The progress page: what happens to a start, as the hub tells it.

import { api, explain, fill, serverPath, show, stop, words } from "./hub.js";

const page = document.getElementById("progress");
const { person, server, url } = page.dataset;
const now = document.getElementById("progress-message");
const bar = document.getElementById("progress-bar");
const steps = document.getElementById("steps");
const log = document.getElementById("progress-log");
const elapsed = document.getElementById("elapsed");
const failure = document.getElementById("progress-error");

const STEPS_SHOWN = 6;
let begun = Date.now();
let received = 0;
let lastLine = null;
let over = false;

/** "4 s", "2 min 5 s" since `from` (milliseconds). */
function duration(from, to = Date.now()) {
  const seconds = Math.max(0, Math.round((to - from) / 1000));
  if (seconds < 60) return fill(words.seconds, { seconds });
  return fill(words.minutes, { minutes: Math.floor(seconds / 60), seconds: seconds % 60 });
}

/** A template with its parameters, which may be templates with parameters themselves. */
function filled({ template, params }) {
  const sentence = words.dictionary[template] ?? template;
  const values = Object.entries(params).map(([name, value]) => [
    name,
    typeof value === "object" ? filled(value) : value,
  ]);
  return values.length ? fill(sentence, Object.fromEntries(values)) : sentence;
}

function translated(event) {
  if (!event.text) return words.jupyterhub[event.message] ?? event.message ?? "";
  return filled(event.text);
}

function finishStep(at) {
  const last = steps.lastElementChild;
  if (!last || last.classList.contains("done")) return;
  last.classList.add("done");
  last.querySelector(".took").textContent = duration(Number(last.dataset.at), at);
}

function addStep(sentence, at) {
  finishStep(at);
  const step = document.createElement("li");
  step.dataset.at = at;
  const text = document.createElement("span");
  text.textContent = sentence;
  const took = document.createElement("span");
  took.className = "took";
  step.append(text, took);
  steps.append(step);
  while (steps.children.length > STEPS_SHOWN) steps.firstElementChild.remove();
}

function tell(event) {
  // The hub gives the time of what happened before this page was opened.
  const at = event.at ? Date.parse(event.at) : Date.now();
  if (received === 0) begun = at;
  received += 1;
  if (event.progress !== undefined) {
    bar.setAttribute("aria-valuenow", event.progress);
    bar.firstElementChild.style.width = `${event.progress}%`;
  }
  const sentence = translated(event).split("\n")[0];
  if (sentence && sentence !== lastLine) {
    now.textContent = sentence;
    addStep(sentence, at);
    const time = new Date(at).toLocaleTimeString(document.documentElement.lang);
    log.textContent += `${time}  ${sentence}\n`;
    lastLine = sentence;
  }
}

function restart() {
  // A new connection tells everything again from the beginning.
  received = 0;
  lastLine = null;
  steps.replaceChildren();
  log.textContent = "";
  show(failure, "");
}

/** The hub sends whoever reloads this page to the server, or to why there is none. */
function leave(event) {
  over = true;
  if (event?.ready) {
    bar.firstElementChild.style.width = "100%";
    bar.setAttribute("aria-valuenow", 100);
    finishStep(Date.now());
    now.textContent = words.ready;
    if (event.url && !new URLSearchParams(window.location.search).has("next")) {
      window.location.replace(event.url);
      return;
    }
  }
  window.location.reload();
}

function listen() {
  const source = new EventSource(url);
  source.onopen = restart;
  source.onmessage = (message) => {
    if (over) return;
    const event = JSON.parse(message.data);
    if (event.ready || event.failed) {
      source.close();
      leave(event);
    } else {
      tell(event);
    }
  };
  source.onerror = () => {
    if (over) return;
    show(failure, words.lost);
    // The browser itself tries again after a broken connection, but not after a refusal, which is
    // what a hub that is just being started again answers.
    if (source.readyState === EventSource.CLOSED) setTimeout(look, 1500);
  };
}

/** Is it still starting? Listen again; otherwise go where the hub sends us. */
async function look() {
  if (over) return;
  try {
    const model = await api("GET", serverPath(person, server));
    if (model.pending === "spawn") listen();
    else leave();
  } catch (error) {
    if (error.status === 403 || error.status === 404) leave();
    else setTimeout(look, 1500);
  }
}

document.getElementById("cancel").addEventListener("click", async (event) => {
  const button = event.currentTarget;
  const label = button.textContent;
  over = true;
  button.disabled = true;
  button.textContent = words.cancelling;
  now.textContent = words.cancelling;
  try {
    await stop(person, server);
    window.location.assign(`${window.jhdata.base_url}home`);
  } catch (error) {
    over = false;
    button.disabled = false;
    button.textContent = label;
    show(failure, explain(error));
  }
});

setInterval(() => {
  if (over) return;
  elapsed.textContent = duration(begun);
  const last = steps.lastElementChild;
  if (last && Date.now() - Number(last.dataset.at) > 2000) {
    last.querySelector(".took").textContent = duration(Number(last.dataset.at));
  }
}, 500);

listen();
