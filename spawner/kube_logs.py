"""What containers wrote, read from the Kubernetes API, going on after a broken connection.

Lines are asked for with the times at which they were written. A connection that broke is taken up
again from the last line's second (the API knows no finer point), and what was read before is left
out: by its time, and by count among lines of the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any

import aiohttp
from kubernetes_asyncio.client import ApiException

from spawner.engine import EngineError, PodMissing, PodState
from spawner.kube_api import PATIENCE, core, refusal, said, unavailable
from spawner.kube_objects import find_pod
from spawner.kube_states import pod_state
from studovna.text import Text

log = logging.getLogger("jupyterhub.studovna.kubernetes")

_STAMPED = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,9})?(Z|[+-]\d\d:\d\d) ?(.*)", re.DOTALL
)
_LONGEST = 65536
_MOST_BYTES = 10 * 2**20
_SILENCE = 300.0
"""Seconds without a line after which a connection is made anew: it may have died unnoticed."""
_POLL = 0.4


class Stamped:
    """Takes the times off lines, and leaves out what was seen before."""

    def __init__(self, since: datetime | None = None) -> None:
        self._since = since.astimezone(UTC) if since else None
        self._last = ""  # the newest time that was seen, in UTC with nanoseconds
        self._count = 0  # how many lines of that very time were seen
        self._again = 0

    @property
    def since(self) -> str | None:
        """From when to ask, as the API wants it; None: from the beginning."""
        if self._last:
            return self._last.partition(".")[0] + "Z"
        return self._since.strftime("%Y-%m-%dT%H:%M:%SZ") if self._since else None

    def connected(self) -> None:
        """A new connection begins: the lines of ``since`` come again."""
        self._again = self._count

    def line(self, raw: bytes) -> str | None:
        """The line without its time; None when it was seen before or is too old."""
        text = raw.decode(errors="replace").removesuffix("\r")
        match = _STAMPED.fullmatch(text)
        if match is None:
            log.debug("Instead of a line of the log: %s", text)
            return None
        when, words = _utc(match), match[4][:_LONGEST]
        if self._since and when < self._since.strftime("%Y-%m-%dT%H:%M:%S.%f000"):
            return None
        if when < self._last:
            # Two streams of a container may be out of order by a little; a line that was not seen
            # comes before the resumption point only when it is old.
            return None if self._again else words
        if when == self._last:
            if self._again:
                self._again -= 1
                return None
            self._count += 1
        else:
            self._last, self._count, self._again = when, 1, 0
        return words


def _utc(match: re.Match[str]) -> str:
    fraction = (match[2] or ".")[1:].ljust(9, "0")
    moment = datetime.fromisoformat(match[1] + ("+00:00" if match[3] == "Z" else match[3]))
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + fraction


async def read(
    namespace: str,
    name: str,
    container: str,
    *,
    follow: bool = False,
    since: datetime | None = None,
) -> AsyncGenerator[str, None]:
    """The lines of a container; with ``follow``, until it has ended. Raises PodMissing."""
    stamped = Stamped(since)
    state = await _state(namespace, name, container)
    heard = time.monotonic()  # when the API answered last: a program may be silent for hours
    while True:
        one = state.containers[container]
        ended = one.state == "ended" or state.phase in ("Succeeded", "Failed")
        if one.state != "waiting":
            stamped.connected()
            try:
                on = follow and not ended
                response = await _open(namespace, name, container, stamped.since, follow=on)
                heard = time.monotonic()
                async with contextlib.aclosing(_lines(response, stamped, follow=on)) as lines:
                    async for line in lines:
                        heard = time.monotonic()
                        yield line
                if ended or not follow:
                    return
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                if time.monotonic() - heard > PATIENCE + _SILENCE:
                    raise unavailable(error) from error
                log.info("The log of %s/%s broke off: %s", name, container, error)
            except PodMissing:
                break
        elif ended or not follow:
            return
        # Asked before the last look at the log, or its last lines could be missed.
        await asyncio.sleep(_POLL)
        try:
            state = await _state(namespace, name, container)
        except PodMissing:
            break
    if not follow:
        raise missing(name, container)


async def _lines(response: Any, stamped: Stamped, *, follow: bool) -> AsyncGenerator[str, None]:
    """The lines that one connection brings."""
    rest = b""
    async with response:
        async for chunk in response.content.iter_any():
            *whole, rest = (rest + chunk).split(b"\n")
            for raw in whole:
                line = stamped.line(raw)
                if line is not None:
                    yield line
            if len(rest) > 2 * _LONGEST:
                rest = rest[:_LONGEST]
    # Without its end it may be half a line: when more is to come it is read again.
    if rest and not follow:
        line = stamped.line(rest)
        if line is not None:
            yield line


async def _open(
    namespace: str, name: str, container: str, since: str | None, *, follow: bool
) -> Any:
    """The API's answer; the client's own method knows no `sinceTime`. Raises PodMissing."""
    query = [("container", container), ("timestamps", "true")]
    query += [("follow", "true")] if follow else [("limitBytes", str(_MOST_BYTES))]
    query += [("sinceTime", since)] if since else []
    timeout = aiohttp.ClientTimeout(connect=15, sock_connect=15, sock_read=_SILENCE)
    client: Any = core()
    response = await client.api_client.call_api(
        "/api/v1/namespaces/{namespace}/pods/{name}/log",
        "GET",
        {"namespace": namespace, "name": name},
        query,
        {"Accept": "*/*"},
        auth_settings=["BearerToken"],
        _preload_content=False,
        _request_timeout=timeout,
    )
    if response.status >= 400:
        async with response:
            body = (await response.read()).decode(errors="replace")
        error = ApiException(status=response.status, reason=response.reason)
        error.body = body
        if response.status == 404:
            raise missing(name, container)
        if response.status in (400, 429) or response.status >= 500:
            raise aiohttp.ClientError(said(error))
        raise refusal(error)
    return response


async def tail(namespace: str, name: str, container: str, lines: int) -> list[str]:
    """The last lines of a container. Raises PodMissing."""
    state = await _state(namespace, name, container)
    if lines <= 0 or state.containers[container].state == "waiting":
        return []
    client: Any = core()
    response = await client.read_namespaced_pod_log(
        name,
        namespace,
        container=container,
        tail_lines=lines,
        limit_bytes=_MOST_BYTES,
        _preload_content=False,
        _request_timeout=15,
    )
    async with response:
        body = await response.read()
    if response.status == 404:
        raise missing(name, container)
    if response.status >= 400:
        raise EngineError(
            Text("The last lines of {container} cannot be read.", container=container),
            body.decode(errors="replace"),
        )
    return [line.removesuffix("\r") for line in body.decode(errors="replace").splitlines()]


async def _state(namespace: str, name: str, container: str) -> PodState:
    pod = await find_pod(namespace, name)
    if pod is None:
        raise missing(name, container)
    state = pod_state(pod)
    if container not in state.containers:
        raise missing(name, container)
    return state


def missing(name: str, container: str) -> PodMissing:
    """There is no such container."""
    return PodMissing(
        Text("There is no container {container} of {pod}.", container=container, pod=name)
    )
