// A server that does not run: start it again with its last settings.

import { explain, show, startAgain } from "./hub.js";

const page = document.getElementById("not-running");
const start = document.getElementById("start");

start.addEventListener("click", async (event) => {
  event.preventDefault();
  start.classList.add("disabled");
  try {
    await startAgain(page.dataset.person, page.dataset.server, new URL(start.href).search);
  } catch (error) {
    start.classList.remove("disabled");
    show(document.getElementById("start-error"), explain(error));
  }
});

// What stood behind # in the address belongs to the page inside the server.
document.querySelectorAll(".actions a[href*='/spawn/']").forEach((link) => {
  link.href += window.location.hash;
});

const seconds = Number(page.dataset.seconds);
if (seconds > 0) setTimeout(() => start.click(), 1000 * seconds);
