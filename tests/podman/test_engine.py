"""The engine with real pods: start, state, logs, end, and what is left behind (nothing)."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kubernetes_asyncio.client import (
    V1Container,
    V1EmptyDirVolumeSource,
    V1EnvVar,
    V1ResourceRequirements,
    V1SecurityContext,
    V1Volume,
    V1VolumeMount,
)

from spawner.engine import (
    EngineError,
    ImageMissing,
    PodEnded,
    PodExists,
    PodMissing,
    RegistryUnreachable,
    UntranslatableField,
)
from spawner.podman_engine import PodmanEngine
from studovna.paths import ROOT, site_id
from studovna.podman import Podman
from studovna.text import Text

IMAGE = "localhost/studovna/base:latest"


def _left(podman: Podman, name: str) -> list[str]:
    """All that this machine has of a pod and its network, by every way of asking."""
    site = site_id(podman.state)
    label = f"label=studovna.site={site}"
    left = podman.run("ps", "--all", "--format", "{{.Names}}", "--filter", label).split()
    left = [one for one in left if one == f"{site}-{name}" or one.startswith(f"{site}-{name}_")]
    folder = podman.state / "engine" / "pods" / name
    left += [str(folder)] if folder.exists() else []
    left += [line for line in Path("/proc/mounts").read_text().splitlines() if f"/{name}/" in line]
    return left


def _networks(podman: Podman) -> set[str]:
    label = f"label=studovna.site={site_id(podman.state)}"
    out = podman.run("network", "ls", "--format", "{{.Name}}", "--filter", label)
    return {name for name in out.split() if not name.endswith("-hub")}


async def test_a_pod_runs_answers_and_ends(
    engine: PodmanEngine, make_pod, port, until, site_podman
):
    assert (await engine.state("one")).phase == "Missing"
    said: list[Text] = []
    pod = make_pod("one", "echo hello; exec python3 -m http.server 8888", user="ana", ports=port)
    await engine.run(pod, on_event=said.append)
    state = await engine.state("one")
    assert state.phase == "Running"
    assert state.labels == {"hub.jupyter.org/username": "ana"}
    assert state.containers["main"].state == "running"
    assert abs(state.containers["main"].started_at - datetime.now(UTC)) < timedelta(seconds=60)
    url = await engine.url("one", 8888)
    assert url.startswith("http://127.0.0.1:")
    async with asyncio.timeout(10):
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", int(url.split(":")[2]))
                writer.write(b"GET / HTTP/1.0\r\n\r\n")
                answer = await reader.read(20)
                writer.close()
            except OSError:
                answer = b""
            if answer:
                break
            await asyncio.sleep(0.1)
    assert b"200" in answer
    with pytest.raises(EngineError, match="does not list its port 9999"):
        await engine.url("one", 9999)
    assert (await engine.tail("one", "main", 50))[0] == "hello"
    assert list(await engine.states({"hub.jupyter.org/username": "ana"})) == ["one"]
    assert not await engine.states({"hub.jupyter.org/username": "bob"})
    await engine.end("one", 0)
    assert (await engine.state("one")).phase == "Missing"
    assert not _left(site_podman, "one")
    assert not _networks(site_podman)
    await engine.end("one", 0)
    await engine.end("never-was")


async def test_exit_code_and_times(engine, make_pod, until):
    await engine.run(make_pod("bad", "exit 7"))
    await engine.run(make_pod("good", "true"))
    state = await until(engine, "bad", "Failed")
    assert state.containers["main"].exit_code == 7
    assert not state.containers["main"].oom_killed
    assert state.containers["main"].finished_at >= state.containers["main"].started_at
    assert (await until(engine, "good", "Succeeded")).containers["main"].exit_code == 0


async def test_a_taken_name_is_refused_and_the_first_pod_lives(engine, make_pod, make_engine):
    await engine.run(make_pod("twice"))
    with pytest.raises(PodExists):
        await engine.run(make_pod("twice"))
    with pytest.raises(PodExists):
        await make_engine().run(make_pod("twice"))
    assert (await engine.state("twice")).phase == "Running"


async def test_a_container_whose_folder_was_lost_is_found_and_ended(engine, make_pod, site_podman):
    await engine.run(make_pod("lost", user="lost"))
    folder = site_podman.state / "engine" / "pods" / "lost"
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(PodExists):
        await engine.run(make_pod("lost", user="lost"))
    assert (await engine.state("lost")).phase == "Running"
    await engine.end("lost", 0)
    folder.with_name("elsewhere").rename(folder)
    await engine.end("lost", 0)
    assert not _left(site_podman, "lost")
    assert not _networks(site_podman)


async def test_what_is_missing_is_said(engine, make_pod, site_podman):
    with pytest.raises(ImageMissing, match="localhost/no-such-image"):
        await engine.run(make_pod("none", image="localhost/no-such-image:1"))
    with pytest.raises(RegistryUnreachable) as caught:
        await engine.run(make_pod("none", image="127.0.0.1:9/x:1"))
    assert "podman pull" in caught.value.detail and "refused" in caught.value.detail
    with pytest.raises(ImageMissing):
        await engine.run(make_pod("none", image="127.0.0.1:9/x:1", image_pull_policy="Never"))
    with pytest.raises(EngineError, match="no program no-such-program"):
        await engine.run(make_pod("none", command=["no-such-program"]))
    with pytest.raises(PodMissing):
        await engine.tail("none", "main", 3)
    with pytest.raises(PodMissing):
        await engine.url("none", 1)
    with pytest.raises(UntranslatableField, match="hostNetwork"):
        await engine.run(make_pod("none", host_network=True))
    assert not _left(site_podman, "none")
    assert not _networks(site_podman)


async def test_run_as_non_root_looks_at_the_image(engine, make_pod):
    await engine.run(make_pod("person", security_context=V1SecurityContext(run_as_non_root=True)))
    with pytest.raises(UntranslatableField, match="runAsUser"):
        context = V1SecurityContext(run_as_non_root=True, run_as_user=0)
        await engine.run(make_pod("root", security_context=context))


async def test_environment_arrives_and_is_not_seen_by_others(engine, make_pod, until):
    values = {
        "TOKEN": "s3cr3t-hidden", "EMPTY": "", "SPACES": "  two  ", "QUOTED": '"q"', "HOME": "/tmp",
        "LINES": "a\nb", "HASH": "a#b $HOME", "REF": "$(EMPTY)x:$(nowhere)", "JSON": '{"a": 1}',
    }  # fmt: skip
    env = [V1EnvVar(name=name, value=value) for name, value in values.items()]
    starting = asyncio.create_task(
        engine.run(make_pod("env", "python3 -c 'import os; print(dict(os.environ))'", env=env))
    )
    seen = b""
    while not starting.done():
        seen += await asyncio.to_thread(_processes)
    await starting
    assert b"studovna.pod=env" in seen and b"s3cr3t-hidden" not in seen
    await until(engine, "env", "Succeeded")
    found = eval((await engine.tail("env", "main", 1))[0])
    values["REF"] = "x:$(nowhere)"
    assert {name: found.get(name) for name in values} == values
    assert not [name for name in found if "proxy" in name.lower()]


async def test_command_and_args_as_kubernetes_means_them(engine, make_pod, until):
    show = ["python3", "-c", "import sys; print(sys.argv[1:])"]
    await engine.run(
        make_pod(
            "cmd",
            command=show,
            args=["$(A)", "$$(A)"],
            env=[V1EnvVar(name="A", value="1")],
            working_dir="/usr",
        )
    )
    await until(engine, "cmd", "Succeeded")
    assert await engine.tail("cmd", "main", 1) == ["['1', '$(A)']"]


async def test_memory_limit_kills_and_says_so(engine, make_pod, until):
    limits = V1ResourceRequirements(limits={"memory": "64Mi"})
    eat = "x = bytearray(200 * 2**20)"
    await engine.run(make_pod("oom", command=["python3", "-c", eat], resources=limits))
    child = f"python3 -c '{eat}'; sleep 0.2; exit 3"
    await engine.run(make_pod("oom-child", child, resources=limits))
    await engine.run(make_pod("killed", "kill -9 $$; sleep 1", resources=limits))
    state = await until(engine, "oom", "Failed")
    assert state.containers["main"].exit_code == 137
    assert state.containers["main"].oom_killed
    state = await until(engine, "oom-child", "Failed")
    assert (state.containers["main"].exit_code, state.containers["main"].oom_killed) == (3, True)


async def test_processor_limit_holds(engine, make_pod, until):
    limits = V1ResourceRequirements(limits={"cpu": "200m"}, requests={"cpu": "100m"})
    spin = "import time\nt=time.time()\nwhile time.time()-t<2: pass\nprint(time.process_time())"
    await engine.run(make_pod("cpu", command=["python3", "-c", spin], resources=limits))
    await until(engine, "cpu", "Succeeded")
    assert float((await engine.tail("cpu", "main", 1))[0]) < 0.7


async def test_killed_from_outside_is_seen(engine, make_pod, until, site_podman):
    await engine.run(make_pod("kill"))
    name = f"{site_id(site_podman.state)}-kill"
    process = int(site_podman.run("inspect", "--format", "{{.State.Pid}}", name))
    os.kill(process, signal.SIGKILL)
    state = await until(engine, "kill", "Failed", seconds=10)
    assert state.containers["main"].exit_code == 137
    assert not state.containers["main"].oom_killed
    site_podman.run("rm", "--force", name)
    await until(engine, "kill", "Missing", seconds=5)
    await engine.end("kill", 0)
    assert not _left(site_podman, "kill")
    assert not _networks(site_podman)


async def test_after_a_hub_restart_all_is_the_same(engine, make_engine, make_pod, port):
    await engine.run(make_pod("stay", "echo here; sleep 1000", ports=port))
    other = make_engine()
    assert await other.state("stay") == await engine.state("stay")
    assert await other.url("stay", 8888) == await engine.url("stay", 8888)
    assert await other.tail("stay", "main", 5) == ["here"]
    await other.end("stay", 0)
    assert (await other.state("stay")).phase == "Missing"


async def test_end_asks_first_and_then_kills_everything(engine, make_pod, site_podman):
    polite = "trap 'echo bye; exit 0' TERM; while :; do sleep 0.1; done"
    await engine.run(make_pod("polite", polite))
    await asyncio.sleep(0.5)
    following = asyncio.create_task(_all(engine.logs("polite", "main", follow=True)))
    await asyncio.sleep(0.3)
    await engine.end("polite", 10)
    assert (await following)[-1:] in (["bye"], [])
    deaf = "trap '' TERM; for i in 1 2 3 4; do (exec -a stbomb sleep 777) & done; wait"
    await engine.run(make_pod("deaf", command=["bash", "-c", deaf]))
    await asyncio.sleep(0.5)
    assert b"stbomb" in await asyncio.to_thread(_processes)
    started = asyncio.get_running_loop().time()
    await engine.end("deaf", 1)
    assert 0.9 < asyncio.get_running_loop().time() - started < 8
    assert b"stbomb" not in await asyncio.to_thread(_processes)


async def test_a_fork_bomb_is_bounded_and_ends(engine, make_pod, site_podman):
    bomb = "b() { b | b & }; b; sleep 1000"
    limits = V1ResourceRequirements(limits={"cpu": "500m", "memory": "256Mi"})
    await engine.run(make_pod("bomb", command=["bash", "-c", bomb], resources=limits))
    await asyncio.sleep(2)
    await engine.end("bomb", 1)
    assert not _left(site_podman, "bomb")
    assert b"b() { b | b & }" not in await asyncio.to_thread(_processes)


def _processes() -> bytes:
    found = b""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += file.read_bytes()
        except OSError:
            continue
    return found


async def _all(lines: Any) -> list[str]:
    return [line async for line in lines]


async def test_logs_follow_to_the_end(engine, make_pod):
    script = "for i in 1 2 3; do echo line $i; sleep 0.3; done; printf without-end; echo err >&2"
    await engine.run(make_pod("log", script))
    found = await _all(engine.logs("log", "main", follow=True))
    assert found[:3] == ["line 1", "line 2", "line 3"]
    assert sorted(found[3:]) == ["err", "without-end"]
    assert await _all(engine.logs("log", "main", since=datetime.now(UTC))) == []
    assert len(await _all(engine.logs("log", "main"))) == 5


async def test_a_long_log_is_bounded(engine, make_pod, until, site_podman):
    await engine.run(make_pod("flood", "yes 123456789012345678901234567890 | head -c 30000000"))
    await until(engine, "flood", "Succeeded")
    file = site_podman.state / "engine" / "pods" / "flood" / "logs" / "main.log"
    assert file.stat().st_size < 11 * 2**20
    assert len(await engine.tail("flood", "main", 10)) == 10


# --- several containers -------------------------------------------------------------------------


def _with_init(make_pod: Any, name: str, *scripts: str, main: str, **more: Any) -> Any:
    shared = [V1VolumeMount(name="shared", mount_path="/shared")]
    medium = more.pop("medium", None)
    init = [
        V1Container(name=f"i{n}", image=IMAGE, command=["sh", "-c", script], volume_mounts=shared)
        for n, script in enumerate(scripts)
    ]
    volume = V1Volume(name="shared", empty_dir=V1EmptyDirVolumeSource(medium=medium))
    return make_pod(
        name, main, init_containers=init, volumes=[volume], volume_mounts=shared, **more
    )


@pytest.mark.parametrize("medium", [None, "Memory"], ids=["disk", "memory"])
async def test_init_containers_run_in_order_and_share_a_folder(
    engine, make_pod, until, medium, site_podman
):
    pod = _with_init(
        make_pod, "build", "sleep 1; echo first > /shared/a",
        "cat /shared/a; echo second >> /shared/a",
        main="cat /shared/a; grep /shared /proc/mounts", medium=medium,
    )  # fmt: skip
    await engine.run(pod)
    state = await engine.state("build")
    assert state.phase == "Pending" and state.containers["main"].state == "waiting"
    follow = await _all(engine.logs("build", "main", follow=True))
    assert follow[:2] == ["first", "second"]
    assert ("tmpfs" in follow[2]) == (medium == "Memory")
    state = await until(engine, "build", "Succeeded")
    assert {name: one.exit_code for name, one in state.containers.items()} == {
        "i0": 0, "i1": 0, "main": 0,
    }  # fmt: skip
    assert await engine.tail("build", "i1", 5) == ["first"]
    await engine.end("build", 0)
    assert not _left(site_podman, "build")


async def test_a_failed_init_container_fails_the_pod(engine, make_pod, until, make_engine):
    await engine.run(_with_init(make_pod, "broken", "exit 5", "touch /shared/x", main="true"))
    state = await until(engine, "broken", "Failed")
    assert state.containers["i0"].exit_code == 5
    assert state.containers["i1"].state == state.containers["main"].state == "waiting"
    assert (await make_engine().state("broken")).phase == "Failed"


async def test_a_pod_with_a_long_init_container_ends_at_once(engine, make_pod, site_podman):
    await engine.run(_with_init(make_pod, "long", "sleep 600", main="true"))
    await asyncio.sleep(1)
    assert (await engine.state("long")).phase == "Pending"
    started = asyncio.get_running_loop().time()
    await engine.end("long", 0)
    assert asyncio.get_running_loop().time() - started < 5
    await asyncio.sleep(0.5)
    assert not _left(site_podman, "long")


async def test_a_pod_goes_on_starting_when_the_hub_dies(site_podman, make_engine, until, engine):
    """A hub that is killed right after it asked; the next one sees the pod succeed."""
    code = """
