"""Waiting until a pod runs: saying plainly what it waits for, and no longer than is of use."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from kubernetes_asyncio.client import ApiException

from spawner.engine import EngineError, OnEvent, PodEnded
from spawner.kube_api import Json, ask, core
from spawner.kube_objects import claims_of, find_claim
from spawner.kube_states import statuses
from spawner.kube_why import Around, Waiting, progress, why_waiting
from studovna.text import Text

log = logging.getLogger("jupyterhub.studovna.kubernetes")

FIRST_LOOK = 0.8  # most pods run before anybody has to ask why not
LOOK_INTERVAL, LOOK_SELDOM = 1.5, 5.0
"""Seconds between looks at first, and when a pod waits for long: the API server reads all events of
the namespace for each, and many may wait for the same thing."""
PULL_FAILED_LOOK = 0.2
_NOT_SEEN_SECONDS = 30.0
_GOING = ("ErrImage", "ImagePull", "InvalidImage")


async def around(namespace: str, pod: Json, room_seconds: float) -> Around:
    """What is to be known beside the pod itself; what may not be known is left out."""
    names = claims_of(pod)
    name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
    events, claims = await asyncio.gather(
        _events(namespace, f"involvedObject.name={name},involvedObject.uid={uid}"),
        asyncio.gather(*(_claim(namespace, one) for one in names)),
    )
    known = {one: claim[0] for one, claim in zip(names, claims, strict=True) if claim}
    unbound = [
        one
        for one, claim in known.items()
        if claim is not None and (claim.get("status") or {}).get("phase") != "Bound"
    ]
    claim_events = []
    for one in unbound:
        kind = "involvedObject.kind=PersistentVolumeClaim"
        claim_events += await _events(namespace, f"{kind},involvedObject.name={one}")
    return Around(events, known, claim_events, room_seconds)


async def _events(namespace: str, fields: str) -> list[Json]:
    try:
        listed = await ask(
            core().list_namespaced_event, namespace, field_selector=fields, patience=0
        )
    except (ApiException, EngineError) as error:
        log.debug("No events for %s: %s", fields, error)
        return []
    found: list[Json] = listed["items"]
    return sorted(found, key=_event_time)


def _event_time(event: Json) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")


async def _claim(namespace: str, name: str) -> tuple[Json | None] | None:
    """The claim, or that there is none; None when that may not be known."""
    try:
        return (await find_claim(namespace, name, patience=0),)
    except EngineError:
        return None


class Watch:
    """Tells what a pod waits for, and when it has waited long enough. One for each start."""

    def __init__(self, tell: OnEvent, room_seconds: float) -> None:
        self._tell = tell
        self._room_seconds = room_seconds
        self._told: set[str] = set()
        self._waiting: Waiting | None = None
        self._since = 0.0
        self._version = ""

    @property
    def reason(self) -> Text | None:
        """What the pod waited for when it was last looked at."""
        return self._waiting.sentence if self._waiting else None

    async def look(self, namespace: str, pod: Json) -> None:
        """Look at a pod that does not run yet. Raises EngineError when it never will."""
        beside = await around(namespace, pod, self._room_seconds)
        for sentence in progress(beside.events):
            self._say(sentence)
        waiting = why_waiting(pod, beside)
        now = time.monotonic()
        before, self._waiting = self._waiting, waiting
        if waiting is None:
            return
        # Numbers in a sentence change ("0/3 nodes"); what it is about stays.
        if before is None or before.sentence.template != waiting.sentence.template:
            self._since = now
        if now - self._since >= waiting.patience:
            raise waiting.error(waiting.sentence)
        if now - self._since >= waiting.quiet:
            self._say(waiting.sentence)

    def _say(self, sentence: Text) -> None:
        if sentence not in self._told:
            self._told.add(sentence)
            self._tell(sentence)


async def until(
    ready: Callable[[Json], bool],
    find: Callable[[], Awaitable[Json | None]],
    namespace: str,
    uid: str,
    tell: OnEvent,
    *,
    room_seconds: float,
    seconds: float,
    interval: float,
) -> Json:
    """The pod as soon as ``ready`` says so; ``find`` is asked every ``interval`` seconds.

    Raises PodEnded when the pod goes meanwhile, EngineError with what it waited for after
    ``seconds``, and what ``why_waiting`` found when the pod can never start.
    """
    started = time.monotonic()
    next_look, pause, pull_failed = started + FIRST_LOOK, LOOK_INTERVAL, False
    watch = Watch(tell, room_seconds)
    seen = False
    while True:
        pod = await find()
        now = time.monotonic()
        if pod is not None and pod["metadata"]["uid"] != uid:
            pod = None
        if pod is None and (seen or now - started > _NOT_SEEN_SECONDS):
            raise _ended()
        if pod is not None:
            seen = True
            if "deletionTimestamp" in pod["metadata"]:
                raise _ended()
            if ready(pod):
                return pod
            before, pull_failed = pull_failed, _pull_failed(pod)
            if pull_failed and not before:  # it is known now that it will not start, and soon why
                next_look, pause = now + PULL_FAILED_LOOK, LOOK_INTERVAL
            if now >= next_look:
                await watch.look(namespace, pod)
                next_look = time.monotonic() + pause
                pause = min(1.5 * pause, LOOK_SELDOM)
        if now - started > seconds:
            why = watch.reason or Text("The cluster has not said what it waits for.")
            raise EngineError(
                Text(
                    "It did not start within {seconds} seconds. {why}",
                    seconds=round(seconds),
                    why=why,
                )
            )
        await asyncio.sleep(interval)


def _pull_failed(pod: Json) -> bool:
    return any(
        str(((one.get("state") or {}).get("waiting") or {}).get("reason")).startswith(_GOING)
        for one in statuses(pod)
    )


def _ended() -> PodEnded:
    return PodEnded(Text("The pod was ended while it was starting."))


async def why_gone(namespace: str, name: str, uid: str | None, node: str) -> Text | None:
    """Why a pod is not there any more, from its last events and from its node; None: unknown.

    Events of a name outlive its pods: without the ``uid`` they may be another's.
    """
    ended = {
        "Evicted": Text("The cluster ended it because its node had too little left."),
        "TaintManagerEviction": Text("Its node was shut down or was lost."),
        "NodeNotReady": Text("Its node was shut down or was lost."),
        "Preempted": Text("The cluster ended it to make room for something more important."),
    }
    fields = f"involvedObject.name={name},involvedObject.uid={uid}"
    for event in reversed(await _events(namespace, fields) if uid else []):
        if event.get("reason") in ended:
            return ended[event["reason"]]
    try:
        found = await ask(core().read_node, node, patience=0) if node else None
    except (ApiException, EngineError) as error:
        if getattr(error, "status", None) == 404:
            return Text("Its node was taken out of the cluster.")
        return None
    if found and (found.get("spec") or {}).get("unschedulable"):
        return Text("Its node was emptied for maintenance.")
    return None
