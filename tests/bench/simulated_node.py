"""A node that does not exist: the double of a kubelet and of a storage, for hundreds of pods.

Run by the bench: ``python -m tests.bench.simulated_node NAME PORT``. The API server, the scheduler
and the controllers are real; what is bound to this node is said to run at once, with a loopback
address at which this program itself answers every ``…/api`` on PORT, as a Jupyter server does.
Claims of the storage class NAME get a volume that nobody will ever mount.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import aiohttp
from aiohttp import web
from kubernetes_asyncio.client import ApiException, V1DeleteOptions

from spawner.kube_api import Json, ask, core

LABEL = "studovna.bench/simulated"
"""On everything that is made for a simulated node; its value is the node's name."""
HEARTBEAT_SECONDS = 5.0
AT_ONCE = 8  # a kubelet reports its pods a few at a time as well


def now() -> str:
    """The time as the API writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def node(name: str) -> Json:
    """The node: large, and only for pods that tolerate it."""
    room = {"cpu": "4k", "memory": "16Ti", "pods": "5000", "ephemeral-storage": "16Ti"}
    return {
        "metadata": {"name": name, "labels": {LABEL: name, "kubernetes.io/hostname": name}},
        "spec": {"taints": [{"key": LABEL, "value": name, "effect": "NoSchedule"}]},
        "status": {"capacity": room, "allocatable": room},
    }


def running(pod: Json, address: str) -> Json:
    """The status of a pod whose containers all run."""
    since = now()
    return {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "hostIP": "127.0.0.1",
        "startTime": since,
        "conditions": [
            {"type": kind, "status": "True", "lastTransitionTime": since}
            for kind in ("Initialized", "Ready", "ContainersReady", "PodScheduled")
        ],
        "containerStatuses": [
            {
                "name": one["name"],
                "image": one["image"],
                "imageID": "",
                "containerID": "simulated://" + pod["metadata"]["uid"],
                "ready": True,
                "started": True,
                "restartCount": 0,
                "state": {"running": {"startedAt": since}},
            }
            for one in pod["spec"]["containers"]
        ],
    }


class SimulatedNode:
    """Takes the kubelet's part for the pods of one node."""

    def __init__(self, name: str, port: int) -> None:
        self._name = name
        self._port = port
        self._numbers = itertools.count(256)
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self._started: set[str] = set()
        self._doing: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Register and serve until ended."""
        self._answers = web.Server(self._answer)
        await ask(core().create_node, node(self._name))
        await self._heartbeat()
        mine = f"spec.nodeName={self._name}"
        pods = partial(core().list_pod_for_all_namespaces, field_selector=mine)
        claims = core().list_persistent_volume_claim_for_all_namespaces
        print("ready", flush=True)
        await asyncio.gather(
            self._beat(),
            self._follow(pods, self._pod),
            self._follow(claims, self._claim),
        )

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            await self._heartbeat()

    async def _heartbeat(self) -> None:
        ready = {"type": "Ready", "status": "True", "reason": "Simulated"}
        ready |= {"lastHeartbeatTime": now(), "message": "there is no such machine"}
        await ask(core().patch_node_status, self._name, {"status": {"conditions": [ready]}})

    async def _follow(self, listing: Callable[..., Any], act: Callable[[Json], Any]) -> None:
        """Act on every object that is there, and on every change of one."""
        while True:
            listed = await ask(listing)
            for item in listed["items"]:
                self._do(act(item))
            version = listed["metadata"]["resourceVersion"]
            async for event in changes(listing, version):
                if event["type"] == "ERROR":
                    break  # too old a version: list again
                if event["type"] != "DELETED":
                    self._do(act(event["object"]))

    def _do(self, what: Any) -> None:
        task = asyncio.create_task(what)
        self._doing.add(task)
        task.add_done_callback(self._doing.discard)

    async def _pod(self, pod: Json) -> None:
        metadata = pod["metadata"]
        name, namespace, uid = metadata["name"], metadata["namespace"], metadata["uid"]
        ending = "deletionTimestamp" in metadata
        if not ending and uid in self._started:
            return
        self._started.add(uid)
        try:
            async with self._at_once:
                if ending:
                    now_gone = V1DeleteOptions(grace_period_seconds=0)
                    await ask(core().delete_namespaced_pod, name, namespace, body=now_gone)
                    return
                body = {"status": running(pod, await self._address())}
                await ask(core().patch_namespaced_pod_status, name, namespace, body)
        except ApiException as error:
            if error.status not in (404, 409):
                raise

    async def _address(self) -> str:
        """A loopback address of its own for a pod, and somebody who answers there."""
        high, low = divmod(next(self._numbers), 256)
        address = f"127.77.{high}.{low}"
        await asyncio.get_running_loop().create_server(self._answers, address, self._port)
        return address

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        if request.path.endswith("/api"):
            return web.json_response({"version": "0"})
        return web.Response(status=404)

    async def _claim(self, claim: Json) -> None:
        metadata, spec = claim["metadata"], claim["spec"]
        if spec.get("storageClassName") != self._name or spec.get("volumeName"):
            return
        volume = {
            "metadata": {"name": f"bench-{metadata['uid']}", "labels": {LABEL: self._name}},
            "spec": {
                "capacity": {"storage": spec["resources"]["requests"]["storage"]},
                "accessModes": spec["accessModes"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": self._name,
                "hostPath": {"path": "/nonexistent/studovna-bench"},
                "claimRef": {
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    **{key: metadata[key] for key in ("namespace", "name", "uid")},
                },
            },
        }
        try:
            async with self._at_once:
                await ask(core().create_persistent_volume, volume)
        except ApiException as error:
            if error.status != 409:
                raise


async def changes(listing: Callable[..., Any], version: str) -> AsyncIterator[Json]:
    """The events of a watch, until it ends."""
    response = await listing(
        watch=True, resource_version=version, timeout_seconds=300, _preload_content=False,
        _request_timeout=310,
    )  # fmt: skip
    async with response:
        try:
            while line := await response.content.readline():
                yield json.loads(line)
        except (aiohttp.ClientError, TimeoutError):
            return


if __name__ == "__main__":
    asyncio.run(SimulatedNode(sys.argv[1], int(sys.argv[2])).run())
