"""A pod as Kubernetes' API tells it, as the engine's state. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime

from spawner.engine import ContainerState, Phase, PodState
from spawner.kube_api import Json
from studovna.text import Text

# The kubelet's and the controllers' words for ending a pod.
_EVICTED = "Evicted"
_LOST = {"NodeLost", "Shutdown", "NodeShutdown", "Terminated", "DeletionByPodGC"}
_PREEMPTED = {"Preempting", "Preempted", "PreemptionByScheduler", "PreemptionByKubeScheduler"}


def statuses(pod: Json) -> Iterator[Json]:
    """The statuses of all containers, init containers first."""
    status = pod.get("status") or {}
    yield from status.get("initContainerStatuses") or ()
    yield from status.get("containerStatuses") or ()


def condition(pod: Json, kind: str) -> Json | None:
    """One condition of a pod, such as ``PodScheduled``."""
    for one in (pod.get("status") or {}).get("conditions") or ():
        if one["type"] == kind:
            return dict(one)
    return None


def pod_state(pod: Json) -> PodState:
    """The state of a pod."""
    told = pod["status"].get("phase") or "Pending"
    init = {one["name"] for one in pod["spec"].get("initContainers") or ()}
    known = {one["name"]: container_state(one) for one in statuses(pod)}
    every = [*(pod["spec"].get("initContainers") or ()), *pod["spec"]["containers"]]
    containers = {one["name"]: known.get(one["name"], ContainerState("waiting")) for one in every}
    failed = any(
        containers[name].state == "ended" and containers[name].exit_code != 0 for name in init
    )
    main = [state for name, state in containers.items() if name not in init]
    phase: Phase
    if told == "Succeeded":
        phase = "Succeeded"
    elif told == "Failed" or failed:
        phase = "Failed"
    elif all(one.state == "ended" for one in main):
        # The containers' own words come before the pod's.
        phase = "Succeeded" if all(one.exit_code == 0 for one in main) else "Failed"
    elif told == "Unknown" or not any(one.state == "waiting" for one in main):
        phase = "Running"
    else:
        phase = "Pending"
    # Of several containers one may not have started while the others run.
    reason = _why_ended(pod) if phase == "Failed" else could_not_start(pod)
    metadata = pod["metadata"]
    deleting = bool(metadata.get("deletionTimestamp"))
    return PodState(phase, containers, metadata.get("labels") or {}, reason, deleting)


def container_state(status: Json) -> ContainerState:
    """One entry of ``containerStatuses``."""
    state = status.get("state") or {}
    if "terminated" in state:
        ended = state["terminated"]
        return ContainerState(
            "ended",
            ended.get("exitCode"),
            ended.get("reason") == "OOMKilled",
            _when(ended.get("startedAt")),
            _when(ended.get("finishedAt")),
        )
    if "running" in state:
        return ContainerState("running", started_at=_when(state["running"].get("startedAt")))
    return ContainerState("waiting")


def _when(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _why_ended(pod: Json) -> Text | None:
    """Why a pod failed, where that is not the doing of what ran in it."""
    status = pod["status"]
    reason, said = str(status.get("reason") or ""), str(status.get("message") or "")
    target = condition(pod, "DisruptionTarget")
    if target and target.get("status") == "True":
        reason = reason or str(target.get("reason") or "")
        said = said or str(target.get("message") or "")
    if reason == _EVICTED:
        return Text("The cluster ended it because too little was left of something: {said}",
                    said=said)  # fmt: skip
    if reason == "DeadlineExceeded":
        seconds = pod["spec"].get("activeDeadlineSeconds")
        return Text("It ran for {seconds} seconds, as long as it may, and was ended.",
                    seconds=seconds)  # fmt: skip
    if reason in _LOST:
        return Text("Its node was shut down or was lost. {said}", said=said)
    if reason in _PREEMPTED:
        return Text("The cluster ended it to make room for something more important.")
    if never := could_not_start(pod):
        return never
    if reason:
        return Text("The cluster ended it: {reason}. {said}", reason=reason, said=said)
    return None


def could_not_start(pod: Json) -> Text | None:
    """Which container's program the runtime could not start, and why."""
    for one in statuses(pod):
        ended = (one.get("state") or {}).get("terminated") or {}
        if ended.get("reason") in ("StartError", "ContainerCannotRun"):
            return Text(
                "{container} could not be started: {said}",
                container=one["name"],
                said=_short(ended.get("message") or ""),
            )
    return None


def _short(message: str) -> str:
    """The end of a runtime's message, which is where it says what is wrong."""
    message = re.sub(r"\s+", " ", message).strip()
    return message if len(message) <= 300 else "… " + message[-300:]
