// Drives one link with BinderHub's own JavaScript client and prints each event as a line of JSON.
// Usage: node client.mjs <node_modules> <build endpoint> <provider/spec> <token> <build only: 0|1>
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

console.log = console.error; // the client reports there what it throws

const [modules, endpoint, spec, token, buildOnly] = process.argv.slice(2);

// What fetch-event-source uses of a browser.
globalThis.window = globalThis;
globalThis.document = {
  cookie: "",
  hidden: false,
  addEventListener() {},
  removeEventListener() {},
};

// The client closes a stream by throwing into it, which a browser only logs.
process.on("unhandledRejection", (error) => {
  if (error.constructor.name !== "EventStreamClose") throw error;
});

const file = createRequire(`${modules}/`).resolve("@jupyterhub/binderhub-client/client.js");
const { BinderRepository } = await import(pathToFileURL(file));
const repository = new BinderRepository(spec, new URL(endpoint), {
  apiToken: token,
  buildOnly: buildOnly === "1",
});
for await (const event of repository.fetch()) {
  process.stdout.write(`${JSON.stringify(event)}\n`);
  if (event.phase === "ready" || event.phase === "failed") {
    repository.close();
    break;
  }
}
