// What our pages share: calls of the hub's REST API, sentences, and times people can read.

const hub = window.jhdata;

/** The sentences the page brought along, in its language; {name} is filled in from `params`. */
export const words = JSON.parse(document.getElementById("words")?.textContent ?? "{}");

export function fill(template, params) {
  return template.replace(/\{(\w+)\}|\{\{|\}\}/g, (match, name) =>
    name === undefined ? match[0] : name in params ? params[name] : match,
  );
}

/** The path, below the API or a page's name, of a person's server; "" is the default server. */
export function serverPath(person, server) {
  const user = encodeURIComponent(person);
  return server ? `users/${user}/servers/${encodeURIComponent(server)}` : `users/${user}/server`;
}

export function pendingUrl(person, server) {
  const path = `${hub.base_url}spawn-pending/${encodeURIComponent(person)}`;
  return server ? `${path}/${encodeURIComponent(server)}` : path;
}

/** A reply of the API that is an error; `status` 0: there was no reply. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Call the hub's REST API; the reply's JSON, or null. Throws ApiError. */
export async function api(method, path, body) {
  let reply;
  try {
    reply = await fetch(`${hub.base_url}api/${path}`, {
      method,
      credentials: "same-origin",
      keepalive: method !== "GET",
      headers: { "X-XSRFToken": hub.xsrf_token, "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new ApiError(0, "");
  }
  const text = await reply.text();
  let data = null;
  try {
    data = text ? JSON.parse(text) : null;
  } catch {
    // An answer that is no JSON comes from the proxy; its status says enough.
  }
  if (!reply.ok) throw new ApiError(reply.status, data?.message ?? reply.statusText);
  return data;
}

/** The sentence for the person about a call that failed. */
export function explain(error) {
  if (!(error instanceof ApiError)) throw error;
  if (error.status === 429) return words.busy;
  if (error.status === 0 || error.status >= 502) return words.offline ?? words.busy;
  return fill(words.failed, { reason: error.message });
}

export function show(element, sentence) {
  element.textContent = sentence;
  element.hidden = !sentence;
  if (sentence) element.scrollIntoView({ block: "nearest" });
}

/**
 * Start a server with the settings of its last start, and go where its progress or itself is.
 * No body: the hub takes the settings it keeps, which say nothing about any home's end.
 * A start that is refused is told on the progress page, in the person's language; what happened
 * before the start was tried is thrown as ApiError. `search` (?next=…) says where to go then.
 */
export async function startAgain(person, server, search = "") {
  const started = api("POST", serverPath(person, server));
  // Most starts take seconds: rather look at their progress than wait for the reply.
  const soon = new Promise((resolve) => setTimeout(resolve, 700));
  try {
    await Promise.race([started, soon]);
  } catch (error) {
    // No reply says nothing about the start: the progress page knows. (A browser on the hub's own
    // machine loses connections when a pod's network comes up.)
    if (error.status === 429 || error.status >= 502) throw error;
  }
  window.location.assign(pendingUrl(person, server) + search);
}

/** Stop a server and return when it has stopped. */
export async function stop(person, server) {
  const path = serverPath(person, server);
  const pause = () => new Promise((resolve) => setTimeout(resolve, 300));
  // Asking twice does no harm; a connection may be lost while networks on the machine change.
  const again = async (method) => {
    try {
      return await api(method, path);
    } catch (error) {
      if (error.status !== 0) throw error;
      await pause();
      return api(method, path);
    }
  };
  await again("DELETE");
  for (;;) {
    let model;
    try {
      model = await again("GET");
    } catch (error) {
      if (error.status === 404) return;
      throw error;
    }
    if (!model.ready && !model.pending) return;
    await pause();
  }
}

const STEPS = [
  ["second", 60],
  ["minute", 60],
  ["hour", 24],
  ["day", 30],
  ["month", 12],
  ["year", Infinity],
];

/** "5 minutes ago" in the page's language. */
export function relative(date, now = Date.now()) {
  const format = new Intl.RelativeTimeFormat(document.documentElement.lang, { numeric: "auto" });
  let amount = (date.getTime() - now) / 1000;
  for (const [unit, size] of STEPS) {
    if (Math.abs(amount) < size) return format.format(Math.round(amount), unit);
    amount /= size;
  }
}

/** Write every <time data-relative> as an age, now and every half minute. */
export function showAges() {
  const update = () => {
    for (const time of document.querySelectorAll("time[data-relative]")) {
      const date = new Date(time.dateTime);
      time.textContent = relative(date);
      time.title = date.toLocaleString(document.documentElement.lang);
    }
  };
  update();
  setInterval(update, 30_000);
}
