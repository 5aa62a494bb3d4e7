"""What a machine must have beside Python: found, or installed, or named."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import subprocess
from collections import deque
from collections.abc import Callable
from pathlib import Path

from studovna.text import Text

SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Where programs for administrators are: Debian leaves these out of an ordinary user's PATH."""

# Program that must be installed → Debian package that brings it.
PROGRAMS = {
    "podman": "podman",
    "runc": "runc",
    "iptables": "iptables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "mmdebstrap": "mmdebstrap",
    "docker-registry": "docker-registry",
    "git": "git",
    "node": "nodejs",
    "npm": "npm",
}
ROOTLESS_PROGRAMS = {
    "newuidmap": "uidmap",
    "slirp4netns": "slirp4netns",
    "fuse-overlayfs": "fuse-overlayfs",
}
FILES = {
    "/usr/lib/podman/netavark": "netavark",
    "/usr/lib/podman/aardvark-dns": "aardvark-dns",
    "/etc/ssl/certs/ca-certificates.crt": "ca-certificates",
}


def search_path(path: str | None = None) -> str:
    """A PATH (this process's) with the folders for administrators at its end."""
    found = (os.environ.get("PATH", os.defpath) if path is None else path).split(os.pathsep)
    return os.pathsep.join([*found, *(folder for folder in SBIN if folder not in found)])


def find_program(name: str) -> str | None:
    """Where a program is, for whoever this is; None when it is not installed."""
    return shutil.which(name, path=search_path())


class MissingPackages(Exception):
    """The machine lacks packages that this user may not install."""

    def __init__(self, packages: list[str]) -> None:
        self.packages = packages
        self.sentence = Text(
            "Please have the administrator run once: apt-get install --no-install-recommends "
            "{packages}",
            packages=" ".join(packages),
        )
        super().__init__(self.sentence)


def missing_packages(rootless: bool, exists: Callable[[str], bool] | None = None) -> list[str]:
    """Debian packages whose programs or files are not here, sorted by name."""
    found = exists or (lambda what: find_program(what) is not None or Path(what).exists())
    wanted = {**PROGRAMS, **FILES, **(ROOTLESS_PROGRAMS if rootless else {})}
    return sorted({package for what, package in wanted.items() if not found(what)})


def install_packages(packages: list[str], line: Callable[[str], None]) -> None:
    """Install Debian packages, passing each line of output on.

    Raises ``MissingPackages`` when this is not root or there is no apt, and
    ``subprocess.CalledProcessError`` when apt fails.
    """
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise MissingPackages(packages)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    for argv in (["apt-get", "update"], install):
        code, _ = follow(argv, line, env=environment)
        if code:
            raise subprocess.CalledProcessError(code, argv)


def follow(
    argv: list[str],
    line: Callable[[str], None],
    *,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
) -> tuple[int, list[str]]:
    """Run a program to its end, passing each line on; its exit code and its last dozen lines."""
    said: deque[str] = deque(maxlen=12)
    with subprocess.Popen(
        argv,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for text in process.stdout:
            said.append(text.rstrip())
            line(said[-1])
    return process.returncode, list(said)


def primary_address() -> str | None:
    """This machine's address on the network; None without one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # what would leave from there; UDP sends nothing yet
            address = str(probe.getsockname()[0])
        except OSError:
            return None
    return None if ipaddress.ip_address(address).is_loopback else address


def ca_bundle() -> Path | None:
    """The certificates that this machine trusts, for what runs in its pods; None without any.

    ``SSL_CERT_FILE`` names other ones, as for every program that uses OpenSSL or Go.
    """
    bundle = Path(os.environ.get("SSL_CERT_FILE") or "/etc/ssl/certs/ca-certificates.crt")
    return bundle if bundle.is_file() else None
