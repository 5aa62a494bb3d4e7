"""What runs on one display: the window manager and the application, for as long as it is there."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from . import application
from .application import Application, Ends
from .log import Log
from .texts import Message, message
from .windows import Display

HERE = Path(__file__).parent
QUIET_SECONDS = 3.0
"""How long an application may show nothing before a window says that it is starting."""
BUS_SECONDS = 2.0
LOG_SECONDS = 1.0
BACKGROUND = "#2b3947"
WINDOW_AGAIN_SECONDS = 2.0
WHOLE_DESKTOP = Application("Desktop", ("startlxqt",))

# What an application would ask at its first start, by program. Never over a file that is there.
SEEDS: Mapping[str, Mapping[str, str]] = {
    "octave": {
        ".config/octave/octave-gui.ini": (
            "[General]\nglobal_skip_welcome_wizard=true\n[news]\nallow_web_connection=false\n"
        )
    },
}


def seed(program: str, home: Path) -> None:
    """Write the files that an application expects in a home, where there are none."""
    for name, text in SEEDS.get(os.path.basename(program), {}).items():
        with contextlib.suppress(OSError):
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            with (home / name).open("x") as file:
                file.write(text)


def cores(environ: Mapping[str, str]) -> int:
    """How many cores the server may use: software OpenGL would start a thread for each there is."""
    with contextlib.suppress(KeyError, ValueError):
        return max(1, round(float(environ["CPU_LIMIT"])))
    return max(1, len(os.sched_getaffinity(0)))


def environment(environ: Mapping[str, str], display: str, folder: Path) -> dict[str, str]:
    """The environment of what runs on the display; ``folder`` is the display's own."""
    runtime = folder / "runtime"
    added = {
        "DISPLAY": display,
        "DBUS_SESSION_BUS_ADDRESS": f"unix:path={folder / 'bus'}",
        "XDG_RUNTIME_DIR": str(runtime),
        "XDG_SESSION_TYPE": "x11",
        "LP_NUM_THREADS": str(min(16, cores(environ))),
    }
    return {**environ, **added}


