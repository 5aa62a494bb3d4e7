"""The pure parts of a cluster's engine: GPUs, placement, quotas, logs, asking."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import Any

import pytest
from kubernetes_asyncio.client import ApiException
from pydantic import ValidationError

from spawner import kube_namespace
from spawner.asking import Asking
from spawner.cluster import gpu_nodes
from spawner.engine import NotAdmitted
from spawner.kube_logs import Stamped
from spawner.kube_namespace import make_limits, make_quota, prefix
from spawner.kubernetes_spawner import held_by
from spawner.placement import for_server, merged
from spawner.profile_list import Capabilities, GpuNode, compile_profiles
from spawner.quota import Resources
from studovna.cluster_settings import Cluster, Placement
from studovna.profile_schema import Profile
from studovna.site import Project, Site

READY = [{"type": "Ready", "status": "True"}]
MIG = "nvidia.com/mig-1g.10gb"


def node(name: str, labels: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    allocatable = {"cpu": "8", "ephemeral-storage": "1Gi", "hugepages-2Mi": "0",
                   "example.com/disks": "4", **more.pop("gpus", {})}  # fmt: skip
    return {
        "metadata": {"name": name, "labels": labels or {}},
        "spec": more.pop("spec", {}),
        "status": {"allocatable": allocatable, "conditions": more.pop("conditions", READY)},
    }


def asking(on: str, phase: str = "Running", **gpus: str) -> dict[str, Any]:
    container = {"resources": {"limits": {"cpu": "1", **gpus}}}
    return {"spec": {"nodeName": on, "containers": [container]}, "status": {"phase": phase}}


def test_free_gpus_are_what_pods_on_the_node_leave() -> None:
    gpu = "nvidia.com/gpu"
    nodes = [
        node("a", {"model": "a100"}, gpus={gpu: "4", MIG: "7"}),
        node("b", gpus={gpu: "2"}),
        node("cordoned", gpus={gpu: "8"}, spec={"unschedulable": True}),
        node("dead", gpus={gpu: "8"}, conditions=[{"type": "Ready", "status": "Unknown"}]),
        node("cpu", gpus={gpu: "0"}),
    ]
    pods = [
        asking("a", **{gpu: "3"}),
        asking("a", "Succeeded", **{gpu: "1"}),
        asking("a", **{MIG: "7"}),
        asking("b", "Pending", **{gpu: "2"}),
        {"spec": {"containers": [{"resources": {"limits": {gpu: "1"}}}]}, "status": {}},
    ]
    assert gpu_nodes(nodes, pods) == [
        GpuNode({"model": "a100"}, {gpu: 4, MIG: 7}, {gpu: 1, MIG: 0}),
        GpuNode({}, {gpu: 2}, {gpu: 0}),
    ]
    (disks,) = gpu_nodes([node("x")], [], wanted={"example.com/disks"})
    assert disks.gpus == {"example.com/disks": 4}


@pytest.mark.parametrize(
    ("count", "selector", "why"),
    [
        (1, {}, None),
        (2, {}, "2 of nvidia.com/gpu; 1 of 4 are free now"),
        (1, {"model": "b"}, "1 of nvidia.com/gpu; 0 of 2 are free now"),
        (5, {}, "5 of nvidia.com/gpu, and there are 4 here"),
        (1, {"model": "c"}, "1 of nvidia.com/gpu, and there are 0 here"),
    ],
)
def test_a_gpu_profile_is_offered_where_one_node_has_enough(
    count: int, selector: dict[str, str], why: str | None
) -> None:
    gpu = "nvidia.com/gpu"
    nodes = [GpuNode({"model": "a"}, {gpu: 4}, {gpu: 1}), GpuNode({"model": "b"}, {gpu: 2}, {})]
    profile = Profile.model_validate(
        {
            "title": {"en": "G", "cs": "G"},
            "category": "gpu",
            "image": "quay.io/x/y:1",
            "gpu": {"resource": gpu, "count": count},
            "node_selector": selector,
        }
    )
    site = Site(engine="kubernetes", images="quay.io/x")
    able = Capabilities(nodes)
    (item,) = compile_profiles({"g": profile}, site, set(), able)
    found = item["studovna"]["unavailable"]
    assert (found is None) == (why is None)
    assert why is None or why in found
    (item,) = compile_profiles({"g": profile}, site, set(), Capabilities(nodes=None))
    assert item["studovna"]["unavailable"] is None


def test_placement_by_resource_class() -> None:
    settings = Cluster.model_validate(
        {
            "placement": {
                "cpu": {"node_selector": {"kind": "cpu"}},
                "gpu": {
                    "node_selector": {"kind": "gpu"},
                    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
                },
                MIG: {"node_selector": {"mig": "yes"}},
            }
        }
    )
    assert for_server(settings.placement, []).node_selector == {"kind": "cpu"}
    assert for_server(settings.placement, ["nvidia.com/gpu"]).node_selector == {"kind": "gpu"}
    mig = for_server(settings.placement, [MIG])
    assert mig.node_selector == {"kind": "gpu", "mig": "yes"}
    spec = {"nodeSelector": {"kind": "own"}, "tolerations": [{"key": "a", "operator": "Exists"}]}
    assert merged(spec, mig) == {
        "nodeSelector": {"kind": "own", "mig": "yes"},
        "tolerations": [
            {"key": "a", "operator": "Exists"},
            {"key": "nvidia.com/gpu", "operator": "Exists"},
        ],
    }
    assert merged({"containers": []}, Placement()) == {"containers": []}


@pytest.mark.parametrize(
    "wrong",
    [
        {"placement": {"large": {}}},
        {"placement": {"cpu": {"node_selector": {"a b": "c"}}}},
        {"pull_secrets": ["No Name"]},
        {"namespaces": "each"},
        {"room_minutes": 0.0},
        {"placment": {}},
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Cluster.model_validate(wrong)


def test_the_quota_of_a_persons_namespace_is_the_projects() -> None:
    project = Project.model_validate(
        {
            "requests": {"cpu": 2.5, "memory": "4G"},
            "limits": {"cpu": 8.0, "memory": "16G"},
            "servers": 3,
        }
    )
    assert make_quota(project)["spec"]["hard"] == {
        "requests.cpu": "2500m", "requests.memory": str(4 * 2**30), "limits.cpu": "8000m",
        "limits.memory": str(16 * 2**30), "pods": "3",
    }  # fmt: skip
    (limit,) = make_limits(project)["spec"]["limits"]
    assert limit["max"] == {"cpu": "8000m", "memory": str(16 * 2**30)}
    assert limit["default"] == limit["defaultRequest"]


def test_names_of_namespaces_fit() -> None:
    assert prefix("studovna") == "studovna-u-"
    long = prefix("a-very-long-namespace-of-a-site")
    assert len(long) == 15 and long != prefix("a-very-long-namespace-of-another")


class Namespaces:
    """The API's namespaces, as far as making one goes."""

    def __init__(self, there: dict[str, Any] | None) -> None:
        self.there, self.made = there, list[str]()

    async def create_namespace(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.there is not None:
            raise ApiException(status=409)
        self.made.append("namespace")
        return body

    async def read_namespace(self, name: str) -> dict[str, Any]:
        assert self.there is not None
        return {"metadata": {"name": name, **self.there}}

    async def create_namespaced_resource_quota(self, *_: Any) -> None:
        self.made.append("quota")

    async def create_namespaced_limit_range(self, *_: Any) -> None:
        self.made.append("limits")


@pytest.mark.parametrize(
    ("there", "made", "words"),
    [
        (None, ["namespace", "quota", "limits"], ""),
        ({"labels": {"studovna.site": "hub"}}, ["quota", "limits"], ""),
        ({}, [], "belongs to something else"),
        ({"labels": {"studovna.site": "another"}}, [], "belongs to something else"),
        ({"labels": {"studovna.site": "hub"}, "deletionTimestamp": "2026"}, [], "being deleted"),
    ],
    ids=["none", "ours", "without a label", "another hub's", "going"],
)
async def test_a_namespace_of_somebody_else_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, there: dict[str, Any] | None, made: list[str], words: str
) -> None:
    api = Namespaces(there)

    async def ask(method: Any, *args: Any) -> Any:
        return await method(*args)

    monkeypatch.setattr(kube_namespace, "core", lambda: api)
    monkeypatch.setattr(kube_namespace, "ask", ask)
    refused = pytest.raises(NotAdmitted, match=words) if words else contextlib.nullcontext()
    with refused:
        await kube_namespace.ensure("hub-u-builds", "hub", Project(), [])
    assert api.made == made


