"""The program of the pod: the Jupyter server, and beside it the display.

The display starts with the server, so that both are ready at the same time; the application when a
browser asks for it, so that it takes neither a licence before somebody is there nor the time of the
server's start. The display listens on a socket of its own, which ``vncserver`` (started by
jupyter-remote-desktop-proxy) only points to: the display outlives browsers, and one that was killed
comes back.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from .session import Session

JUPYTER = "/opt/venv/bin/jupyterhub-singleuser.jupyter"
FOLDER = Path(tempfile.gettempdir()) / "studovna-desktop"
SOCKET = FOLDER / "vnc.sock"
WANTED = FOLDER / "wanted"
"""A pipe that ``vncserver`` opens when a browser asks for the desktop."""
STOP_SECONDS = "STUDOVNA_STOP_SECONDS"
SOON, MOST_WAIT = 10.0, 10.0


def eager(environ: Mapping[str, str]) -> bool:
    """Whether the desktop is what the person came for; else the display waits for a browser."""
    return environ.get("JUPYTERHUB_DEFAULT_URL", "").startswith("/desktop")


def display_command(number_to: int) -> list[str]:
    """Xvnc without a port of TCP: whoever may use the socket was let in by Jupyter."""
    return [
        "Xtigervnc",
        *("-displayfd", str(number_to)),
        *("-rfbunixpath", str(SOCKET), "-rfbunixmode", "0600", "-rfbport", "-1"),
        *("-SecurityTypes", "None", "-AlwaysShared", "-nolisten", "tcp"),
        *("-geometry", "1280x800", "-depth", "24"),
        # Bytes of one paste: 16 MB of text instead of 256 KB.
        *("-MaxCutText", str(16 * 1024**2)),
        *("-desktop", "Studovna", "-Log", "*:stderr:0"),
    ]


class Desktop:
    """The display and its session, started again when the display ends."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._display: subprocess.Popen[bytes] | None = None
        self._ending = False
        self._lock = threading.Lock()
        self._wanted = threading.Event()

    def run(self) -> None:
        """Until ``close``."""
        FOLDER.mkdir(mode=0o700, exist_ok=True)
        _sockets()
        WANTED.unlink(missing_ok=True)
        os.mkfifo(WANTED, 0o600)
        threading.Thread(target=self._wait_for_browser, daemon=True).start()
        if not eager(os.environ):
            self._wanted.wait()
        wait = 0.0
        while not self._ending:
            began = time.monotonic()
            self._one_display()
            # Bounded: a display that cannot live does not take the server's cores.
            wait = 0.0 if time.monotonic() - began > SOON else min(MOST_WAIT, 2 * wait + 0.2)
            time.sleep(wait)

    def close(self, seconds: float) -> None:
        """Have applications close themselves within so many seconds, then end everything."""
        self._ending = True
        with self._lock:
            session, display = self._session, self._display
        if session is not None:
            session.close_politely(seconds)
            session.end()
        if display is not None:
            display.terminate()

    def _wait_for_browser(self) -> None:
        WANTED.read_bytes()
        WANTED.unlink(missing_ok=True)
        self._wanted.set()

    def _one_display(self) -> None:
        SOCKET.unlink(missing_ok=True)
        read, write = os.pipe()
        try:
            display = subprocess.Popen(
                display_command(write),
                pass_fds=[write],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            os.close(write)
        with os.fdopen(read) as numbers:
            number = numbers.readline().strip()
        if not number:
            display.kill()
            print(f"The display ended with exit code {display.wait()}.", file=sys.stderr)
            return
        session = Session(f":{number}", FOLDER, os.environ, self._wanted)
        with self._lock:
            self._session, self._display = session, display
        threading.Thread(target=session.run, daemon=True).start()
        code = display.wait()
        if not self._ending:
            print(f"The display ended with exit code {code}; a new one starts.", file=sys.stderr)
            session.end()


def _sockets() -> None:
    """The folder in which X servers listen; an empty volume on /tmp has none."""
    with contextlib.suppress(OSError):
        os.mkdir("/tmp/.X11-unix")  # noqa: S108 - where X looks for it
        os.chmod("/tmp/.X11-unix", 0o1777)  # noqa: S103, S108


def main() -> int:
    """Runs until the Jupyter server ends; returns its exit code."""
    jupyter = subprocess.Popen([JUPYTER, *sys.argv[1:]])
    desktop = Desktop()
    threading.Thread(target=desktop.run, daemon=True).start()
    # Of the seconds that a pod has to end, two are for the Jupyter server and for what stays.
    polite = max(1.0, float(os.environ.get(STOP_SECONDS, "10")) - 4)

    def stop() -> None:
        try:
            desktop.close(polite)
        finally:
            jupyter.terminate()

    asked: list[threading.Thread] = []

    def on_signal(_number: int, _frame: object) -> None:
        if not asked:
            asked.append(threading.Thread(target=stop))
            asked[0].start()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    code = jupyter.wait()
    if not asked:
        desktop.close(polite)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    # Threads that still wait for something do not keep the pod.
    os._exit(main())
