"""What is said of builds that end without a word or cannot begin yet; the engine is a double."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from binder import cluster as cluster_module
from binder import executor as executor_module
from binder.buildpod import EXPORT, FETCH, INSTALL, LABELS
from binder.builds import BuildRequest
from binder.cluster import ClusterBuildExecutor
from binder.errors import Failed
from binder.events import Event
from binder.executor import ENDED, MARK, STILL_FULL, WAITING_FOR_QUOTA, Base, Message
from binder.registry import DockerRegistry, ImageInfo
from spawner.engine import MISSING, ContainerState, PodState, QuotaFull
from spawner.kube_states import pod_state
from spawner.kubernetes_engine import _without_site
from studovna.site import Site
from studovna.text import Text
from tests.unit.test_binder_builds import request

KILLED = ContainerState("ended", 137, started_at=datetime.now(UTC), finished_at=datetime.now(UTC))
GONE_SOON = PodState("Failed", {INSTALL: KILLED}, LABELS)
SAID = {"kind": "failed", "template": "RUN sleep failed (exit code 143).", "params": {}}


class DoubleEngine:
    """One pod: a container's lines, and the answers to questions about the pod, the last for
    ever."""

    def __init__(self, lines: list[str], states: list[PodState], full: int = 0) -> None:
        self.lines, self.states = lines, states
        self.full = full  # how many times more a quota has no room
        self.slow: asyncio.Event | None = None  # what a start waits for
        self.ran = False

    async def run(self, *_: Any, **__: Any) -> None:
        self.full -= 1
        if self.slow is not None:
            await self.slow.wait()
            self.ran = True
        if self.full >= 0:
            raise QuotaFull(Text("The quota is full."))

    async def logs(self, name: str, container: str, **_: Any) -> AsyncIterator[str]:
        for line in self.lines:
            yield line

    async def state(self, name: str) -> PodState:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ClusterBuildExecutor]:
    monkeypatch.setenv("STUDOVNA_HOME", str(tmp_path))

    def make(engine: Any) -> ClusterBuildExecutor:
        site = Site.model_validate({"engine": "kubernetes", "images": "r.example.org/s"})
        registry = DockerRegistry(url="http://127.0.0.1:9", username="u", password="p")
        return ClusterBuildExecutor(site=site, engine=engine, registry=registry)

    return make


async def ordinary(executor: ClusterBuildExecutor) -> Failed | None:
    said: asyncio.Queue[Event | None] = asyncio.Queue()
    return await executor._read(request("x"), (INSTALL,), said)


async def dockerfile(executor: ClusterBuildExecutor) -> Failed | None:
    said: asyncio.Queue[Event | None] = asyncio.Queue()
    return await executor._read_stock(executor.engine, "x", INSTALL, said)


BOTH = pytest.mark.parametrize("read", [ordinary, dockerfile])


@BOTH
@pytest.mark.parametrize(
    "end",
    [PodState("Failed", {INSTALL: KILLED}, LABELS, deleting=True), MISSING],
    ids=["being deleted", "gone"],
)
async def test_a_pod_that_is_deleted_is_told(make: Any, read: Any, end: PodState) -> None:
    """The engine's answer is from before the deletion at first."""
    failed = await read(make(DoubleEngine(["pip"], [GONE_SOON, GONE_SOON, end])))
    assert failed is not None and failed.message == ENDED


@BOTH
async def test_what_a_deleted_builder_says_at_its_end_is_not_the_reason(
    make: Any, read: Any
) -> None:
    lines = [MARK + json.dumps(SAID)]
    deleting = PodState("Running", {INSTALL: ContainerState("running")}, LABELS, deleting=True)
    failed = await read(make(DoubleEngine(lines, [deleting])))
    assert failed is not None and failed.message == ENDED
    failed = await read(make(DoubleEngine(lines, [GONE_SOON])))
    assert failed is not None and "exit code 143" in failed.message


@BOTH
async def test_a_container_that_dies_by_itself_is_told_soon(make: Any, read: Any) -> None:
    began = time.monotonic()
    failed = await read(make(DoubleEngine(["no such file"], [GONE_SOON])))
    assert failed is not None
    assert "failed with exit code 137. It said last: no such file" in failed.message
    assert time.monotonic() - began < 3


@BOTH
async def test_what_the_cluster_did_comes_before_an_exit_code(make: Any, read: Any) -> None:
    why = Text("The cluster ended it because too little was left of something: {said}", said="disk")
    evicted = PodState("Failed", {INSTALL: KILLED}, LABELS, why)
    failed = await read(make(DoubleEngine([], [GONE_SOON, evicted])))
    assert failed is not None and "was cut off. The cluster ended it" in failed.message
    out_of_memory = {INSTALL: ContainerState("ended", 137, oom_killed=True)}
    failed = await read(make(DoubleEngine([], [PodState("Failed", out_of_memory, LABELS)])))
    assert failed is not None and "GB of memory" in failed.message


