"""Where builds are tested: one registry, git host and podman for all tests of a folder.

The folder's conftest.py imports the fixtures.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from binder.builds import BuildRequest
from binder.embedded_registry import embedded_port, prepare
from binder.errors import Failed
from binder.events import Event
from binder.executor import PodBuildExecutor
from binder.registry import DockerRegistry
from spawner.podman_engine import PodmanEngine
from spawner.podman_network import hub_address, remove_hub_address
from studovna import images
from studovna.paths import ROOT, site_id
from studovna.podman import Podman, PodmanError
from studovna.site import Site
from studovna.system import ca_bundle
from tests.binder.githost import GitHost, make_repository


class _Silent:
    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


@dataclass
class Place:
    """A state folder with a registry and a git host, of which every repository is one test's."""

    podman: Podman
    host: GitHost
    service: subprocess.Popen[bytes]

    @property
    def state(self) -> Path:
        return self.podman.state

    def start_registry(self) -> None:
        self.service = _registry(self.state)

    def stop_registry(self) -> None:
        self.service.terminate()
        self.service.wait(20)


def _registry(state: Path) -> subprocess.Popen[bytes]:
    env = {**os.environ, "STUDOVNA_HOME": str(state)}
    return subprocess.Popen(
        [sys.executable, "-m", "binder.embedded_registry"], cwd=ROOT, env=env,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _copies(podman: Podman) -> list[str]:
    """The images that this machine has; podman cannot tell while others remove some."""
    for _ in range(20):
        with contextlib.suppress(PodmanError):
            return podman.run("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    raise AssertionError("podman does not list its images")


@pytest.fixture(scope="session")
def place() -> Iterator[Place]:
    state = Path(tempfile.mkdtemp(prefix="studovna-build-"))
    podman = Podman(state, registry_port=prepare(state))
    try:
        podman.probe()
    except PodmanError as error:
        shutil.rmtree(state)
        pytest.skip(str(error))
    images.build(podman, ROOT / "images", ["builder"], _Silent())
    address = hub_address(podman, site_id(state))
    found = Place(podman, GitHost(state / "git", address), _registry(state))
    yield found
    found.stop_registry()
    found.host.close()
    label = f"label=studovna.site={site_id(state)}"
    for name in podman.run("ps", "--all", "--quiet", "--filter", label).split():
        podman.run("rm", "--force", "--time", "0", "--depend", "--ignore", name)
    for image in _copies(podman):
        if image.startswith(f"127.0.0.1:{embedded_port(state)}/"):
            podman.run("rmi", "--force", image)
    remove_hub_address(podman, site_id(state))
    for name in podman.run("network", "ls", "--quiet", "--filter", label).split():
        podman.run("network", "rm", name)
    shutil.rmtree(state, ignore_errors=True)


@pytest.fixture
async def make_executor(place: Place) -> AsyncIterator[Callable[..., PodBuildExecutor]]:
    made: list[PodBuildExecutor] = []

    def make(**binder: Any) -> PodBuildExecutor:
        engine = PodmanEngine(place.podman, site_id(place.state), ca_bundle=ca_bundle())
        registry = DockerRegistry(state=place.state)
        site = Site.model_validate({"binder": {"build_minutes": 5, **binder}})
        made.append(
            PodBuildExecutor(site=site, engine=engine, podman=place.podman, registry=registry)
        )
        return made[-1]

    yield make
    for one in made:
        await asyncio.gather(*one._tasks)
        for name in await one.running():
            await one.cancel(name)
        await one.registry.close()


@pytest.fixture
def executor(make_executor: Callable[..., PodBuildExecutor]) -> PodBuildExecutor:
    return make_executor()


@pytest.fixture
def request_of(place: Place, request: pytest.FixtureRequest) -> Callable[..., BuildRequest]:
    """A repository with some files, and the request to build its commit."""
    count = iter(range(100))

    def make(files: dict[str, str] | None, folder: str = "", **more: Any) -> BuildRequest:
        name = f"{folder}r{abs(hash(request.node.nodeid)) % 10**8}-{next(count)}"
        ref = make_repository(place.host.root / name, {"README": "x"} | (files or {}))
        port = embedded_port(place.state)
        url = f"{place.host.url}/{name}"
        image = f"127.0.0.1:{port}/binder/{name.replace('/', '-')}:{ref}"
        return BuildRequest(
            image=image, repo_url=url, ref=ref, content="git", fetch_url=url,
            resolved_spec="x", provider="git", started_by="ana", **more,
        )  # fmt: skip

    return make


async def built(executor: PodBuildExecutor, request: BuildRequest) -> list[Event]:
    return [event async for event in executor.run(request)]


async def refused(executor: PodBuildExecutor, request: BuildRequest) -> str:
    """The sentence a build ends with; nothing of it is left, and no image."""
    with pytest.raises(Failed) as caught:
        await built(executor, request)
    assert await executor.registry.image(request.image) is None
    assert request.name not in await executor.running()
    return str(caught.value.message)


def run(place: Place, image: str, script: str) -> str:
    argv = ["run", "--rm", "--network", "none", "--user", "1000:100", image, "sh", "-c", script]
    return place.podman.run(*argv, timeout=120)


def said(events: list[Event]) -> str:
    return "".join(event["message"] for event in events)
