"""What an application says: kept in the home, never more than a bound, the last lines at hand."""

from __future__ import annotations

import contextlib
from collections import deque
from pathlib import Path
from typing import IO

LIMIT = 1024 * 1024
LINE = 4096
LAST_LINES = 12


class Log:
    """A file that becomes ``NAME.log.1`` when it is full. A home that is full or read-only loses
    the log and nothing else."""

    def __init__(self, file: Path, limit: int = LIMIT) -> None:
        self.file = file
        self.last: deque[str] = deque(maxlen=LAST_LINES)
        self._limit = limit
        self._stream: IO[bytes] | None = None
        self._size = 0

    def write(self, data: bytes) -> None:
        """One line, or a part of a very long one."""
        text = data.decode(errors="replace").rstrip()
        if text:
            self.last.append("".join(c for c in text if c.isprintable() or c == "\t")[:300])
        self._keep(data)

    def note(self, text: str) -> None:
        """A line of our own, which is none of the last ones that are shown."""
        self._keep(f"--- {text}\n".encode())

    def _keep(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            if self._stream is None or self._size + len(data) > self._limit:
                self._open()
            if self._stream is not None:
                self._stream.write(data)
                self._stream.flush()
                self._size += len(data)

    def _open(self) -> None:
        if self._stream is None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
        else:
            self._stream.close()
            self._stream = None
        self._size = self.file.stat().st_size if self.file.exists() else 0
        if self._size >= self._limit // 2:
            self.file.replace(self.file.with_name(self.file.name + ".1"))
            self._size = 0
        self._stream = self.file.open("ab")

    def follow(self, pipe: IO[bytes]) -> None:
        """Write what comes out of a pipe until it closes."""
        while data := pipe.readline(LINE):
            self.write(data)
