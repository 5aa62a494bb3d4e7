"""KubeSpawner's view of all pods, with watches that never stay broken.

KubeSpawner 7.1 gives up on a watch after a minute without the API server and goes on using what it
last saw, for ever. Here the watch starts again, and only one that lives is handed out. And it lists
all pods whenever nothing has happened for ten seconds, which with hundreds of them is most of what
the hub does; here a watch that ended in peace goes on where it was.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, ClassVar

from kubespawner.reflector import ResourceReflector
from kubespawner.spawner import PodReflector

from spawner.kube_api import unavailable

AGAIN_SECONDS = 2.0
LIST_SECONDS = 60.0
"""How often everything is listed nevertheless: API servers keep the last 75 seconds of changes."""


class LastingReflector(PodReflector):
    """KubeSpawner's reflector of pods, started again whenever it has given up."""

    _listed = float("-inf")

    async def _list_and_update(self, resource_version: str | None = None) -> str:
        """List all pods, unless the watch can go on from the version that it has come to.

        KubeSpawner asks for version "0" (any) at first and after every error.
        """
        now = time.monotonic()
        if resource_version not in (None, "0") and now - self._listed < LIST_SECONDS:
            return str(resource_version)
        version: str = await super()._list_and_update(resource_version)
        self._listed = now
        return version

    async def _watch_and_update(self) -> None:
        while not self._stopping:
            await super()._watch_and_update()
            if not self._stopping:
                self.log.error("The watch of %s ended; it is started again", self.kind)
                await asyncio.sleep(AGAIN_SECONDS)

    @property
    def lives(self) -> bool:
        """Whether what it knows is being kept up to date."""
        return self.watch_task is not None and not self.watch_task.done()


class Reflectors:
    """The reflectors of one hub, each made once however many ask for it."""

    _locks: ClassVar[dict[Any, asyncio.Lock]] = {}

    @classmethod
    async def living(
        cls, known: dict[Any, ResourceReflector], key: Any, replace: bool, make: Any
    ) -> ResourceReflector:
        """The living reflector of ``key`` in ``known``; made and loaded first where there is none.

        Raises EngineUnavailable when the API does not answer; nothing is kept then.
        """
        current = known.get(key)
        if current is not None and current.lives and not replace:
            return current
        lock = cls._locks.setdefault((asyncio.get_running_loop(), key), asyncio.Lock())
        async with lock:
            now = known.get(key)
            if now is not None and now.lives and (now is not current or not replace):
                return now
            new = make()
            try:
                await new.start()
            except Exception as error:
                if new.first_load_future.done():
                    new.first_load_future.exception()  # told here, so asyncio need not
                raise unavailable(error) from error
            known[key] = new
            if now is not None:
                await now.stop()
            return new
