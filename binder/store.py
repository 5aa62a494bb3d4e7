"""What is known of builds on disk: those that go on, the logs of those that ended, their times.

::

    <folder>/active/<name>.json     a build that was started and has not ended
    <folder>/logs/<name>.jsonl      the events of the last build of an image
    <folder>/logs/<name>.private    the link of its repository, where that is a private one
    <folder>/times.json             how long the last good build of a repository took, in seconds

All file work happens in a thread.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
from pathlib import Path
from typing import Any

from tornado.log import app_log

from .events import EventLog

KEPT_BYTES = 256 * 1024**2  # of logs, all together
KEPT_TIMES = 2000  # repositories

_NAME = re.compile(r"build-[0-9a-f]{32}")


class BuildStore:
    """The folder of one service. Raises OSError where the disk does not do its part."""

    def __init__(self, folder: Path) -> None:
        self._active = folder / "active"
        self._logs = folder / "logs"
        self._times_file = folder / "times.json"
        self._lock = threading.Lock()
        for place in (self._active, self._logs):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._times: dict[str, float] = {}
        try:
            stored = json.loads(self._times_file.read_text())
            self._times = {str(url): float(seconds) for url, seconds in stored.items()}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, AttributeError) as error:
            app_log.warning("%s cannot be read and starts anew: %s", self._times_file, error)

    async def begin(self, name: str, request: dict[str, Any]) -> None:
        """Remember a build until ``finish``."""
        await asyncio.to_thread(
            _write, self._file(self._active, name, ".json"), json.dumps(request)
        )

    async def finish(
        self,
        name: str,
        repo_url: str,
        seconds: float,
        status: str,
        log: EventLog,
        private_link: str = "",
    ) -> None:
        """Keep the log of a build that ended, and the time that a good one took."""
        if status == "success":
            self._times.pop(repo_url, None)
            self._times[repo_url] = round(seconds, 1)
            while len(self._times) > KEPT_TIMES:
                del self._times[next(iter(self._times))]
        await asyncio.to_thread(
            self._finish, name, "\n".join(log.events), dict(self._times), private_link
        )

    def _finish(self, name: str, events: str, times: dict[str, float], private_link: str) -> None:
        with self._lock:
            try:
                if private_link:
                    _write(self._file(self._logs, name, ".private"), private_link)
                _write(self._file(self._logs, name, ".jsonl"), events)
                _write(self._times_file, json.dumps(times))
                self._prune()
            finally:
                self._file(self._active, name, ".json").unlink(missing_ok=True)

    def _prune(self) -> None:
        files = [(file.stat(), file) for file in self._logs.glob("*.jsonl")]
        total = sum(stat.st_size for stat, _ in files)
        for stat, file in sorted(files, key=lambda entry: entry[0].st_mtime):
            if total <= KEPT_BYTES:
                break
            self._forget(file.stem)
            total -= stat.st_size

    async def unfinished(self) -> list[dict[str, Any]]:
        """The requests of the builds that never ended."""
        return await asyncio.to_thread(self._unfinished)

    def _unfinished(self) -> list[dict[str, Any]]:
        found = []
        for file in sorted(self._active.glob("*.json"), key=lambda file: file.stat().st_mtime):
            try:
                found.append(dict(json.loads(file.read_text())))
            except (OSError, ValueError, TypeError) as error:
                app_log.error("%s cannot be read and is dropped: %s", file, error)
                file.unlink(missing_ok=True)
        return found

    async def log(self, name: str) -> str | None:
        """The stored log of a build as text, None when there is none."""
        return await asyncio.to_thread(self._log, name)

    def _log(self, name: str) -> str | None:
        try:
            lines = self._file(self._logs, name, ".jsonl").read_text().splitlines()
        except FileNotFoundError:
            return None
        return "".join(str(json.loads(line).get("message", "")) for line in lines if line)

    async def private_link(self, name: str) -> str:
        """The link of the private repository that a stored log is of; empty: it is of none."""
        file = self._file(self._logs, name, ".private")
        try:
            return await asyncio.to_thread(file.read_text)
        except FileNotFoundError:
            return ""

    def last_seconds(self, repo_url: str) -> float | None:
        """How long the last good build of a repository took."""
        return self._times.get(repo_url)

    async def forget(self, name: str) -> None:
        """Drop the log of a build, when its image is removed."""
        await asyncio.to_thread(self._forget, name)

    def _forget(self, name: str) -> None:
        for suffix in (".jsonl", ".private"):  # what guards a log goes after it
            self._file(self._logs, name, suffix).unlink(missing_ok=True)

    @staticmethod
    def _file(folder: Path, name: str, suffix: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no build's name")
        return folder / f"{name}{suffix}"


def _write(file: Path, text: str) -> None:
    """Replace a file as a whole: a reader sees the old text or the new one."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.write_text(text)
    draft.replace(file)
