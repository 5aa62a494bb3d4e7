"""How many builds one person may start in a period."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from traitlets import Float, Integer
from traitlets.config import LoggingConfigurable

from studovna.text import Text

from .errors import Refused


class RateLimiter(LoggingConfigurable):
    """Counts builds that are really started: links that lead to an image or a build are free."""

    limit = Integer(10, help="Builds that a person may start in a period; 0: any number.").tag(
        config=True
    )
    period_seconds = Integer(3600, help="The length of a period, in seconds.").tag(config=True)
    clean_seconds = Float(600, help="How often old periods are forgotten, in seconds.").tag(
        config=True
    )

    clock: Callable[[], float] = staticmethod(time.monotonic)

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self._periods: dict[str, tuple[float, int]] = {}  # person: (end, started)
        self._cleaned = self.clock()

    def start(self, person: str) -> None:
        """Count one more. Raises Refused (429) when the person has started too many."""
        now = self.clock()
        if now - self._cleaned > self.clean_seconds:
            self._cleaned = now
            self._periods = {who: spent for who, spent in self._periods.items() if spent[0] > now}
        if not self.limit:
            return
        end, started = self._periods.get(person, (0.0, 0))
        if end <= now:
            end, started = now + self.period_seconds, 0
        if started >= self.limit:
            raise Refused(
                Text(
                    "{person} has started {limit} builds already. The next one can start in "
                    "{minutes} minutes; images that are built already can be opened at once.",
                    person=person,
                    limit=self.limit,
                    minutes=math.ceil((end - now) / 60),
                ),
                status=429,
            )
        self._periods[person] = (end, started + 1)
