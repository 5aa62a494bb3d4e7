"""One question for all who ask at the same time, and an answer that is good for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Asking(Generic[T]):
    """Asks with ``ask`` when the last answer is older than ``seconds``.

    A question that fails is told to everyone who waits for it, and asked again by the next.
    """

    def __init__(self, ask: Callable[[], Awaitable[T]], seconds: float) -> None:
        self._ask = ask
        self._seconds = seconds
        self._last: tuple[float, T] | None = None
        self._asking: asyncio.Task[T] | None = None

    def changed(self) -> None:
        """Forget what is known: something was changed just now."""
        self._last = None
        self._asking = None

    async def answer(self) -> T:
        """The answer; raises what ``ask`` raises."""
        if self._last is not None and time.monotonic() - self._last[0] < self._seconds:
            return self._last[1]
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._once())
        return await asyncio.shield(self._asking)

    async def _once(self) -> T:
        asked = time.monotonic()
        me = asyncio.current_task()
        answer = await self._ask()
        # An answer to a question from before a change is good for those who asked then only.
        if self._asking is me:
            self._last = (asked, answer)
        return answer
