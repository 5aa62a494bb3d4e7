"""The hub as a background process of one state folder: start, find, end, follow."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil

from studovna.hub_log import begin_anew, log_file
from studovna.paths import ROOT
from studovna.release import HUB_PORT
from studovna.site import Site
from studovna.system import primary_address, search_path
from studovna.text import Text

MARKER = "STUDOVNA_RUN"
"""In the environment of the hub and of all that it starts, but of no pod: the state folder."""
START_SECONDS = 90.0
STOP_SECONDS = 20.0


class HubError(Exception):
    """The hub does not run as it should; ``sentence`` says what to do."""

    def __init__(self, sentence: Text) -> None:
        self.sentence = sentence
        super().__init__(sentence)


def processes(state: Path) -> list[psutil.Process]:
    """The hub, proxy and services of this state folder, whoever started them."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARKER) == str(state) and process.pid != os.getpid():
                found.append(process)
        except psutil.Error:
            continue
    return found


def marks(site: Site, state: Path) -> dict[str, str]:
    """The environment by which a site's processes are known, and know what they are for."""
    return {
        MARKER: str(state),
        "STUDOVNA_HOME": str(state),
        "STUDOVNA_SITE": str(site.file.resolve()),
    }


def site_of(running: list[psutil.Process]) -> Path | None:
    """The settings file that these were started with; None when none says so."""
    for process in running:
        try:
            file = process.environ().get("STUDOVNA_SITE")
        except psutil.Error:
            continue
        if file:
            return Path(file)
    return None


@contextlib.contextmanager
def alone(state: Path, wait: Callable[[], None]) -> Iterator[None]:
    """Nobody else brings up this state folder; ``wait`` is called when somebody does just now."""
    with (state / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            wait()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def local_url(site: Site) -> str:
    """Where this machine itself reaches the proxy, whatever name people use."""
    host, port = site.bind_address
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared only
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def answers(site: Site) -> bool:
    """Whether the hub answers at the site's own address, through the proxy."""
    try:
        reply = httpx.get(f"{local_url(site)}/hub/health", timeout=5, trust_env=False)
    except httpx.HTTPError:
        return False
    return reply.status_code == 200


CHOOSE = Text("End that program, or choose another port: bind: in the site file.")
NEEDED = Text("The hub needs this one for its servers: end that program.")
NAMED = Text("Binder's images are named after this port of their registry: end that program.")


def require_free_ports(site: Site, state: Path) -> None:
    """Raise ``HubError`` when another program listens where a part of the site is to listen."""
    host, port = site.bind_address
    wanted = [(host, port, CHOOSE), ("127.0.0.1", port + 1, CHOOSE)]
    if site.binder.enabled:
        wanted.append(("127.0.0.1", port + 2, CHOOSE))
    if site.binder.enabled and site.registry is None:
        with contextlib.suppress(OSError, ValueError):
            wanted.append(("127.0.0.1", int((state / "registry" / "port").read_text()), NAMED))
    wanted.append((_hub_address(), HUB_PORT, NEEDED))
    for address, number, remedy in wanted:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, number))
            except OSError as error:
                raise HubError(
                    Text(
                        "Port {port} on {address} cannot be used ({reason}){owner}. {remedy} "
                        "({file})",
                        port=number,
                        address=address,
                        reason=error.strerror,
                        owner=_owner(number),
                        remedy=remedy,
                        file=site.file,
                    )
                ) from error


def _hub_address() -> str:
    """Where to look whether the hub will have its port.

    Without root it listens on the machine's address. As root it has an address of its own, which is
    made later: only who listens on all addresses is in its way, and so in the way of this one.
    """
    return "127.8.0.81" if os.geteuid() == 0 else primary_address() or "127.8.0.81"


def _owner(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                if connection.pid:
                    process = psutil.Process(connection.pid)
                    return f": {process.name()}, process {connection.pid}, listens there"
    except psutil.Error:
        pass
    return ""


def start(site: Site, state: Path, waiting: Callable[[str], None]) -> None:
    """Start the hub in the background and return when it answers.

    ``waiting`` gets each new line of the log. Raises ``HubError`` with the last lines when the
    hub ends, or does not answer within ``START_SECONDS``.
    """
    log = log_file(state)
    log.parent.mkdir(parents=True, exist_ok=True)
    begin_anew(log)
    environment = {
        **os.environ,
        **marks(site, state),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{search_path()}",
    }
    with log.open("ab") as output:
        begin = output.tell()
        hub = subprocess.Popen(
            [sys.executable, "-m", "jupyterhub", "--config", str(ROOT / "jupyterhub_config.py")],
            cwd=state,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_SECONDS
    with log.open(errors="replace") as lines:
        lines.seek(begin)
        while True:
            for line in lines:
                waiting(line.rstrip())
            if hub.poll() is not None:
                raise HubError(
                    Text(
                        "The hub ended with exit code {code} while starting. Its last lines "
                        "(all are in {log}):\n{lines}",
                        code=hub.returncode,
                        log=log,
                        lines=last_lines(log, begin),
                    )
                )
            if answers(site):
                return
            if time.monotonic() > deadline:
                raise HubError(
                    Text(
                        "The hub runs but does not answer at {url} after {seconds:} seconds. "
                        "Its last lines (all are in {log}):\n{lines}",
                        url=site.url,
                        seconds=round(START_SECONDS),
                        log=log,
                        lines=last_lines(log, begin),
                    )
                )
            time.sleep(0.1)


def last_lines(log: Path, begin: int = 0, count: int = 12) -> str:
    """The end of what was logged after ``begin`` bytes."""
    with log.open("rb") as stream:
        stream.seek(max(begin, log.stat().st_size - 16_384))
        return "\n".join(stream.read().decode(errors="replace").splitlines()[-count:])


def stop(state: Path) -> bool:
    """End the hub, its proxy and its services; servers go on. False when nothing ran."""
    running = processes(state)
    for process in running:
        _send(process, signal.SIGTERM)
    _, stubborn = psutil.wait_procs(running, timeout=STOP_SECONDS)
    for process in stubborn:
        _send(process, signal.SIGKILL)
    psutil.wait_procs(stubborn, timeout=5)
    return bool(running)


def _send(process: psutil.Process, what: signal.Signals) -> None:
    try:
        process.send_signal(what)
    except psutil.NoSuchProcess:
        pass
