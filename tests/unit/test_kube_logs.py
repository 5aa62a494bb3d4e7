"""Following the log of a container that is silent; the API is a double."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from spawner import kube_logs
from spawner.engine import ContainerState, EngineUnavailable, PodState

SILENCE = 0.05  # seconds; together they are more than patience bears
RUNNING = PodState("Running", {"c": ContainerState("running")})
ENDED = PodState("Succeeded", {"c": ContainerState("ended", 0)})


class Connection:
    """Says nothing until it is given up, or what there is to say."""

    def __init__(self, lines: bytes | None) -> None:
        self.lines = lines
        self.content = self

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_: object) -> None:
        pass

    async def iter_any(self) -> AsyncIterator[bytes]:
        if self.lines is None:
            await asyncio.sleep(SILENCE)
            raise aiohttp.ServerTimeoutError
        yield self.lines


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("PATIENCE", 0.5), ("_SILENCE", SILENCE), ("_POLL", 0.01)):
        monkeypatch.setattr(kube_logs, name, seconds)


async def test_a_container_may_be_silent_for_longer_than_a_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = 0

    async def _open(*_: Any, **__: Any) -> Connection:
        nonlocal opened
        opened += 1
        return Connection(b"2026-01-01T10:00:00Z at last\n" if opened > 15 else None)

    async def _state(*_: Any) -> PodState:
        return ENDED if opened >= 15 else RUNNING

    monkeypatch.setattr(kube_logs, "_open", _open)
    monkeypatch.setattr(kube_logs, "_state", _state)
    assert [line async for line in kube_logs.read("n", "p", "c", follow=True)] == ["at last"]
    assert opened == 16


async def test_an_api_that_gives_no_log_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def _open(*_: Any, **__: Any) -> Connection:
        raise aiohttp.ClientConnectionError

    async def _state(*_: Any) -> PodState:
        return RUNNING

    monkeypatch.setattr(kube_logs, "_open", _open)
    monkeypatch.setattr(kube_logs, "_state", _state)
    async with asyncio.timeout(10):
        with pytest.raises(EngineUnavailable):
            async for _ in kube_logs.read("n", "p", "c", follow=True):
                pass
