"""The networks of a site on podman: one for each person, out of reach of all the others.

What keeps them apart is in podman_guard; a network is closed before its first container starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import re
import subprocess  # noqa: S404 - argv lists only, never a shell
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from weakref import WeakValueDictionary

from spawner import podman_guard
from spawner.engine import EngineUnavailable
from spawner.podman_call import Caller, meaning, uninterrupted
from spawner.podman_translate import LABEL_SITE
from studovna.podman import Podman, PodmanError
from studovna.system import find_program, primary_address
from studovna.text import Text

_NETWORKS = Path("/etc/containers/networks")
_INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}")


class Networks:
    """Makes networks when the first pod needs them and removes them after the last."""

    def __init__(self, caller: Caller, site: str) -> None:
        self._caller = caller
        self._site = site
        # One of a network as long as somebody has it in hand.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._users: dict[str, int] = {}
        self._interfaces: dict[str, str] = {}

    @contextlib.asynccontextmanager
    async def held(self, name: str) -> AsyncIterator[None]:
        """The network is there, and stays there until the body has ended. Raises PodmanError."""
        lock = self._locks.setdefault(name, asyncio.Lock())
        self._users[name] = self._users.get(name, 0) + 1
        try:
            async with lock:
                if name not in self._interfaces:
                    self._interfaces[name] = await self._make(name)
            yield
        finally:
            self._users[name] -= 1
            if not self._users[name]:
                del self._users[name]

    async def _make(self, name: str) -> str:
        with contextlib.suppress(_Exists):
            await self._create(name)
        interface = await self._interface(name)
        if not self._caller.rootless:
            await self._guard(podman_guard.add, name, interface)
        return interface

    async def _guard(self, what: Callable[..., None], *of: str) -> None:
        """Raises EngineUnavailable."""
        try:
            await uninterrupted(asyncio.to_thread(what, *of))
        except podman_guard.GuardError as error:
            raise EngineUnavailable(
                Text("Pods cannot be kept apart on this machine: {said}", said=error), str(error)
            ) from error

    async def _create(self, name: str) -> None:
        label = f"{LABEL_SITE}={self._site}"
        try:
            await self._caller.call(
                "network", "create", "--opt", "isolate=true", "--label", label, "--", name
            )
        except PodmanError as error:
            if "already exists" in error.stderr or "already used" in error.stderr:
                raise _Exists from error
            raise

    async def _interface(self, name: str) -> str:
        """The bridge of a network. Podman tells, but its file tells sooner where it is readable."""
        try:
            found = json.loads((_NETWORKS / f"{name}.json").read_text())
        except (OSError, ValueError):
            found = json.loads(await self._caller.call("network", "inspect", "--", name))[0]
        interface = str(found["network_interface"])
        if not _INTERFACE.fullmatch(interface):
            raise ValueError(f"{interface!r} is no network interface")
        return interface

    async def protect_started(self, name: str) -> None:
        """What can be closed only while a pod runs. Raises PodmanError.

        Without root the network's namespace is there only then: it is closed from inside. A pod
        could reach the link-local range in the moment before this.
        """
        if not self._caller.rootless:
            await self._guard(podman_guard.close_ipv6, self._interfaces[name])
        else:
            await self._caller.call(
                "unshare", "--rootless-netns", sys.executable, "-I", str(podman_guard.SCRIPT),
                "add", name, self._interfaces[name],
            )  # fmt: skip

    def forget(self, name: str) -> None:
        """Somebody else removed the network: make it again next time."""
        self._interfaces.pop(name, None)

    async def remove_unused(self, name: str) -> None:
        """Remove a network that no pod uses or is about to use; no-op otherwise."""
        lock = self._locks.setdefault(name, asyncio.Lock())
        async with lock:
            if name in self._users:
                return
            with contextlib.suppress(PodmanError):
                interface = self._interfaces.get(name) or await self._interface(name)
                await self._caller.call("network", "rm", "--", name)
                self._interfaces.pop(name, None)
                if not self._caller.rootless:
                    await self._guard(podman_guard.remove, name, interface)


class _Exists(Exception):
    """The network is there already."""


_NO_IP = Text("The program ip is missing. As root: apt-get install iproute2")


# --- where the hub listens ----------------------------------------------------------------------


def hub_address(podman: Podman, site: str) -> str:
    """An address of this machine that every pod reaches. Raises EngineUnavailable.

    As root: an address of its own on the loopback interface, in a range that podman gives to nobody
    else because a network of the site holds it; nothing but the hub needs to listen there. Without
    root no address can be made: the one of this machine that packets to the world leave from.
    """
    if os.geteuid() != 0:
        address = primary_address()
        if address is None:
            raise EngineUnavailable(
                Text("This machine has no network address that pods could reach the hub at.")
            )
        return address
    name = f"{site}-hub"
    try:
        try:
            podman.run(
                "network", "create", "--disable-dns", "--label", f"{LABEL_SITE}={site}", name
            )
        except PodmanError as error:
            if "already exists" not in error.stderr and "already used" not in error.stderr:
                raise
        subnet = json.loads(podman.run("network", "inspect", "--", name))[0]["subnets"][0]
    except PodmanError as error:
        raise meaning(error) from error
    address = str(ipaddress.ip_address(subnet["gateway"]))
    _ip("address", "replace", f"{address}/32", "dev", "lo")
    return address


def remove_hub_address(podman: Podman, site: str) -> None:
    """Undo `hub_address`; no-op when it was never made."""
    if os.geteuid() != 0:
        return
    name = f"{site}-hub"
    try:
        subnet = json.loads(podman.run("network", "inspect", "--", name))[0]["subnets"][0]
    except PodmanError:
        return
    missing = "Cannot assign requested address"
    _ip("address", "delete", f"{subnet['gateway']}/32", "dev", "lo", but=missing)
    with contextlib.suppress(PodmanError):
        podman.run("network", "rm", "--", name)


def _ip(*args: str, but: str = "") -> None:
    try:
        done = subprocess.run(  # noqa: S603
            [find_program("ip") or "ip", *args],
            capture_output=True, text=True, check=False, timeout=20,
        )  # fmt: skip
    except OSError as error:
        raise EngineUnavailable(_NO_IP, str(error)) from error
    if done.returncode != 0 and not (but and but in done.stderr):
        raise EngineUnavailable(
            Text("The hub's address cannot be made: {said}", said=done.stderr.strip()),
            " ".join(("ip", *args)),
        )
