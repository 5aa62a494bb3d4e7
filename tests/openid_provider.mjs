// A real OpenID Connect provider with the accounts and the client that its one argument, JSON,
// names. It prints a line when it listens. Its sign-in page takes any password.
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createServer as createTlsServer } from "node:https";
import Provider from "oidc-provider";

const given = JSON.parse(process.argv[2]);
const provider = new Provider(given.issuer, {
  clients: [
    {
      client_id: given.clientId,
      client_secret: given.clientSecret,
      redirect_uris: [given.redirect],
    },
  ],
  findAccount: (ctx, id) => {
    const claims = given.accounts[id];
    return claims && { accountId: id, claims: () => ({ sub: id, ...claims }) };
  },
  claims: {
    openid: ["sub"],
    profile: ["preferred_username", "name"],
    roles: ["realm_access"],
  },
  scopes: ["openid", "profile", "roles"],
  pkce: { required: () => true },
  cookies: { keys: ["tests"] },
});
// An account that is the last one: the provider dies as soon as it has sent the browser back.
provider.on("authorization.success", (ctx) => {
  if (ctx.oidc.session?.accountId === "last") {
    ctx.res.on("finish", () => process.exit(0));
  }
});
const address = new URL(given.issuer);
const server =
  address.protocol === "https:"
    ? createTlsServer(
        { cert: readFileSync(given.certificate), key: readFileSync(given.key) },
        provider.callback(),
      )
    : createServer(provider.callback());
server.listen(Number(address.port), address.hostname, () => {
  console.log("listening");
});
