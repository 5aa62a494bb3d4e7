"""Real pods for the engine's tests, under a site of their own."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes_asyncio.client import (
    V1Container,
    V1ContainerPort,
    V1ObjectMeta,
    V1PersistentVolumeClaim,
    V1PersistentVolumeClaimSpec,
    V1Pod,
    V1PodSpec,
    V1VolumeResourceRequirements,
)

from spawner.engine import Engine, PodState
from spawner.podman_engine import PodmanEngine
from spawner.podman_network import remove_hub_address
from spawner.podman_translate import LABEL_SITE, USERNAME_LABEL
from studovna import images
from studovna.paths import ROOT, site_id
from studovna.podman import Podman, PodmanError
from tests.building import executor, make_executor, place, request_of  # noqa: F401 - fixtures

IMAGE = "localhost/studovna/base:latest"


class _Silent:
    """Nobody watches the image being built."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


@pytest.fixture(scope="session")
def site_podman() -> Iterator[Podman]:
    """Podman for a site in a folder of its own; what the site made is removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="studovna-engine-"))
    podman = Podman(folder)
    try:
        podman.probe()
    except PodmanError as error:
        shutil.rmtree(folder)
        pytest.skip(str(error))
    try:
        podman.run("image", "exists", IMAGE)
    except PodmanError:
        images.build(podman, ROOT / "images", ["base"], _Silent())
    yield podman
    label = f"label={LABEL_SITE}={site_id(folder)}"
    for name in podman.run("ps", "--all", "--quiet", "--filter", label).split():
        with contextlib.suppress(PodmanError):
            podman.run("rm", "--force", "--time", "0", "--depend", "--ignore", name)
    remove_hub_address(podman, site_id(folder))
    for name in podman.run("network", "ls", "--quiet", "--filter", label).split():
        podman.run("network", "rm", name)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def make_engine(site_podman: Podman) -> Callable[..., PodmanEngine]:
    """An engine on the test site: each call is what a hub has after it was started again."""

    def make(**options: Any) -> PodmanEngine:
        return PodmanEngine(site_podman, site_id(site_podman.state), **options)

    return make


@pytest.fixture
async def engine(make_engine: Callable[..., PodmanEngine]) -> AsyncIterator[PodmanEngine]:
    """An engine whose pods are ended and whose claims are erased after the test."""
    engine = make_engine()
    yield engine
    after = make_engine()
    for name in await after.states({}):
        await after.end(name, 0)
    for claim in await after.claims({}):
        await after.erase_claim(claim.name)


MakePod = Callable[..., V1Pod]


@pytest.fixture
def make_pod() -> MakePod:
    """A pod that runs a shell script; keywords go to the container or, if it has them, the pod."""

    def make(
        name: str, script: str = "sleep 1000", *, user: str | None = None, **more: Any
    ) -> V1Pod:
        names = V1PodSpec.attribute_map.keys() - {"resources"}
        in_spec = {key: more.pop(key) for key in list(more) if key in names}
        more.setdefault("command", ["sh", "-c", script])
        more.setdefault("image", IMAGE)
        main = V1Container(name="main", **more)
        in_spec["containers"] = [main, *in_spec.pop("containers", [])]
        labels = {USERNAME_LABEL: user} if user else {}
        return V1Pod(metadata=V1ObjectMeta(name=name, labels=labels), spec=V1PodSpec(**in_spec))

    return make


@pytest.fixture
def port() -> list[V1ContainerPort]:
    return [V1ContainerPort(container_port=8888)]


@pytest.fixture
def make_claim() -> Callable[..., V1PersistentVolumeClaim]:
    def make(name: str, **labels: str) -> V1PersistentVolumeClaim:
        resources = V1VolumeResourceRequirements(requests={"storage": "1Gi"})
        return V1PersistentVolumeClaim(
            metadata=V1ObjectMeta(name=name, labels=labels),
            spec=V1PersistentVolumeClaimSpec(access_modes=["ReadWriteOnce"], resources=resources),
        )

    return make


@pytest.fixture
def until() -> Callable[..., Any]:
    """Wait until a pod is in one of some phases; the state then."""

    async def wait(engine: Engine, name: str, *phases: str, seconds: float = 30) -> PodState:
        async with asyncio.timeout(seconds):
            while (state := await engine.state(name)).phase not in phases:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        return state

    return wait


@pytest.fixture
def inside(site_podman: Podman) -> Callable[..., str]:
    """Run a command in a pod's container."""

    def run(name: str, *command: str, user: str = "") -> str:
        full = f"{site_id(site_podman.state)}-{name}"
        argv = site_podman.argv("exec", *(["--user", user] if user else []), full, *command)
        done = subprocess.run(argv, env=site_podman.environment, capture_output=True, text=True)
        return done.stdout + done.stderr

    return run
