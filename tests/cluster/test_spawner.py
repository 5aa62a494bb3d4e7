"""Servers of a real hub on a real cluster: how they start, how they fail, and what they survive."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kubernetes_asyncio.client import ApiClient
from kubernetes_asyncio.config import load_kube_config

from spawner import kube_namespace
from spawner.manifest import quantity
from tests.cluster.hub import SERVE, ClusterHub, profile, running_hub
from tests.cluster.kube import IMAGE, bring_image, get, kubectl, namespace, use_cluster

GPU = "eng.example.com/gpu"
NO_IMAGE = IMAGE.rpartition("/")[0] + "/no-such:1"
EAT = ["python3", "-c", "x = bytearray(300 * 2**20)"]
FILL = ["sh", "-c", f"head -c 60000000 /dev/zero > /dev/shm/x; exec {' '.join(SERVE)}"]
CRASH = ["sh", "-c", "echo cannot find my settings; exit 3"]

PROFILES = {
    "cpu": profile(home="person", default=True),
    "plain": profile(),
    "no-image": profile(image=NO_IMAGE),
    "large": profile(cpu={"request": 900.0, "limit": 900.0}),
    "elsewhere": profile(node_selector={"disk": "fast"}),
    "crash": profile(command=CRASH),
    "eat": profile(command=EAT),
    "fill": profile(command=FILL, shm="16M", memory={"request": "32M", "limit": "256M"}),
    "gpu": profile(gpu={"resource": GPU, "count": 1}),
}


@pytest.fixture(scope="module")
def space() -> Iterator[str]:
    use_cluster()
    bring_image()
    with namespace("eng") as name:
        yield name


@pytest.fixture(scope="module")
def hub(space: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterHub]:
    project = {
        "requests": {"cpu": 1000.0, "memory": "8G"},
        "limits": {"cpu": 1000.0, "memory": "8G"},
        "servers": 20,
    }
    folder = tmp_path_factory.mktemp("hub") / "hub"
    cluster = {"room_minutes": 0.05, "placement": {"gpu": {"node_selector": {"eng-gpu": "yes"}}}}
    with running_hub(folder, space, PROFILES, project=project, cluster=cluster) as hub:
        yield hub


def server_minor() -> int:
    """Of the API server's version; some clouds write `27+`."""
    version = json.loads(kubectl("version", "-o", "json"))["serverVersion"]
    return int(version["minor"].rstrip("+"))


def pods(space: str) -> dict[str, Any]:
    return {pod["metadata"]["name"]: pod for pod in get("pods", "-n", space)}


def last_end(hub: ClusterHub, person: str) -> str:
    """What the hub says about the end of a server that nobody stopped."""
    model = hub.client.get(
        f"/hub/api/users/{person}", params={"include_stopped_servers": "1"}
    ).json()
    state = model["servers"][""]["state"] or {}
    return str(state.get("last_end", {}).get("message", ""))


def test_a_server_starts_answers_and_stops(hub: ClusterHub, space: str) -> None:
    events = hub.run("ana", "cpu")
    assert events[-1].get("ready"), events
    said = [event["message"] for event in events]
    assert "Creating the server" in said and "Waiting for the server to answer" in said
    assert hub.answers("ana")
    pod = pods(space)["jupyter-ana"]
    assert pod["spec"]["restartPolicy"] == "Never"
    assert pod["metadata"]["labels"]["app.kubernetes.io/instance"] == "eng"
    assert pod["metadata"]["labels"]["app.kubernetes.io/component"] == "singleuser-server"
    hub.stop("ana")
    assert "jupyter-ana" not in pods(space)
    (claim,) = get("pvc", "-n", space)
    assert claim["metadata"]["name"] == "home-ana"


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ("no-image", f"The image {NO_IMAGE} does not exist"),
        ("large", "No node of the cluster has enough free for what is asked for: cpu: 900"),
        ("elsewhere", "No node of the cluster is of the kind that is asked for: disk=fast"),
        ("crash", "ended by itself with exit code 3. Its last lines:\ncannot find my settings"),
        ("eat", "used more memory than its limit of 0.06 GB"),
    ],
)
def test_what_cannot_start_fails_soon_with_its_reason(
    hub: ClusterHub, space: str, choice: str, sentence: str
) -> None:
    events = hub.run("ivo", choice, 60)
    assert events[-1].get("failed"), events
    assert sentence in events[-1]["message"], (events, hub.log()[-3000:])
    assert "jupyter-ivo" not in pods(space)


