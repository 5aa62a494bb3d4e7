"""Events of builds and launches: an append-only log that any number of viewers read at once.

A log holds each event once, already serialised; a viewer is only a position in it. So 200 viewers
of one build cost 200 positions, whoever joins late sees everything from the start, and whoever
comes back goes on where they were: the ids of server-sent events are ``<log>.<position>``, with
``.end`` after the last event of all.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from typing import Any

from studovna.text import Text

FINAL_PHASES = frozenset({"ready", "failed"})
OUTPUT_PHASES = frozenset({"fetching", "building", "pushing"})
TAIL_EVENTS = 200  # of the build's own output that is kept when its log is over the limit

Event = dict[str, Any]

_EVENT_ID = re.compile(r"([a-z0-9-]{1,80})\.([0-9]{1,9})(\.end)?")


def event(phase: str, message: str, **more: Any) -> Event:
    """One event. ``message`` ends with a newline, as clients that write to a terminal expect."""
    found: Event = {"phase": phase}
    if isinstance(message, Text):
        found |= message.as_event()
    else:
        found["message"] = message
    if not found["message"].endswith("\n"):
        found["message"] += "\n"
    return found | more


def failed(message: Text, **more: Any) -> Event:
    """The final event of something that did not work out."""
    return event("failed", message, **more)


class EventLog:
    """The events of one build or one launch.

    ``limit`` bounds the serialised size in bytes: beyond it, output (events of `OUTPUT_PHASES`) is
    left out but for its last 200 events, which come when the log is closed.
    """

    def __init__(self, name: str, limit: int = 8 * 1024**2) -> None:
        self.name = name
        self.limit = limit
        self.size = 0
        self.events: list[str] = []
        self.final: Event | None = None
        self._tail: deque[str] = deque(maxlen=TAIL_EVENTS)
        self._left_out = 0
        self._changed = asyncio.Event()

    @property
    def closed(self) -> bool:
        return self.final is not None

    def append(self, new: Event) -> None:
        """Add an event. Nothing comes after a ``close``."""
        if self.closed:
            return
        data = json.dumps(new, separators=(",", ":"))
        if self.size + len(data) > self.limit and new.get("phase") in OUTPUT_PHASES:
            if self._left_out == 0:
                said = Text(
                    "The log is longer than {limit} MB: what follows is left out but for its end.",
                    limit=max(1, self.limit // 1024**2),
                )
                self._add(json.dumps(event(str(new["phase"]), said)))
            self._left_out += 1
            self._tail.append(data[:20_000] if len(data) <= 20_000 else json.dumps(_cut(new)))
            return
        self._add(data)

    def close(self, last: Event) -> None:
        """Add the last event. A second call does nothing: there is exactly one final event."""
        if self.closed:
            return
        for data in self._tail:
            self.events.append(data)
        self._tail.clear()
        self._add(json.dumps(last, separators=(",", ":")))
        self.final = last
        self.notify()

    def _add(self, data: str) -> None:
        self.events.append(data)
        self.size += len(data)
        self.notify()

    def notify(self) -> None:
        """Wake everyone who waits for a change."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    @property
    def change(self) -> asyncio.Event:
        """What is set at the next change. Take it before looking at the log, wait for it after:
        so no change between the two is missed, however long the look took.
        """
        return self._changed

    def text(self) -> str:
        """The log as plain text, for a download."""
        return "".join(str(json.loads(data).get("message", "")) for data in self.events)


def _cut(new: Event) -> Event:
    return new | {"message": str(new.get("message", ""))[:4000] + "…\n"}


def parse_event_id(text: str) -> tuple[str, int, bool] | None:
    """``<log>.<position>`` of ``Last-Event-ID``, and whether it was the last event of all."""
    found = _EVENT_ID.fullmatch(text)
    return (found[1], int(found[2]), found[3] is not None) if found else None


def has_text(data: str) -> bool:
    """Whether a serialised event may hold a sentence that can be translated."""
    return '"text":' in data  # a quote in the message is escaped


def sse(data: str, event_id: str = "") -> str:
    """One server-sent event. ``data`` is JSON, so it holds no line break."""
    return f"id: {event_id}\ndata: {data}\n\n" if event_id else f"data: {data}\n\n"
