"""Making, finding and removing pods and claims in a namespace."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from kubernetes_asyncio.client import ApiException, V1DeleteOptions, V1Preconditions, V1Secret

from spawner.engine import (
    Claim,
    ClaimInUse,
    ClaimMissing,
    EngineError,
    EngineUnavailable,
    PodData,
    PodExists,
    UntranslatableField,
)
from spawner.kube_api import Json, ask, core, log, refusal, settled
from spawner.manifest import plain, quantity
from studovna.text import Text

START = "studovna/start"
"""The annotation that tells one attempt to make a pod from another."""

FORCE_SECONDS = 30.0
"""How long a pod may take to go after its grace before it is removed from the API by force: the
node does not answer then."""
_CLAIM_GOING_SECONDS = 15.0


def claims_of(pod: Json) -> list[str]:
    """The claims that a pod mounts."""
    volumes = pod["spec"].get("volumes") or []
    found = (volume.get("persistentVolumeClaim") for volume in volumes)
    return [claim["claimName"] for claim in found if claim]


def home_of(pod: Json) -> str | None:
    """The claim that a server's pod mounts as its home."""
    named = {one["name"]: one for one in pod["spec"].get("volumes") or []}
    claim = (named.get("home") or {}).get("persistentVolumeClaim")
    return claim["claimName"] if claim else None


def port_of(pod: Json) -> int:
    """The port at which a server's pod is reached: the server's own, or its sidecar's."""
    ports = (port for one in pod["spec"]["containers"] for port in one.get("ports") or ())
    return int(next(ports)["containerPort"])


async def find_pod(namespace: str, name: str, **more: Any) -> Json | None:
    """The pod, or None when there is none. Raises EngineError when that cannot be known."""
    return await _found(core().read_namespaced_pod, name, namespace, **more)


async def find_claim(namespace: str, name: str, **more: Any) -> Json | None:
    """The claim, or None when there is none."""
    return await _found(core().read_namespaced_persistent_volume_claim, name, namespace, **more)


async def _found(method: Any, name: str, namespace: str, **more: Any) -> Json | None:
    try:
        return await ask(method, name, namespace, **more)
    except ApiException as error:
        if error.status == 404:
            return None
        raise refusal(error) from error


async def make_claim(namespace: str, claim: Any) -> bool:
    """Make a claim, unless it is there; whether it is a new one.

    One that is on its way out is waited for a little, and made again. Raises ClaimMissing when it
    does not go because a pod still mounts it, and NotAdmitted when a quota is full.
    """
    body: Json = plain(claim)
    name = body["metadata"]["name"]
    deadline = time.monotonic() + _CLAIM_GOING_SECONDS
    while True:
        try:
            await ask(core().create_namespaced_persistent_volume_claim, namespace, body)
            return True
        except ApiException as error:
            # A quota is asked before the name: a claim that exists needs none of it.
            there = await find_claim(namespace, name)
            if there is None and error.status != 409:
                raise refusal(error) from error
        if there is not None and "deletionTimestamp" not in there["metadata"]:
            return False
        if time.monotonic() > deadline:
            raise ClaimMissing(
                Text(
                    "The volume {claim} is being deleted, and something still uses it. Stop what "
                    "uses it, and start again.",
                    claim=name,
                )
            )
        await asyncio.sleep(0.5)


async def make_pod(namespace: str, pod: Json) -> Json:
    """Make a pod; the pod as the API has it. Raises PodExists, NotAdmitted, UntranslatableField."""
    mark = secrets.token_hex(8)
    metadata = dict(pod["metadata"])
    metadata["annotations"] = {**(metadata.get("annotations") or {}), START: mark}
    name = metadata["name"]
    try:
        return await ask(core().create_namespaced_pod, namespace, {**pod, "metadata": metadata})
    except ApiException as error:
        if error.status == 409 and "AlreadyExists" in (error.body or ""):
            there = await find_pod(namespace, name)
            if there and (there["metadata"].get("annotations") or {}).get(START) == mark:
                return there  # made by a call whose answer was lost
            raise PodExists(Text("There is a pod {pod} already.", pod=name)) from error
        if error.status in (400, 422):
            raise _invalid(error) from error
        raise refusal(error) from error


def _invalid(error: ApiException) -> EngineError:
    refused = refusal(error)
    field, _, rest = refused.detail.partition("is invalid: ")[2].partition(": ")
    if field and " " not in field:
        return UntranslatableField(field, Text("{said}", said=rest))
    return refused


async def delete_pod(namespace: str, name: str, grace: float, uid: str | None = None) -> None:
    """Ask for a pod to be deleted. No-op when there is none; with ``uid``, of that one only."""
    conditions = V1Preconditions(uid=uid) if uid else None
    body = V1DeleteOptions(grace_period_seconds=int(grace), preconditions=conditions)
    try:
        await ask(core().delete_namespaced_pod, name, namespace, body=body)
    except ApiException as error:
        # 409: there is another pod of that name by now.
        if error.status not in (404, 409):
            raise refusal(error) from error


