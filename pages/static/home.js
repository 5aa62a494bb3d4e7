// The home page: what its buttons do.

import { api, explain, serverPath, show, showAges, startAgain, stop, words } from "./hub.js";

const home = document.getElementById("home");
const person = home.dataset.person;
const pageError = document.getElementById("page-error");

showAges();

/** Do something with a server's card locked; reload after it, or tell why it did not work. */
async function withCard(card, state, action, reload = true) {
  const controls = card.querySelectorAll("button, a.btn");
  const label = card.querySelector(".state");
  const before = { text: label.textContent, classes: label.className };
  controls.forEach((control) => control.classList.add("disabled"));
  if (state) {
    label.textContent = words[state];
    label.className = `state state-${state === "stopping" ? "stop" : "spawn"}`;
  }
  show(pageError, "");
  try {
    await action();
    if (reload) window.location.reload();
  } catch (error) {
    controls.forEach((control) => control.classList.remove("disabled"));
    label.textContent = before.text;
    label.className = before.classes;
    show(pageError, explain(error));
  }
}

/** Whether the person says yes in a dialog. */
function asked(dialog, name) {
  dialog.querySelectorAll("[data-name]").forEach((place) => (place.textContent = name));
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

const actions = {
  stop: (card, server) => withCard(card, "stopping", () => stop(person, server)),
  restart: (card, server) =>
    withCard(
      card,
      "stopping",
      async () => {
        await stop(person, server);
        await startAgain(person, server);
      },
      false,
    ),
  again: (card, server) =>
    withCard(card, "starting", () => startAgain(person, server), false),
  delete: async (card, server) => {
    if (await asked(document.getElementById("delete-dialog"), card.dataset.title)) {
      await withCard(card, "", () => api("DELETE", serverPath(person, server), { remove: true }));
    }
  },
};

document.getElementById("servers")?.addEventListener("click", (event) => {
  const control = event.target.closest("[data-do]");
  if (!control) return;
  event.preventDefault();
  if (control.classList.contains("disabled")) return;
  const card = control.closest("[data-server]");
  actions[control.dataset.do](card, card.dataset.server);
});

// A server that starts or stops elsewhere: show the news when they come.
const moving = document.querySelectorAll(
  '[data-state="spawn"], [data-state="check"], [data-state="stop"], [data-state="rename"]',
);
if (moving.length) {
  const states = async () => {
    const model = await api("GET", `users/${encodeURIComponent(person)}?include_stopped_servers`);
    return [...moving].every(
      (card) => (model.servers[card.dataset.server]?.pending ?? "stopped") === card.dataset.state,
    );
  };
  const watch = setInterval(async () => {
    try {
      if (!(await states()) && !document.querySelector("dialog[open]")) {
        clearInterval(watch);
        window.location.reload();
      }
    } catch {
      // The hub may be away for a moment; the next look tells.
    }
  }, 2000);
}

// A new server: its name is part of the address of the page where it is chosen.
const form = document.getElementById("new-server");
if (form) {
  const field = document.getElementById("new-name");
  const taken = JSON.parse(form.dataset.taken);
  const check = () => {
    const name = field.value;
    let sentence = "";
    if (taken.includes(name)) sentence = words.name_taken;
    else if (field.validity.patternMismatch || field.validity.tooLong) sentence = words.name_rule;
    field.setCustomValidity(sentence);
    field.classList.toggle("is-invalid", Boolean(sentence));
  };
  field.addEventListener("input", () => {
    field.setCustomValidity("");
    check();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    check();
    if (!form.reportValidity()) return;
    const name = field.value;
    window.location.assign(name ? `${form.action}/${name}` : form.action);
  });
}

// Erasing a home: only with its name typed, and never as a part of anything else.
const dialog = document.getElementById("erase-dialog");
const confirm = document.getElementById("erase-confirm");
const eraseError = document.getElementById("erase-error");
const yes = dialog.querySelector('button[value="yes"]');
let erasing = "";

document.querySelectorAll('[data-do="erase"]').forEach((button) =>
  button.addEventListener("click", () => {
    erasing = button.closest("[data-home]").dataset.home;
    dialog.querySelectorAll("[data-name]").forEach((place) => (place.textContent = erasing));
    confirm.value = "";
    yes.disabled = true;
    show(eraseError, "");
    dialog.showModal();
  }),
);
confirm.addEventListener("input", () => (yes.disabled = confirm.value !== erasing));
dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
dialog.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (confirm.value !== erasing) return;
  yes.disabled = true;
  try {
    const path = `users/${encodeURIComponent(person)}/homes/${encodeURIComponent(erasing)}`;
    await api("DELETE", path, { confirm: confirm.value });
    window.location.reload();
  } catch (error) {
    yes.disabled = false;
    show(eraseError, explain(error));
  }
});
