// The form that makes links, and the page that follows one. No library, no build step.
"use strict";

const config = window.pageConfig;
const say = (text, values = {}) =>
  (config.strings[text] || text).replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
const get = (id) => document.getElementById(id);

for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const field = get(button.dataset.copy);
    field.select();
    await navigator.clipboard.writeText(field.value);
    const label = button.textContent;
    button.textContent = say("Address copied.");
    setTimeout(() => (button.textContent = label), 2000);
  });
}

function time(seconds) {
  const whole = Math.round(seconds);
  if (whole < 60) return say("{seconds} s", { seconds: whole });
  return say("{minutes} min {seconds} s", { minutes: Math.floor(whole / 60), seconds: whole % 60 });
}

// ---- the form ----

/** Pages of a branch, as people copy them from the browser's address: [repository, branch]. */
const PAGE_OF_BRANCH = {
  gh: /^([^/]+\/[^/]+)\/tree\/(.+)$/,
  gl: /^(.+?)\/-\/tree\/(.+)$/,
};
const escaped = (path) => path.split("/").map(encodeURIComponent).join("/");

function makeForm() {
  const providers = Object.fromEntries(config.repoProviders.map((one) => [one.id, one]));
  const fields = ["provider", "repository", "ref", "path", "path-kind"].map(get);
  const [provider, repository, ref, path, kind] = fields;

  function spec() {
    const one = providers[provider.value];
    let name = repository.value.trim();
    if (!name) return { problem: say("Enter a repository.") };
    if (one.detect && one.detect.regex) {
      const found = new RegExp(one.detect.regex).exec(name);
      if (found && found.groups && found.groups.repo) name = found.groups.repo;
    }
    name = name.replace(/\/+$/, "").replace(/^(?:https?:\/\/(?:dx\.)?doi\.org\/|doi:)/i, "");
    const [, bare, branch] = PAGE_OF_BRANCH[one.id]?.exec(name) ?? [];
    name = bare ?? name;
    const version = ref.value.trim() || branch || one.ref.default || "HEAD";
    const parts = name.split("/").length;
    name = one.repo.urlEncode ? encodeURIComponent(name) : escaped(name);
    const whole = one.ref.enabled ? `${name}/${escaped(version)}` : name;
    const fits = !one.spec || new RegExp(`^(?:${one.spec.validateRegex})$`).test(whole);
    // Anything more would be taken for a part of the branch.
    if (!fits || ((one.id === "gh" || one.id === "gist") && parts !== 2))
      return { problem: say("This is not an address that this provider understands.") };
    return { path: `v2/${one.id}/${whole}` };
  }

  function update() {
    const one = providers[provider.value];
    get("repository-label").textContent = one.repo.label;
    repository.placeholder = one.repo.placeholder;
    get("ref-group").hidden = !one.ref.enabled;
    const found = spec();
    get("results").hidden = !found.path;
    if (!found.path) return;
    get("form-problem").hidden = true;
    let url = config.badgeBaseUrl + found.path;
    if (path.value.trim()) url += `?${kind.value}=${encodeURIComponent(path.value.trim())}`;
    const badge = `${config.badgeBaseUrl}badge_logo.svg`;
    get("share-url").value = url;
    get("share-markdown").value = `[![Binder](${badge})](${url})`;
    get("share-rst").value = `.. image:: ${badge}\n   :target: ${url}`;
    get("share-html").value = `<a href="${url.replace(/&/g, "&amp;")}"><img src="${badge}" alt="Binder"></a>`;
  }

  get("share-rst").replaceWith(
    Object.assign(document.createElement("textarea"), {
      id: "share-rst", className: "form-control font-monospace", readOnly: true, rows: 2,
    }),
  );
  for (const field of fields) field.addEventListener("input", update);
  get("link-form").addEventListener("submit", (submitted) => {
    submitted.preventDefault();
    const found = spec();
    get("form-problem").hidden = !found.problem;
    get("form-problem").textContent = found.problem || "";
    if (!found.path) return repository.focus();
    let url = config.baseUrl + found.path;
    if (path.value.trim()) url += `?${kind.value}=${encodeURIComponent(path.value.trim())}`;
    location.assign(url);
  });
  update();
}

// ---- the launch page ----

const PHASES = ["waiting", "fetching", "building", "pushing", "launching"];
const LABELS = {
  waiting: "Waiting", fetching: "Fetching the repository", building: "Building the image",
  pushing: "Saving the image", built: "Built", launching: "Starting the server", ready: "Ready",
};
const MAX_LINES = 5000;
const SILENCE = 20000; // ms; the service says something every 5 s while it lives
// Colours, cursor movements, titles: whatever a terminal would swallow.
const ESCAPES = /\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])|[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f]/g;

function makeLog(panel) {
  let lines = [""];
  let planned = false;
  function draw() {
    planned = false;
    get("log-panel").hidden = lines.length < 2;
    const follow = panel.scrollTop + panel.clientHeight >= panel.scrollHeight - 30;
    if (lines.length > MAX_LINES) lines = lines.slice(-MAX_LINES);
    panel.textContent = lines.join("\n");
    if (follow) panel.scrollTop = panel.scrollHeight;
  }
  return {
    add(text) {
      for (const [index, part] of text.replace(/\r\n/g, "\n").split("\n").entries()) {
        if (index) lines.push("");
        const shown = part.replace(ESCAPES, "");
        // A carriage return begins the line anew, as progress bars do.
        const last = shown.split("\r").filter(Boolean).pop() || "";
        lines[lines.length - 1] = shown.includes("\r") ? last : lines[lines.length - 1] + shown;
      }
      if (!planned) {
        planned = true;
        setTimeout(draw, 100);
      }
    },
    clear() {
      lines = [""];
      draw();
    },
  };
}

