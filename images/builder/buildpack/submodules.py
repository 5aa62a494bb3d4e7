"""Submodules, fetched as repo2docker does: each with its own, and each address checked before.

A `.gitmodules` file is the repository's, so its addresses are as strange as the link's own: the
site's rules hold for them, too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .addresses import allowed_by_name, is_host, is_ip, is_public, look_up
from .report import Refusal, Text

DEPTH = 5
PORTS = {"https": 443, "http": 80, "git": 9418, "ssh": 22}
_SCP = re.compile(r"((?:[\w.-]+@)?[\w.-]+):(?!/)(.+)")
_CONTROL = re.compile(r"[\x00-\x20\x7f]")


@dataclass(frozen=True)
class Entry:
    """A submodule as `.gitmodules` has it."""

    name: str
    path: str
    url: str


class Submodules:
    """`git` is the provider that runs git; what is checked becomes one of its settings."""

    def __init__(self, git: Any, allow_hosts: Iterable[str]) -> None:
        self._git = git
        self._allow_hosts = tuple(allow_hosts)

    def fetch(self, folder: Path, url: str, depth: int = DEPTH) -> None:
        """Fetch the submodules of a checkout that came from `url`. Raises Refusal."""
        if not (folder / ".gitmodules").is_file():
            return
        if depth == 0:
            raise Refusal(Text("The repository's submodules are nested too deeply."))
        ask = self._git.ask
        code, listed = ask("config", "--file", ".gitmodules", "--null", "--list", cwd=folder)
        if code != 0:
            raise Refusal(Text("The repository's file .gitmodules cannot be read."))
        entries = read(listed)
        urls = {entry.name: resolved(entry, url) for entry in entries}
        ask("submodule", "init", cwd=folder)
        for entry in entries:
            key = f"submodule.{entry.name}.url"
            code, _ = ask("config", "--get", key, cwd=folder)
            if code == 0:  # else nothing of the commit is there
                self._allow(entry, urls[entry.name])
                ask("config", key, urls[entry.name], cwd=folder)
        code, said = self._git.git("submodule", "update", "--init", cwd=folder)
        if code != 0:
            from .git import last_line

            raise Refusal(Text("A submodule could not be fetched: {said}", said=last_line(said)))
        for entry in entries:
            inner = folder / entry.path
            if (inner / ".git").exists() and inner.resolve().is_relative_to(folder.resolve()):
                self.fetch(inner, urls[entry.name], depth - 1)
                self._git.settle(inner)

    def _allow(self, entry: Entry, url: str) -> None:
        """Tie a submodule's address to what was checked. Raises Refusal."""
        where = {"name": entry.name, "url": entry.url}
        parts, own = urlsplit(url), urlsplit(self._git.job["url"])
        host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
        if (parts.scheme, host, parts.port) == (own.scheme, own.hostname, own.port):
            return  # checked by the service, before this build
        if parts.scheme == "ssh":
            raise Refusal(
                Text(
                    "The submodule {name} is at {url}: by ssh, this site fetches from the "
                    "repository's own host only. Use https in .gitmodules.",
                    **where,
                )
            )
        if allowed_by_name(host, port, self._allow_hosts):
            return
        behind_proxy = any(
            name.lower() in ("https_proxy", "http_proxy", "all_proxy") for name in os.environ
        )
        found = look_up(host, port)
        if not found and not (behind_proxy and not is_ip(host)):
            raise Refusal(
                Text("The submodule {name} is at {url}, and that host does not exist.", **where)
            )
        if not all(map(is_public, found)):
            raise Refusal(
                Text(
                    "The submodule {name} is at {url}, which is inside the site's own network. An "
                    "administrator can allow it by name (binder: allow_hosts).",
                    **where,
                )
            )
        if parts.scheme == "git":
            first = f"[{found[0]}]" if ":" in found[0] else found[0]
            base = url.removesuffix(parts.path)
            pinned = f"git://{first}:{port}/"
            self._git.settings.append((f"url.{pinned}.insteadOf", f"{base}/"))
        elif not behind_proxy:
            self._git.settings.append(("http.curloptResolve", f"{host}:{port}:{','.join(found)}"))


def read(listed: str) -> list[Entry]:
    """The entries of a `.gitmodules`, from what `git config --null --list` says of it. Pure."""
    found: dict[str, dict[str, str]] = {}
    for one in listed.split("\0"):
        key, _, value = one.partition("\n")
        match = re.fullmatch(r"submodule\.(.+)\.(path|url)", key, re.S)
        if match:
            found.setdefault(match[1], {})[match[2]] = value
    return [
        Entry(name, fields["path"], fields["url"])
        for name, fields in found.items()
        if "path" in fields and "url" in fields
    ]


def resolved(entry: Entry, parent: str) -> str:
    """The address of a submodule as one with a scheme; `parent` is that of the repository it is in.

    Pure. Raises Refusal for what the site never fetches.
    """
    refusal = Refusal(
        Text(
            "The submodule {name} is at {url}: submodules are fetched by https, http, git or ssh "
            "only.",
            name=entry.name,
            url=entry.url[:300],
        )
    )
    url = entry.url
    if url.startswith(("./", "../")) or url in (".", ".."):
        url = _relative(parent, url, refusal)
    elif "://" not in url and (match := _SCP.fullmatch(url)):
        url = f"ssh://{match[1]}/{match[2]}"
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        fine = parts.scheme in PORTS and is_host(host) and parts.port != 0
    except ValueError:
        fine = False
    if not fine or len(url) > 2000 or _CONTROL.search(url) or parts.path.startswith(("-", "/-")):
        raise refusal
    # Names that begin with one would be options to ssh.
    if (parts.username or "").startswith("-"):
        raise refusal
    return url


def _relative(parent: str, url: str, refusal: Refusal) -> str:
    """As git takes it: every `../` drops the last part of the parent's address."""
    base, _, path = parent.partition("://")
    host, _, path = path.partition("/")
    kept = [one for one in path.split("/") if one]
    for part in url.split("/"):
        if part == "..":
            if not kept:
                raise refusal
            kept.pop()
        elif part not in (".", ""):
            kept.append(part)
    return f"{base}://{host}/" + "/".join(kept)
