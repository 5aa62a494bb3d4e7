"""The engine of a cluster: pods and claims in one namespace, through the Kubernetes API."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from urllib.parse import urlsplit

from kubernetes_asyncio.client import ApiException, V1PersistentVolumeClaim, V1Pod
from kubernetes_asyncio.client.configuration import Configuration
from kubespawner.clients import load_config

from spawner import kube_logs, kube_objects, kube_start
from spawner.asking import Asking
from spawner.engine import (
    DEFAULT_GRACE,
    MISSING,
    Claim,
    ClaimMissing,
    Engine,
    EngineError,
    OnEvent,
    PodData,
    PodEnded,
    PodExists,
    PodMissing,
    PodState,
)
from spawner.kube_api import Json, ask, core, refusal, settled
from spawner.kube_states import could_not_start, pod_state
from spawner.manifest import plain
from spawner.placement import merged
from studovna.cluster_settings import Placement
from studovna.text import Text

SITE = "studovna.site"
"""The label of the pods that an engine made; its value is the site."""

FRESH_SECONDS = 0.5
START_SECONDS = 900.0
INTERVAL = 0.2


class KubernetesEngine(Engine):
    """Runs pods in one namespace of a cluster.

    ``site`` tells this site's pods from others in the namespace (the chart's release name).
    ``pull_secrets`` and ``placement`` are put into every pod that does not say so itself.
    ``room_seconds``: how long a pod may wait for a node with room.
    """

    def __init__(
        self,
        namespace: str,
        site: str,
        *,
        pull_secrets: Sequence[str] = (),
        placement: Placement | None = None,
        room_seconds: float = 120.0,
    ) -> None:
        self._namespace = namespace
        self._site = site
        self._pull_secrets = tuple(pull_secrets)
        self._placement = placement or Placement()
        self._room_seconds = room_seconds
        self._pods = Asking(self._list, FRESH_SECONDS)
        self._starting: dict[str, asyncio.Task[None]] = {}

    # --- starting -------------------------------------------------------------------------------

    async def run(
        self,
        pod: V1Pod,
        claims: Sequence[V1PersistentVolumeClaim] = (),
        on_event: OnEvent | None = None,
        *,
        data: Sequence[PodData] = (),
    ) -> None:
        manifest = self._prepared(plain(pod))
        name = manifest["metadata"]["name"]
        if name in self._starting:
            raise PodExists(Text("There is a pod {pod} already.", pod=name))
        task = asyncio.create_task(self._run(manifest, claims, on_event or _ignore, data))
        self._starting[name] = task
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()
            await settled(task)
            raise
        finally:
            del self._starting[name]
            self._pods.changed()
        if task.cancelled():
            raise PodEnded(Text("The pod was ended while it was starting."))
        task.result()

    def _prepared(self, pod: Json) -> Json:
        metadata = dict(pod["metadata"])
        metadata["labels"] = {**(metadata.get("labels") or {}), SITE: self._site}
        spec = merged(pod["spec"], self._placement)
        if self._pull_secrets and not spec.get("imagePullSecrets"):
            spec["imagePullSecrets"] = [{"name": name} for name in self._pull_secrets]
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}

    async def _run(
        self,
        pod: Json,
        claims: Sequence[V1PersistentVolumeClaim],
        on_event: OnEvent,
        data: Sequence[PodData],
    ) -> None:
        for claim in claims:
            await kube_objects.make_claim(self._namespace, claim)
        given = {claim.metadata.name for claim in claims}
        for name in kube_objects.claims_of(pod):
            if name not in given and await kube_objects.find_claim(self._namespace, name) is None:
                raise ClaimMissing(Text("The volume {claim} does not exist.", claim=name))
        async with kube_objects.making_pod(self._namespace, pod) as made:
            await kube_objects.make_data(self._namespace, made, data)
            await self._until_started(made, on_event)

    async def _until_started(self, made: Json, on_event: OnEvent) -> None:
        name, uid = made["metadata"]["name"], made["metadata"]["uid"]

        async def find() -> Json | None:
            return await kube_objects.find_pod(self._namespace, name)

        pod = await kube_start.until(
            _started, find, self._namespace, uid, on_event,
            room_seconds=self._room_seconds, seconds=START_SECONDS, interval=INTERVAL,
        )  # fmt: skip
        state = pod_state(pod)
        ran = any(one.state != "waiting" for one in state.containers.values())
        if could_not_start(pod) or state.phase == "Failed" and not ran:
            raise EngineError(state.reason or Text("The pod {pod} failed.", pod=name))

    # --- asking ---------------------------------------------------------------------------------

    async def _list(self) -> dict[str, Json]:
        try:
            listed = await ask(
                core().list_namespaced_pod, self._namespace, label_selector=f"{SITE}={self._site}"
            )
        except ApiException as error:
            raise refusal(error) from error
        return {pod["metadata"]["name"]: pod for pod in listed["items"]}

    async def state(self, name: str) -> PodState:
        pod = (await self._pods.answer()).get(name)
        return _without_site(pod_state(pod)) if pod else MISSING

    async def states(self, labels: Mapping[str, str]) -> dict[str, PodState]:
        pods = await self._pods.answer()
        return {
            name: _without_site(pod_state(pod))
            for name, pod in pods.items()
            if labels.items() <= (pod["metadata"].get("labels") or {}).items()
        }

    async def logs(
        self,
        name: str,
        container: str,
        *,
        follow: bool = False,
        since: datetime | None = None,
    ) -> AsyncIterator[str]:
        reading = kube_logs.read(self._namespace, name, container, follow=follow, since=since)
        try:
            async for line in reading:
                yield line
        finally:
            await reading.aclose()

    async def tail(self, name: str, container: str, lines: int) -> list[str]:
        return await kube_logs.tail(self._namespace, name, container, lines)

    async def url(self, name: str, port: int) -> str:
        pod = await kube_objects.find_pod(self._namespace, name)
        if pod is None:
            raise PodMissing(Text("There is no pod {pod}.", pod=name))
        ports = [
            listed["containerPort"]
            for container in pod["spec"]["containers"]
            for listed in container.get("ports") or ()
        ]
        address = pod["status"].get("podIP")
        if port not in ports or not address:
            raise EngineError(
                Text("The pod {pod} does not list its port {port}.", pod=name, port=port)
            )
        return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"

    def hub_address(self) -> str:
        """The address of this pod, or of the machine that a hub outside of the cluster runs on."""
        load_config()
        api = urlsplit(Configuration.get_default_copy().host)
        # Connecting a datagram socket sends nothing; it only picks the address to send from.
        for host, port in ((api.hostname or "", api.port or 443), ("192.0.2.1", 9)):
            try:
                family, kind, proto, _, where = socket.getaddrinfo(
                    host, port, type=socket.SOCK_DGRAM
                )[0]
                with socket.socket(family, kind, proto) as probe:
                    probe.connect(where)
                    address = str(probe.getsockname()[0])
            except OSError:
                continue
            if not address.startswith("127.") and address != "::1":
                return address
        raise EngineError(Text("This machine has no address that pods reach."))

    # --- ending ---------------------------------------------------------------------------------

    async def end(self, name: str, grace: float = DEFAULT_GRACE) -> None:
        task = self._starting.get(name)
        if task is not None:
            task.cancel()
            await settled(task)
        try:
            await kube_objects.remove_pod(self._namespace, name, grace)
        finally:
            self._pods.changed()

    # --- claims ---------------------------------------------------------------------------------

    async def erase_claim(self, name: str) -> None:
        await kube_objects.erase_claim(self._namespace, name)

    async def claims(self, labels: Mapping[str, str], *, measured: bool = True) -> list[Claim]:
        return await kube_objects.list_claims(self._namespace, labels)


def _started(pod: Json) -> bool:
    """Every main container has started, or the first init container has, or it is all over."""
    state = pod_state(pod)
    if state.phase != "Pending":
        return True
    init = [one["name"] for one in pod["spec"].get("initContainers") or ()]
    return bool(init) and state.containers[init[0]].state != "waiting"


def _without_site(state: PodState) -> PodState:
    labels = {key: value for key, value in state.labels.items() if key != SITE}
    return dataclasses.replace(state, labels=labels)


def _ignore(_: Text) -> None:
    """Nobody wants to know how it goes on."""
