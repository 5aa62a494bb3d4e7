"""Persistent volume claims on one machine: a folder each, with a file that says what it is.

A claim is `claims/<name>/` of the site's state: `claim.json` beside `data/`, which is what pods
mount and what belongs to the person.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spawner.engine import Claim
from spawner.podman_call import Caller
from spawner.podman_volumes import NAME
from studovna.podman import PodmanError

log = logging.getLogger("jupyterhub.studovna")

DOOMED = ".erased-"
MEASURE_SECONDS = 10.0
"""How long one claim may take to be measured."""
PATIENCE = 2.0
"""How long a question waits for sizes; then it gets those of before, and measuring goes on."""
FRESH_SECONDS, FRESH_TIMES = 10.0, 20
"""How long a size is told again: so many seconds, or so many times as long as measuring took."""


class Claims:
    """The claims in one folder."""

    def __init__(self, folder: Path, caller: Caller) -> None:
        self._folder = folder
        self._caller = caller
        self._sizes = Sizes(self._measure)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)

    def exists(self, name: str) -> bool:
        return NAME.fullmatch(name) is not None and (self._folder / name).is_dir()

    def make(self, name: str, labels: Mapping[str, str], requested: int | None) -> None:
        """Make a claim; one that exists is left as it is. `requested` in bytes. Raises OSError."""
        folder = self._folder / name
        if (folder / "claim.json").exists():
            return
        folder.mkdir(mode=0o700, exist_ok=True)
        about = {
            "name": name,
            "labels": dict(labels),
            "requested": requested,
            "created": datetime.now(UTC).isoformat(),
        }
        part = folder / ".claim.json"
        part.write_text(json.dumps(about, indent=1))
        part.replace(folder / "claim.json")

    async def erase(self, name: str) -> None:
        """Delete a claim that nobody mounts. Raises OSError, PodmanError."""
        # Out of the way in one step: what is half deleted must not be mounted by the next pod.
        doomed = self._folder / f"{DOOMED}{name}-{os.urandom(4).hex()}"
        (self._folder / name).rename(doomed)
        self._sizes.forget(name)
        await self._caller.files("erase", str(doomed))

    async def erase_doomed(self) -> None:
        """Go on where a process that was erasing was killed. Raises OSError, PodmanError."""
        for doomed in sorted(self._folder.glob(f"{DOOMED}*")):
            log.warning("%s was being erased when the hub ended; erasing goes on", doomed.name)
            await self._caller.files("erase", str(doomed))

    async def find(self, labels: Mapping[str, str], measured: bool = True) -> list[Claim]:
        """The claims with all these labels; their sizes as far as they are known by now."""
        about = [one for one in await asyncio.to_thread(self._about) if has(one["labels"], labels)]
        names = [one["name"] for one in about]
        sizes = await self._sizes.of(names) if measured else [None] * len(names)
        return [
            Claim(
                one["name"],
                size,
                one["requested"],
                datetime.fromisoformat(one["created"]),
                one["labels"],
            )
            for one, size in zip(about, sizes, strict=True)
        ]

    async def _measure(self, name: str) -> int | None:
        path = str(self._folder / name / "data")
        (size,) = await self._caller.files("measure", [path], MEASURE_SECONDS)
        return size if size is None else int(size)

    def _about(self) -> list[dict[str, Any]]:
        files = sorted(self._folder.glob("[a-z0-9]*/claim.json"))
        return [about for file in files if (about := read_json(file))]


class Sizes:
    """The sizes of claims, measured one after another: many files keep a thread and a disk busy."""

    def __init__(self, measure: Callable[[str], Awaitable[int | None]]) -> None:
        self._measure = measure
        self._known: dict[str, tuple[float, int | None]] = {}
        self._measuring: dict[str, asyncio.Task[None]] = {}
        self._one = asyncio.Semaphore(1)

    async def of(self, names: Sequence[str]) -> list[int | None]:
        """Their sizes in bytes, None for those not known; waits no longer than ``PATIENCE``."""
        now = time.monotonic()
        waiting = [self._task(name) for name in names if self._known.get(name, (0, None))[0] < now]
        if waiting:
            await asyncio.wait(waiting, timeout=PATIENCE)
        return [self._known.get(name, (0, None))[1] for name in names]

    def forget(self, name: str) -> None:
        """The claim is gone: another one may get its name."""
        self._known.pop(name, None)

    def _task(self, name: str) -> asyncio.Task[None]:
        task = self._measuring.get(name)
        if task is None:
            task = self._measuring[name] = asyncio.create_task(self._once(name))
            task.add_done_callback(lambda _: self._measuring.pop(name, None))
        return task

    async def _once(self, name: str) -> None:
        async with self._one:
            begun = time.monotonic()
            try:
                size = await self._measure(name)
            except (PodmanError, OSError) as error:
                log.error("The size of %s cannot be known: %s", name, error)
                size = None
            now = time.monotonic()
            if size is None:
                size = self._known.get(name, (0, None))[1]
            self._known[name] = (now + max(FRESH_SECONDS, FRESH_TIMES * (now - begun)), size)


def has(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether all the wanted labels are there."""
    return all(labels.get(key) == value for key, value in wanted.items())


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; an empty one when there is none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
