"""The states of all pods of a site from one `podman ps`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spawner.asking import Asking
from spawner.engine import ContainerState, Phase, PodState
from spawner.podman_call import Caller
from spawner.podman_translate import (
    LABEL_CLAIMS,
    LABEL_CONTAINER,
    LABEL_GPUS,
    LABEL_KIND,
    LABEL_LABELS,
    LABEL_POD,
    LABEL_SITE,
)
from studovna.podman import PodmanError
from studovna.text import Text

FRESH_SECONDS = 0.5

# Podman's words; whatever is not here is about to run or to be removed.
_WAITING = {"created", "configured", "initialized"}
_ENDED = {"exited", "stopped"}


@dataclasses.dataclass(frozen=True)
class Container:
    """One container as podman tells it, and what its labels say."""

    id: str
    podman_name: str
    name: str
    init: bool
    state: ContainerState
    ports: Mapping[int, tuple[str, int]]


@dataclasses.dataclass(frozen=True)
class Pod:
    """One pod as podman knows it; `containers` in the order of their making."""

    name: str
    labels: Mapping[str, str]
    claims: tuple[str, ...]
    gpus: tuple[str, ...]
    networks: tuple[str, ...]
    containers: tuple[Container, ...]


def parse(listed: Iterable[Mapping[str, Any]]) -> dict[str, Pod]:
    """The pods in what `podman ps --all --format json` lists."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for one in listed:
        name = (one.get("Labels") or {}).get(LABEL_POD)
        if name:
            found.setdefault(name, []).append(one)
    return {name: _pod(name, entries) for name, entries in found.items()}


def _pod(name: str, entries: list[Mapping[str, Any]]) -> Pod:
    labels = entries[0]["Labels"]
    return Pod(
        name=name,
        labels=json.loads(labels.get(LABEL_LABELS, "{}")),
        claims=tuple(json.loads(labels.get(LABEL_CLAIMS, "[]"))),
        gpus=tuple(json.loads(labels.get(LABEL_GPUS, "[]"))),
        networks=tuple(dict.fromkeys(n for one in entries for n in one.get("Networks") or [])),
        containers=tuple(_container(one) for one in sorted(entries, key=lambda e: e["Created"])),
    )


def _container(one: Mapping[str, Any]) -> Container:
    labels = one["Labels"]
    word = one["State"]
    started, finished = _when(one.get("StartedAt")), _when(one.get("ExitedAt"))
    if word in _WAITING:
        state = ContainerState("waiting")
    elif word in _ENDED:
        state = ContainerState("ended", int(one["ExitCode"]), False, started, finished)
    else:
        state = ContainerState("running", started_at=started)
    ports = {
        port["container_port"] + offset: (port["host_ip"], port["host_port"] + offset)
        for port in one.get("Ports") or []
        for offset in range(port.get("range") or 1)
    }
    return Container(
        one["Id"], one["Names"][0], labels.get(LABEL_CONTAINER, ""),
        labels.get(LABEL_KIND) == "init", state, ports,
    )  # fmt: skip


def _when(seconds: object) -> datetime | None:
    return (
        datetime.fromtimestamp(seconds, UTC) if isinstance(seconds, int) and seconds > 0 else None
    )


def pod_state(pod: Pod, *, starting: bool, reason: Text | None = None) -> PodState:
    """The state of a pod; `starting` while someone is still at work to start it."""
    main = [one.state for one in pod.containers if not one.init]
    init = [one.state for one in pod.containers if one.init]
    phase: Phase
    if any(one.state == "ended" and one.exit_code != 0 for one in init):
        phase = "Failed"
    elif any(one.state == "waiting" for one in main) or not main:
        # A part of the pod may run already; without anyone to start the rest it never will be.
        phase = "Pending" if starting or reason is None and _under_way(init) else "Failed"
        if phase == "Failed" and reason is None:
            reason = Text("The start of the pod {pod} was cut short.", pod=pod.name)
    elif any(one.state == "running" for one in main):
        phase = "Running"
    else:
        phase = "Succeeded" if all(one.exit_code == 0 for one in main) else "Failed"
    states = {one.name: one.state for one in pod.containers}
    return PodState(phase, states, pod.labels, reason)


def _under_way(init: list[ContainerState]) -> bool:
    return any(one.state == "running" for one in init)


class Watcher:
    """Asks podman for all pods of the site at once, and at most twice a second."""

    def __init__(self, caller: Caller, site: str, pods_folder: Path) -> None:
        self._caller = caller
        self._site = site
        self._pods_folder = pods_folder
        self._pods = Asking(self._ask, FRESH_SECONDS)
        self._oom: dict[str, bool] = {}

    def changed(self) -> None:
        """Forget what is known: something was started or ended just now."""
        self._pods.changed()

    async def pods(self) -> dict[str, Pod]:
        """All pods of the site. Raises PodmanError."""
        return await self._pods.answer()

    async def _ask(self) -> dict[str, Pod]:
        out = await self._caller.call(
            "ps", "--all", "--filter", f"label={LABEL_SITE}={self._site}", "--format", "json"
        )
        return await self._with_oom(parse(json.loads(out)))

    async def _with_oom(self, pods: dict[str, Pod]) -> dict[str, Pod]:
        """Fill in `oom_killed` of the containers that ended badly; each is looked at once.

        conmon leaves a file named `oom` in its working folder. Podman looks for it elsewhere up to
        version 4 and says no; later versions say it themselves.
        """
        ended = {
            one.id: (pod.name, one.name)
            for pod in pods.values()
            for one in pod.containers
            if one.state.state == "ended" and one.state.exit_code != 0
        }
        unknown = [one for one in ended if one not in self._oom]
        if unknown:
            told = await self._told(unknown)
            for one in unknown:
                pod, container = ended[one]
                file = self._pods_folder / pod / "run" / container / "oom"
                self._oom[one] = told.get(one, False) or file.exists()
        self._oom = {one: oom for one, oom in self._oom.items() if one in ended}
        if not any(self._oom.values()):
            return pods
        return {name: self._marked(pod) for name, pod in pods.items()}

    def _marked(self, pod: Pod) -> Pod:
        if not any(self._oom.get(one.id) for one in pod.containers):
            return pod
        containers = tuple(
            dataclasses.replace(one, state=dataclasses.replace(one.state, oom_killed=True))
            if self._oom.get(one.id)
            else one
            for one in pod.containers
        )
        return dataclasses.replace(pod, containers=containers)

    async def _told(self, ids: list[str]) -> dict[str, bool]:
        try:
            out = await self._caller.call(
                "inspect", "--type", "container", "--format", "{{.Id}} {{.State.OOMKilled}}", *ids
            )
        except PodmanError:
            return {}  # One of them was removed meanwhile.
        return {line.split()[0]: line.split()[1] == "true" for line in out.splitlines() if line}
