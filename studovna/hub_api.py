"""What the command line asks of the running hub, as its operator service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from studovna.hub_process import HubError, local_url
from studovna.secrets import read_secret
from studovna.site import Site
from studovna.text import Text


def new_token(site: Site, state: Path, person: str, expires_in: int, note: str) -> str:
    """An API token of this person, for ``expires_in`` seconds; the person is added if new.

    Raises ``HubError`` when the name is not allowed, or when the hub does not run or refuses.
    """
    if not site.is_username(person):
        raise HubError(
            Text(
                "{name} is no user name here: names match {rule}.",
                name=repr(person),
                rule=site.auth.username_pattern,
            )
        )
    _ask(site, state, "POST", f"users/{person}", accept={409})
    reply = _ask(
        site,
        state,
        "POST",
        f"users/{person}/tokens",
        body={"expires_in": expires_in, "note": note},
    )
    return str(reply["token"])


def _ask(
    site: Site,
    state: Path,
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    accept: set[int] | None = None,
) -> Any:
    try:
        reply = httpx.request(
            method,
            f"{local_url(site)}/hub/api/{path}",
            headers={"Authorization": f"token {read_secret(state, 'service-token-operator')[0]}"},
            json=body,
            timeout=30,
            trust_env=False,
        )
    except httpx.HTTPError as error:
        raise HubError(
            Text("The hub does not answer at {url}: start it with make up.", url=site.url)
        ) from error
    if reply.is_error and reply.status_code not in (accept or ()):
        said = reply.json().get("message", "") if "json" in reply.headers["content-type"] else ""
        raise HubError(Text("The hub refused: {code} {said}", code=reply.status_code, said=said))
    return reply.json() if reply.content else None
