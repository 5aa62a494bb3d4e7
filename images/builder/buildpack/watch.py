"""Keeps a container within its share of the disk: a folder on disk has no bound of its own.

The watching thread lives in the container's first process, which nothing else in the container can
end: a container's first process gets no signal from within that it does not want, and one that is
not dumpable cannot be traced.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from .report import Text, say_text

PR_SET_DUMPABLE = 4
RESERVE = 512 * 1024**2  # bytes of the machine's disk that a build leaves free
PAUSE = 0.5


def usage(folders: Sequence[Path], stop_at: tuple[int, int]) -> tuple[int, int]:
    """Bytes on disk and number of files below some folders; stops counting when over a limit."""
    size = files = 0
    waiting = [os.fspath(folder) for folder in folders]
    while waiting:
        try:
            entries = os.scandir(waiting.pop())
        except OSError:
            continue
        with entries:
            for entry in entries:
                try:
                    size += 512 * entry.stat(follow_symlinks=False).st_blocks
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                except OSError:
                    continue
                files += 1
        if size > stop_at[0] or files > stop_at[1]:
            break
    return size, files


_watched: list[Path] = []


def start(folders: Sequence[Path], limit: int, files: int) -> None:
    """Watch for the rest of the container's life; ends it with a sentence when it is over a limit.

    `limit` in bytes. A second call adds folders.
    """
    running = bool(_watched)
    _watched.extend(folder for folder in folders if folder not in _watched)
    if running:
        return
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    threading.Thread(target=_watch, args=(_watched, limit, files), daemon=True).start()


def check(folders: Sequence[Path], limit: int, files: int) -> Text | None:
    """The sentence to end with, or None while all is well."""
    size, number = usage(folders, (limit, files))
    if size > limit:
        return Text(
            "The build needs more than {limit} GB of disk, which is as much as this site gives to "
            "one: make the repository or what it installs smaller.",
            limit=f"{limit / 10**9:.3g}",
        )
    if number > files:
        return Text(
            "The build makes more than {files} files, which is as many as this site allows.",
            files=files,
        )
    disk = os.statvfs(folders[0])
    if disk.f_bavail * disk.f_frsize < RESERVE:
        return Text("The disk of the site is full. Tell its administrators.")
    return None


def _watch(folders: Sequence[Path], limit: int, files: int) -> None:
    while True:
        started = time.monotonic()
        text = check(folders, limit, files)
        if text is not None:
            say_text("failed", text)
            os._exit(1)
        time.sleep(PAUSE + 3 * (time.monotonic() - started))
