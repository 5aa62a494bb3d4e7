"""The hub's view of pods on a real API server: a watch that ends is never what is believed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from kubespawner.clients import load_config
from kubespawner.reflector import ResourceReflector

from spawner import kube_reflector
from spawner.engine import EngineUnavailable
from spawner.kube_objects import make_pod, remove_pod
from spawner.kube_reflector import LastingReflector, Reflectors
from tests.cluster.kube import IMAGE, namespace, use_cluster


@pytest.fixture(scope="module")
def space() -> Iterator[str]:
    use_cluster()
    with namespace("eng") as name:
        yield name


@pytest.fixture
def make(space: str) -> Any:
    load_config()
    return lambda: LastingReflector(namespace=space, labels={"component": "test"})


def pod(name: str) -> dict[str, Any]:
    """A pod that is never placed: only the API server is asked here."""
    return {
        "metadata": {"name": name, "labels": {"component": "test"}},
        "spec": {
            "containers": [{"name": "main", "image": IMAGE}],
            "nodeSelector": {"no": "where"},
        },
    }


async def seen(reflector: Any, space: str, name: str) -> None:
    async with asyncio.timeout(30):
        while f"{space}/{name}" not in reflector.pods:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_one_watch_for_all_who_ask_and_a_new_one_for_one_that_died(space, make):
    known: dict[Any, ResourceReflector] = {}
    every = await asyncio.gather(*(Reflectors.living(known, "k", False, make) for _ in range(20)))
    (first,) = set(every)
    first.watch_task.cancel()
    await asyncio.wait([first.watch_task])
    assert not first.lives
    second = await Reflectors.living(known, "k", False, make)
    assert second is not first and second.lives
    await make_pod(space, pod("late"))
    await seen(second, space, "late")
    assert await Reflectors.living(known, "k", False, make) is second
    third = await Reflectors.living(known, "k", True, make)
    assert third is not second and f"{space}/late" in third.pods
    assert not second.lives
    await third.stop()
    await remove_pod(space, "late", 0)


async def test_a_watch_that_gave_up_starts_again(space, make, monkeypatch):
    monkeypatch.setattr(kube_reflector, "AGAIN_SECONDS", 0.1)
    really = ResourceReflector._watch_and_update
    gave_up = asyncio.Event()

    async def giving_up(self: Any) -> None:
        if not gave_up.is_set():
            gave_up.set()
            return
        await really(self)

    monkeypatch.setattr(ResourceReflector, "_watch_and_update", giving_up)
    reflector = await Reflectors.living({}, "k", False, make)
    await gave_up.wait()
    await make_pod(space, pod("after"))
    await seen(reflector, space, "after")
    assert reflector.lives
    await reflector.stop()
    await remove_pod(space, "after", 0)


async def test_a_watch_that_never_loaded_is_not_kept(space):
    def wrong() -> LastingReflector:
        return LastingReflector(namespace="no/such/namespace", labels={"component": "test"})

    known: dict[Any, ResourceReflector] = {}
    with pytest.raises(EngineUnavailable):
        await Reflectors.living(known, "k", False, wrong)
    assert not known


async def test_a_watch_that_ended_in_peace_goes_on_without_a_list(space, make, monkeypatch):
    really = ResourceReflector._list_and_update
    lists = 0

    async def counted(self: Any, version: str | None = None) -> Any:
        nonlocal lists
        lists += 1
        return await really(self, version)

    monkeypatch.setattr(ResourceReflector, "_list_and_update", counted)
    reflector = make()
    reflector.timeout_seconds = 1
    await reflector.start()
    await asyncio.sleep(3.5)
    before = lists
    await make_pod(space, pod("quiet"))
    await seen(reflector, space, "quiet")
    await remove_pod(space, "quiet", 0)
    async with asyncio.timeout(30):
        while f"{space}/quiet" in reflector.pods:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await asyncio.sleep(2.5)
    assert lists == before == 2  # one to start with, one of the watch's own
    monkeypatch.setattr(kube_reflector, "LIST_SECONDS", 0.0)
    async with asyncio.timeout(30):
        while lists == before:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await reflector.stop()
