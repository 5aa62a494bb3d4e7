"""Which addresses submodules may come from: the rule of `binder/providers/addresses.py`.

Written again because a build pod has none of the service's code; a test holds the two together.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable

_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?")
_EMBEDDING = tuple(  # the last 32 bits are an IPv4 address that is really meant
    map(ipaddress.IPv6Network, ("64:ff9b::/96", "::ffff:0:0:0/96", "::/96"))
)
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")


def is_public(address: str) -> bool:
    """Whether an IP address is somebody's on the internet, judged by what it finally reaches."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and any(ip in network for network in _EMBEDDING):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local or ip in _LOCAL_NAT64:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def is_host(host: str) -> bool:
    """Whether this is a plain host name or IP address, and never an option."""
    return is_ip(host) or (len(host) <= 253 and _NAME.fullmatch(host) is not None)


def is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def allowed_by_name(host: str, port: int, allow_hosts: Iterable[str]) -> bool:
    """Whether the site lists this host, with this port or with any."""
    name = host.lower().rstrip(".")
    names = {name, f"{name}:{port}"}
    if ":" in name:
        names = {name, f"[{name}]", f"[{name}]:{port}"}
    return not names.isdisjoint(one.lower().rstrip(".") for one in allow_hosts)


def look_up(host: str, port: int) -> list[str]:
    """The addresses of a host, IPv4 first; none when it does not exist."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return sorted({str(entry[4][0]) for entry in found}, key=lambda ip: (":" in ip, ip))
