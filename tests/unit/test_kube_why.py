"""Why a pod waits or ended, from what real API servers say."""

from __future__ import annotations

from typing import Any

import pytest

from spawner.engine import (
    ClaimMissing,
    DiskFull,
    EngineError,
    ImageMissing,
    NoFreeDevice,
    NoRoom,
    NotAdmitted,
    QuotaFull,
    RegistryUnreachable,
)
from spawner.kube_api import refusal
from spawner.kube_states import pod_state
from spawner.kube_why import NEVER, Around, progress, why_no_image, why_waiting

IMAGE = "registry.example.org/team/not-found-denied:1"


def pod(
    waiting: dict[str, str] | None = None, unscheduled: str = "", **spec: Any
) -> dict[str, Any]:
    """A pod that waits."""
    status: dict[str, Any] = {"phase": "Pending"}
    if waiting:
        one = {"name": "notebook", "image": IMAGE, "state": {"waiting": waiting}}
        status["containerStatuses"] = [one]
    if unscheduled:
        status["conditions"] = [{"type": "PodScheduled", "status": "False", "message": unscheduled}]
    resources = {"requests": {"cpu": "500m", "memory": "2Gi", "nvidia.com/gpu": "2"}}
    container = {"name": "notebook", "image": IMAGE, "resources": resources}
    metadata = {"name": "jupyter-ana", "uid": "1"}
    return {
        "metadata": metadata,
        "spec": {"containers": [container], **spec},
        "status": status,
    }


PULLS = [
    (f'rpc error: code = NotFound desc = failed to pull and unpack image "{IMAGE}": failed to '
     f'resolve reference "{IMAGE}": {IMAGE}: not found', ImageMissing, "does not exist in"),
    ("manifest unknown: manifest unknown", ImageMissing, "does not exist in"),
    ("pull access denied, repository does not exist or may require authorization: server message: "
     "insufficient_scope: authorization failed", ImageMissing, "does not let"),
    (f'failed to authorize: failed to fetch anonymous token: unexpected status from "{IMAGE}": '
     "401 Unauthorized", ImageMissing, "does not let"),
    ('failed to do request: Head "https://x/v2/": dial tcp 127.0.0.1:9: connect: connection '
     "refused", RegistryUnreachable, "does not answer"),
    ("dial tcp: lookup nohost on 10.0.0.1:53: no such host", RegistryUnreachable, "answer"),
    ("context deadline exceeded", RegistryUnreachable, "does not answer"),
    ("x509: certificate signed by unknown authority", RegistryUnreachable, "does not answer"),
    ("write /var/lib/containerd/x: no space left on device", DiskFull, "disk"),
    ("Back-off pulling image", ImageMissing, "could not be fetched yet"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "error", "words"), PULLS, ids=[one[0][:30] for one in PULLS])
def test_why_an_image_is_not_there(said: str, error: type[EngineError], words: str) -> None:
    found = why_no_image(IMAGE, said)
    assert found.error is error
    assert words in found.sentence
    # What the registry has said for sure is not waited for.
    assert (found.patience == 0) == ("does not exist" in found.sentence or error is DiskFull)


