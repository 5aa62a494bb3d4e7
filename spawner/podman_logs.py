"""What containers wrote, read from the files that podman's `k8s-file` driver keeps.

Reading the files instead of calling `podman logs` costs no process for each reader. Podman replaces
a file that has grown to its bound by a new, empty one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

_LINE = re.compile(rb"(\S+) (stdout|stderr) ([FP])(?: (.*))?", re.DOTALL)
_CHUNK = 65536
_LONGEST = 65536
_POLL = 0.1
_QUIET = 1.0  # seconds without a line before it is asked whether there will be more
_TAIL_BYTES = 2**20


class LineReader:
    """Turns the bytes of a log file into lines, putting together what podman has split."""

    def __init__(self, since: datetime | None = None) -> None:
        self._since = since
        self._rest = b""
        self._open: dict[bytes, bytes] = {}

    def feed(self, chunk: bytes) -> list[str]:
        """The lines that are complete with this chunk."""
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        return [line for raw in whole if (line := self._one(raw)) is not None]

    def finish(self) -> list[str]:
        """What is left when the file has ended: lines without an end."""
        lines = [text.decode(errors="replace") for text in self._open.values()]
        self._open = {}
        self._rest = b""
        return lines

    def _one(self, raw: bytes) -> str | None:
        match = _LINE.fullmatch(raw)
        if match is None:
            return None
        when, stream, part, text = match.groups(default=b"")
        if self._since is not None and _time(when) < self._since:
            return None
        joined = self._open.pop(stream, b"") + text
        if part == b"P" and len(joined) < _LONGEST:
            self._open[stream] = joined
            return None
        return joined.decode(errors="replace").removesuffix("\r")


def _time(text: bytes) -> datetime:
    # Nanoseconds are more than datetime takes.
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text.decode()))


async def read(
    path: Path,
    *,
    since: datetime | None = None,
    is_over: Callable[[], Awaitable[bool]] | None = None,
) -> AsyncGenerator[str, None]:
    """The lines of a log; with `is_over`, go on until that is true and all has been read."""
    reader = LineReader(since)
    file: BinaryIO | None = None
    over = is_over is None
    asked = time.monotonic()
    try:
        while True:
            if file is None:
                file = await asyncio.to_thread(_open, path)
            chunk = await asyncio.to_thread(file.read, _CHUNK) if file else b""
            for line in reader.feed(chunk):
                yield line
            if chunk:
                asked = time.monotonic()
                continue
            if file is not None and await asyncio.to_thread(_replaced, file, path):
                file.close()
                file = None
                continue
            if over:
                break
            assert is_over is not None
            # Asked before the last look at the file, or its last lines could be missed.
            if time.monotonic() - asked >= _QUIET:
                over = await is_over()
                asked = time.monotonic()
            if not over:
                await asyncio.sleep(_POLL)
        for line in reader.finish():
            yield line
    finally:
        if file is not None:
            file.close()


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a log, of its last megabyte."""
    if lines <= 0:
        return []
    reader = LineReader()
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        found = reader.feed(file.read(_TAIL_BYTES))
        return [*found, *reader.finish()][-lines:]
    return []


def _open(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb", buffering=0)
    except FileNotFoundError:
        return None


def _replaced(file: BinaryIO, path: Path) -> bool:
    try:
        return os.stat(path).st_ino != os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False
