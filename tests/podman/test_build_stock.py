"""repo2docker with podman: a Dockerfile built within its limits, and ended with all of it."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from binder.builder_room import CGROUPS
from binder.builds import BuildRequest
from binder.engine_repo2docker import BUILT, DONE
from binder.errors import Failed
from binder.executor import PodBuildExecutor
from binder.stock import StockBuilds
from studovna.paths import ROOT, site_id
from studovna.podman import PodmanError
from tests.binder.githost import commit
from tests.building import Place, built, refused, run, said

pytestmark = pytest.mark.slow
LAB = "FROM localhost/studovna/lab\nUSER root\n"
BASE = "FROM localhost/studovna/base\nUSER root\n"


@pytest.fixture
def executor(make_executor: Callable[..., PodBuildExecutor]) -> PodBuildExecutor:
    return make_executor(dockerfiles=True)


def processes(word: str) -> list[psutil.Process]:
    """The processes whose command has this word as a whole argument."""
    found = []
    for one in psutil.process_iter(["cmdline"]):
        if word in (one.info["cmdline"] or []):
            found.append(one)
    return found


async def started(word: str) -> psutil.Process:
    """The process of a build's step, once it runs."""
    async with asyncio.timeout(60):
        while not (found := processes(word)):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    return found[0]


def nothing_left(place: Place, request: BuildRequest) -> None:
    stock = place.state / "engine" / "stock"
    assert not (stock / request.name).exists()
    cgroup = f"{site_id(place.state)}-{request.name}"
    assert not list(CGROUPS.glob(f"*/{cgroup}")) and not (CGROUPS / cgroup).exists()
    assert not processes(str(stock / request.name))
    left = place.podman.run("ps", "--all", "--external", "--format", "{{.Names}}")
    assert request.name not in left
    for image in (BUILT, DONE):
        with pytest.raises(PodmanError):
            place.podman.run("image", "exists", image)
    assert str(stock / request.name) not in Path("/proc/mounts").read_text()


async def test_a_dockerfile_becomes_an_image_that_starts(place, executor, request_of):
    request = request_of(
        {
            "Dockerfile": LAB + "ARG NB_USER\nARG NB_UID\nENV WHO=$NB_USER:$NB_UID\n"
            "RUN echo $((6*7)) > /made; env\nCOPY data /data\nUSER ${NB_UID}\n",
            "data/file": "from the repository\n",
            ".resources": "cpul=2\n",
            "index.ipynb": "{}",
        }
    )
    await executor.prepare(request.image.rpartition("/")[0] + "/")
    (registry,) = psutil.Process(place.service.pid).children()
    before = registry.io_counters().write_chars
    events = await built(executor, request)
    phases = [event["phase"] for event in events]
    assert sorted(set(phases), key=phases.index)[-3:] == ["fetching", "building", "pushing"]
    assert "Dockerfile needs a builder" in said(events) and "DockerBuildPack" in said(events)
    await asyncio.gather(*executor._tasks)
    nothing_left(place, request)
    info = await executor.registry.image(request.image)
    assert info is not None
    # The registry has lent the layers of the Lab: only what is new was packed and sent.
    assert max(info.blobs.values()) > 5 * 10**7
    assert registry.io_counters().write_chars - before < 10**7
    assert info.labels["repo2docker.repo"] == request.repo_url
    assert info.labels["repo2docker.ref"] == request.ref
    assert info.labels["studovna.resources"] == "cpul=2\n"
    place.podman.run("pull", "--quiet", request.image)
    script = "cat /made /data/file; echo $WHO; id -u; pwd; ls; jupyterhub-singleuser --version; env"
    out = run(place, request.image, script)
    assert out.startswith("42\nfrom the repository\njovyan:1000\n1000\n/home/jovyan/")
    assert "index.ipynb" in out and "/dev/studovna" not in out
    inspected = place.podman.run("image", "inspect", "--format", "{{json .Config}}", request.image)
    assert json.loads(inspected)["Cmd"] == ["jupyterhub-singleuser"]


