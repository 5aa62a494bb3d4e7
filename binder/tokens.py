"""Tokens: build tokens of pages, and people's own tokens for private repositories.

A person gives a token for a git host once. It is kept in the hub's auth state, which JupyterHub
stores encrypted: never in a server's options, never in a log, never in an image. Two things run in
the hub for that (`keep_git_tokens`, `GitTokensAPIHandler`, wired in ``jupyterhub_config.py``); the
service asks the hub for one person's tokens when it resolves a link of theirs.
"""

from __future__ import annotations

import json
import re
import time
from typing import Any
from urllib.parse import quote

import jwt
from jupyterhub.apihandlers.base import APIHandler
from tornado import web

from studovna.text import Text

from .errors import Refused
from .hub import HubClient, HubRefused
from .providers import Credential
from .providers.addresses import is_host

SCOPE = "custom:git-tokens"
"""The scope that reads and changes git tokens of people: for this service alone."""

CUSTOM_SCOPES = {SCOPE: {"description": "Read and change people's tokens for git hosts"}}
"""For ``c.JupyterHub.custom_scopes``."""

MAX_HOSTS = 20
_KEY = "git_tokens"
_TOKEN = re.compile(r"[\x21-\x7e]{1,1000}")
_USERNAME = re.compile(r"[A-Za-z0-9_.@+-]{0,100}")


def mint_build_token(secret: bytes, provider_spec: str, origin: str, seconds: int) -> str:
    """A token that lets the page of one link ask for that link's build, from one origin."""
    claims = {"exp": int(time.time()) + seconds, "aud": provider_spec, "origin": origin}
    return jwt.encode(claims, key=secret, algorithm="HS256")


def check_build_token(
    secret: bytes, token: str, provider_spec: str, origin: str, check_origin: bool
) -> None:
    """Raise Refused (403) when the token is not one of ours for this link and origin."""
    try:
        claims = jwt.decode(token, key=secret, audience=provider_spec, algorithms=["HS256"])
    except jwt.PyJWTError:
        claims = {}
    if not claims or (check_origin and claims.get("origin") != origin):
        raise Refused(Text("Invalid build token. Reload the page to get a new one."), status=403)


def check_token(host: str, username: str, token: str) -> None:
    """Raise Refused when what a person typed cannot be a host, a user name and a token."""
    if not is_host(host):
        raise Refused(Text("{host} is not a host name.", host=host[:100]))
    if not _USERNAME.fullmatch(username):
        raise Refused(Text("{username} cannot be a user name.", username=username[:100]))
    if not _TOKEN.fullmatch(token):
        raise Refused(Text("A token is one line without spaces."))


def default_username(host: str) -> str:
    """What git hosts want beside a token where people have nothing to say."""
    return "oauth2" if "gitlab" in host else "x-access-token"


class GitTokens:
    """People's tokens, as the service reaches them."""

    def __init__(self, hub: HubClient) -> None:
        self._hub = hub

    async def credential(self, person: str, host: str) -> Credential | None:
        """A person's access to one git host, None when they gave none (or the hub keeps none)."""
        if not host:
            return None
        found = (await self._read(person)).get(host.lower())
        if not isinstance(found, dict):
            return None
        return Credential(str(found["username"]), str(found["token"]))

    async def hosts(self, person: str) -> list[str]:
        """The hosts for which a person has given a token."""
        return sorted(await self._read(person))

    async def put(self, person: str, host: str, username: str, token: str) -> None:
        """Keep a token. Raises Refused."""
        host = host.lower()
        check_token(host, username, token)
        body = {"username": username or default_username(host), "token": token}
        await self._hub.request("PUT", f"{_path(person)}/{quote(host, safe='')}", body)

    async def remove(self, person: str, host: str) -> None:
        """Forget a token."""
        await self._hub.request("DELETE", f"{_path(person)}/{quote(host.lower(), safe='')}")

    async def _read(self, person: str) -> dict[str, Any]:
        try:
            return dict(await self._hub.request("GET", _path(person)) or {})
        except HubRefused as error:
            if error.status in (403, 404):  # a hub without these handlers: nobody has tokens
                return {}
            raise


def _path(person: str) -> str:
    return f"users/{quote(person, safe='')}/git-tokens"


# What follows runs in the hub.


def keep_git_tokens(
    _authenticator: Any, authenticated: dict[str, Any], existing: dict[str, Any] | None
) -> dict[str, Any] | None:
    """For ``c.Authenticator.reconcile_auth_state_hook``: a new login keeps the git tokens."""
    state: dict[str, Any] | None = authenticated.get("auth_state")
    kept = (existing or {}).get(_KEY)
    return {**(state or {}), _KEY: kept} if kept else state


class GitTokensAPIHandler(APIHandler):
    """``/hub/api/users/{name}/git-tokens[/{host}]``: GET all, PUT or DELETE one."""

    async def prepare(self) -> None:
        await super().prepare()
        # JupyterHub's needs_scope knows no custom scope yet when this module is imported.
        if SCOPE not in self.expanded_scopes:
            raise web.HTTPError(403, "Only the Binder service reads and changes git tokens.")

    async def get(self, user_name: str, host: str | None = None) -> None:
        state = await self._user(user_name).get_auth_state() or {}
        self.write(json.dumps(state.get(_KEY) or {}))

    async def put(self, user_name: str, host: str | None = None) -> None:
        body = self.get_json_body()
        values = body if isinstance(body, dict) else {}
        username, token = values.get("username"), values.get("token")
        if not (host and isinstance(username, str) and isinstance(token, str)):
            raise web.HTTPError(400, 'Send {"username": ..., "token": ...} to a host\'s address.')
        try:
            check_token(host, username, token)
        except Refused as error:
            raise web.HTTPError(400, str(error.message)) from None
        await self._change(user_name, host, {"username": username, "token": token})

    async def delete(self, user_name: str, host: str | None = None) -> None:
        if not host:
            raise web.HTTPError(400, "Name a host.")
        await self._change(user_name, host, None)

    async def _change(self, user_name: str, host: str, value: dict[str, str] | None) -> None:
        user = self._user(user_name)
        if not self.authenticator.enable_auth_state:
            raise web.HTTPError(
                501, "This hub keeps no auth state, so it cannot keep tokens encrypted."
            )
        state = await user.get_auth_state() or {}
        tokens = dict(state.get(_KEY) or {})
        tokens.pop(host, None)
        if value is not None:
            tokens[host] = value
        if len(tokens) > MAX_HOSTS:
            raise web.HTTPError(400, f"At most {MAX_HOSTS} hosts can have a token.")
        await user.save_auth_state({**state, _KEY: tokens})
        self.set_status(204)

    def _user(self, name: str) -> Any:
        user = self.find_user(name)
        if user is None:
            raise web.HTTPError(404, f"There is no person named {name}")
        return user


hub_handlers = [
    (r"/api/users/([^/]+)/git-tokens", GitTokensAPIHandler),
    (r"/api/users/([^/]+)/git-tokens/([A-Za-z0-9_.:-]{1,253})", GitTokensAPIHandler),
]
"""For ``c.JupyterHub.extra_handlers``."""
