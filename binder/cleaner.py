"""Keeps built images within the site's disk budget: the least recently used ones go first.

An image is kept whatever the budget while it runs, is being built or launched, or was asked for in
the last hour: whoever was told that it exists can start it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tornado.log import app_log

from studovna.podman import Podman, PodmanError

from .builds import build_name
from .errors import Failed
from .hub import HubClient
from .registry import DockerRegistry
from .store import BuildStore

RECENT = 3600.0  # seconds
TARGET = 0.9  # of the budget is left after a clean-up, so that not every build begins another one
AT_ONCE = 8  # questions to the registry
LOOK_SECONDS = 3600.0  # after which the registry is asked again for all that it has

IMAGE_OPTIONS = ("image--unlisted-choice", "image")

InUse = Callable[[], Awaitable[set[str]]]


@dataclass(frozen=True)
class Stored:
    """One image in the registry. ``used`` in seconds since 1970; ``blobs`` in bytes by digest."""

    image: str
    used: float
    blobs: Mapping[str, int]


def disk(images: Iterable[Stored]) -> int:
    """What images take together: a blob that several share counts once."""
    return sum({digest: size for one in images for digest, size in one.blobs.items()}.values())


def choose(images: Iterable[Stored], budget: int, keep: set[str], now: float) -> list[str]:
    """The images to delete, least recently used first; none while all fit into the budget.

    >>> old = Stored("a", 0.0, {"x": 60})
    >>> new = Stored("b", 9.0, {"y": 60})
    >>> choose([new, old], 100, set(), 10_000.0)
    ['a']
    """
    left = sorted(images, key=lambda one: one.used)
    sizes = {digest: size for one in left for digest, size in one.blobs.items()}
    holders = Counter(digest for one in left for digest in one.blobs)
    total = sum(sizes.values())
    doomed: list[str] = []
    for one in left if total > budget else ():
        if one.image in keep or one.used > now - RECENT:
            continue
        doomed.append(one.image)
        for digest in one.blobs:
            holders[digest] -= 1
            total -= 0 if holders[digest] else sizes[digest]
        if total <= TARGET * budget:
            break
    return doomed


class Cleaner:
    """Remembers when images were used, and deletes those that are over the budget.

    The site's own registry is cleaned, and this machine of the copies of what is gone there. What
    is in another registry is its operator's: there, only the copies on this machine are budgeted.

    ``prefix`` is what the names of built images begin with, ``base`` the repository of the site's
    image there and ``version`` its tag; ``in_use`` gives the images that must stay; ``podman`` is
    where pulled copies go, too (None: they are not on this machine).
    """

    def __init__(
        self,
        registry: DockerRegistry,
        store: BuildStore,
        folder: Path,
        *,
        budget: int,
        prefix: str,
        version: str,
        in_use: InUse,
        podman: Podman | None = None,
    ) -> None:
        self._registry = registry
        self._store = store
        self._file = folder / "used.json"
        self._budget = budget
        self._prefix = prefix
        self._version = version
        self._in_use = in_use
        self._podman = podman
        self._known: dict[str, Mapping[str, int]] = {}  # the blobs of the images that are there
        self._looked: float | None = None  # when all of them were asked for
        self._used: dict[str, float] = {}
        self._changed = False
        with contextlib.suppress(OSError, ValueError, AttributeError):
            found = json.loads(self._file.read_text())
            self._used = {str(image): float(when) for image, when in found.items()}

    def used(self, image: str) -> None:
        """An image was built, launched or asked for just now."""
        self._used[image] = time.time()
        self._changed = True

    async def run(self, interval: float) -> None:
        """Clean up for ever, every so many seconds."""
        while True:
            try:
                await self.clean()
            except Failed as error:
                app_log.warning("Images were not cleaned up: %s", error)
            except Exception:
                app_log.exception("Cleaning up images broke")
            await asyncio.sleep(interval)

    async def clean(self) -> list[str]:
        """Delete what is over the budget; the images that were deleted. Raises Failed."""
        await self.save()
        if self._registry.embedded:
            return await self._clean_registry()
        return await self._clean_copies()

    async def _clean_registry(self) -> list[str]:
        images = await self._images(await self._names())
        doomed = []
        for image in await self._choose(images):
            if self._is_recent(image):  # somebody asked for it meanwhile
                continue
            await self._registry.delete(image)
            doomed.append(image)
            self._known.pop(image, None)
            self._used.pop(image, None)
            self._changed = True
            await self._store.forget(build_name(image))
            app_log.info("Removed %s: the images take more than their budget", image)
        old = await self._old_bases()
        if doomed or old:
            await self._registry.collect()
        await self.save()
        await self._remove_copies({one.image for one in images} - set(doomed))
        return doomed

    async def _clean_copies(self) -> list[str]:
        copies = await self._copies()
        images = await self._images(copies)
        doomed = await self._choose(images)
        await self._remove_copies({one.image for one in images} - set(doomed))
        for image in set(self._used) - copies:
            if not self._is_recent(image):
                del self._used[image]
                self._changed = True
        return doomed

    async def _choose(self, images: list[Stored]) -> list[str]:
        keep = await self._in_use() if disk(images) > self._budget else set()
        return choose(images, self._budget, keep, time.time())

    def _is_recent(self, image: str) -> bool:
        return self._used.get(image, 0.0) > time.time() - RECENT

    async def save(self) -> None:
        """Write down when images were used."""
        if not self._changed:
            return
        self._changed = False
        text = json.dumps(self._used)

        def write() -> None:
            draft = self._file.with_name(".used.json")
            draft.write_text(text)
            draft.replace(self._file)

        try:
            await asyncio.to_thread(write)
        except OSError as error:
            app_log.error("The use of images could not be stored: %s", error)

    async def _names(self) -> set[str]:
        """The built images of the site's registry: those that are known, or all, now and then."""
        names = {*self._used, *self._known}
        if not self._is_time_to_look():
            return names
        host, _, path = self._prefix.partition("/")
        for repository in await self._registry.repositories():
            if repository.startswith(path) and "/" not in repository.removeprefix(path):
                tags = await self._registry.tags(repository)
                names |= {f"{host}/{repository}:{tag}" for tag in tags}
        return names

    def _is_time_to_look(self) -> bool:
        return self._looked is None or time.monotonic() - self._looked > LOOK_SECONDS

    async def _images(self, names: set[str]) -> list[Stored]:
        """Those of the images that are there. One that nobody has used counts as used just now.

        An image's name holds its version: one that is known is asked for again only when all are.
        """
        slots = asyncio.Semaphore(AT_ONCE)

        async def ask(image: str) -> None:
            async with slots:
                info = await self._registry.image(image)
            if info is None:
                self._known.pop(image, None)
                self._used.pop(image, None)
                return
            self._known[image] = info.blobs

        all_of_them = self._is_time_to_look()
        wanted = names if all_of_them else names - set(self._known)
        await asyncio.gather(*(ask(image) for image in sorted(wanted)))
        if all_of_them:
            self._looked = time.monotonic()
        found = []
        for image in sorted(names & set(self._known)):
            if image not in self._used:
                self.used(image)
            found.append(Stored(image, self._used[image], self._known[image]))
        return found

    async def _old_bases(self) -> bool:
        """Forget earlier versions of the site's image; images made from them have its layers.

        A tag can be deleted only with its image, and a new version of the builder may have left the
        site's image as it was.
        """
        if not self._registry.embedded:
            return False
        host, _, path = self._prefix.partition("/")
        name = f"{path}site/lab"
        base = f"{host}/{name}"
        now = await self._registry.image(f"{base}:{self._version}")
        if now is None:
            return False
        deleted = False
        for tag in await self._registry.tags(name):
            found = await self._registry.image(f"{base}:{tag}")
            if found is not None and found.digest != now.digest:
                deleted |= await self._registry.delete(f"{base}:{tag}")
        return deleted

    async def _remove_copies(self, there: set[str]) -> None:
        """Remove this machine's copies of all images but these."""
        try:
            copies = await self._copies()
        except Failed as error:
            app_log.warning("Copies of images could not be removed: %s", error)
            return
        for image in copies - there:
            # One built since the registry was asked is about to be started.
            if self._podman is not None and not self._is_recent(image):
                # Without force: one that a container uses stays.
                with contextlib.suppress(PodmanError):
                    await self._podman.arun("rmi", "--", image, timeout=120)

    async def _copies(self) -> set[str]:
        """The built images that this machine has. Raises Failed."""
        if self._podman is None:
            return set()
        try:
            listed = await self._podman.arun("images", "--format", "{{.Repository}}:{{.Tag}}")
        except PodmanError as error:
            raise Failed(error.text) from error
        base = f"{self._prefix}site/lab:"
        ours = (one for one in listed.split() if one.startswith(self._prefix))
        return {one for one in ours if not one.startswith(base)}


async def images_in_use(podman: Podman) -> set[str]:
    """The images of all containers of this machine, running or ended. Raises Failed."""
    try:
        listed = await podman.arun("ps", "--all", "--format", "{{.Image}}")
    except PodmanError as error:
        raise Failed(error.text) from error
    return set(listed.split())


async def images_of_servers(hub: HubClient) -> set[str]:
    """The images of all servers that the hub knows to run or to be starting. Raises Failed."""
    found = set()
    async for server in hub.active_servers():
        options = server.get("user_options") or {}
        found |= {str(options[key]) for key in IMAGE_OPTIONS if options.get(key)}
    return found
