"""Which addresses a repository may be fetched from.

A repository's address comes from whoever made the link, so without a check the service would be a
way into the site's own network (the cloud's metadata service, the registry, other people's
servers). A name is resolved once, every address it has is checked, and the caller connects to the
addresses that were checked and to no other: a name that answers differently the next time gains
nothing. Hosts that the site lists in ``binder: allow_hosts`` are exempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import socket
import threading
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from studovna.text import Text

from ..errors import Failed, Refused

RESOLVE_TIMEOUT = 10.0  # seconds
LOOKUPS_AT_ONCE = 64  # threads that wait for name servers

LOOKUPS: ContextVar[list[asyncio.Future[Any]]] = ContextVar("lookups")
"""Where it is set, the lookups of names that were begun: they may outlast what wanted them."""

_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?")

_EMBEDDING = (  # IPv6 networks whose last 32 bits are an IPv4 address that is really meant
    ipaddress.IPv6Network("64:ff9b::/96"),
    ipaddress.IPv6Network("::ffff:0:0:0/96"),
    ipaddress.IPv6Network("::/96"),
)
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public(address: str) -> bool:
    """Whether an IP address is somebody's on the internet, judged by what it finally reaches."""
    try:
        ip: IPAddress = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = _embedded(ip)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local or ip in _LOCAL_NAT64:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def _embedded(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that a mapped, translated or tunnelled IPv6 address leads to."""
    if ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    if ip.sixtofour is not None:
        return ip.sixtofour
    if ip.teredo is not None:
        return ip.teredo[1]
    if any(ip in network for network in _EMBEDDING):
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return None


def is_host(host: str) -> bool:
    """Whether ``host`` is a plain host name or IP address (and never an option)."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return len(host) <= 253 and _NAME.fullmatch(host) is not None
    return True


@dataclass(frozen=True)
class AddressRules:
    """The site's rule on addresses. ``allow_hosts`` holds ``host`` or ``host:port``.

    An IPv6 address that comes with a port stands in brackets.
    """

    allow_hosts: frozenset[str] = frozenset()

    @classmethod
    def of(cls, hosts: Iterable[str]) -> AddressRules:
        return cls(frozenset(host.lower().rstrip(".") for host in hosts))

    def allows_by_name(self, host: str, port: int) -> bool:
        """Whether the site lists this host (with this port, or with any)."""
        name = host.lower().rstrip(".")
        if ":" in name:
            return not self.allow_hosts.isdisjoint({name, f"[{name}]", f"[{name}]:{port}"})
        return not self.allow_hosts.isdisjoint({name, f"{name}:{port}"})

    def check(self, host: str, port: int, addresses: Iterable[str]) -> None:
        """Raise Refused when one of the addresses of ``host`` is inside the site's network."""
        if self.allows_by_name(host, port):
            return
        for address in addresses:
            if not is_public(address):
                raise Refused(
                    Text(
                        "{host} is an address inside this site's own network, and the site does "
                        "not build from there. An administrator can allow it by name "
                        "(binder: allow_hosts).",
                        host=host,
                    ),
                    status=403,
                )


async def resolve(rules: AddressRules, host: str, port: int) -> list[str]:
    """The checked IP addresses of a host, IPv4 first.

    Raises Refused when the name is no host name, has no address, or has one that is not allowed.
    """
    if not is_host(host):
        raise Refused(Text("{host} is not a host name.", host=host[:100]))
    lookup = _begin(host, port)
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT):
            found = await asyncio.shield(lookup)
    except TimeoutError:
        raise Failed(
            Text(
                "No name server has answered within {seconds} seconds where {host} is. Try again "
                "later.",
                seconds=int(RESOLVE_TIMEOUT),
                host=host,
            ),
            status=504,
        ) from None
    except (OSError, UnicodeError):
        raise Refused(
            Text("The host {host} has no address: check the spelling of the link.", host=host),
            status=404,
        ) from None
    addresses = sorted({str(entry[4][0]) for entry in found}, key=lambda ip: (":" in ip, ip))
    rules.check(host, port, addresses)
    return addresses


_names = socket.getaddrinfo
_slots = asyncio.Semaphore(LOOKUPS_AT_ONCE)


def _begin(host: str, port: int) -> asyncio.Future[list[Any]]:
    """Look up a name in a thread of its own.

    A name server that does not answer holds the thread for as long as the system waits for it:
    neither the threads for everything else nor the end of this process may wait for that.
    """

    async def look_up() -> list[Any]:
        async with _slots:
            loop = asyncio.get_running_loop()
            answer: asyncio.Future[list[Any]] = loop.create_future()

            def tell(found: list[Any] | None, error: Exception | None) -> None:
                if answer.cancelled():
                    return
                if error is not None:
                    answer.set_exception(error)
                else:
                    answer.set_result(found or [])

            def ask() -> None:
                found, wrong = None, None
                try:
                    found = _names(host, port, type=socket.SOCK_STREAM)
                except Exception as error:
                    wrong = error
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(tell, found, wrong)

            threading.Thread(target=ask, name="name-lookup", daemon=True).start()
            return await answer

    task = asyncio.ensure_future(look_up())
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may listen
    LOOKUPS.get([]).append(task)
    return task


def guard_process(rules: AddressRules) -> None:
    """Make every name that this process looks up obey the rules, whichever library asks.

    For a child process that lives only to run a library with its own HTTP client (the content
    providers of repo2docker): what ``getaddrinfo`` answers is what the library connects to.
    """
    unguarded = socket.getaddrinfo

    def getaddrinfo(
        host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Any:
        found = unguarded(host, port, family, type, proto, flags)
        name = host.decode() if isinstance(host, bytes) else host
        if name is not None:
            number = found[0][4][1] if found else 0
            rules.check(name, int(number), {str(entry[4][0]) for entry in found})
        return found

    socket.getaddrinfo = getaddrinfo