def test_the_back_off_is_explained_by_the_event_before_it() -> None:
    waiting = {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{IMAGE}"'}
    words = f'Failed to pull image "{IMAGE}": rpc error: desc = {IMAGE}: not found'
    events = [{"reason": "Failed", "message": words}, {"reason": "Failed", "message": "Error: x"}]
    found = why_waiting(pod(waiting), Around(events))
    assert found and found.sentence == f"The image {IMAGE} does not exist in its registry."


@pytest.mark.parametrize(
    ("waiting", "sentence", "patience"),
    [
        ("ErrImageNeverPull", f"The image {IMAGE} is not on the cluster's node.", 0),
        ("InvalidImageName", f"{IMAGE} is not the name of an image.", 0),
    ],
)
def test_a_container_that_waits(waiting: str, sentence: str, patience: float) -> None:
    found = why_waiting(pod({"reason": waiting}), Around())
    assert found and (found.sentence, found.patience) == (sentence, patience)


def test_a_container_that_is_being_made_is_no_trouble() -> None:
    assert why_waiting(pod({"reason": "ContainerCreating"}), Around()) is None
    assert why_waiting(pod({"reason": "PodInitializing"}), Around()) is None


def test_an_image_of_root_is_told() -> None:
    words = "container has runAsNonRoot and image will run as root"
    waiting = {"reason": "CreateContainerConfigError", "message": words}
    found = why_waiting(pod(waiting), Around())
    assert found and "would run as root" in found.sentence and found.patience == 0


UNSCHEDULED = [
    ("0/3 nodes are available: 1 node(s) had taint {a: b}, that the pod didn't tolerate, "
     "2 Insufficient nvidia.com/gpu.", NoFreeDevice, "nvidia.com/gpu: 2"),
    ("0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory. preemption: 0/1 nodes "
     "are available: 1 No preemption victims found for incoming pod.", NoRoom,
     "cpu: 0.5, memory: 2 GB"),
    ("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.", NoRoom,
     "kind that is asked for: disk=fast"),
    ("0/1 nodes are available: 1 node(s) were unschedulable.", NoRoom, "were unschedulable"),
    ("0/1 nodes are available: 1 Too many pods.", NoRoom, "Too many pods"),
    ('persistentvolumeclaim "home-ana" not found', ClaimMissing, "home-ana does not exist"),
    ('persistentvolumeclaim "home-ana" is being deleted', ClaimMissing, "is being deleted"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("said", "error", "words"), UNSCHEDULED, ids=[o[0][:40] for o in UNSCHEDULED]
)
def test_why_no_node_takes_it(said: str, error: type[EngineError], words: str) -> None:
    waits = pod(unscheduled=said, nodeSelector={"disk": "fast"})
    found = why_waiting(waits, Around(room_seconds=77))
    assert found is not None
    assert found.error is error
    assert words in found.sentence
    assert found.patience == (77 if error is not ClaimMissing else 8)


def test_a_node_that_is_on_its_way_is_waited_for() -> None:
    events = [{"reason": "TriggeredScaleUp", "message": "pod triggered scale-up"}]
    waits = pod(unscheduled="0/1 nodes are available: 1 Insufficient cpu.")
    found = why_waiting(waits, Around(events))
    assert found and found.patience == NEVER
    assert progress(events) == ["A node is being added to the cluster"]


CLAIM = {"spec": {"volumeName": "pvc-12"}, "status": {"phase": "Pending"}}


def test_a_claim_without_a_volume_is_named() -> None:
    waits = pod(unscheduled="0/1 nodes: pod has unbound immediate PersistentVolumeClaims.")
    found = why_waiting(waits, Around(claims={"home-ana": CLAIM}))
    assert found and found.sentence == "The volume home-ana is not ready yet."
    failed = {
        "reason": "ProvisioningFailed",
        "message": 'storageclass.storage.k8s.io "fast" not found',
        "involvedObject": {"name": "home-ana"},
    }
    found = why_waiting(waits, Around(claims={"home-ana": CLAIM}, claim_events=[failed]))
    assert found and 'home-ana cannot be made: storageclass.storage.k8s.io "fast"' in found.sentence
    assert found.patience < 30


@pytest.mark.parametrize("named", ['volume "pvc-12"', 'volume "home"', "volumes=[home]"])
def test_a_volume_that_is_not_mounted_is_named_by_its_claim(named: str) -> None:
    events = [{"reason": "FailedMount", "message": f"MountVolume.SetUp failed for {named}: x"}]
    volumes = [{"name": "home", "persistentVolumeClaim": {"claimName": "home-ana"}}]
    found = why_waiting(pod(volumes=volumes), Around(events, {"home-ana": CLAIM}))
    assert found and found.sentence.startswith("The volume home-ana cannot be mounted")


def test_a_volume_on_another_node() -> None:
    said = 'Multi-Attach error for volume "pvc-12" Volume is already used by pod(s) x'
    events = [{"reason": "FailedAttachVolume", "message": said}]
    found = why_waiting(pod(), Around(events, {"home-ana": CLAIM}))
    assert found and found.sentence == ("The volume home-ana is still attached to another node.")


# --- states -------------------------------------------------------------------------------------


def ended(code: int, reason: str = "Error") -> dict[str, Any]:
    when = "2026-01-01T10:00:00Z"
    return {"terminated": {"exitCode": code, "reason": reason, "startedAt": when,
                           "finishedAt": when}}  # fmt: skip


def with_states(phase: str, init: Any = None, main: Any = None, **status: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {"containers": [{"name": "main"}]}
    told: dict[str, Any] = {"phase": phase, **status}
    if init is not None:
        spec["initContainers"] = [{"name": "init"}]
        told["initContainerStatuses"] = [{"name": "init", "state": init}]
    if main is not None:
        told["containerStatuses"] = [{"name": "main", "state": main}]
    return {"metadata": {"name": "x", "uid": "1"}, "spec": spec, "status": told}


RUNNING: dict[str, Any] = {"running": {"startedAt": "2026-01-01T10:00:00Z"}}


@pytest.mark.parametrize(
    ("given", "phase"),
    [
        (with_states("Pending"), "Pending"),
        (with_states("Running", main=RUNNING), "Running"),
        (with_states("Unknown", main=RUNNING), "Running"),
        (with_states("Running", main=ended(0)), "Succeeded"),
        (with_states("Running", main=ended(7)), "Failed"),
        (with_states("Pending", init=RUNNING, main={"waiting": {}}), "Pending"),
        (with_states("Pending", init=ended(5), main={"waiting": {}}), "Failed"),
        (with_states("Failed", reason="Evicted"), "Failed"),
    ],
)  # fmt: skip
def test_phases(given: dict[str, Any], phase: str) -> None:
    assert pod_state(given).phase == phase


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"reason": "Evicted", "message": "The node was low on resource: memory."}, "low on"),
        ({"reason": "NodeLost"}, "was lost"),
        ({"reason": "Preempting"}, "more important"),
        ({"reason": "OutOfcpu", "message": "Node didn't have enough"}, "OutOfcpu. Node didn't"),
        (
            {"conditions": [{"type": "DisruptionTarget", "status": "True",
                             "reason": "PreemptionByScheduler"}]},
            "more important",
        ),
    ],
)  # fmt: skip
def test_why_a_pod_was_ended_by_the_cluster(status: dict[str, Any], words: str) -> None:
    reason = pod_state(with_states("Failed", **status)).reason
    assert reason is not None and words in reason


