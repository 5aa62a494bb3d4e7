"""What a cluster has to offer servers: its GPUs, and how many of them are free now."""

from __future__ import annotations

import logging
import re
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from kubernetes_asyncio.client import ApiException

from spawner.asking import Asking
from spawner.engine import EngineError
from spawner.kube_api import Json, ask, core, refusal
from spawner.manifest import quantity
from spawner.profile_list import Capabilities, GpuNode

log = logging.getLogger("jupyterhub.studovna.kubernetes")

MAX_AGE = 10.0
_PATIENCE = 3.0
_GPU = re.compile(r"[^/]*gpu[^/]*/.+|[^/]+/(gpu.*|mig-.+)")
_GONE = ("Succeeded", "Failed")


class Cluster:
    """The cluster's capabilities, asked again when older than ``MAX_AGE`` seconds.

    ``namespace`` is where servers run: when pods of other namespaces may not be listed, only its
    own count as users of GPUs. ``registry`` is what the names of Binder's images begin with;
    ``wanted`` are resources that profiles name, and that do not look like a GPU by their name.
    """

    def __init__(self, namespace: str, registry: str = "", wanted: Collection[str] = ()) -> None:
        self._namespace = namespace
        self._registry = registry
        self._wanted = frozenset(wanted)
        self._nodes = Asking(self._ask, MAX_AGE)
        self._said: dict[str, float] = {}

    def changed(self) -> None:
        """A server was started or ended: what is free is another number now."""
        self._nodes.changed()

    async def capabilities(self) -> Capabilities:
        """GPUs, or that they are not known; many who ask at once cost one question."""
        try:
            nodes = await self._nodes.answer()
        except EngineError as error:
            self._say("The cluster's nodes are not known: %s %s", error.sentence, error.detail)
            nodes = None
        return Capabilities(nodes, registry=self._registry)

    async def _ask(self) -> Sequence[GpuNode] | None:
        try:
            nodes = (await ask(core().list_node, patience=_PATIENCE))["items"]
        except ApiException as error:
            if error.status == 403:
                self._say("This hub may not list nodes: it does not know about free GPUs.")
                return None
            raise refusal(error) from error
        if not any(gpus_of(node, self._wanted) for node in nodes):
            return []
        return gpu_nodes(nodes, await self._pods(), self._wanted)

    async def _pods(self) -> list[Json]:
        running = ",".join(f"status.phase!={phase}" for phase in _GONE)
        more: dict[str, Any] = {"field_selector": running, "patience": _PATIENCE}
        try:
            listed = await ask(core().list_pod_for_all_namespaces, **more)
        except ApiException as error:
            if error.status != 403:
                raise refusal(error) from error
            try:
                listed = await ask(core().list_namespaced_pod, self._namespace, **more)
            except ApiException as second:
                raise refusal(second) from second
        items: list[Json] = listed["items"]
        return items

    def _say(self, message: str, *values: object) -> None:
        """Log a message, but not with every page that somebody opens."""
        now = time.monotonic()
        if now - self._said.get(message, -3600.0) >= 3600:
            self._said[message] = now
            log.warning(message, *values)


def gpus_of(node: Json, wanted: Collection[str]) -> dict[str, int]:
    """How many GPUs a node has for pods, by resource name; none while it takes no pods."""
    status = node.get("status") or {}
    ready = any(
        one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions") or ()
    )
    if not ready or (node.get("spec") or {}).get("unschedulable"):
        return {}
    there = {
        name: int(quantity(count, name))
        for name, count in (status.get("allocatable") or {}).items()
        if _GPU.fullmatch(name) or name in wanted
    }
    return {name: count for name, count in there.items() if count > 0}


def asked_of(pod: Json) -> dict[str, int]:
    """The countable resources that a pod holds (those of some domain)."""
    spec = pod["spec"]
    main: dict[str, int] = defaultdict(int)
    for container in spec.get("containers") or ():
        for name, count in _limits(container).items():
            main[name] += count
    # Init containers run one after another, before: the largest counts.
    for container in spec.get("initContainers") or ():
        for name, count in _limits(container).items():
            main[name] = max(main[name], count)
    return dict(main)


def _limits(container: Json) -> dict[str, int]:
    resources = container.get("resources") or {}
    every: Mapping[str, object] = {
        **(resources.get("requests") or {}),
        **(resources.get("limits") or {}),
    }
    return {name: int(quantity(n, name)) for name, n in every.items() if "/" in name}


def gpu_nodes(
    nodes: Iterable[Json], pods: Iterable[Json], wanted: Collection[str] = ()
) -> list[GpuNode]:
    """The nodes with GPUs: allocatable, and free: minus what the pods on them ask for."""
    used: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for pod in pods:
        node = pod["spec"].get("nodeName")
        if node and (pod.get("status") or {}).get("phase") not in _GONE:
            for name, count in asked_of(pod).items():
                used[node][name] += count
    found = []
    for node in nodes:
        gpus = gpus_of(node, wanted)
        if gpus:
            taken = used[node["metadata"]["name"]]
            free = {name: max(0, count - taken[name]) for name, count in gpus.items()}
            found.append(GpuNode(node["metadata"].get("labels") or {}, gpus, free))
    return found