def test_a_quota_of_the_cluster_that_is_full(hub: ClusterHub, space: str) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "small", "namespace": space},
        "spec": {"hard": {"requests.memory": "1Mi"}},
    }
    kubectl("apply", "-f", "-", given=quota)
    try:
        hub.wait(lambda: bool(get("resourcequotas", "-n", space)[0].get("status")), 20)
        events = hub.run("ivo", "plain")
        assert "The quota small of the cluster is full" in events[-1]["message"], events
    finally:
        kubectl("delete", "resourcequota", "small", "-n", space)


def test_a_gpu_is_given_once(hub: ClusterHub, space: str) -> None:
    """A GPU on the node's status: the scheduler is real, the device is not."""
    node = get("nodes")[0]["metadata"]["name"]
    path = f"/api/v1/nodes/{node}/status"
    escaped = GPU.replace("/", "~1")
    none = hub.run("ivo", "gpu")[-1]
    assert none["failed"] and "GPU" in none["message"] or GPU in none["message"]
    body = [{"op": "add", "path": f"/status/capacity/{escaped}", "value": "1"}]
    kubectl("label", "node", node, "eng-gpu=yes", "--overwrite")
    patch_raw(path, body)
    try:
        hub.wait(lambda: GPU in get("nodes")[0]["status"]["allocatable"], 60)
        hub.wait(lambda: hub.run("eva", "gpu")[-1].get("ready", False), 60)
        assert pods(space)["jupyter-eva"]["spec"]["nodeSelector"] == {"eng-gpu": "yes"}
        events = hub.run("ivo", "gpu")
        assert f"This needs 1 of {GPU}; 0 of 1 are free now." in events[-1]["message"], events
        hub.stop("eva")
        assert hub.run("ivo", "gpu")[-1].get("ready")
        hub.stop("ivo")
    finally:
        patch_raw(path, [{"op": "remove", "path": f"/status/capacity/{escaped}"}])
        kubectl("label", "node", node, "eng-gpu-")


def patch_raw(path: str, body: object) -> None:
    """Patch a subresource, which kubectl of the cluster's age cannot."""

    async def patch() -> None:
        await load_kube_config()
        async with ApiClient() as api:
            await api.call_api(
                path, "PATCH", body=body, auth_settings=["BearerToken"], response_types_map={},
                header_params={"Content-Type": "application/json-patch+json"},
            )  # fmt: skip

    asyncio.run(patch())


def test_a_pod_deleted_by_hand_is_told_and_a_claim_is_made_again(
    hub: ClusterHub, space: str
) -> None:
    assert hub.run("eva", "cpu")[-1].get("ready")
    kubectl("delete", "pod", "jupyter-eva", "-n", space, "--grace-period=0", "--force")
    hub.wait(lambda: hub.server("eva") is None, 60)
    assert "removed outside of the hub" in last_end(hub, "eva")
    kubectl("delete", "pvc", "home-eva", "-n", space)
    events = hub.run("eva", "cpu")
    assert events[-1].get("ready")
    assert "Your home is new and empty" in [event.get("message") for event in events]
    assert "home-eva" in [claim["metadata"]["name"] for claim in get("pvc", "-n", space)]
    hub.stop("eva")


def test_an_eviction_is_told_with_its_reason(hub: ClusterHub, space: str) -> None:
    """Evicted by the kubelet for a full /dev/shm, and by a drain of the node."""
    minor = server_minor()
    if minor < 22:
        # Later ones do not let it become too full.
        assert hub.run("eva", "fill")[-1].get("ready")
        hub.wait(lambda: hub.server("eva") is None, 90)
        assert "Usage of EmptyDir volume" in last_end(hub, "eva")
        assert "Your home is kept" in last_end(hub, "eva")
    # Drained: the node takes nothing more, and the pod is deleted through the eviction API.
    assert hub.run("eva", "plain")[-1].get("ready")
    node = pods(space)["jupyter-eva"]["spec"]["nodeName"]
    kubectl("cordon", node)
    try:
        eviction = {
            "apiVersion": "policy/v1" if minor >= 22 else "policy/v1beta1",  # gone since 1.25
            "kind": "Eviction",
            "metadata": {"name": "jupyter-eva", "namespace": space},
            "deleteOptions": {"gracePeriodSeconds": 1},
        }
        path = f"/api/v1/namespaces/{space}/pods/jupyter-eva/eviction"
        kubectl("create", "--raw", path, "-f", "-", given=eviction)
        hub.wait(lambda: hub.server("eva") is None, 60)
    finally:
        kubectl("uncordon", node)
    assert "emptied for maintenance" in last_end(hub, "eva")