def test_out_of_memory_is_the_containers_own() -> None:
    state = pod_state(with_states("Failed", main=ended(137, "OOMKilled")))
    assert state.containers["main"].oom_killed
    assert state.reason is None


def test_what_the_api_refuses() -> None:
    class Error:
        status = 403
        reason = "Forbidden"
        body = (
            '{"message": "pods \\"x\\" is forbidden: exceeded quota: small, requested: '
            'limits.cpu=4,limits.memory=8Gi, used: limits.cpu=2, limited: limits.cpu=5"}'
        )

    error = refusal(Error())  # type: ignore[arg-type]
    assert isinstance(error, QuotaFull)
    assert error.sentence.params == {
        "quota": "small", "wanted": "limits.cpu 4, limits.memory 8 GB", "used": "limits.cpu 2",
        "most": "limits.cpu 5",
    }  # fmt: skip
    # More than the whole quota fits never, whoever ends.
    Error.body = Error.body.replace("limits.cpu=4", "limits.cpu=5500m")
    assert type(refusal(Error())) is NotAdmitted  # type: ignore[arg-type]
    Error.body = '{"message": "pods \\"x\\" is forbidden: violates PodSecurity \\"restricted\\""}'
    assert "violates PodSecurity" in refusal(Error()).sentence  # type: ignore[arg-type]