def test_what_a_pod_holds_is_read_from_it() -> None:
    resources = {
        "requests": {"cpu": "250m", "memory": "1Gi", MIG: "1"},
        "limits": {"cpu": "2", "memory": "2Gi", MIG: "1"},
    }
    pod = {"spec": {"containers": [{"resources": resources}]}}
    assert held_by(pod) == Resources(0.25, 2.0, 2**30, 2**31, {MIG: 1})


def test_a_log_that_is_read_again_brings_no_line_twice() -> None:
    lines = [
        b"2026-01-01T10:00:00.1Z one",
        b"2026-01-01T10:00:00.100000000Z same moment",
        b"2026-01-01T12:00:00.2+02:00 ",
        b"2026-01-01T10:00:01.5Z later",
    ]
    stamped = Stamped()
    assert stamped.since is None
    assert [stamped.line(raw) for raw in lines[:2]] == ["one", "same moment"]
    assert stamped.since == "2026-01-01T10:00:00Z"
    stamped.connected()
    assert [stamped.line(raw) for raw in lines] == [None, None, "", "later"]
    stamped.connected()
    assert [stamped.line(raw) for raw in lines[3:]] == [None]
    assert stamped.line(b"unable to retrieve container logs for containerd://1") is None


def test_a_log_since_a_moment() -> None:
    stamped = Stamped(datetime(2026, 1, 1, 10, 0, 1, tzinfo=UTC))
    assert stamped.since == "2026-01-01T10:00:01Z"
    assert stamped.line(b"2026-01-01T10:00:00.9Z old") is None
    assert stamped.line(b"2026-01-01T10:00:01.0Z new") == "new"


async def test_one_question_for_all_and_a_new_one_after_a_change() -> None:
    asked = 0
    go = asyncio.Event()

    async def ask() -> int:
        nonlocal asked
        asked += 1
        mine = asked
        await go.wait()
        if mine == 1:
            raise OSError("once")
        return mine

    asking_ = Asking(ask, 60)
    waiting = [asyncio.create_task(asking_.answer()) for _ in range(5)]
    await asyncio.sleep(0)
    go.set()
    assert {str(e) for e in await asyncio.gather(*waiting, return_exceptions=True)} == {"once"}
    assert [await asking_.answer() for _ in range(3)] == [2, 2, 2]
    asking_.changed()
    assert await asking_.answer() == 3
