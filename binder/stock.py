"""Builds that need a builder: what a build pod has fetched, handed to repo2docker and podman.

Of each such build there is, until it has ended, a folder ``engine/stock/<name>/`` in the site's
state::

    src/          the repository's files
    build.json    what is to be done (`StockBuild`)
    auth.json     the credential to push one image
    lock          held by the builder while it lives
    log           what it writes
    root/ …       podman's store, and whatever else the builder makes

and a pod ``<name>-net`` that does nothing: its network is the builder's. The builder goes on when
this service ends, and is found again by its folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from kubernetes_asyncio.client import (
    V1Capabilities,
    V1Container,
    V1ObjectMeta,
    V1Pod,
    V1PodSecurityContext,
    V1PodSpec,
    V1ResourceRequirements,
    V1SeccompProfile,
    V1SecurityContext,
)
from tornado.log import app_log

from spawner.engine import Engine, EngineError
from spawner.podman_call import Caller, meaning, uninterrupted
from studovna.paths import ROOT, site_id
from studovna.podman import Podman, PodmanError
from studovna.text import Text

from . import builder_room, staging
from .builder_room import StockBuild
from .buildpod import GID, MAX_FILES, UID
from .errors import Failed
from .registry import docker_login

LABELS = {"app.kubernetes.io/name": "studovna", "app.kubernetes.io/component": "build-network"}
POLL = 0.1
KILL_SECONDS = 30.0
_NAME = re.compile(r"build-[0-9a-f]{32}")
_INTERRUPTED = Text(
    "The build was interrupted when this machine or its builder was ended. Open the link again to "
    "build it."
)


class StockBuilds:
    """The builders of one site, on this machine's podman."""

    def __init__(self, podman: Podman, engine: Engine, image: str) -> None:
        """`image` is what the pod runs that lends its network."""
        self._podman = podman
        self._engine = engine
        self._image = image
        self._caller = Caller(podman)
        self._site = site_id(podman.state)
        self._folder = podman.state.resolve() / "engine" / "stock"
        self._busy: dict[str, asyncio.Lock] = {}
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def names(self) -> set[str]:
        """The builds of which there is something."""
        try:
            return {name for name in os.listdir(self._folder) if _NAME.fullmatch(name)}
        except FileNotFoundError:
            return set()

    def cgroup(self, name: str) -> str:
        """The name of a build's cgroup: other sites of this machine have others."""
        return f"{self._site}-{name}"

    async def build(
        self, name: str, volume: Path, build: StockBuild, credential: Mapping[str, str]
    ) -> AsyncGenerator[str, None]:
        """The lines that the builder writes, messages among them, from its first.

        Starts it, unless it was started before; `volume` has the repository's files then. Ends
        when the builder has ended; whether it worked out is in its messages. Raises Failed.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no build's name")
        lock = self._busy.setdefault(name, asyncio.Lock())
        async with lock:
            if not (self._folder / name / "log").exists():
                await uninterrupted(self._begin(name, volume, build, credential))
        async for line in self._follow(name):
            yield line

    async def end(self, name: str) -> None:
        """End a builder with all its processes, and remove what it has made. No-op without one."""
        if not _NAME.fullmatch(name):
            return
        lock = self._busy.setdefault(name, asyncio.Lock())
        async with lock:
            await uninterrupted(self._end(name))
        self._busy.pop(name, None)

    def out_of_memory(self, name: str) -> bool:
        """Whether the memory of the build was used up."""
        return builder_room.out_of_memory(self.cgroup(name))

    # --- starting -------------------------------------------------------------------------------

    async def _begin(
        self, name: str, volume: Path, build: StockBuild, credential: Mapping[str, str]
    ) -> None:
        folder = self._folder / name
        try:
            if folder.exists():  # by a service that was ended in the middle of this
                await self._end(name)
            await asyncio.to_thread(_make, folder, build, credential)
            await self._stage(volume, folder / "src", build.disk)
            process, resolv = await self._network(name, build.seconds)
            (folder / "resolv.conf").write_bytes(resolv)
            facts = await asyncio.to_thread(self._podman.probe)
            limits = "cgroupfs"
            if facts.rootless:
                limits = "systemd" if facts.limits_enforced else ""
            complete = replace(
                build, state=str(self._podman.state.resolve()), folder=str(folder),
                name=self.cgroup(name), limits=limits, store=await self._store(),
            )  # fmt: skip
            (folder / "build.json").write_text(json.dumps(asdict(complete)))
            self._children[name] = await asyncio.to_thread(
                self._start, folder, process, facts.rootless
            )
        except PodmanError as error:
            raise Failed(
                Text("The build could not start. {why}", why=meaning(error).sentence)
            ) from error
        except EngineError as error:
            raise Failed(Text("The build could not start. {why}", why=error.sentence)) from error
        except OSError as error:
            raise Failed(_disk(error)) from error

    async def _stage(self, source: Path, target: Path, size: int) -> None:
        wanted = {
            "source": str(source), "target": str(target), "size": size, "files": MAX_FILES,
        }  # fmt: skip
        if self._caller.rootless:
            said = await self._caller.call(
                "unshare", sys.executable, "-I", str(staging.SCRIPT),
                input_=json.dumps(wanted).encode(), seconds=600,
            )  # fmt: skip
            wrong: dict[str, str] = json.loads(said)
        else:
            wrong = await asyncio.to_thread(staging.request, wanted)
        if wrong:
            raise Failed(not_staged(wrong["kind"], wrong["name"], size))

    async def _network(self, name: str, seconds: float) -> tuple[int, bytes]:
        """A pod with a network as every pod has it: its process, and its name servers."""
        pod = f"{name}-net"
        await self._engine.end(pod, 0)
        await self._engine.run(make_network_pod(pod, self._image, int(seconds) + 600))
        said = await self._podman.arun(
            "inspect", "--type", "container", "--format", "{{.State.Pid}} {{.ResolvConfPath}}",
            "--", f"{self._site}-{pod}",
        )  # fmt: skip
        process, _, resolv = said.strip().partition(" ")
        return int(process), await asyncio.to_thread(Path(resolv).read_bytes)

    async def _store(self) -> dict[str, str]:
        store = json.loads(await self._podman.arun("info", "--format", "json"))["store"]
        options = store.get("graphOptions") or {}
        program = options.get(f"{store['graphDriverName']}.mount_program") or {}
        return {
            "driver": str(store["graphDriverName"]),
            "root": str(store["graphRoot"]),
            "program": str(program.get("Executable", "") if isinstance(program, dict) else program),
        }

    def _start(self, folder: Path, process: int, rootless: bool) -> subprocess.Popen[bytes]:
        """Start the builder in that network, and apart from this machine's processes."""
        argv = ["nsenter", f"--net=/proc/{process}/ns/net", "--", "unshare", "--mount", "--pid"]
        argv += ["--fork", "--kill-child", "--mount-proc", "--"]
        argv += [sys.executable, "-m", "binder.engine_repo2docker", str(folder)]
        if rootless:
            argv = self._podman.argv("unshare", *argv)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Nothing of this service's environment: it holds its token.
            environment = self._podman.environment | {"PYTHONPATH": str(ROOT)}
            with (folder / "errors").open("wb") as errors:
                started = subprocess.Popen(
                    argv, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=errors,
                    stderr=errors, pass_fds=(lock,), start_new_session=True,
                )  # fmt: skip
            (folder / "log").touch()
            return started
        finally:
            os.close(lock)

    # --- following ------------------------------------------------------------------------------

    async def _follow(self, name: str) -> AsyncGenerator[str, None]:
        folder = self._folder / name
        rest = b""
        with contextlib.suppress(FileNotFoundError), (folder / "log").open("rb") as file:
            while True:
                over = not await asyncio.to_thread(_is_locked, folder / "lock")
                chunk = await asyncio.to_thread(file.read, 2**16)
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line.decode(errors="replace")
                if not chunk:
                    if over:
                        break
                    await asyncio.sleep(POLL)
        errors = folder / "errors"
        with contextlib.suppress(FileNotFoundError):
            if said := (await asyncio.to_thread(errors.read_bytes))[-2000:].strip():
                app_log.warning("The builder of %s: %s", name, said.decode(errors="replace"))
        broken = folder / "broken"
        if broken.exists():
            app_log.error("The builder of %s broke: %s", name, broken.read_text())

    # --- ending ---------------------------------------------------------------------------------

    async def _end(self, name: str) -> None:
        folder = self._folder / name
        if folder.is_dir():
            await asyncio.to_thread(_kill, folder)
            child = self._children.pop(name, None)
            if child is not None:
                await asyncio.to_thread(child.wait)
            await asyncio.to_thread(builder_room.remove_cgroup, self.cgroup(name))
            await self._caller.files("erase", str(folder))
        await self._engine.end(f"{name}-net", 0)