@pytest.mark.parametrize(
    ("files", "settings", "sentence"),
    [
        ({"Dockerfile": BASE + "RUN exit 7"}, {}, "RUN exit 7 failed (exit code 7)"),
        (
            {"Dockerfile": BASE + "RUN python3 -c 'x = bytearray(10**9)'"},
            {"build_memory": "400M"},
            "took more than 0.391 GB of memory",
        ),
        (
            {"Dockerfile": BASE + "RUN dd if=/dev/zero of=/big bs=1M count=4000"},
            {"image_disk": "1G"},
            "needs more than 1.07 GB of disk",
        ),
        ({"Dockerfile": "FROM nowhere.invalid/image:1\n"}, {}, "nowhere.invalid/image:1, which"),
        ({"Dockerfile": "FROM localhost/studovna/builder:latest\n"}, {}, "cannot be had"),
        ({"Dockerfile": BASE}, {}, "no jupyterhub-singleuser"),
        ({"Dockerfile": "FRO x\n"}, {}, "The build failed"),
        (
            {"Dockerfile": LAB + "ADD http://127.0.0.1:{port}/v2/ /x\n"},
            {},
            "connection refused",
        ),
    ],
    ids=["step", "memory", "disk", "no-base", "not-visible", "no-server", "syntax", "add"],
)  # fmt: skip
async def test_what_cannot_be_built_is_said(
    place, make_executor, request_of, files, settings, sentence
):
    executor = make_executor(dockerfiles=True, **settings)
    port = executor.registry.url.rpartition(":")[2]
    files = {name: text.replace("{port}", port) for name, text in files.items()}
    request = request_of(files)
    assert sentence in await refused(executor, request)
    nothing_left(place, request)


def make_image_folder(folder: Path) -> Path:
    """An image in a folder of this machine, as `skopeo copy … dir:` leaves one."""
    folder.mkdir(mode=0o755)
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        member = tarfile.TarInfo("secret-of-the-machine")
        tar.addfile(member, io.BytesIO())
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{digest}"]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs, "config": {}})
    config_digest = hashlib.sha256(config.encode()).hexdigest()
    kind = "application/vnd.oci.image.{}"
    parts = [("config.v1+json", config_digest, len(config)),
             ("layer.v1.tar", digest, len(layer.getvalue()))]  # fmt: skip
    described = [
        {"mediaType": kind.format(name), "digest": f"sha256:{one}", "size": size}
        for name, one, size in parts
    ]
    manifest = {
        "schemaVersion": 2, "mediaType": kind.format("manifest.v1+json"),
        "config": described[0], "layers": described[1:],
    }  # fmt: skip
    (folder / "version").write_text("Directory Transport Version: 1.1\n")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / config_digest).write_text(config)
    (folder / digest).write_bytes(layer.getvalue())
    return folder


@pytest.mark.parametrize(
    ("dockerfile", "wanted"),
    [
        ("ARG A=ir:\nFROM d${{A}}{folder}\n", "only from registries"),
        (BASE + "COPY --from=dir:{folder} / /x\n", "no stage or image found"),
        (
            "FROM containers-storage:[{driver}@{root}]localhost/studovna/builder:latest\n",
            "cannot be had",
        ),
    ],
    ids=["from", "copy", "store"],
)
async def test_no_image_of_this_machine_is_had_by_its_place(
    place, executor, request_of, tmp_path, dockerfile, wanted
):
    folder = make_image_folder(tmp_path / "image")
    store = json.loads(place.podman.run("info", "--format", "json"))["store"]
    text = dockerfile.format(
        folder=folder, driver=store["graphDriverName"], root=store["graphRoot"]
    )
    request = request_of({"Dockerfile": text})
    assert wanted in await refused(executor, request)
    nothing_left(place, request)


async def test_repo2dockers_own_buildpacks_start_from_the_image_that_a_site_names(
    place, executor, request_of
):
    executor.repo2docker_extra_args = ["--Repo2Docker.base_image=nowhere.invalid/base:1"]
    request = request_of({"apt.txt": "tree\n", "requirements.txt": "cowsay\n"})
    assert "nowhere.invalid/base:1, which" in await refused(executor, request)
    nothing_left(place, request)


async def test_a_link_out_of_the_repository_is_not_followed(place, executor, request_of):
    request = request_of({"Dockerfile": LAB, "sub/deep/x": "y"})
    folder = place.host.root / request.repo_url.rpartition("/")[2]
    (folder / "sub/deep/up").symlink_to("../..")
    (folder / ".dockerignore").symlink_to("sub/deep/up/../../../../../../../etc/passwd")

    request = replace(request, ref=commit(folder, {}))
    assert ".dockerignore is a link that leads out" in await refused(executor, request)
    nothing_left(place, request)


async def test_a_step_reaches_no_more_than_a_pod(place, executor, request_of):
    port = executor.registry.url.rpartition(":")[2]
    other = "169.254.169.254"
    script = (
        "import socket\n"
        f"for where in (('127.0.0.1', {port}), ('{other}', 80)):\n"
        "    try: socket.create_connection(where, 3); print('reached', where)\n"
        "    except OSError as error: print('closed', where, error)\n"
    )
    request = request_of(
        {"Dockerfile": BASE + "COPY try.py /\nRUN python3 /try.py", "try.py": script}
    )
    events = []
    with pytest.raises(Failed):
        async for event in executor.run(request):
            events.append(event)
    assert said(events).count("closed") == 2 and "reached" not in said(events)


