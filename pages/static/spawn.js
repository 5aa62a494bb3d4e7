// The spawn page: only the chosen profile's options are sent, and what they cost is told at once.

import { fill, words } from "./hub.js";

const form = document.getElementById("spawn_form");
const KIB = 1024;
const UNITS = { K: KIB, M: KIB ** 2, G: KIB ** 3, T: KIB ** 4 };
const TYPED = "unlisted-choice";

const number = (value) => String(Math.round(value * 100) / 100).replace(".", words.decimal);
const size = (bytes) =>
  bytes >= UNITS.G || bytes === 0
    ? `${number(bytes / UNITS.G)}\u00a0GB`
    : `${Math.round(bytes / UNITS.M)}\u00a0MB`;
const shown = (kind, amount) => (kind.startsWith("memory") ? size(amount) : number(amount));

/** What was typed, as an amount: cores, bytes or a count; 0 while it is none. */
function amount(key, typed) {
  if (!key.startsWith("memory") && key !== "shm") return Number(typed) || 0;
  const match = /^(\d+(?:\.\d+)?)([KMGT])$/.exec(typed);
  return match ? Number(match[1]) * UNITS[match[2]] : 0;
}

function filledIn(resources, typed) {
  const entries = Object.entries(resources ?? {}).map(([key, value]) => {
    if (key === "gpus") {
      const gpus = Object.entries(value);
      return [key, Object.fromEntries(gpus.map(([n, c]) => [n, c === "{value}" ? Number(typed) || 0 : c]))];
    }
    return [key, value === "{value}" ? amount(key, typed) : value];
  });
  return Object.fromEntries(entries);
}

const chosenProfile = () => form.querySelector('input[name="profile"]:checked')?.closest(".profile");

function choiceOf(option) {
  return option.querySelector("select")?.value ?? option.querySelector('input[type="radio"]:checked')?.value;
}

/** Only what belongs to the chosen profile and choice is enabled, so only that is sent. */
function enable() {
  const chosen = chosenProfile();
  for (const profile of form.querySelectorAll(".profile")) {
    const active = profile === chosen;
    for (const option of profile.querySelectorAll(".option")) {
      for (const control of option.querySelectorAll('select, input[type="radio"]')) {
        if (!control.closest(".choice-off")) control.disabled = !active;
      }
      const typed = option.querySelector(".typed");
      if (!typed) continue;
      const choice = choiceOf(option);
      const wanted = active && (choice === undefined || choice === TYPED);
      typed.hidden = choice !== undefined && choice !== TYPED;
      const field = typed.querySelector("input");
      field.disabled = !wanted;
      field.required = wanted;
    }
  }
}

function wantedResources() {
  const profile = chosenProfile();
  if (!profile) return null;
  const known = words.resources[profile.dataset.profile];
  let total = { ...known.base };
  for (const option of profile.querySelectorAll(".option")) {
    const { choices, unlisted } = known.options[option.dataset.option];
    const choice = choiceOf(option);
    const added =
      choice === undefined || choice === TYPED
        ? filledIn(unlisted, option.querySelector(".typed input")?.value ?? "")
        : choices[choice];
    total = { ...total, ...added };
  }
  // A request that is not set is its limit, as in Kubernetes.
  for (const kind of ["cpu", "memory"]) {
    total[`${kind}_limit`] ??= 0;
    total[`${kind}_request`] ??= total[`${kind}_limit`];
  }
  // What checks the sign-in before an application is a container of the server, too.
  for (const [kind, more] of Object.entries(total.sidecar ?? {})) {
    if (kind !== "gpus") total[kind] += more;
  }
  return total;
}

/** Why the hub would refuse this, or "". */
function tooMuch(wanted) {
  const { quota } = words;
  if (quota.servers.used >= quota.servers.most) {
    return fill(words.servers_short, { most: quota.servers.most });
  }
  for (const kind of ["cpu_request", "cpu_limit", "memory_request", "memory_limit"]) {
    if (wanted[kind] > quota[kind].left + 1e-6) {
      return fill(words[`${kind}_short`], {
        left: shown(kind, quota[kind].left),
        wanted: shown(kind, wanted[kind]),
      });
    }
  }
  return "";
}

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function summarise() {
  const wanted = wantedResources();
  const summary = document.getElementById("summary");
  summary.hidden = !wanted;
  if (!wanted) return;
  for (const kind of ["cpu", "memory"]) {
    const [least, most] = [wanted[`${kind}_request`], wanted[`${kind}_limit`]];
    put(
      summary.querySelector(`[data-show="${kind}"]`),
      fill(words[kind], { least: shown(kind, least), most: shown(kind, most) }),
    );
    const quota = words.quota[`${kind}_limit`];
    const line = summary.querySelector(`[data-quota="${kind}"]`);
    const left = Math.max(0, quota.left - most);
    const unit = kind === "cpu" ? "\u00a0CPU" : "";
    put(
      line.querySelector("[data-left]"),
      fill(words.left, { left: shown(kind, left), most: shown(kind, quota.most) + unit }),
    );
    const share = (part) => `${Math.min(100, (100 * part) / quota.most)}%`;
    line.querySelector(".before").style.width = share(quota.used);
    line.querySelector(".added").style.width = share(Math.min(most, quota.left));
    line.classList.toggle("over", most > quota.left + 1e-6);
  }
  const gpus = Object.entries(wanted.gpus ?? {}).filter(([, count]) => count);
  summary.querySelector("[data-gpu]").hidden = !gpus.length;
  put(
    summary.querySelector('[data-show="gpu"]'),
    gpus.map(([name, count]) => `${count}\u00a0×\u00a0${name}`).join(", "),
  );
  const warning = document.getElementById("too-much");
  const sentence = tooMuch(wanted);
  put(warning, sentence);
  warning.hidden = !sentence;
}

function refresh() {
  enable();
  summarise();
}

function search(text) {
  const wanted = text.trim().toLocaleLowerCase();
  let found = 0;
  for (const category of form.querySelectorAll(".category")) {
    let here = 0;
    for (const profile of category.querySelectorAll(".profile")) {
      const words = profile.querySelector(".profile-words").textContent.toLocaleLowerCase();
      profile.hidden = !words.includes(wanted);
      here += profile.hidden ? 0 : 1;
    }
    category.hidden = here === 0;
    if (category.matches("details") && wanted && here) category.open = true;
    found += here;
  }
  document.getElementById("nothing-found").hidden = found > 0;
}

if (form) {
  form.addEventListener("change", refresh);
  form.addEventListener("input", (event) => {
    if (event.target.type !== "search") summarise();
  });
  const field = document.getElementById("search");
  if (field) {
    field.parentElement.hidden = false;
    field.addEventListener("input", () => search(field.value));
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter") event.preventDefault();
    });
  }
  const start = document.getElementById("start");
  const label = start.textContent;
  form.addEventListener("submit", () => {
    start.classList.add("disabled");
    start.textContent = words.starting;
  });
  // Coming back with the browser's own button shows the page as it was left.
  window.addEventListener("pageshow", () => {
    start.classList.remove("disabled");
    start.textContent = label;
    refresh();
  });
  document.getElementById("refusal")?.focus();
  refresh();
}