@asynccontextmanager
async def making_pod(namespace: str, pod: Json) -> AsyncIterator[Json]:
    """Make a pod, which is removed again when what follows raises or is cancelled.

    Cancelled while the API is being asked, it waits for the answer: nobody would know of the pod.
    """
    making = asyncio.ensure_future(make_pod(namespace, pod))
    try:
        yield await asyncio.shield(making)
    except BaseException:
        undoing = asyncio.create_task(_undo(namespace, making))
        await settled(undoing)
        if undoing.exception() is not None:
            log.error("%s could not be removed: %s", pod["metadata"]["name"], undoing.exception())
        raise


async def _undo(namespace: str, making: asyncio.Future[Json]) -> None:
    await asyncio.wait([making])
    if making.cancelled() or making.exception() is not None:
        return
    metadata = making.result()["metadata"]
    await delete_pod(namespace, metadata["name"], 0, metadata["uid"])
    await _gone(namespace, metadata["name"], FORCE_SECONDS, metadata["uid"])


async def remove_pod(namespace: str, name: str, grace: float) -> None:
    """Delete a pod and wait until it is gone; by force when its node does not answer.

    Raises EngineError when it does not go at all.
    """
    await delete_pod(namespace, name, grace)
    if await _gone(namespace, name, grace + FORCE_SECONDS):
        return
    await delete_pod(namespace, name, 0)
    if not await _gone(namespace, name, FORCE_SECONDS):
        raise EngineError(
            Text("The pod {pod} does not end. Tell the administrators.", pod=name),
            detail="something holds it with a finalizer, or the API server does not delete",
        )


async def _gone(namespace: str, name: str, seconds: float, uid: str | None = None) -> bool:
    deadline = time.monotonic() + seconds
    delay = 0.05
    while (pod := await find_pod(namespace, name)) is not None:
        if uid is not None and pod["metadata"]["uid"] != uid:
            return True
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(delay)
        delay = min(1.5 * delay, 1.0)
    return True


async def erase_claim(namespace: str, name: str) -> None:
    """Delete a claim and its data. Raises ClaimInUse while a pod of the namespace mounts it."""
    if await find_claim(namespace, name) is None:
        return
    listed = await ask(core().list_namespaced_pod, namespace)
    using = sorted(pod["metadata"]["name"] for pod in listed["items"] if name in claims_of(pod))
    if using:
        raise ClaimInUse(
            Text(
                "{claim} is in use by {pods}. Stop that server first.",
                claim=name,
                pods=", ".join(using),
            )
        )
    try:
        await ask(core().delete_namespaced_persistent_volume_claim, name, namespace)
    except ApiException as error:
        if error.status != 404:
            raise refusal(error) from error


async def list_claims(namespace: str, labels: Mapping[str, str]) -> list[Claim]:
    """The claims with these labels. What their files take is known to the storage only."""
    try:
        listed = await ask(
            core().list_namespaced_persistent_volume_claim,
            namespace,
            label_selector=selector(labels),
        )
    except ApiException as error:
        if error.status in (403, 404):
            raise EngineUnavailable(
                Text("The cluster does not tell this service about homes."), detail=str(error.body)
            ) from error
        raise refusal(error) from error
    found = [_claim(item) for item in listed["items"]]
    return sorted(found, key=lambda claim: claim.name)


def _claim(item: Json) -> Claim:
    asked = item["spec"]["resources"].get("requests", {}).get("storage")
    return Claim(
        name=item["metadata"]["name"],
        size=None,
        requested=int(quantity(asked, "storage")) if asked else None,
        created=datetime.fromisoformat(item["metadata"]["creationTimestamp"]),
        labels=item["metadata"].get("labels") or {},
    )


def selector(labels: Mapping[str, str]) -> str:
    """Labels as the API's label selector."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def owner(pod: Json) -> list[Json]:
    """The ownerReferences of what is to go together with a pod."""
    metadata = pod["metadata"]
    return [{"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}]


async def make_data(namespace: str, pod: Json, data: Sequence[PodData]) -> None:
    """Make the Secrets and ConfigMaps of a pod that was just made; they go when it goes."""
    await asyncio.gather(*(_make_data(namespace, pod, one) for one in data))


async def _make_data(namespace: str, pod: Json, one: PodData) -> None:
    api = core()
    body: Json = plain(one)
    secret = isinstance(one, V1Secret)
    create = api.create_namespaced_secret if secret else api.create_namespaced_config_map
    delete = api.delete_namespaced_secret if secret else api.delete_namespaced_config_map
    metadata = {**body["metadata"], "ownerReferences": owner(pod)}
    for attempt in range(5):
        try:
            await ask(create, namespace, {**body, "metadata": metadata})
            return
        except ApiException as error:
            if error.status != 409 or attempt == 4:
                raise refusal(error) from error
        # Of an earlier pod of that name, and not collected yet.
        try:
            await ask(delete, metadata["name"], namespace)
        except ApiException as error:
            if error.status != 404:
                raise refusal(error) from error
