"""What is open to programs: health, versions, metrics, providers, and builds as such."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from studovna import __version__
from studovna.text import Text

from .. import metrics
from ..errors import Failed, Refused
from ..launcher import is_binder_server
from ..service import Shared
from .base import ApiHandler

BINDERHUB_VERSION = "0.2.0"  # whose contract is kept (commit b9fad995 of 2026-04-20)


class OpenHandler(ApiHandler):
    """For everyone, from everywhere: monitors ask, and other sites' pages."""

    open_to_all = True
    skip_network_ban = True


class VersionsHandler(OpenHandler):
    """``/versions``."""

    def set_default_headers(self) -> None:
        super().set_default_headers()
        if "Access-Control-Allow-Origin" not in self.settings.get("headers", {}):
            self.set_header("Access-Control-Allow-Origin", "*")

    async def get(self) -> None:
        self.write(
            {
                "binderhub": f"{BINDERHUB_VERSION}+studovna.{__version__}",
                "builder_info": await self.service.queue.executor.builder_info(),
            }
        )


class MetricsHandler(OpenHandler):
    """``/metrics``, for Prometheus."""

    def get(self) -> None:
        waiting = [build for build in self.service.queue.active() if build.state == "waiting"]
        metrics.BUILDS_WAITING.set(len(waiting))
        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        self.write(generate_latest(REGISTRY))


class ProvidersHandler(OpenHandler):
    """``/api/repoproviders``."""

    skip_network_ban = False

    def get(self) -> None:
        found = [provider.display_config for provider in self.service.providers.values()]
        self.write(json.dumps(found))


class HealthHandler(OpenHandler):
    """``/health``: what the service needs, asked at most every 15 seconds."""

    _recent = Shared(15.0)

    async def get(self) -> None:
        ok, checks = await self._recent.get("health", self._checks)
        if not ok:
            self.set_status(503)
        self.write({"ok": ok, "checks": checks})

    async def head(self) -> None:
        await self.get()

    async def _checks(self) -> tuple[bool, list[dict[str, Any]]]:
        service = self.service
        asked: dict[str, Any] = {"JupyterHub API": service.hub.healthy()}
        if service.registry is not None:
            asked["Docker registry"] = service.registry.healthy()
        answers = await asyncio.gather(*asked.values(), return_exceptions=True)
        checks: list[dict[str, Any]] = [
            {"service": name, "ok": answer is True}
            for name, answer in zip(asked, answers, strict=True)
        ]
        ok = all(check["ok"] for check in checks)
        return ok, [*checks, await self._pods()]

    async def _pods(self) -> dict[str, Any]:
        builds = [build for build in self.service.queue.active() if build.state == "running"]
        try:
            servers = [server async for server in self.service.hub.active_servers()]
        except (Failed, Refused):
            servers = []
        return {
            "service": "Pod quota",
            "total_pods": len(servers) + len(builds),
            "build_pods": len(builds),
            "user_pods": len(servers),
            "binder_pods": sum(map(is_binder_server, servers)),
            "quota": None,
            "ok": True,
        }


class BuildsHandler(ApiHandler):
    """``/api/builds``: one's own builds that wait or run; an admin sees all."""

    async def get(self) -> None:
        builds = self.service.queue.active()
        if not await self.is_admin():
            builds = [build for build in builds if self.person in build.people]
        self.write({"builds": [build.to_dict() for build in builds]})


class BuildAPIHandler(ApiHandler):
    """``/api/builds/<id>``: DELETE cancels it, which its starter and admins may."""

    async def delete(self, name: str) -> None:
        build = self.service.queue.find(name)
        if build is None or build.log.closed:
            raise Refused(
                Text("There is no build of that name that could be cancelled."), status=404
            )
        if build.request.started_by != self.person and not await self.is_admin():
            raise Refused(
                Text(
                    "Only {person}, who started this build, and administrators can cancel it.",
                    person=build.request.started_by,
                ),
                status=403,
            )
        await self.service.queue.cancel(build, self.person)
        self.set_status(204)


class BuildLogHandler(ApiHandler):
    """``/api/builds/<id>/log``: the log as text.

    Of a public repository, for everyone who is signed in; of a private one, for those who asked for
    the build, those who may read the repository now, and administrators.
    """

    async def get(self, name: str) -> None:
        build = self.service.queue.find(name)
        link = build.request.private_link if build else await self.service.store.private_link(name)
        asked = build is not None and self.person in build.people
        if link and not asked and not await self.is_admin():
            await self.service.check_may_read(link, self.person)
        text = build.log.text() if build else await self.service.store.log(name)
        if text is None:
            raise Refused(Text("The log of this build is not kept any more."), status=404)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.set_header("Content-Disposition", f'attachment; filename="{name}.log"')
        self.write(text)