def test_the_engine_tells_that_a_pod_is_being_deleted() -> None:
    pod = {
        "metadata": {"name": "x", "labels": {"a": "b"}},
        "spec": {"initContainers": [{"name": FETCH}], "containers": [{"name": EXPORT}]},
        "status": {"phase": "Pending"},
    }
    assert not pod_state(pod).deleting
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T10:00:00Z"
    assert _without_site(pod_state(pod)).deleting


async def test_a_fault_of_reading_reaches_who_waits(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = make(DoubleEngine([], [GONE_SOON]))

    async def broken(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(executor_module.PodBuildExecutor, "_read", broken)
    with pytest.raises(ZeroDivisionError):
        async with asyncio.timeout(5):
            async for _ in executor._follow(request("x"), (INSTALL,)):
                pass


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The quota is asked again soon, and what comes before and after a start is there."""

    async def nothing(*_: Any) -> AsyncIterator[Event]:
        return
        yield {}

    async def there(*_: Any) -> None: ...

    cls = executor_module.PodBuildExecutor
    monkeypatch.setattr(executor_module, "QUOTA_PAUSE", 0.01)
    monkeypatch.setattr(cluster_module, "QUOTA_PAUSE", 0.01)
    monkeypatch.setattr(cls, "_push_base", there)
    monkeypatch.setattr(cls, "_follow", nothing)
    monkeypatch.setattr(cls, "_end_later", there)
    monkeypatch.setattr(cls, "_base_of", lambda *_: Base("site/lab", "1"))


def build(registry: str = "127.0.0.1:9") -> BuildRequest:
    return dataclasses.replace(request("x"), image=f"{registry}/binder/x:1")


async def test_a_build_waits_while_the_quota_of_builds_is_full(
    make: Any, hurry: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def there(image: str) -> ImageInfo:
        return ImageInfo("sha256:0", {}, {})

    engine = DoubleEngine([], [GONE_SOON], full=3)
    executor = make(engine)
    monkeypatch.setattr(executor.registry, "image", there)
    said = [str(one["message"]).strip() async for one in executor.run(build())]
    assert said.count(WAITING_FOR_QUOTA) == 1 and engine.full == -1


async def test_a_quota_that_stays_full_is_told(make: Any, hurry: None) -> None:
    executor = make(DoubleEngine([], [GONE_SOON], full=10**6))
    executor.site.binder.__dict__["build_minutes"] = 0.002
    with pytest.raises(Failed, match=str(STILL_FULL)):
        async for _ in executor.run(build()):
            pass
    executor.dockerfiles = executor.engine
    said: asyncio.Queue[Event | None] = asyncio.Queue()
    failed = await executor._build_stock(build(), Message("stock"), said)
    assert failed is not None and failed.message == STILL_FULL
    assert said.qsize() == 1


async def test_a_builder_waits_for_the_quota_too(make: Any, hurry: None) -> None:
    engine = DoubleEngine([MARK + json.dumps({"kind": "end"})], [GONE_SOON], full=2)
    executor = make(engine)
    executor.dockerfiles = engine
    said: asyncio.Queue[Event | None] = asyncio.Queue()
    assert await executor._build_stock(build(), Message("stock"), said) is None
    assert engine.full == -1 and WAITING_FOR_QUOTA in str(said.get_nowait())


def test_options_that_have_no_effect_are_told(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    executor = make(DoubleEngine([], [GONE_SOON]))
    assert "has no effect" not in caplog.text
    executor.node_selector = {"kind": "builds"}
    executor.warn_of_unused()
    assert "KubernetesBuildExecutor.node_selector has no effect here" in caplog.text
    assert "cluster.placement.builds" in caplog.text
    assert "namespace has" not in caplog.text


@pytest.mark.parametrize("leaving", [True, False], ids=["the service ends", "somebody cancels"])
async def test_a_start_that_the_services_end_meets_goes_on(make: Any, leaving: bool) -> None:
    """The next service finds the pod; a build that somebody cancels is undone at once."""
    engine = DoubleEngine([], [GONE_SOON])
    engine.slow = asyncio.Event()
    executor = make(engine)
    starting = asyncio.create_task(executor._start(build(), Base("site/lab", "1")))
    await asyncio.sleep(0.05)
    executor.leaving = leaving
    starting.cancel()
    await asyncio.sleep(0.05)
    engine.slow.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert engine.ran is leaving