async def test_a_plan_that_a_repository_rewrites_makes_no_built_image_of_none(executor, request_of):
    script = '#!/bin/sh\necho \'{"stock": {"template": "x"}}\' > /build/plan/plan.json\n'
    request = request_of({"postBuild": script})
    assert "ended without an image" in await refused(executor, request)


async def test_one_that_never_ends_is_ended_with_all_its_processes(
    place, make_executor, request_of
):
    executor = make_executor(dockerfiles=True, build_minutes=0.3)
    bomb = (
        BASE + 'RUN ["bash", "-c", "for i in 1 2 3; do (exec -a ststock1 sleep 900) & done; wait"]'
    )
    request = request_of({"Dockerfile": bomb})
    assert "took longer than 0.3 minutes" in await refused(executor, request)
    assert not processes("ststock1")
    nothing_left(place, request)


async def test_cancel_ends_every_process(place, executor, request_of):
    lines = BASE + 'RUN ["bash", "-c", "(exec -a ststock2 sleep 900) & sleep 901"]'
    request = request_of({"Dockerfile": lines})
    task = asyncio.create_task(built(executor, request))
    await started("ststock2")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await executor.cancel(request.name)
    assert not processes("ststock2") and not await executor.running()
    nothing_left(place, request)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [("build", "Podman was ended in the middle"), ("binder.engine_repo2docker", "interrupted")],
)
async def test_what_is_killed_in_the_middle_is_told(place, executor, request_of, command, sentence):
    request = request_of({"Dockerfile": BASE + 'RUN ["bash", "-c", "exec -a ststock3 sleep 900"]'})
    task = asyncio.create_task(refused(executor, request))
    step = await started("ststock3")
    above = [one for one in step.parents() if command in one.cmdline()]
    os.kill(above[0].pid, signal.SIGKILL)
    assert sentence in await asyncio.wait_for(task, 60)
    assert not processes("ststock3")
    nothing_left(place, request)


SERVICE = """
import asyncio, json, sys
from pathlib import Path
from binder.builds import BuildRequest
from binder.executor import PodBuildExecutor
from binder.registry import DockerRegistry
from studovna.podman import Podman
from studovna.site import Site
state, port, request = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])

async def main():
    site = Site.model_validate({"binder": {"build_minutes": 5, "dockerfiles": True}})
    podman = Podman(state, registry_port=port)
    registry = DockerRegistry(state=state)
    executor = PodBuildExecutor(site=site, podman=podman, registry=registry)
    async for event in executor.run(BuildRequest.from_dict(request)):
        print(json.dumps(event), flush=True)

asyncio.run(main())
"""


async def test_a_new_service_follows_what_a_killed_one_began(
    place, make_executor, request_of, tmp_path
):
    lines = (
        LAB + "RUN echo begun; while [ ! -e /never ] && [ $((n=n+1)) -lt 80 ]; do sleep 0.1; done"
    )
    request = request_of({"Dockerfile": lines + "\nUSER 1000\n"})
    executor = make_executor(dockerfiles=True)
    await executor.prepare(request.image.rpartition("/")[0] + "/")
    port = executor.registry.url.rpartition(":")[2]
    argv = [sys.executable, "-c", SERVICE, str(place.state), port, json.dumps(request.to_dict())]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as service:  # noqa: ASYNC220
        assert service.stdout is not None
        while (
            "begun" not in json.loads(await asyncio.to_thread(service.stdout.readline))["message"]
        ):
            pass
        service.kill()
    assert request.name in await executor.running()
    events = await built(executor, request)
    assert said(events).count("begun\n") >= 1 and said(events).count("STEP 3") >= 1
    assert await executor.registry.image(request.image) is not None
    await asyncio.gather(*executor._tasks)
    nothing_left(place, request)


async def test_a_machine_that_went_down_leaves_nothing(place, make_executor, request_of):
    request = request_of({"Dockerfile": BASE + 'RUN ["bash", "-c", "exec -a ststock4 sleep 900"]'})
    first = make_executor(dockerfiles=True)
    task = asyncio.create_task(built(first, request))
    step = await started("ststock4")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    outer = [one for one in step.parents() if "unshare" in one.name()]
    os.kill(outer[0].pid, signal.SIGKILL)
    second = make_executor(dockerfiles=True)
    assert request.name in await second.running()
    assert "was interrupted" in await refused(second, request)
    nothing_left(place, request)


async def test_a_name_that_is_no_builds_is_left_alone(place, executor):
    assert isinstance(executor.stock, StockBuilds)
    (place.state / "engine/stock/other").mkdir(parents=True, exist_ok=True)
    assert executor.stock.names() == set()
    await executor.stock.end("../stock/other")
    assert (place.state / "engine/stock/other").is_dir()
    (place.state / "engine/stock/other").rmdir()
