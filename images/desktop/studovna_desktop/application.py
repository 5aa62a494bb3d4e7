"""The one application of a profile, and what must be there before it can start."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from .texts import Message, message

VARIABLE = "STUDOVNA_APPLICATION"
PROBE_SECONDS = 3.0
_SERVER = re.compile(r"(?P<port>[0-9]{1,5})@(?P<host>[A-Za-z0-9]([A-Za-z0-9._-]{0,252}))")


@dataclass(frozen=True)
class Application:
    """What a profile says of its application."""

    title: str
    command: tuple[str, ...]
    folder: str = ""
    needs: tuple[str, ...] = ()
    licences: Mapping[str, str] = field(default_factory=dict)
    """What the variables of licence servers hold, by their name."""

    @property
    def slug(self) -> str:
        """The title as the name of a file."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")[:60] or "application"


def read(environ: Mapping[str, str]) -> Application | None:
    """The application that the profile has set; None for a whole desktop. Raises ValueError."""
    text = environ.get(VARIABLE)
    if not text:
        return None
    data = json.loads(text)
    if not isinstance(data, dict):
        raise ValueError(f"{VARIABLE} is no object")
    command = data.get("command")
    texts = [data.get("title"), data.get("folder") or "", *(command or []), *data.get("needs", [])]
    if not command or not all(isinstance(one, str) for one in texts):
        raise ValueError(f"{VARIABLE} needs a title and a command")
    return Application(
        data["title"],
        tuple(command),
        data.get("folder") or "",
        tuple(data.get("needs", [])),
        licences(environ),
    )


def licences(environ: Mapping[str, str]) -> dict[str, str]:
    """What the variables of licence servers hold; ``STUDOVNA_LICENCES`` says which those are."""
    names = environ.get("STUDOVNA_LICENCES", "").split()
    return {name: environ[name] for name in names if name in environ}


def licence_servers(value: str) -> list[tuple[str, int]]:
    """(host, port) of every server that a licence variable names; files and @host have none.

    FlexLM separates servers by ``:``, ``;`` (Windows) or ``,`` (three that stand for one).
    """
    found = (_SERVER.fullmatch(part.strip()) for part in re.split(r"[:;,]", value))
    return [(one["host"], int(one["port"])) for one in found if one and int(one["port"]) < 65536]


def answers(host: str, port: int, seconds: float = PROBE_SECONDS) -> bool:
    """Whether somebody accepts a connection there."""
    try:
        with socket.create_connection((host, port), seconds):
            return True
    except (OSError, UnicodeError):
        return False


def silent_servers(
    licences: Mapping[str, str], probe: Callable[[str, int], bool] = answers
) -> list[str]:
    """``port@host`` of the servers of the first variable of which none answers; else nothing."""
    for value in licences.values():
        servers = licence_servers(value)
        if not servers:
            continue
        with ThreadPoolExecutor(len(servers)) as pool:
            if not any(pool.map(lambda one: probe(*one), servers)):
                return [f"{port}@{host}" for host, port in servers]
    return []


def unreadable(path: str) -> str | None:
    """Why a file or folder cannot be used: ``missing``, ``forbidden``, or None."""
    try:
        os.stat(path)
    except PermissionError:
        return "forbidden"
    except OSError:
        return "missing"
    return None if os.access(path, os.R_OK) else "forbidden"


def problem(
    application: Application, probe: Callable[[str, int], bool] = answers
) -> Message | None:
    """What keeps the application from starting, in plain words; None when nothing does."""
    title, program = application.title, application.command[0]
    for path in application.needs:
        why = unreadable(path)
        if why:
            return message(f"needs-{why}", title=title, path=path, place=nearest(path))
    if shutil.which(program) is None:
        there = os.path.isabs(program) and os.path.exists(program)
        return message("program-forbidden" if there else "program", title=title, path=program)
    if application.folder and not os.path.isdir(application.folder):
        return message("folder", title=title, path=application.folder)
    silent = silent_servers(application.licences, probe)
    if silent:
        return message("licence", title=title, servers=", ".join(silent))
    return None


def nearest(path: str) -> str:
    """The deepest folder of a path that is there: where the volume ends, or is not mounted."""
    # Not Path.exists: that raises where a folder above must not be read.
    while not os.path.exists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path


class Ends:
    """Counts how often an application ended soon after its start."""

    SOON = 10.0
    """Seconds: nobody has worked in it."""
    OFTEN = 3

    def __init__(self) -> None:
        self._soon = 0

    def again(self, seconds: float) -> bool:
        """Whether to start it again by itself, after a run of so many seconds."""
        self._soon = self._soon + 1 if seconds < self.SOON else 0
        if self._soon < self.OFTEN:
            return True
        self._soon = 0
        return False


def crashed(application: Application, code: int, lines: Sequence[str], log: str) -> Message:
    """What is shown of an application that ends again and again."""
    if code < 0:
        how, number = "crashed-signal", -code
    else:
        how, number = "crashed", code
    return message(how, title=application.title, code=number, log=log, lines=lines)
