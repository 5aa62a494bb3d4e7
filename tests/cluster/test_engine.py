"""The engine on a real cluster: start, state, logs, end, and what is left behind (nothing)."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from kubernetes_asyncio.client import (
    V1ConfigMap,
    V1ConfigMapVolumeSource,
    V1Container,
    V1ContainerPort,
    V1EmptyDirVolumeSource,
    V1ObjectMeta,
    V1PersistentVolumeClaim,
    V1PersistentVolumeClaimSpec,
    V1PersistentVolumeClaimVolumeSource,
    V1Pod,
    V1PodSpec,
    V1ResourceRequirements,
    V1Secret,
    V1SecretVolumeSource,
    V1SecurityContext,
    V1Volume,
    V1VolumeMount,
    V1VolumeResourceRequirements,
)

from spawner import kube_logs
from spawner.engine import (
    ClaimInUse,
    ClaimMissing,
    EngineError,
    ImageMissing,
    NoFreeDevice,
    NoRoom,
    NotAdmitted,
    PodEnded,
    PodExists,
    PodMissing,
    PodState,
    RegistryUnreachable,
    UntranslatableField,
)
from spawner.kubernetes_engine import KubernetesEngine
from studovna.paths import ROOT
from studovna.text import Text
from tests.cluster.kube import IMAGE, bring_image, get, kubectl, namespace, use_cluster

USERNAME = "hub.jupyter.org/username"


@pytest.fixture(scope="module")
def space() -> Iterator[str]:
    use_cluster()
    bring_image()
    with namespace("eng") as name:
        yield name


@pytest.fixture
def make_engine(space: str) -> Callable[..., KubernetesEngine]:
    """Each call is what a service has after it was started again."""
    return lambda **options: KubernetesEngine(space, "eng", **options)


@pytest.fixture
async def engine(make_engine: Callable[..., KubernetesEngine]) -> AsyncIterator[KubernetesEngine]:
    engine = make_engine(room_seconds=4)
    yield engine
    await asyncio.gather(*(engine.end(name, 0) for name in await engine.states({})))
    for claim in await engine.claims({}):
        await engine.erase_claim(claim.name)


def make_pod(name: str, script: str = "sleep 1000", user: str | None = None, **more: Any) -> V1Pod:
    """A pod that runs a shell script; keywords go to the container or, if it has them, the pod."""
    names = V1PodSpec.attribute_map.keys() - {"resources"}
    in_spec = {key: more.pop(key) for key in list(more) if key in names}
    more.setdefault("command", ["sh", "-c", script])
    more.setdefault("image", IMAGE)
    main = V1Container(name="main", **more)
    in_spec["containers"] = [main, *in_spec.pop("containers", [])]
    in_spec.setdefault("restart_policy", "Never")
    in_spec.setdefault("termination_grace_period_seconds", 1)
    labels = {USERNAME: user} if user else {}
    return V1Pod(metadata=V1ObjectMeta(name=name, labels=labels), spec=V1PodSpec(**in_spec))


def make_claim(name: str, storage_class: str | None = None, **labels: str) -> Any:
    resources = V1VolumeResourceRequirements(requests={"storage": "1Gi"})
    return V1PersistentVolumeClaim(
        metadata=V1ObjectMeta(name=name, labels=labels),
        spec=V1PersistentVolumeClaimSpec(
            access_modes=["ReadWriteOnce"], resources=resources, storage_class_name=storage_class
        ),
    )


def mounting(claim: str) -> dict[str, Any]:
    # The test cluster's volumes are folders of root's, which know no fsGroup.
    source = V1PersistentVolumeClaimVolumeSource(claim_name=claim)
    return {
        "volumes": [V1Volume(name="home", persistent_volume_claim=source)],
        "volume_mounts": [V1VolumeMount(name="home", mount_path="/home/jovyan")],
        "security_context": V1SecurityContext(run_as_user=0),
    }


async def until(engine: Any, name: str, *phases: str, seconds: float = 60) -> PodState:
    async with asyncio.timeout(seconds):
        while (state := await engine.state(name)).phase not in phases:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    return state


async def lines_of(lines: Any) -> list[str]:
    return [line async for line in lines]


def left(space: str, name: str) -> list[str]:
    """What the cluster still has of a pod, Secrets and ConfigMaps included."""
    found = []
    for kind in ("pods", "secrets", "configmaps"):
        names = [one["metadata"]["name"] for one in get(kind, "-n", space)]
        found += [f"{kind}/{one}" for one in names if one == name or one.startswith(f"{name}-")]
    return found


async def nothing_left(space: str, name: str) -> None:
    """The pod is gone at once; the cluster collects what it owned a moment later."""
    assert f"pods/{name}" not in left(space, name)
    async with asyncio.timeout(30):
        while left(space, name):  # noqa: ASYNC110
            await asyncio.sleep(0.3)


# --- running ------------------------------------------------------------------------------------


async def test_a_pod_runs_answers_and_ends(engine, space):
    assert (await engine.state("one")).phase == "Missing"
    said: list[Text] = []
    ports = [V1ContainerPort(container_port=8888)]
    pod = make_pod("one", "echo hello; exec python3 -m http.server 8888", user="ana", ports=ports)
    await engine.run(pod, on_event=said.append)
    state = await engine.state("one")
    assert state.phase == "Running"
    assert state.labels == {USERNAME: "ana"}
    assert state.containers["main"].state == "running"
    assert abs(state.containers["main"].started_at - datetime.now(UTC)) < timedelta(seconds=60)
    url = await engine.url("one", 8888)
    async with asyncio.timeout(20), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(url) as response:
                    assert response.status == 200
                    break
            except aiohttp.ClientError:
                await asyncio.sleep(0.1)
    with pytest.raises(EngineError, match="does not list its port 9999"):
        await engine.url("one", 9999)
    assert (await engine.tail("one", "main", 50))[0] == "hello"
    assert list(await engine.states({USERNAME: "ana"})) == ["one"]
    assert not await engine.states({USERNAME: "bob"})
    await engine.end("one", 0)
    assert (await engine.state("one")).phase == "Missing"
    assert not left(space, "one")
    await engine.end("one", 0)
    await engine.end("never-was")


async def test_exit_codes_and_a_taken_name(engine, make_engine):
    await engine.run(make_pod("bad", "exit 7"))
    await engine.run(make_pod("good", "true"))
    state = await until(engine, "bad", "Failed")
    assert state.containers["main"].exit_code == 7
    assert not state.containers["main"].oom_killed
    assert (await until(engine, "good", "Succeeded")).containers["main"].exit_code == 0
    with pytest.raises(PodExists):
        await engine.run(make_pod("bad"))
    with pytest.raises(PodExists):
        await make_engine().run(make_pod("bad"))
    assert (await make_engine().state("bad")).phase == "Failed"


async def test_memory_limit_kills_and_says_so(engine):
    limits = V1ResourceRequirements(limits={"memory": "64Mi"})
    eat = "x = bytearray(200 * 2**20)"
    await engine.run(make_pod("oom", command=["python3", "-c", eat], resources=limits))
    state = await until(engine, "oom", "Failed")
    assert state.containers["main"].exit_code == 137
    assert state.containers["main"].oom_killed


async def test_a_deadline_is_said(engine):
    await engine.run(make_pod("late", active_deadline_seconds=3))
    state = await until(engine, "late", "Failed")
    assert state.reason == "It ran for 3 seconds, as long as it may, and was ended."


# --- what cannot start --------------------------------------------------------------------------


async def test_an_image_that_does_not_exist(engine, space):
    loop = asyncio.get_running_loop()
    started = loop.time()
    with pytest.raises(ImageMissing, match="does not exist") as caught:
        await engine.run(make_pod("none", image=IMAGE.rpartition("/")[0] + "/no-such:1"))
    assert "no-such:1" in caught.value.sentence
    with pytest.raises(ImageMissing, match="no-such:2 is not on the cluster's node"):
        await engine.run(make_pod("none", image="localhost/no-such:2", image_pull_policy="Never"))
    with pytest.raises(ImageMissing, match="not the name"):
        await engine.run(make_pod("none", image="No Such Name"))
    assert loop.time() - started < 40
    assert not left(space, "none")


async def test_a_registry_that_is_down(engine, monkeypatch, space):
    monkeypatch.setattr("spawner.kube_why.RETRIES", 3.0)
    said: list[Text] = []
    with pytest.raises(RegistryUnreachable, match="127.0.0.1:9/x:1"):
        await engine.run(make_pod("down", image="127.0.0.1:9/x:1"), on_event=said.append)
    assert "The registry of the image 127.0.0.1:9/x:1 does not answer." in said
    assert not left(space, "down")


async def test_a_program_that_cannot_be_started(engine, space):
    with pytest.raises(EngineError, match="no-such-program"):
        await engine.run(make_pod("typo", command=["no-such-program"]))
    assert not left(space, "typo")


@pytest.mark.parametrize(
    ("more", "error", "match"),
    [
        ({"resources": V1ResourceRequirements(requests={"cpu": "500"})}, NoRoom, "cpu: 500"),
        (
            {"resources": V1ResourceRequirements(limits={"example.com/gpu": "2"})},
            NoFreeDevice,
            "example.com/gpu: 2",
        ),
        ({"node_selector": {"kind": "large"}}, NoRoom, "kind=large"),
    ],
    ids=["cpu", "gpu", "kind"],
)
async def test_no_node_fits(engine, space, more, error, match):
    said: list[Text] = []
    with pytest.raises(error, match=match):
        await engine.run(make_pod("big", **more), on_event=said.append)
    assert any(match in sentence for sentence in said)
    assert not left(space, "big")


async def test_a_quota_that_is_full(engine, space):
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "small", "namespace": space},
        "spec": {"hard": {"requests.cpu": "1"}},
    }
    kubectl("apply", "-f", "-", given=quota)
    try:
        async with asyncio.timeout(20):
            while not get("resourcequotas", "-n", space)[0].get("status", {}).get("used"):  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        resources = V1ResourceRequirements(requests={"cpu": "2"})
        with pytest.raises(NotAdmitted, match="quota small of the cluster is full.*requests.cpu 2"):
            await engine.run(make_pod("much", resources=resources))
    finally:
        kubectl("delete", "resourcequota", "small", "-n", space)


async def test_what_the_api_refuses_names_the_field(engine):
    with pytest.raises(UntranslatableField) as caught:
        await engine.run(make_pod("wrong", restart_policy="Sometimes"))
    assert caught.value.field == "spec.restartPolicy"


async def test_what_is_not_there(engine):
    with pytest.raises(PodMissing):
        await engine.tail("none", "main", 3)
    with pytest.raises(PodMissing):
        await engine.url("none", 1)
    with pytest.raises(PodMissing):
        await lines_of(engine.logs("none", "main"))


# --- data and claims ----------------------------------------------------------------------------


async def test_data_comes_and_goes_with_the_pod(engine, space):
    data = [
        V1ConfigMap(metadata=V1ObjectMeta(name="fed-job"), data={"job.json": "{}"}),
        V1Secret(metadata=V1ObjectMeta(name="fed-push"), string_data={"word": "s3cr3t"}),
    ]
    volumes = [
        V1Volume(name="job", config_map=V1ConfigMapVolumeSource(name="fed-job")),
        V1Volume(name="push", secret=V1SecretVolumeSource(secret_name="fed-push")),  # noqa: S106
    ]
    mounts = [
        V1VolumeMount(name="job", mount_path="/job"),
        V1VolumeMount(name="push", mount_path="/push"),
    ]
    script = "cat /job/job.json /push/word"
    for _ in range(2):
        pod = make_pod("fed", script, volumes=volumes, volume_mounts=mounts)
        await engine.run(pod, data=data)
        await until(engine, "fed", "Succeeded")
        assert await engine.tail("fed", "main", 5) == ["{}s3cr3t"]
        await engine.end("fed", 0)
    await nothing_left(space, "fed")


async def test_a_claim_outlives_pods_and_is_erased_alone(engine):
    claim = make_claim("home-ana", owner="ana")
    await engine.run(make_pod("w", "echo kept > /home/jovyan/f", **mounting("home-ana")), [claim])
    await until(engine, "w", "Succeeded")
    with pytest.raises(ClaimInUse, match="in use by w"):
        await engine.erase_claim("home-ana")
    await engine.end("w", 0)
    await engine.run(make_pod("r", "cat /home/jovyan/f", **mounting("home-ana")), [claim])
    await until(engine, "r", "Succeeded")
    assert await engine.tail("r", "main", 1) == ["kept"]
    await engine.end("r", 0)
    (found,) = await engine.claims({"owner": "ana"})
    assert (found.name, found.size, found.requested) == ("home-ana", None, 2**30)
    await engine.erase_claim("home-ana")
    await engine.erase_claim("home-ana")
    with pytest.raises(ClaimMissing, match="home-nobody"):
        await engine.run(make_pod("x", **mounting("home-nobody")))


async def test_a_claim_that_cannot_be_made_is_named(engine, space):
    claim = make_claim("home-slow", storage_class="no-such-class")
    with pytest.raises(ClaimMissing, match="home-slow cannot be made.*no-such-class"):
        await engine.run(make_pod("slow", **mounting("home-slow")), [claim])
    assert not left(space, "slow")


# --- logs ---------------------------------------------------------------------------------------


async def test_logs_follow_to_the_end(engine):
    script = "for i in 1 2 3; do echo line $i; sleep 0.3; done; printf without-end"
    await engine.run(make_pod("log", script))
    found = await lines_of(engine.logs("log", "main", follow=True))
    assert found == ["line 1", "line 2", "line 3", "without-end"]
    assert await lines_of(engine.logs("log", "main", since=datetime.now(UTC))) == []
    assert await lines_of(engine.logs("log", "main")) == found


async def test_a_broken_connection_is_taken_up_again(engine, monkeypatch):
    """Every line comes once and in order, however often the connection breaks."""
    opened = 0
    really = kube_logs._open

    async def breaking(*args: Any, **more: Any) -> Any:
        nonlocal opened
        opened += 1
        response = await really(*args, **more)
        if opened < 5:
            asyncio.get_running_loop().call_later(0.4, response.close)
        return response

    monkeypatch.setattr(kube_logs, "_open", breaking)
    script = "i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo $i; sleep 0.01; done"
    await engine.run(make_pod("cut", script))
    found = await lines_of(engine.logs("cut", "main", follow=True))
    assert found == [str(number) for number in range(1, 401)]
    assert opened >= 4


async def test_init_containers_in_order(engine, space):
    shared = [V1VolumeMount(name="shared", mount_path="/shared")]
    init = [
        V1Container(name=name, image=IMAGE, command=["sh", "-c", script], volume_mounts=shared)
        for name, script in (
            ("i0", "sleep 2; echo first > /shared/a"),
            ("i1", "cat /shared/a; echo second >> /shared/a"),
        )
    ]
    volumes = [V1Volume(name="shared", empty_dir=V1EmptyDirVolumeSource())]
    pod = make_pod(
        "steps", "cat /shared/a", init_containers=init, volumes=volumes, volume_mounts=shared
    )
    await engine.run(pod)
    state = await engine.state("steps")
    assert state.phase == "Pending" and state.containers["main"].state == "waiting"
    following = await lines_of(engine.logs("steps", "main", follow=True))
    assert following == ["first", "second"]
    state = await until(engine, "steps", "Succeeded")
    assert {name: one.exit_code for name, one in state.containers.items()} == {
        "i0": 0, "i1": 0, "main": 0,
    }  # fmt: skip
    assert await engine.tail("steps", "i1", 5) == ["first"]
    init[0].command = ["sh", "-c", "exit 5"]
    pod = make_pod("broken", "true", init_containers=init, volumes=volumes, volume_mounts=shared)
    await engine.run(pod)
    state = await until(engine, "broken", "Failed")
    assert state.containers["i0"].exit_code == 5
    assert state.containers["main"].state == "waiting"
    assert await lines_of(engine.logs("broken", "main", follow=True)) == []


# --- cut short ----------------------------------------------------------------------------------


async def test_a_cancelled_start_leaves_nothing(engine, space):
    """At any moment: each round is cancelled a little later, until one gets through."""
    after = 0.0
    while True:
        task = asyncio.create_task(engine.run(make_pod("cancel")))
        await asyncio.wait([task], timeout=after)
        if not task.cancel():
            break
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not left(space, "cancel"), after
        assert (await engine.state("cancel")).phase == "Missing"
        after = after * 2 + 0.02
    assert after > 0.1


async def test_ending_a_pod_that_starts_cuts_its_start_short(engine, space, make_engine):
    task = asyncio.create_task(engine.run(make_pod("hasty")))
    await asyncio.sleep(0.1)
    await engine.end("hasty", 0)
    with pytest.raises(PodEnded):
        await task
    assert not left(space, "hasty")
    task = asyncio.create_task(engine.run(make_pod("waits", node_selector={"no": "where"})))
    await asyncio.sleep(1)
    await make_engine().end("waits", 0)
    with pytest.raises(PodEnded):
        await task


async def test_end_asks_first(engine):
    polite = "trap 'echo bye; exit 0' TERM; while :; do sleep 0.1; done"
    await engine.run(make_pod("polite", polite))
    following = asyncio.create_task(lines_of(engine.logs("polite", "main", follow=True)))
    await asyncio.sleep(1)
    await engine.end("polite", 10)
    assert (await asyncio.wait_for(following, 10))[-1:] in (["bye"], [])
    deaf = "trap '' TERM; while :; do sleep 0.1; done"
    await engine.run(make_pod("deaf", deaf))
    started = asyncio.get_running_loop().time()
    await engine.end("deaf", 2)
    assert asyncio.get_running_loop().time() - started < 20


async def test_a_pod_goes_on_when_its_starter_dies(engine, space):
    code = """
import asyncio, os, signal, sys
from spawner.kubernetes_engine import KubernetesEngine
from tests.cluster.test_engine import make_pod
async def main():
    await KubernetesEngine(sys.argv[1], "eng").run(make_pod("orphan", "sleep 1; echo done"))
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    argv = [sys.executable, "-c", code, space]
    service = await asyncio.create_subprocess_exec(*argv, cwd=ROOT, env={**os.environ})
    assert await service.wait() == -signal.SIGKILL
    await until(engine, "orphan", "Succeeded")
    assert await engine.tail("orphan", "main", 1) == ["done"]


async def test_many_questions_cost_one_call(engine, monkeypatch):
    await engine.run(make_pod("busy"))
    asked = 0
    really = engine._pods._ask

    async def counted() -> Any:
        nonlocal asked
        asked += 1
        return await really()

    monkeypatch.setattr(engine._pods, "_ask", counted)
    states = await asyncio.gather(*(engine.state("busy") for _ in range(300)))
    assert asked == 1 and all(state.phase == "Running" for state in states)


def test_the_hub_address_is_not_the_loopback(make_engine):
    address = make_engine().hub_address()
    assert address and not address.startswith("127.")