def test_an_api_server_that_is_away_loses_no_server(hub: ClusterHub, space: str) -> None:
    assert hub.run("tom", "plain")[-1].get("ready")
    hub.relay.cut()
    try:
        events = hub.run("lea", "plain")
        assert "The cluster does not answer" in events[-1]["message"], events
    finally:
        hub.relay.mend()
    assert hub.server("tom") is not None
    hub.wait(lambda: bool(hub.run("lea", "plain")[-1].get("ready")), 60)
    assert hub.answers("tom")
    # The watch sees what happens now, too.
    kubectl("delete", "pod", "jupyter-tom", "-n", space, "--grace-period=0", "--force")
    hub.wait(lambda: hub.server("tom") is None, 60)
    hub.stop("lea")


def test_a_hub_killed_while_ten_servers_start_loses_none(hub: ClusterHub, space: str) -> None:
    people = [f"p{number}" for number in range(10)]
    assert hub.run("old", "plain")[-1].get("ready")
    with ThreadPoolExecutor(10) as pool:
        asking = [pool.submit(hub.ask, person, "plain") for person in people]
        hub.wait(lambda: len([n for n in pods(space) if n.startswith("jupyter-p")]) >= 6, 60)
        hub.kill()
        for one in asking:
            one.exception()
    made = {name.removeprefix("jupyter-") for name in pods(space)} & set(people)
    assert made
    hub.start()
    for person in [*made, "old"]:
        hub.wait(lambda person=person: (hub.server(person) or {}).get("ready", False), 120)
        assert hub.answers(person)
    for person in [*people, "old"]:
        hub.client.delete(f"/hub/api/users/{person}/server")
    hub.wait(lambda: not [n for n in pods(space) if n.startswith(("jupyter-p", "jupyter-o"))], 120)


def test_each_person_in_a_namespace_of_their_own(
    space: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("own") / "hub"
    project = {
        "requests": {"cpu": 2.0, "memory": "1G"},
        "limits": {"cpu": 4.0, "memory": "2G"},
        "servers": 3,
    }
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "default-deny"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    }
    own = f"{kube_namespace.prefix(space)}una"
    other = f"{kube_namespace.prefix(space)}eva"
    cluster = {"namespaces": "person"}
    profiles = {"cpu": profile(home="person")}
    kubectl("create", "namespace", other)  # somebody else's
    try:
        with running_hub(folder, space, profiles, project=project, cluster=cluster) as hub:
            (folder / "namespace.json").write_text(json.dumps({"items": [policy]}))
            assert hub.run("una", "cpu")[-1].get("ready"), hub.log()[-3000:]
            assert hub.answers("una")
            assert "jupyter-una" in pods(own)
            (quota,) = get("resourcequotas", "-n", own)
            hard = {name: quantity(amount, name) for name, amount in quota["spec"]["hard"].items()}
            assert hard == {
                "requests.cpu": 2, "requests.memory": 2**30, "limits.cpu": 4,
                "limits.memory": 2**31, "pods": 3,
            }  # fmt: skip
            (limits,) = get("limitranges", "-n", own)
            assert limits["spec"]["limits"][0]["max"]["cpu"] in ("4", "4000m")
            names = [one["metadata"]["name"] for one in get("networkpolicies", "-n", own)]
            assert names == ["default-deny"]
            hub.kill()
            hub.start()
            hub.wait(lambda: (hub.server("una") or {}).get("ready", False), 60)
            hub.stop("una")
            assert "belongs to something else" in hub.run("eva", "cpu")[-1]["message"]
            assert get("resourcequotas", "-n", other) == []
    finally:
        kubectl("delete", "namespace", own, other, "--wait=false", "--ignore-not-found")