import asyncio, os, signal, sys
from pathlib import Path
from kubernetes_asyncio.client import *
from spawner.podman_engine import PodmanEngine
from studovna.podman import Podman
state, site, image = sys.argv[1:]
def container(name, script):
    return V1Container(name=name, image=image, command=["sh", "-c", script])
pod = V1Pod(metadata=V1ObjectMeta(name="orphan"), spec=V1PodSpec(
    init_containers=[container("i0", "sleep 2"), container("i1", "sleep 1")],
    containers=[container("main", "echo done")]))
async def main():
    await PodmanEngine(Podman(Path(state)), site).run(pod)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    argv = [sys.executable, "-c", code, str(site_podman.state), site_id(site_podman.state), IMAGE]
    hub = await asyncio.create_subprocess_exec(*argv, cwd=ROOT)
    assert await hub.wait() == -signal.SIGKILL
    assert (await engine.state("orphan")).phase == "Pending"
    await until(engine, "orphan", "Succeeded")
    assert await engine.tail("orphan", "main", 1) == ["done"]


async def test_a_start_that_was_cut_short_is_failed(engine, make_pod, until, site_podman):
    await engine.run(_with_init(make_pod, "cut", "sleep 2", main="true"))
    folder = site_podman.state / "engine" / "pods" / "cut"
    os.kill(int((folder / "starter").read_text()), signal.SIGKILL)
    state = await until(engine, "cut", "Failed")
    assert "cut short" in (state.reason or "")


