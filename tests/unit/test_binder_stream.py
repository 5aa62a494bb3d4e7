"""What a viewer is sent of a log; the connection is a double."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tornado import locale

from binder.events import EventLog, event, has_text
from binder.handlers import build
from binder.handlers.base import load_translations
from binder.handlers.build import BuildHandler
from studovna.text import Text


class Viewer(BuildHandler):
    """A viewer with a language, and what they were sent."""

    def __init__(self, language: str) -> None:
        self.language = language
        self.sent_data: list[str] = []
        self.chunks: list[str] = []

    @property
    def locale(self) -> Any:
        return locale.get(self.language)

    def write(self, chunk: str) -> None:
        self.chunks.append(chunk)
        self.sent_data += [line[6:] for line in chunk.splitlines() if line.startswith("data:")]

    async def flush(self) -> None:
        pass


async def test_output_is_passed_on_as_it_is() -> None:
    load_translations()
    log = EventLog("log")
    log.append(event("waiting", Text("Waiting for the build to start...")))
    for number in range(2000):
        log.append(event("building", f'line {number} "text":{{}}'))
    log.close(event("built", Text("The image is built."), imageName="x"))
    assert [has_text(data) for data in log.events] == [True, *[False] * 2000, True]
    viewer = Viewer("cs")
    await asyncio.wait_for(viewer.follow(log, 0), 10)
    assert viewer.sent_data[1:-1] == log.events[1:-1]
    assert json.loads(viewer.sent_data[0])["message"] != "Waiting for the build to start...\n"
    assert "Obraz" in json.loads(viewer.sent_data[-1])["message"]


@pytest.mark.parametrize(
    ("ours", "sign"),
    [(False, ":keepalive\n\n"), (True, "event: alive\ndata: {}\n\n")],
    ids=["program", "page"],
)
async def test_an_idle_stream_shows_that_it_is_alive(
    monkeypatch: pytest.MonkeyPatch, ours: bool, sign: str
) -> None:
    monkeypatch.setattr(build, "HEARTBEAT" if ours else "KEEPALIVE", 0.05)
    viewer, log = Viewer("en"), EventLog("log")
    viewer._heartbeat = ours
    log.append(event("building", "line"))
    following = asyncio.create_task(viewer.follow(log, 0))
    await asyncio.sleep(0.4)
    log.close(event("built", Text("The image is built."), imageName="x"))
    await asyncio.wait_for(following, 5)
    assert "line" in viewer.chunks[0] and "imageName" in viewer.chunks[-1]
    assert len(viewer.chunks) >= 5 and set(viewer.chunks[1:-1]) == {sign}