# --- pure, and small ------------------------------------------------------------------------------


def interrupted() -> Failed:
    """Why a builder ended without a word."""
    return Failed(_INTERRUPTED)


def make_network_pod(name: str, image: str, seconds: int) -> V1Pod:
    """A pod that lends its network, restricted like all: it sleeps, for ``seconds`` at most."""
    return V1Pod(
        api_version="v1",
        kind="Pod",
        metadata=V1ObjectMeta(name=name, labels=dict(LABELS)),
        spec=V1PodSpec(
            restart_policy="Never",
            active_deadline_seconds=seconds,
            termination_grace_period_seconds=0,
            automount_service_account_token=False,
            enable_service_links=False,
            security_context=V1PodSecurityContext(
                run_as_user=UID,
                run_as_group=GID,
                run_as_non_root=True,
                seccomp_profile=V1SeccompProfile(type="RuntimeDefault"),
            ),
            containers=[
                V1Container(
                    name="network",
                    image=image,
                    image_pull_policy="IfNotPresent",
                    command=["/usr/bin/sleep", str(seconds)],
                    resources=V1ResourceRequirements(
                        limits={"cpu": "0.1", "memory": str(32 * 2**20)},
                        requests={"cpu": "0.01", "memory": str(8 * 2**20)},
                    ),
                    security_context=V1SecurityContext(
                        allow_privilege_escalation=False,
                        capabilities=V1Capabilities(drop=["ALL"]),
                        read_only_root_filesystem=True,
                    ),
                )
            ],
        ),
    )


