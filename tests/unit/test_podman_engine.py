"""What the engine of one machine decides before podman is called."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest
from kubernetes_asyncio.client import (
    V1Container,
    V1ObjectMeta,
    V1Pod,
    V1PodSpec,
    V1ResourceRequirements,
)

from spawner.engine import NoFreeDevice
from spawner.podman_call import Caller
from spawner.podman_engine import PodmanEngine
from spawner.podman_network import Networks
from studovna.podman import Podman

GPUS = {"nvidia.com/gpu=0": "nvidia.com/gpu", "nvidia.com/gpu=1": "nvidia.com/gpu"}


def gpu_pod(name: str) -> V1Pod:
    resources = V1ResourceRequirements(limits={"nvidia.com/gpu": "1"})
    container = V1Container(name="main", image="localhost/a:1", resources=resources)
    return V1Pod(metadata=V1ObjectMeta(name=name), spec=V1PodSpec(containers=[container]))


async def test_a_gpu_of_a_start_that_podman_did_not_list_yet_is_not_given_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = PodmanEngine(Podman(tmp_path), "gpus", gpus=GPUS)
    listed, run = asyncio.Event(), asyncio.Event()
    asked: list[str] = []

    async def pods() -> dict[str, Any]:
        asked.append("now")
        if len(asked) == 3:  # podman has looked before the first two had containers
            await listed.wait()
        return {}

    async def runs(plan: Any, *_: Any) -> None:
        if plan.name == "first":
            await run.wait()

    monkeypatch.setattr(engine, "_pods", pods)
    monkeypatch.setattr(engine, "_run", runs)
    first = asyncio.create_task(engine.run(gpu_pod("first")))
    await asyncio.sleep(0.01)
    assert await engine.free_gpus() == ("nvidia.com/gpu=1",)
    third = asyncio.create_task(engine.run(gpu_pod("third")))
    await asyncio.sleep(0.01)
    await engine.run(gpu_pod("second"))  # begins and is over while podman has not answered
    run.set()
    await first
    listed.set()
    with pytest.raises(NoFreeDevice):
        await third


async def test_networks_of_people_who_are_gone_leave_nothing_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = Caller(Podman(tmp_path))
    networks = Networks(caller, "gone")

    async def make(name: str) -> str:
        return "podman9"

    async def call(*args: str, **_: Any) -> str:
        return ""

    monkeypatch.setattr(networks, "_make", make)
    monkeypatch.setattr(caller, "call", call)
    monkeypatch.setattr(caller, "rootless", True)
    for number in range(20):
        name = f"gone-{number}"
        async with networks.held(name), networks.held(name):
            await networks.remove_unused(name)
            assert name in networks._interfaces  # somebody holds it
        await networks.remove_unused(name)
    gc.collect()
    assert not networks._locks and not networks._interfaces and not networks._users
