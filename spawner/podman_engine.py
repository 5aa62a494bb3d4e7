"""The engine of one machine: Kubernetes' pods as podman's containers.

A pod with one container is that container. With more, the first main container owns the network and
the others join it; init containers run before, one after another. (Podman's own pods are not used:
they need a further container each, and cannot be ended while an init container runs.)

What is kept of a pod on disk is in `engine/pods/<pod>/` of the site's state::

    pod.json        what there is to remove, written before anything is made
    lock            held while somebody is at work to start the pod
    run/<c>/        the working folder of podman and conmon for a container
    logs/<c>.log    what it wrote
    empty/<v>/      emptyDir volumes on disk
    mounts/         memory that containers share, and folders of claims held fast
    data/<v>/       Secret and ConfigMap volumes
    sequence.json   the containers in the order of their start; failed: why that went wrong
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import errno
import fcntl
import json
import math
import os
import re
import shutil
import signal
import subprocess  # noqa: S404 - argv lists only, never a shell
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType

from kubernetes_asyncio.client import V1PersistentVolumeClaim, V1Pod

from spawner import podman_logs, podman_sequence
from spawner.engine import (
    DEFAULT_GRACE,
    MISSING,
    Claim,
    ClaimInUse,
    ClaimMissing,
    DiskFull,
    Engine,
    EngineError,
    ImageMissing,
    OnEvent,
    PodData,
    PodEnded,
    PodExists,
    PodMissing,
    PodState,
)
from spawner.podman_call import Caller, meaning, uninterrupted
from spawner.podman_claims import Claims, has, read_json
from spawner.podman_files import UnsafePath
from spawner.podman_network import Networks, hub_address
from spawner.podman_plan import ContainerPlan, Plan
from spawner.podman_states import Pod, Watcher, pod_state
from spawner.podman_translate import network_name, translate
from spawner.podman_volumes import NAME, Settings, claim_request
from studovna.podman import Podman, PodmanError
from studovna.text import Text

KILL_SECONDS = 60.0
_NO_NETWORK = "network not found"
# The second: a container that ended in the moment in which it was to be killed.
_STILL_THERE = ("did not die", "could not be stopped")
_ROOT_USER = re.compile(r"(?:root|0+)?(?::.*)?")


class PodmanEngine(Engine):
    """Runs the pods of one site with the podman of this machine.

    `site` is the site's id and `podman.state` its state folder. `ca_bundle` is a file of
    certificates mounted into every container, `gpus` are this machine's GPUs (CDI name → resource,
    as on Kubernetes), `folders` are those of this machine that pods may mount, read-only.
    """

    def __init__(
        self,
        podman: Podman,
        site: str,
        *,
        ca_bundle: Path | None = None,
        gpus: Mapping[str, str] = MappingProxyType({}),
        folders: Sequence[Path] = (),
    ) -> None:
        state = podman.state.resolve()
        if not re.fullmatch(r"/[^:,\x00-\x1f]*", str(state)):
            raise EngineError(
                Text("The path of the state folder must not contain : or , ({path}).", path=state)
            )
        if not re.fullmatch(r"[a-z][a-z0-9]{1,11}", site):
            raise ValueError(f"{site!r} is no site id")
        self._podman = podman
        self._site = site
        self._settings = Settings(site, state, dict(gpus), ca_bundle, tuple(folders))
        self._caller = Caller(podman)
        self._networks = Networks(self._caller, site)
        self._pods_folder = state / "engine" / "pods"
        self._claims = Claims(state / "claims", self._caller)
        self._watcher = Watcher(self._caller, site, self._pods_folder)
        self._starting: dict[str, tuple[asyncio.Task[None], Plan]] = {}
        self._gpu_questions: list[set[str]] = []
        self._pulls: dict[str, asyncio.Task[None]] = {}
        self._pods_folder.mkdir(parents=True, exist_ok=True)
        self._pods_folder.chmod(0o700)

    @property
    def gpus(self) -> Mapping[str, str]:
        """This machine's GPUs: CDI name → resource."""
        return self._settings.gpus

    # --- starting -------------------------------------------------------------------------------

    async def run(
        self,
        pod: V1Pod,
        claims: Sequence[V1PersistentVolumeClaim] = (),
        on_event: OnEvent | None = None,
        *,
        data: Sequence[PodData] = (),
    ) -> None:
        requests = [claim_request(claim) for claim in claims]
        settings = self._settings
        if settings.gpus:
            free = {name: settings.gpus[name] for name in await self.free_gpus()}
            settings = dataclasses.replace(settings, gpus=free)
        plan = translate(pod, settings, data)
        if plan.name in self._starting:
            raise PodExists(Text("There is a pod {pod} already.", pod=plan.name))
        task = asyncio.create_task(self._run(plan, requests, on_event or (lambda _: None)))
        self._starting[plan.name] = (task, plan)
        for used in self._gpu_questions:
            used.update(plan.gpus)
        try:
            await task
        except asyncio.CancelledError:
            me = asyncio.current_task()
            if me is not None and me.cancelling():
                if not task.cancelled() and task.exception() is None:
                    # Cancelled in the very moment in which it had succeeded.
                    await uninterrupted(self._undo(plan, [c.podman_name for c in plan.containers]))
                raise
            raise PodEnded(
                Text("The pod {pod} was ended while it was starting.", pod=plan.name)
            ) from None
        finally:
            del self._starting[plan.name]
            self._watcher.changed()

    async def free_gpus(self) -> tuple[str, ...]:
        """The CDI names of the GPUs that no pod of the site has."""
        if not self._settings.gpus:
            return ()
        # A start may begin, or be over, after podman has looked and before it has answered.
        used = {gpu for _, plan in self._starting.values() for gpu in plan.gpus}
        self._gpu_questions.append(used)
        try:
            used |= {gpu for one in (await self._pods()).values() for gpu in one.gpus}
        finally:
            self._gpu_questions = [one for one in self._gpu_questions if one is not used]
        return tuple(gpu for gpu in self._settings.gpus if gpu not in used)

    async def _run(
        self,
        plan: Plan,
        requests: Sequence[tuple[str, dict[str, str], int | None]],
        on_event: OnEvent,
    ) -> None:
        made: list[str] = []
        try:
            lock = self._begin(plan)
        except FileExistsError as error:
            raise PodExists(Text("There is a pod {pod} already.", pod=plan.name)) from error
        except OSError as error:
            with contextlib.suppress(OSError):
                shutil.rmtree(plan.folder)
            raise _disk_error(error) from error
        try:
            async with self._networks.held(plan.network):
                await self._prepare(plan, requests)
                await self._images(plan, on_event)
                try:
                    await self._containers(plan, made, on_event)
                except PodmanError as error:
                    # Removed by hand since this process made it.
                    if _NO_NETWORK not in error.stderr:
                        raise
                    self._networks.forget(plan.network)
                    async with self._networks.held(plan.network):
                        await uninterrupted(self._remove(made, 0))
                        made.clear()
                        await self._containers(plan, made, on_event)
                if len(plan.containers) > 1:
                    await self._start(plan, lock)
                await self._networks.protect_started(plan.network)
        except BaseException as error:
            await uninterrupted(self._undo(plan, made))
            if isinstance(error, PodmanError):
                raise meaning(error, image=plan.main[0].image, pod=plan.name) from error
            if isinstance(error, UnsafePath):
                raise EngineError(
                    Text("{part} in the home is a link or a file; a folder is needed.", part=error)
                ) from error
            if isinstance(error, OSError):
                raise _disk_error(error) from error
            raise
        finally:
            os.close(lock)

    def _begin(self, plan: Plan) -> int:
        """Take the pod's name on disk and note what there will be to remove; returns the lock."""
        plan.folder.mkdir(mode=0o700)
        lock = os.open(plan.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            record = {
                "containers": [one.podman_name for one in plan.containers],
                "network": plan.network,
                "labels": dict(plan.labels),
                "claims": [claim.name for claim in plan.claims],
            }
            (plan.folder / "pod.json").write_text(json.dumps(record))
            for name in ("run", "logs", "env"):
                (plan.folder / name).mkdir(mode=0o700)
            for container in plan.containers:
                container.folder.mkdir(mode=0o700)
        except BaseException:
            os.close(lock)
            raise
        return lock

    async def _prepare(
        self, plan: Plan, requests: Sequence[tuple[str, dict[str, str], int | None]]
    ) -> None:
        """Claims and folders. Raises OSError, UnsafePath, ClaimMissing."""
        for request in requests:
            self._claims.make(*request)
        for folder in plan.folders:
            if not folder.is_dir():
                raise EngineError(
                    Text(
                        "The folder {folder} is not on this machine. Tell the operator.",
                        folder=folder,
                    )
                )
        for claim in plan.claims:
            if not self._claims.exists(claim.name):
                raise ClaimMissing(
                    Text("The home {claim} does not exist any more.", claim=claim.name)
                )
        if not (plan.claims or plan.empty or plan.files or plan.shared_memory or plan.pins):
            return
        paths = [one.path for one in plan.empty]
        paths += [one.path for one in plan.shared_memory]
        paths += [one.path for one in plan.pins]
        for folder in {path.parent for path in paths}:
            folder.mkdir(mode=0o700, exist_ok=True)
        await self._caller.files("prepare", {
            "claims": [
                {"path": str(self._settings.claim_data(one.name)), "gid": one.gid,
                 "always": one.always} for one in plan.claims
            ],
            "empty": [{"path": str(one.path), "gid": one.gid} for one in plan.empty],
            "files": [
                {"path": str(one.path), "content": base64.b64encode(one.content).decode(),
                 "mode": one.mode, "gid": one.gid} for one in plan.files
            ],
            "shared_memory": [
                {"path": str(one.path), "size": one.size, "gid": one.gid}
                for one in plan.shared_memory
            ],
            "pins": [
                {"base": str(one.base), "parts": list(one.parts), "path": str(one.path),
                 "gid": one.gid} for one in plan.pins
            ],
        })  # fmt: skip

    async def _images(self, plan: Plan, on_event: OnEvent) -> None:
        """What has to be known of images before; whether they are here is known by using them."""
        for container in plan.containers:
            if container.pull == "Always" and not container.image.startswith("localhost/"):
                await self._pull(container.image, on_event)
            if container.must_not_be_root:
                await self._refuse_root(container, on_event)

    async def _refuse_root(self, container: ContainerPlan, on_event: OnEvent) -> None:
        async def user() -> str:
            out = await self._caller.call(
                "image", "inspect", "--format", "{{.Config.User}}", "--", container.image
            )
            return out.strip()

        try:
            found = await user()
        except PodmanError:
            await self._fetch_missing(container, on_event)
            found = await user()
        if not re.fullmatch(r"[0-9]+(?::.*)?", found) or _ROOT_USER.fullmatch(found):
            raise EngineError(
                Text(
                    "The image {image} would run as {user}; the pod must not run as root.",
                    image=container.image,
                    user=found or "root",
                )
            )

    async def _fetch_missing(self, container: ContainerPlan, on_event: OnEvent) -> None:
        if container.pull == "Never" or container.image.startswith("localhost/"):
            raise ImageMissing(
                Text("The image {image} does not exist on this machine.", image=container.image)
            )
        await self._pull(container.image, on_event)

    async def _pull(self, image: str, on_event: OnEvent) -> None:
        """Pull once for all who wait; who stops waiting does not stop it for the others."""
        on_event(Text("Fetching the image {image}", image=image))
        task = self._pulls.get(image)
        if task is None:
            task = asyncio.create_task(self._caller.pull(image))
            self._pulls[image] = task
            task.add_done_callback(lambda _: self._pulls.pop(image, None))
        try:
            await asyncio.shield(task)
        except PodmanError as error:
            raise meaning(error, image=image) from error
        on_event(Text("The image {image} is here", image=image))

    async def _containers(self, plan: Plan, made: list[str], on_event: OnEvent) -> None:
        """Create the containers; the only one is started as well. Raises PodmanError."""
        if len(plan.containers) == 1:
            await self._make(plan.containers[0], ["run", "--detach"], made, on_event)
            return
        owner = plan.main[0]
        await self._make(owner, ["create"], made, on_event)
        for container in plan.containers:
            if container is not owner:
                await self._make(container, ["create"], made, on_event)

    async def _make(
        self, container: ContainerPlan, verb: Sequence[str], made: list[str], on_event: OnEvent
    ) -> None:
        for attempt in (1, 2):
            try:
                await self._make_once(container, verb, made)
                return
            except PodmanError as error:
                if _NO_NETWORK in error.stderr:
                    raise
                if attempt == 2 or "image not known" not in error.stderr:
                    raise meaning(error, image=container.image) from error
                await self._fetch_missing(container, on_event)

    async def _make_once(
        self, container: ContainerPlan, verb: Sequence[str], made: list[str]
    ) -> None:
        file = os.open(container.env_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(file, "w") as out:
            out.write(container.env_file)
        made.append(container.podman_name)
        try:
            await self._caller.call(
                *verb, *container.argv, environment=container.environment, cwd=container.folder
            )
        except PodmanError as error:
            # It is not ours, so it is not ours to remove.
            if isinstance(meaning(error), PodExists):
                made.remove(container.podman_name)
            raise
        finally:
            container.env_path.unlink(missing_ok=True)

    async def _start(self, plan: Plan, lock: int) -> None:
        """Start several containers: here, or after init containers by a process of its own."""
        if not plan.init:
            for container in plan.main:
                try:
                    await self._caller.call(
                        "start", "--", container.podman_name, cwd=container.folder
                    )
                except PodmanError as error:
                    raise meaning(error, image=container.image, pod=plan.name) from error
            return
        steps = [
            {"name": one.podman_name, "container": one.name, "folder": str(one.folder),
             "init": one.init} for one in plan.containers
        ]  # fmt: skip
        (plan.folder / "sequence.json").write_text(json.dumps(steps))
        # It goes on in a process that is not our child: the loop kills its children when it closes.
        starter = await asyncio.create_subprocess_exec(
            sys.executable, "-I", str(podman_sequence.SCRIPT), str(plan.folder),
            self._podman.argv()[0],
            env=self._caller.environment, cwd=plan.folder, pass_fds=(lock,),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        if await uninterrupted(starter.wait()) != 0:
            raise EngineError(Text("The pod {pod} could not be started.", pod=plan.name))

    async def _undo(self, plan: Plan, made: Sequence[str]) -> None:
        with contextlib.suppress(PodmanError, EngineError, OSError):
            self._stop_starter(plan.folder)
            await self._remove(made, 0)
            await self._networks.remove_unused(plan.network)
        with contextlib.suppress(PodmanError, EngineError, OSError):
            await self._caller.files("clear", str(plan.folder))

    # --- asking ---------------------------------------------------------------------------------

    async def _pods(self) -> dict[str, Pod]:
        try:
            return await self._watcher.pods()
        except PodmanError as error:
            raise meaning(error) from error

    async def state(self, name: str) -> PodState:
        if not NAME.fullmatch(name):
            return MISSING
        state = self._state(name, (await self._pods()).get(name))
        if _cut_short(state):
            # Unless the start had its end between the listing and the look at the lock.
            self._watcher.changed()
            state = self._state(name, (await self._pods()).get(name))
        return state

    async def states(self, labels: Mapping[str, str]) -> dict[str, PodState]:
        pods = await self._pods()
        found = {name: self._state(name, pod) for name, pod in pods.items()}
        if any(_cut_short(state) for state in found.values()):
            self._watcher.changed()
            pods = await self._pods()
            found = {name: self._state(name, pod) for name, pod in pods.items()}
        for name in self._starting.keys() - found.keys():
            found[name] = PodState("Pending", labels=self._starting[name][1].labels)
        return {
            name: state
            for name, state in found.items()
            if state.phase != "Missing" and has(state.labels, labels)
        }

    def _state(self, name: str, pod: Pod | None) -> PodState:
        folder = self._pods_folder / name
        if pod is None:
            if name in self._starting:
                return PodState("Pending", labels=self._starting[name][1].labels)
            return MISSING
        waiting = any(one.state.state == "waiting" for one in pod.containers)
        if not waiting and not any(one.init for one in pod.containers):
            return pod_state(pod, starting=name in self._starting)
        return pod_state(pod, starting=_is_locked(folder / "lock"), reason=_failed(folder))

    async def logs(
        self,
        name: str,
        container: str,
        *,
        follow: bool = False,
        since: datetime | None = None,
    ) -> AsyncIterator[str]:
        path = await self._log_path(name, container)

        async def is_over() -> bool:
            state = await self.state(name)
            if state.phase in ("Missing", "Succeeded", "Failed"):
                return True
            one = state.containers.get(container)
            return one is not None and one.state == "ended"

        reading = podman_logs.read(path, since=since, is_over=is_over if follow else None)
        async with contextlib.aclosing(reading) as lines:
            async for line in lines:
                yield line

    async def tail(self, name: str, container: str, lines: int) -> list[str]:
        path = await self._log_path(name, container)
        return await asyncio.to_thread(podman_logs.tail, path, lines)

    async def _log_path(self, name: str, container: str) -> Path:
        """The log of a container; the pod's folder lives exactly as long as the pod."""
        folder = self._pods_folder / name
        named = NAME.fullmatch(name) is not None and NAME.fullmatch(container) is not None
        if not (named and await asyncio.to_thread(os.path.isdir, folder / "run" / container)):
            raise PodMissing(
                Text("There is no container {container} of {pod}.", container=container, pod=name)
            )
        return folder / "logs" / f"{container}.log"

    async def url(self, name: str, port: int) -> str:
        pod = (await self._pods()).get(name)
        if pod is None:
            raise PodMissing(Text("There is no pod {pod}.", pod=name))
        for container in pod.containers:
            if port in container.ports:
                host, published = container.ports[port]
                return f"http://{host}:{published}"
        raise EngineError(Text("The pod {pod} does not list its port {port}.", pod=name, port=port))

    def hub_address(self) -> str:
        return hub_address(self._podman, self._site)

    # --- ending ---------------------------------------------------------------------------------

    async def end(self, name: str, grace: float = DEFAULT_GRACE) -> None:
        if not NAME.fullmatch(name):
            return
        if name in self._starting:
            task, _ = self._starting[name]
            task.cancel()
            await asyncio.wait([task])
        try:
            await uninterrupted(self._end(name, grace))
        except PodmanError as error:
            raise meaning(error, pod=name) from error
        except OSError as error:
            raise _disk_error(error) from error
        finally:
            self._watcher.changed()

    async def _end(self, name: str, grace: float) -> None:
        folder = self._pods_folder / name
        record = read_json(folder / "pod.json")
        self._watcher.changed()
        pod = (await self._watcher.pods()).get(name)
        if pod is None and not folder.is_dir():
            return
        self._stop_starter(folder)
        here = [one.podman_name for one in pod.containers] if pod else []
        # Podman lists what was made; the network's owner first, on which the others depend.
        owner = f"{self._site}-{name}"
        await self._remove(sorted(here, key=lambda one: one != owner), grace)
        network = record.get("network") or (
            network_name(self._site, pod.labels, name) if pod else None
        )
        if network:
            await self._networks.remove_unused(network)
        await self._caller.files("clear", str(folder))

    async def _remove(self, names: Sequence[str], grace: float) -> None:
        """Remove containers, the network's owner being the first of them. Raises PodmanError."""
        if not names:
            return
        seconds = str(max(0, math.ceil(grace)))
        patience = grace + 120
        rm = ["rm", "--force", "--ignore", "--volumes", "--time"]
        owner, *others = names
        if others:
            if grace > 0:
                # All at once, not one grace after another.
                await self._insist(["stop", "--ignore", "--time", seconds], names, patience)
            await self._insist([*rm, "0"], others, patience)
            seconds = "0"
        await self._insist([*rm, seconds], [owner], patience)

    async def _insist(self, verb: Sequence[str], names: Sequence[str], patience: float) -> None:
        """End containers, with more force when podman gave up waiting for the processes to die.

        It may not simply be asked again: the second time it forgets the container and lets its
        processes live.
        """
        argv = [*verb, "--", *names]
        try:
            await self._caller.call(*argv, seconds=patience)
        except PodmanError as error:
            if not any(words in error.stderr for words in _STILL_THERE):
                raise
            ids = await self._caller.call("inspect", "--format", "{{.Id}}", "--", *names)
            await self._caller.files("kill", ids.split(), KILL_SECONDS)
            await self._caller.call(*argv, seconds=patience)

    def _stop_starter(self, folder: Path) -> None:
        """End the process that would start the next container."""
        with contextlib.suppress(OSError, ValueError):
            process = int((folder / "starter").read_text())
            command = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
            if os.fsencode(folder) in command:
                os.kill(process, signal.SIGTERM)

    # --- claims ---------------------------------------------------------------------------------

    async def tidy(self) -> None:
        """Erase what was to be erased for ever when the process was killed."""
        try:
            await self._claims.erase_doomed()
        except PodmanError as error:
            raise meaning(error) from error
        except OSError as error:
            raise _disk_error(error) from error

    async def erase_claim(self, name: str) -> None:
        if not self._claims.exists(name):
            return
        self._watcher.changed()
        pods = {pod.name for pod in (await self._pods()).values() if name in pod.claims}
        pods |= {
            pod
            for pod, (_, plan) in self._starting.items()
            if name in (claim.name for claim in plan.claims)
        }
        if pods:
            raise ClaimInUse(
                Text(
                    "{claim} is in use by {pods}. Stop that server first.",
                    claim=name,
                    pods=", ".join(sorted(pods)),
                )
            )
        try:
            await self._claims.erase(name)
        except PodmanError as error:
            raise meaning(error) from error
        except OSError as error:
            raise _disk_error(error) from error

    async def claims(self, labels: Mapping[str, str], *, measured: bool = True) -> list[Claim]:
        return await self._claims.find(labels, measured)


def _cut_short(state: PodState) -> bool:
    """Whether nobody is at work any more to start what still waits."""
    waiting = any(one.state == "waiting" for one in state.containers.values())
    return waiting and state.phase == "Failed"


def _is_locked(path: Path) -> bool:
    """Whether a process, this one included, holds the lock."""
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


def _failed(folder: Path) -> Text | None:
    """Why the starter gave up."""
    about = read_json(folder / "failed")
    if not about:
        return None
    return Text(
        "{container} could not be started, or failed with exit code {code}.",
        container=about.get("container"),
        code=about.get("code"),
    )


def _disk_error(error: OSError) -> EngineError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(
            Text("The disk of the machine is full. Tell the operator of this service."), str(error)
        )
    return EngineError(
        Text("The pod's files could not be prepared: {said}", said=error), str(error)
    )
