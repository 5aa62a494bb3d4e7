"""The windows on the display: which one is the application's, and asking windows to close.

``wmctrl``, ``xprop`` and ``xwininfo`` do the work; what they print is read by functions that need
no display. (``wmctrl -l`` crashes where no window names its machine: it lists nothing here.)
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

CALL_SECONDS = 5.0
BEGIN_SECONDS = 0.1
ASKED = (
    "_NET_WM_WINDOW_TYPE",
    "WM_TRANSIENT_FOR",
    "_NET_WM_STATE",
    "WM_NORMAL_HINTS",
    "WM_CLASS",
)


@dataclass(frozen=True)
class Window:
    """What matters of a window."""

    normal: bool
    """Neither a dialog, nor a panel, nor the desktop itself."""
    transient: bool
    fixed: bool
    """Its size cannot change: a splash screen."""
    maximized: bool
    ours: bool
    """One of our own messages."""


def clients(line: str) -> list[str]:
    """The window ids in a line of ``xprop -root _NET_CLIENT_LIST``, oldest first."""
    return re.findall(r"0x[0-9a-f]+", line)


def window(text: str) -> Window:
    """A window from what ``xprop -id`` prints of the properties in ``ASKED``."""
    # The first kind that is named counts; Qt's dialogs name NORMAL as their second.
    kind = re.search(r"^_NET_WM_WINDOW_TYPE.*?= _NET_WM_WINDOW_TYPE_(\w+)", text, re.M)
    transient = re.search(r"^WM_TRANSIENT_FOR.*window id # 0x(?!0\b)[0-9a-f]+", text, re.M)
    state = re.search(r"^_NET_WM_STATE.*= (.*)$", text, re.M)
    least = re.search(r"minimum size: (\d+) by (\d+)", text)
    most = re.search(r"maximum size: (\d+) by (\d+)", text)
    return Window(
        normal=kind is None or kind[1] == "NORMAL",
        transient=transient is not None,
        fixed=least is not None and most is not None and least.groups() == most.groups(),
        maximized=state is not None and "_NET_WM_STATE_MAXIMIZED_VERT" in state[1],
        ours='"Studovna"' in text,
    )


def to_fill(here: dict[str, Window], filled: str | None) -> str | None:
    """Which window to give the whole screen: the first of the application's, while none has it.

    A rule for all windows would catch plots and tool windows, too.
    """
    if filled in here:
        return None
    for name, one in here.items():
        if one.normal and not one.transient and not one.fixed and not one.ours:
            return name
    return None


def too_large(now: tuple[int, int], screen: tuple[int, int]) -> tuple[int, int] | None:
    """The size that a window shrinks to, to fit on the screen; None when it fits."""
    width, height = min(now[0], screen[0]), min(now[1], screen[1])
    return None if (width, height) == now else (width, height)


def size(text: str) -> tuple[int, int] | None:
    """Width and height from what ``xwininfo`` prints."""
    found = re.search(r"Width: (\d+)\s+Height: (\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


class Display:
    """The windows of one display. Nothing here raises: a window may go at any moment."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.filled: str | None = None

    def call(self, *argv: str) -> str:
        """A program's output; nothing when it fails."""
        try:
            done = subprocess.run(
                argv,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=CALL_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.decode(errors="replace") if done.returncode == 0 else ""

    def look(self, names: list[str]) -> dict[str, Window]:
        """These windows, those that are gone left out."""
        found = {}
        for name in names:
            text = self.call("xprop", "-id", name, *ASKED)
            if text:
                found[name] = window(text)
        return found

    def watch(self, appeared: Callable[[], None], fill: bool) -> None:
        """Follow the windows until the display ends; ``appeared``: the application has a window."""
        while not self._watched(appeared, fill):
            # xprop follows only what a window manager has begun to set.
            time.sleep(BEGIN_SECONDS)

    def _watched(self, appeared: Callable[[], None], fill: bool) -> bool:
        with subprocess.Popen(
            ["xprop", "-root", "-spy", "_NET_CLIENT_LIST"],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as spy:
            assert spy.stdout is not None
            for line in spy.stdout:
                if b"#" not in line:
                    spy.terminate()
                    return False
                here = self.look(clients(line.decode(errors="replace")))
                if any(not one.ours for one in here.values()):
                    appeared()
                if fill:
                    self._arrange(here)
        return True

    def _arrange(self, here: dict[str, Window]) -> None:
        name = to_fill(here, self.filled)
        if name is not None:
            self.call("wmctrl", "-i", "-r", name, "-b", "add,maximized_vert,maximized_horz")
            self.filled = name
        screen = size(self.call("xwininfo", "-root"))
        for other, one in here.items():
            now = size(self.call("xwininfo", "-id", other))
            if now is None or screen is None or one.fixed or not one.normal or other == self.filled:
                continue
            smaller = too_large(now, screen)
            if smaller:
                self.call("wmctrl", "-i", "-r", other, "-e", f"0,0,0,{smaller[0]},{smaller[1]}")

    def ask_to_close(self) -> None:
        """What the button in a window's corner does, for every window of an application."""
        names = clients(self.call("xprop", "-root", "_NET_CLIENT_LIST"))
        for name, one in self.look(names).items():
            if (one.normal or one.transient) and not one.ours:
                self.call("wmctrl", "-i", "-c", name)
