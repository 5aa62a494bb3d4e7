"""What the kernel is told about a pod network: no way to other pods, nor to link-local addresses.

Podman's own `isolate=true` is not enough: when the last container of one network ends, netavark 1.4
removes the jump to its isolation rules for all of them, until the next container starts. So there
are rules of ours, in a table that netavark does not touch, named after the network that they are
for. The link-local range, where clouds keep a machine's credentials, is a rule for routing.

The networks are IPv4 only, but the kernel gives every interface an IPv6 link-local address. It is
taken from the machine's end: pods have no use for it, it is one more way to what listens on this
machine, and it comes a second or two after a start, when a browser on this machine (Chromium) drops
every connection because "the network has changed", amid the page of the server that just started.

Without root the network's namespace is podman's, and exists only while a container runs: `podman
unshare --rootless-netns python -I podman_guard.py` gets there. So this file needs nothing but the
standard library.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess  # noqa: S404 - argv lists only, never a shell
import sys
from pathlib import Path

LINK_LOCAL = "169.254.0.0/16"
CHAIN = "STUDOVNA"
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
"""An ordinary user's PATH has no folders for administrators, where these programs are."""
_TABLE = ["iptables", "--wait", "--table", "mangle"]
_BETWEEN = ["FORWARD", "-i", "podman+", "-o", "podman+", "-j", CHAIN]


class GuardError(Exception):
    """The kernel did not take a rule; the argument is what was called and what it said."""


def add(network: str, interface: str) -> None:
    """Close a network; no-op for what is there already. Raises GuardError."""
    _run(["ip", "rule", "add", *_route(network, interface)], but="File exists")
    if not _holds([*_TABLE, "--check", *_BETWEEN]):
        _run([*_TABLE, "--new-chain", CHAIN], but="exists")
        _run([*_TABLE, "--insert", *_BETWEEN])
    for rule in _rules(network, interface):
        if not _holds([*_TABLE, "--check", *rule]):
            _run([*_TABLE, "--append", *rule])


def remove(network: str, interface: str) -> None:
    """Forget a network. What is not there, or another's, is left alone."""
    _holds(["ip", "rule", "delete", *_route(network, interface)])
    for rule in _rules(network, interface):
        _holds([*_TABLE, "--delete", *rule])


def close_ipv6(interface: str) -> None:
    """No IPv6 on a bridge that is up and what is connected to it. Raises GuardError."""
    try:
        for name in (interface, *os.listdir(f"/sys/class/net/{interface}/brif")):
            # Missing: the pod has ended meanwhile, or the kernel has no IPv6.
            with contextlib.suppress(FileNotFoundError):
                Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
    except FileNotFoundError:
        return
    except OSError as error:
        raise GuardError(f"disable_ipv6: {error}") from error


def _rules(network: str, interface: str) -> list[list[str]]:
    """From this bridge to another, and the other way; names of bridges are used again by podman."""
    named = ["-m", "comment", "--comment", network, "-j", "DROP"]
    return [
        [CHAIN, "-i", interface, "!", "-o", interface, *named],
        [CHAIN, "!", "-i", interface, "-o", interface, *named],
    ]


def _route(network: str, interface: str) -> list[str]:
    priority = 10000 + int(hashlib.sha256(network.encode()).hexdigest(), 16) % 20000
    return [
        "pref", str(priority), "iif", interface, "to", LINK_LOCAL, "type", "unreachable",
    ]  # fmt: skip


def _holds(argv: list[str]) -> bool:
    return _call(argv).returncode == 0


def _run(argv: list[str], but: str = "") -> None:
    done = _call(argv)
    if done.returncode != 0 and not (but and but in done.stderr):
        raise GuardError(f"{' '.join(argv)}: {done.stderr.strip()}")


def _call(argv: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603
            argv, env={**os.environ, "PATH": _PATH}, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, check=False, timeout=60,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GuardError(f"{' '.join(argv)}: {error}") from error


SCRIPT = Path(__file__).resolve()

if __name__ == "__main__":
    try:
        {"add": add, "remove": remove}[sys.argv[1]](sys.argv[2], sys.argv[3])
    except GuardError as error:
        sys.exit(str(error))