def _make(folder: Path, build: StockBuild, credential: Mapping[str, str]) -> None:
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(mode=0o700)
    login = docker_login(build.push_to.partition("/")[0], **credential)
    file = os.open(folder / "auth.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "w") as out:
        out.write(json.dumps(login))


def not_staged(kind: str, name: str, size: int) -> Text:
    """The sentence for files that cannot be handed over (`staging.NotStaged`)."""
    if kind == staging.OUTSIDE:
        return Text(
            "{file} is a link that leads out of the repository, and a builder must not follow it. "
            "Replace it by the file itself.",
            file=name,
        )
    if kind == staging.SPECIAL:
        return Text("{file} is neither a file nor a folder.", file=name)
    if kind == staging.TOO_LARGE:
        return Text(
            "The repository and what it installs are larger than {limit} GB.",
            limit=f"{size / 10**9:.3g}",
        )
    if kind == staging.TOO_MANY:
        return Text(
            "The build makes more than {files} files, which is as many as this site allows.",
            files=MAX_FILES,
        )
    if kind == staging.TOO_DEEP:
        return Text("The folders of the repository are nested too deeply.")
    return Text("The repository's files could not be handed to the builder: {said}", said=name)


def _disk(error: OSError) -> Text:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Text("The disk of the site is full. Tell its administrators.")
    return Text("The build could not start. {why}", why=error)


def _is_locked(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EACCES)
    finally:
        os.close(file)
    return False


def _kill(folder: Path) -> None:
    """Kill the builder, and wait until it is gone: its namespace ends with it.

    Raises OSError when that takes too long.
    """
    waited = 0.0
    while _is_locked(folder / "lock"):
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, ValueError):
                command = (entry / "cmdline").read_bytes().split(b"\0")
                if os.fsencode(folder) in command and int(entry.name) != os.getpid():
                    os.kill(int(entry.name), signal.SIGKILL)
        if waited > KILL_SECONDS:
            raise OSError(errno.EBUSY, "the builder does not die", str(folder))
        time.sleep(0.1)
        waited += 0.1