function targetOf(serverUrl) {
  const wanted = new URLSearchParams(location.search);
  const tidy = (text) => escaped(text.replace(/^\/+|\/+$/g, ""));
  let path = (wanted.get("urlpath") || "").replace(/^\/+/, "");
  if (wanted.has("labpath")) path = `doc/tree/${tidy(wanted.get("labpath"))}`;
  else if (wanted.has("filepath")) path = `tree/${tidy(wanted.get("filepath"))}`;
  const server = new URL(serverUrl);
  const target = new URL(server.href + path);
  // A link must not lead anywhere but into the server.
  const inside = target.origin === server.origin && target.pathname.startsWith(server.pathname);
  return inside ? target.href : server.href;
}

function makeLaunch() {
  const log = makeLog(get("log"));
  let started = Date.now();
  let build = null;
  let phase = "waiting";
  let source = null;
  let lastId = "";
  let logId = "";
  let delay = 1000;
  let heard = Date.now();
  let done = false;

  get("share-url").value = location.href;
  if (config.lastSeconds)
    get("last-build").textContent = say("The last build took {time}.", { time: time(config.lastSeconds) });
  const clock = setInterval(() => {
    get("elapsed").textContent = time((Date.now() - started) / 1000);
    // A proxy in between can keep a connection open whose other end is gone.
    if (Date.now() - heard > SILENCE && source.readyState === EventSource.OPEN) lost();
  }, 1000);

  function showPhase(name, failed = false) {
    const at = name === "built" ? PHASES.indexOf("launching") : PHASES.indexOf(name);
    for (const [index, item] of [...get("phases").children].entries()) {
      item.classList.toggle("done", name === "ready" || (at >= 0 && index < at));
      item.classList.toggle("now", index === at && !failed);
      item.classList.toggle("failed", index === at && failed);
      if (index === at) item.setAttribute("aria-current", "step");
      else item.removeAttribute("aria-current");
    }
  }

  function end() {
    done = true;
    clearInterval(clock);
    source.close();
    get("cancel").hidden = true;
  }

  function showBuild(about) {
    build = { ...build, ...about };
    // Whoever opens the page of a build that goes on sees how long it has taken already.
    if (about.asked_ago) started = Math.min(started, Date.now() - about.asked_ago * 1000);
    get("log-link").href = `${config.baseUrl}api/builds/${build.id}/log?_xsrf=${encodeURIComponent(config.xsrf)}`;
    get("log-link").hidden = false;
    get("cancel").hidden = !build.may_cancel;
    if (build.last_seconds)
      get("last-build").textContent = say("The last build took {time}.", { time: time(build.last_seconds) });
  }

  function lost() {
    get("status").textContent = say("Connection lost, connecting again...");
    source.close();
    heard = Date.now();
    setTimeout(connect, delay);
    delay = Math.min(delay * 2, 30000);
  }

  function handle(received) {
    delay = 1000;
    heard = Date.now();
    if (received.lastEventId) {
      lastId = received.lastEventId;
      const from = lastId.split(".")[0];
      // The service was restarted: this build's log begins anew.
      if (logId && from !== logId && !from.startsWith("launch-") && !from.startsWith("own-")) log.clear();
      if (!from.startsWith("launch-")) logId = from;
    }
    const data = JSON.parse(received.data);
    const message = (data.message || "").trim();
    if (data.build) showBuild(data.build);
    if (data.phase === "failed") {
      end();
      showPhase(phase, true);
      get("status").hidden = true;
      get("failure").hidden = false;
      get("failure-message").textContent = message;
      if (build) {
        get("failure-log").href = get("log-link").href;
        get("failure-log").hidden = false;
        get("log-link").hidden = true;
      }
      document.title = `✗ ${document.title}`;
      return;
    }
    if (data.phase === "ready" && data.url) {
      end();
      showPhase("ready");
      const target = targetOf(data.url);
      get("status").textContent = say("Opening the server...");
      get("open").href = target;
      get("open").hidden = false;
      location.assign(target);
      return;
    }
    if (data.phase && LABELS[data.phase]) {
      phase = data.phase;
      showPhase(phase);
      if (phase !== "waiting" && phase !== "fetching" && phase !== "building") get("cancel").hidden = true;
      const own = phase === "waiting" || phase === "launching";
      get("status").textContent = own && message ? message : say(LABELS[phase]);
    }
    if (message && !data.build) log.add(data.message);
  }

  function connect() {
    const query = new URLSearchParams({ _xsrf: config.xsrf, heartbeat: "1" });
    if (lastId) query.set("last_event_id", lastId);
    source = new EventSource(`${config.baseUrl}build/${config.provider}/${config.spec}?${query}`);
    source.onmessage = handle;
    source.addEventListener("alive", () => (heard = Date.now()));
    // The browser connects again by itself only while it has seen no HTTP error: do it here always.
    source.onerror = () => {
      if (!done) lost();
    };
  }

  get("retry").addEventListener("click", (clicked) => {
    clicked.preventDefault();
    location.reload();
  });
  get("cancel").addEventListener("click", async () => {
    get("cancel").disabled = true;
    get("cancel").textContent = say("Cancelling...");
    await fetch(`${config.baseUrl}api/builds/${build.id}`, {
      method: "DELETE",
      headers: { "X-XSRFToken": config.xsrf },
    });
  });
  connect();
}

if (get("link-form")) makeForm();
if (get("phases")) makeLaunch();
