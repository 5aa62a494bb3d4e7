"""Pods that no server of the hub has any more: what could not be ended while podman was broken."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jupyterhub import orm
from jupyterhub.app import JupyterHub

from spawner.engine import Engine, EngineError
from studovna.hub_log import begin_anew

log = logging.getLogger("jupyterhub.studovna")

LABELS = {"component": "singleuser-server"}
"""What KubeSpawner gives every server's pod, and nothing gives a build's."""
GRACE = 10.0
INTERVAL = 15.0
SOON = 3.0


class Leftovers:
    """Ends what nobody has; ``wanted`` tells the names of the pods that servers have.

    The hub's ``log`` is kept from growing without end as well.
    """

    def __init__(self, engine: Engine, wanted: Callable[[], set[str]], log: Path) -> None:
        self._engine = engine
        self._log = log
        self._wanted = wanted
        self._seen: set[str] = set()

    async def sweep(self) -> None:
        """End each pod that was nobody's at the last sweep and is so still.

        One look is not enough: a hub that has just begun does not know yet whose they all are.
        """
        try:
            found = (await self._engine.states(LABELS)).keys() - self._wanted()
            for name in sorted(found & self._seen):
                log.warning("The pod %s has no server in the hub any more; it is ended", name)
                await self._engine.end(name, GRACE)
            self._seen = set(found)
        except EngineError as error:
            log.error("Servers' pods cannot be looked through: %s", error.sentence)

    async def run(self) -> None:
        """Tidy what the process before left, then sweep for ever."""
        try:
            await self._engine.tidy()
        except EngineError as error:
            log.error("What was half erased is still there: %s", error.sentence)
        while True:
            await asyncio.sleep(SOON if self._seen else INTERVAL)
            try:
                await self.sweep()
                await asyncio.to_thread(begin_anew, self._log)
            except Exception:
                log.exception("Servers' pods could not be looked through")


def wanted_pods(app: Any) -> set[str]:
    """The pods of all servers that JupyterHub has: in its database, starting or stopping."""
    kept = app.db.query(orm.Spawner).filter(orm.Spawner.server_id.is_not(None))
    names = {str(one.state["pod_name"]) for one in kept if one.state and "pod_name" in one.state}
    for user in list(app.users.values()):
        names |= {spawner.pod_name for spawner in user.spawners.values() if spawner.active}
    return names


_tasks: set[asyncio.Task[None]] = set()


def watch(engine: Engine, log: Path) -> None:
    """Sweep as long as this hub runs; no-op where its configuration is only read."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return
    _tasks.add(
        loop.create_task(Leftovers(engine, lambda: wanted_pods(JupyterHub.instance()), log).run())
    )
