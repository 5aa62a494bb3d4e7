"""The hub's REST API for homes: what a person keeps, and the one way to erase it."""

from __future__ import annotations

import json
from typing import Any

from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.scopes import needs_scope
from tornado import web

from spawner.engine import Claim, ClaimInUse, EngineError
from spawner.spawner import ProfileSpawner, last_end
from studovna.text import Text


class _HomesHandler(APIHandler):
    async def asked(self, spawner: ProfileSpawner, *, measured: bool = True) -> list[Claim]:
        """A person's homes; 503 with the engine's sentence while it cannot tell."""
        try:
            return await spawner.homes(measured=measured)
        except EngineError as error:
            self.log.error("Homes cannot be listed: %s %s", error.sentence, error.detail)
            raise web.HTTPError(503, str(error.sentence)) from error


class HomesAPIHandler(_HomesHandler):
    """``GET /hub/api/users/{name}/homes``: the person's homes with their size in bytes."""

    @needs_scope("read:servers")
    async def get(self, user_name: str) -> None:
        homes = await self.asked(spawner_of(self, user_name))
        self.write(json.dumps([_home(home) for home in homes]))


class HomeAPIHandler(_HomesHandler):
    """``DELETE /hub/api/users/{name}/homes/{home}`` with ``{"confirm": "<home>"}``.

    Erasing a home is an act of its own and never an option of a start, so nothing that repeats
    a start can repeat it.
    """

    @needs_scope("delete:servers")
    async def delete(self, user_name: str, home_name: str) -> None:
        spawner = spawner_of(self, user_name)
        body = self.get_json_body()
        if not isinstance(body, dict) or body.get("confirm") != home_name:
            raise web.HTTPError(
                400,
                str(
                    Text(
                        'Nothing was erased. To erase this home, send {{"confirm": "{home}"}}.',
                        home=home_name,
                    )
                ),
            )
        if home_name not in {home.name for home in await self.asked(spawner, measured=False)}:
            raise web.HTTPError(404, f"{user_name} has no home named {home_name}")
        using = [
            other.name or user_name
            for other in spawner.user.spawners.values()
            if other.active and other.pvc_name == home_name
        ]
        if using:
            raise web.HTTPError(
                409, f"The home {home_name} is in use by {', '.join(using)}: stop it first."
            )
        try:
            await spawner.erase_home(home_name)
        except ClaimInUse as error:
            raise web.HTTPError(409, str(error.sentence)) from error
        except EngineError as error:
            self.log.exception("Could not erase the home %s of %s", home_name, user_name)
            raise web.HTTPError(500, str(error.sentence)) from error
        self.log.info("%s erased the home %s of %s", self.current_user.name, home_name, user_name)
        self.set_status(204)


class LastEndAPIHandler(APIHandler):
    """``GET /hub/api/users/{name}/servers/{server}/last-end``: why there is no such server.

    ``{"message", "text", "at", "failed"?}``: the sentence, its template with its parameters for
    pages of other languages, and whether it is of a start that did not become a server. ``{}``
    when the server was stopped, runs, or was never started.
    """

    @needs_scope("read:servers")
    async def get(self, user_name: str, server_name: str) -> None:
        user = spawner_of(self, user_name).user
        orm = user.orm_user.orm_spawners.get(server_name)
        self.write(json.dumps(last_end(orm, user.spawners.get(server_name)) or {}))


def _home(claim: Claim) -> dict[str, object]:
    return {
        "name": claim.name,
        "size": claim.size,
        "requested": claim.requested,
        "created": claim.created.isoformat(),
    }


def spawner_of(handler: Any, user_name: str) -> ProfileSpawner:
    """The default spawner of this person; 404 when there is no such person."""
    user = handler.find_user(user_name)
    if user is None:
        raise web.HTTPError(404, f"There is no person named {user_name}")
    spawner: ProfileSpawner = user.spawner
    return spawner


extra_handlers = [
    (r"/api/users/([^/]+)/homes", HomesAPIHandler),
    (r"/api/users/([^/]+)/homes/([a-z0-9-]{1,63})", HomeAPIHandler),
    (r"/api/users/([^/]+)/servers/([^/]+)/last-end", LastEndAPIHandler),
]
