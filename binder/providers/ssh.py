"""Repositories by ssh: with the site's own key, from hosts whose keys the site knows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from studovna import ssh_key
from studovna.text import Text

from ..errors import BinderError, Failed, Refused

if TYPE_CHECKING:
    from .git import GitAddress

_BOILERPLATE = re.compile(
    r"fatal: could not read from remote|please make sure you have the correct|"
    r"and the repository exists|warning: permanently added|^\s*$|^@+$",
    re.IGNORECASE,
)
_FILES = {"IdentityFile": "key", "UserKnownHostsFile": "known_hosts"}


def ssh_command(
    address: GitAddress, addresses: list[str], key_file: str, known_hosts_file: str
) -> str:
    """What git is to run as ssh: this key, this host at its checked addresses, and nothing else.

    git hands the text to a shell: all of it is ours, and quoted.
    """
    options = {
        "IdentityFile": _path(key_file),
        "UserKnownHostsFile": _path(known_hosts_file),
        "GlobalKnownHostsFile": "none",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "BatchMode": "yes",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "PreferredAuthentications": "publickey",
        "ConnectTimeout": "10",
        "ProxyCommand": "none",
        "ForwardAgent": "no",
        "ForwardX11": "no",
    }
    if addresses:
        # known_hosts names a host with a port of its own in brackets; an alias is taken as it is.
        alias = f"[{address.host}]:{address.port}" if address.port else address.host
        options |= {"HostName": addresses[0], "HostKeyAlias": alias}
    argv = ["ssh", "-F", "none", "-T"]
    for name, value in options.items():
        argv += ["-o", f"{name}={value}"]
    return shlex.join(argv)


def in_pod(command: str, folder: str) -> tuple[str, dict[str, str]]:
    """A command of `ssh_command` as the fetch container runs it, and the files it needs there.

    ``folder`` is where the container has the files. Raises OSError.
    """
    argv, files = shlex.split(command), {}
    for index, word in enumerate(argv):
        name, _, value = word.partition("=")
        if name in _FILES:
            files[_FILES[name]] = _plain(value).read_text()
            argv[index] = f"{name}={_path(f'{folder}/{_FILES[name]}')}"
    return shlex.join(argv), files


def explain_ssh(address: GitAddress, problem: str, key: str) -> BinderError:
    """The sentence for a failed ``git ls-remote`` by ssh. ``key`` is the site's public key."""
    text, host = problem.lower(), address.host
    if "remote host identification has changed" in text:
        return Failed(
            Text(
                "{host} shows another ssh key than the one this site knows it by, and is not "
                "trusted. Tell the site's administrators.",
                host=host,
            ),
            status=502,
        )
    if "host key verification failed" in text or "no matching host key" in text:
        return Refused(
            Text(
                "This site does not know the ssh key of {host}. Its administrators can add it "
                "(binder: ssh_known_hosts_file); or use the https address.",
                host=host,
            ),
            status=403,
        )
    if "permission denied" in text or "too many authentication failures" in text:
        return Refused(
            Text(
                "{host} does not let this site read {path}. Who owns the repository can allow it: "
                "add the site's key there, with read access only: {key}",
                host=host,
                path=address.path.lstrip("/"),
                key=key,
            ),
            status=403,
        )
    if any(sign in text for sign in ("does not appear to be", "not found", "does not exist")):
        return Refused(
            Text("There is no git repository at {url}. Check the spelling.", url=address.url),
            status=404,
        )
    return Failed(
        Text(
            "{host} could not be asked for {url}: {reason}",
            host=host,
            url=address.url,
            reason=last_line(problem),
        ),
        status=502,
    )


def last_line(problem: str) -> str:
    """What a program said last that says something."""
    lines = [line.strip() for line in problem.splitlines() if not _BOILERPLATE.search(line)]
    return (lines[-1] if lines else "no reason was given")[:300]


def public_key(file: str) -> str:
    """The site's public key, for a sentence; empty where it cannot be read."""
    try:
        return ssh_key.public_key(Path(file))
    except (OSError, ValueError):
        return ""


def _path(file: str) -> str:
    """A path as ssh's options take it: spaces would part it, and % begins a token."""
    return '"' + file.replace("%", "%%") + '"'


def _plain(value: str) -> Path:
    return Path(value.strip('"').replace("%%", "%"))