class Session:
    """The programs on one display. ``wanted`` is set when the application may start."""

    def __init__(
        self, display: str, folder: Path, environ: Mapping[str, str], wanted: threading.Event
    ) -> None:
        self._wanted = wanted
        self._environment = environment(environ, display, folder)
        self._folder = folder
        self._home = Path(environ.get("HOME", "/home/jovyan"))
        self._windows = Display(self._environment)
        self._helpers: list[subprocess.Popen[bytes]] = []
        self._shown: subprocess.Popen[bytes] | None = None
        self._running: subprocess.Popen[bytes] | None = None
        self._ending = threading.Event()
        self._appeared = threading.Event()
        self._lock = threading.Lock()

    def run(self) -> None:
        """Until the display ends or ``end`` is called."""
        try:
            chosen = application.read(self._environment)
        except (ValueError, TypeError, AttributeError) as error:
            self._begin(one_application=True)
            while not self._ending.is_set():
                self._tell(message("settings", why=error, button=""))
            return
        self._begin(one_application=chosen is not None)
        self._wanted.wait()
        seed((chosen or WHOLE_DESKTOP).command[0], self._home)
        self._keep_running(chosen or WHOLE_DESKTOP)

    def close_politely(self, seconds: float) -> None:
        """Ask every window to close, so that what is not saved can be; return when all have."""
        self._ending.set()
        self._hide()
        self._windows.ask_to_close()
        with self._lock:
            running = self._running
        if running is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(seconds)

    def end(self) -> None:
        """End all programs, at once if they do not go within a second."""
        self._ending.set()
        self._hide()
        with self._lock:
            processes = [one for one in (self._running, *self._helpers) if one is not None]
        for number in (signal.SIGTERM, signal.SIGKILL):
            for one in processes:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(one.pid, number)
            deadline = time.monotonic() + 1
            for one in processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    one.wait(max(0.0, deadline - time.monotonic()))

    # --- parts ----------------------------------------------------------------------------------

    def _begin(self, one_application: bool) -> None:
        (self._folder / "runtime").mkdir(mode=0o700, exist_ok=True)
        bus = self._folder / "bus"
        bus.unlink(missing_ok=True)
        self._help(
            "dbus-daemon", "--session", "--nofork", "--nopidfile", f"--address=unix:path={bus}"
        )
        self._windows.call("hsetroot", "-solid", BACKGROUND)
        if one_application:
            self._help("openbox", "--sm-disable", "--config-file", str(HERE / "openbox.xml"))
        threading.Thread(
            target=self._windows.watch, args=(self._appeared.set, one_application), daemon=True
        ).start()
        deadline = time.monotonic() + BUS_SECONDS
        while not bus.exists() and time.monotonic() < deadline:
            time.sleep(0.01)

    def _help(self, *argv: str) -> None:
        helper = subprocess.Popen(
            argv,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        with self._lock:
            self._helpers.append(helper)

    def _keep_running(self, chosen: Application) -> None:
        ends = Ends()
        log = Log(self._home / ".studovna" / "logs" / f"{chosen.slug}.log")
        while not self._ending.is_set():
            wrong = application.problem(chosen)
            if wrong is not None:
                self._tell(wrong)
                continue
            began = time.monotonic()
            code = self._run(chosen, log)
            if self._ending.is_set() or ends.again(time.monotonic() - began):
                continue
            where = f"~/{log.file.relative_to(self._home)}"
            self._tell(application.crashed(chosen, code, list(log.last), where))

    def _run(self, chosen: Application, log: Log) -> int:
        """Run the application to its end; returns its exit code, negative for a signal."""
        self._appeared.clear()
        log.note(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {chosen.title}")
        try:
            with self._lock:
                if self._ending.is_set():
                    return 0
                self._running = subprocess.Popen(
                    chosen.command,
                    cwd=chosen.folder or self._home,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                running = self._running
        except OSError as error:
            log.write(f"{error}\n".encode())
            return 127
        assert running.stdout is not None
        follower = threading.Thread(target=log.follow, args=(running.stdout,), daemon=True)
        follower.start()
        threading.Thread(target=self._say_starting, args=(chosen, running), daemon=True).start()
        code = running.wait()
        self._hide()
        # What it has left behind of itself would keep files and licences.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(running.pid, signal.SIGTERM)
        with self._lock:
            self._running = None
        follower.join(LOG_SECONDS)
        log.note(f"ended with {code}")
        return code

    def _say_starting(self, chosen: Application, running: subprocess.Popen[bytes]) -> None:
        if self._appeared.wait(QUIET_SECONDS) or running.poll() is not None:
            return
        self._show(message("starting", title=chosen.title, button=""))
        while not self._appeared.wait(0.5) and running.poll() is None:
            pass
        self._hide()

    def _tell(self, text: Message) -> None:
        """Show a message until its button is pressed."""
        began = time.monotonic()
        window = self._show(text)
        if window is not None:
            window.wait()
        # A display that is ending takes no window: not again and again at full speed.
        if time.monotonic() - began < WINDOW_AGAIN_SECONDS and (not window or window.returncode):
            self._ending.wait(WINDOW_AGAIN_SECONDS)

    def _show(self, text: Message) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._ending.is_set():
                return None
            window = subprocess.Popen(
                [sys.executable, "-I", "-m", "studovna_desktop.window"],
                env=self._environment,
                stdin=subprocess.PIPE,
                start_new_session=True,
            )
            self._shown = window
        assert window.stdin is not None
        with contextlib.suppress(OSError), window.stdin:
            window.stdin.write(json.dumps(asdict(text)).encode())
        return window

    def _hide(self) -> None:
        with self._lock:
            shown, self._shown = self._shown, None
        if shown is not None:
            shown.terminate()
            shown.wait()