async def test_sidecars_share_the_network(engine, make_pod, port, until):
    side = V1Container(
        name="side", image=IMAGE, command=["sh", "-c", "python3 -m http.server 8888"], ports=port
    )
    ask = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8888').status)"
    script = (
        f'for i in 1 2 3 4 5 6 7 8 9; do sleep 0.5; python3 -c "{ask}" && break; done; sleep 99'
    )
    await engine.run(make_pod("pair", script, containers=[side]))
    assert (await engine.state("pair")).phase == "Running"
    assert (await engine.url("pair", 8888)).startswith("http://127.0.0.1:")
    async with asyncio.timeout(15):
        while "200" not in await engine.tail("pair", "main", 5):  # noqa: ASYNC110
            await asyncio.sleep(0.2)


# --- cut short ----------------------------------------------------------------------------------


async def test_a_cancelled_start_leaves_nothing(engine, make_pod, site_podman):
    """At any moment: each round is cancelled a little later, until one gets through."""
    after = 0.0
    while True:
        task = asyncio.create_task(engine.run(make_pod("cancel", user="cancel")))
        await asyncio.wait([task], timeout=after)
        if not task.cancel():
            break
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not _left(site_podman, "cancel"), after
        assert not _networks(site_podman), after
        assert (await engine.state("cancel")).phase == "Missing"
        after = after * 1.4 + 0.02
    assert after > 0.1
    await engine.end("cancel", 0)
    assert not _left(site_podman, "cancel")
    assert not _networks(site_podman)


async def test_ending_a_pod_that_starts_cuts_its_start_short(engine, make_pod, site_podman):
    task = asyncio.create_task(engine.run(make_pod("hasty")))
    await asyncio.sleep(0.1)
    await engine.end("hasty", 0)
    with pytest.raises(PodEnded):
        await task
    assert not _left(site_podman, "hasty")


async def test_many_questions_cost_one_podman(engine, make_pod, monkeypatch):
    await engine.run(make_pod("busy"))
    calls: list[tuple[str, ...]] = []
    call = engine._caller.call

    async def counted(*args: str, **more: Any) -> str:
        calls.append(args)
        return await call(*args, **more)

    monkeypatch.setattr(engine._caller, "call", counted)
    states = await asyncio.gather(*(engine.state("busy") for _ in range(300)))
    assert len(calls) == 1 and all(state.phase == "Running" for state in states)
