"""Calls to the Kubernetes API: one client a loop, patience while it restarts, errors as sentences.

Objects are read as the JSON that the API sends (dicts with its own camelCase keys): making models
of hundreds of pods costs the hub more than everything else it does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
from kubernetes_asyncio.client import ApiException, CoreV1Api
from kubespawner.clients import load_config, shared_client

from spawner.engine import EngineError, EngineUnavailable, NotAdmitted, QuotaFull
from spawner.manifest import quantity
from studovna.text import Text
from studovna.units import format_size

log = logging.getLogger("jupyterhub.studovna.kubernetes")

Json = dict[str, Any]

REQUEST_SECONDS = 15.0
PATIENCE = 20.0
"""Seconds for which a call is repeated while the API server does not answer."""

_QUOTA = re.compile(
    r"exceeded quota: (\S+), requested: (.{1,500}?), used: (.{1,500}?), limited: (.{1,500})"
)


def core() -> CoreV1Api:
    """The running loop's client, for the cluster of this pod or of KUBECONFIG."""
    load_config()
    client: CoreV1Api = shared_client("CoreV1Api")
    return client


async def ask(
    method: Callable[..., Any],
    *args: Any,
    patience: float = PATIENCE,
    seconds: float = REQUEST_SECONDS,
    **kwargs: Any,
) -> Json:
    """The JSON that a method of the client answers, asked again while the API is not there.

    Raises ApiException for an answer that asking again does not change, and EngineUnavailable when
    there was none for ``patience`` seconds. A call that failed may have been carried out.
    """
    deadline = time.monotonic() + patience
    delay = 0.1
    while True:
        try:
            return await _once(method, *args, seconds=seconds, **kwargs)
        except ApiException as error:
            if error.status not in (429, 500, 502, 503, 504):
                raise
            said: Exception = error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            said = error
        if time.monotonic() + delay > deadline:
            raise unavailable(said) from said
        await asyncio.sleep(delay)
        delay = min(2 * delay, 2.0)


async def _once(method: Callable[..., Any], *args: Any, seconds: float, **kwargs: Any) -> Json:
    response = await method(*args, _preload_content=False, _request_timeout=seconds, **kwargs)
    async with response:
        body = await response.read()
    if response.status >= 400:
        error = ApiException(status=response.status, reason=response.reason)
        error.body = body.decode(errors="replace")
        raise error
    answer: Json = json.loads(body)
    return answer


def unavailable(error: Exception) -> EngineUnavailable:
    """The cluster's API does not answer."""
    return EngineUnavailable(
        Text("The cluster does not answer. Try again in a minute, or tell the administrators."),
        detail=f"{type(error).__name__}: {error}",
    )


def said(error: ApiException) -> str:
    """What the API server said, in its own words."""
    try:
        return str(json.loads(error.body or "")["message"])[:1000]
    except (ValueError, KeyError, TypeError):
        return str(error.reason or error.status)


def refusal(error: ApiException) -> EngineError:
    """Why the API server refused to make something, as a sentence."""
    words = said(error)
    quota = _QUOTA.search(words)
    if quota:
        kind = QuotaFull if _fits(quota[2], quota[4]) else NotAdmitted
        return kind(
            Text(
                "The quota {quota} of the cluster is full: {wanted} is asked for, {used} of {most} "
                "is in use. Stop a server or choose a smaller size.",
                quota=quota[1],
                wanted=_amounts(quota[2]),
                used=_amounts(quota[3]),
                most=_amounts(quota[4]),
            ),
            detail=words,
        )
    if error.status == 401:
        return EngineUnavailable(
            Text("The cluster does not let this service in. Tell the administrators."), detail=words
        )
    return NotAdmitted(Text("The cluster does not allow this: {said}", said=words), detail=words)


def _fits(wanted: str, most: str) -> bool:
    """Whether a quota has room for this when nothing else is there."""
    limits = dict(_pairs(most))
    try:
        return all(
            quantity(amount, name) <= quantity(limits[name], name)
            for name, amount in _pairs(wanted)
            if name in limits
        )
    except EngineError:
        return False


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for part in text.split(","):
        name, _, amount = part.strip().partition("=")
        yield name, amount


def _amounts(text: str) -> str:
    """A quota's amounts for people: sizes in GB, as everywhere else."""
    shown = []
    for name, amount in _pairs(text):
        if "memory" in name or "storage" in name:
            try:
                amount = format_size(int(quantity(amount, name)))
            except EngineError:
                pass  # in the API server's own words then
        shown.append(f"{name} {amount}")
    return ", ".join(shown)


async def settled(task: asyncio.Future[Any]) -> None:
    """Wait until a task has come to its end, even while being cancelled oneself."""
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
