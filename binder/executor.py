"""Runs builds as pods of the site's engine, and turns what they say into the queue's events."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from kubernetes_asyncio.client import V1Pod
from tornado.log import app_log

from spawner.engine import (
    Engine,
    EngineError,
    PodData,
    PodExists,
    PodMissing,
    PodState,
    QuotaFull,
)
from spawner.podman_engine import PodmanEngine
from studovna import build_settings, images
from studovna.paths import ROOT, site_id, state_dir
from studovna.podman import Podman, PodmanError
from studovna.site import Site
from studovna.system import ca_bundle
from studovna.text import Text

from .builder_room import StockBuild
from .buildpod import (
    CONTAINERS,
    EXPORT,
    FETCH,
    INSTALL,
    LABELS,
    MAX_FILES,
    BuildPod,
    make_build_pod,
)
from .builds import BuildRequest, KubernetesBuildExecutor
from .embedded_registry import PUSH_USERNAME, Push, prepare, write_login
from .errors import Failed
from .events import Event, event
from .launcher import server_name
from .providers import ssh
from .providers.git import credential_settings, parse_address
from .registry import DockerRegistry, docker_login, parse_image
from .stock import StockBuilds, interrupted

MARK = "@studovna "
"""How a line of a container's log begins that is meant for us (`buildpack.report`)."""

PHASES = {FETCH: "fetching", INSTALL: "building", EXPORT: "pushing"}
LAST_LINES = 3
LONGEST_TEXT = 10_000  # characters of a sentence that a container says
MAX_DISK = 10 * 10**9  # bytes that one build may take, and no more than all images together
REGISTRY_SECONDS = 20
REMOVAL_PAUSE = 3.0
ENDED_SECONDS, ENDED_PAUSE = 1.2, 0.2  # longer than an engine's answer may be old
BASE_SECONDS = 900.0  # how long the site's image may take to be pushed to the registry
_INDEX_VARIABLES = (
    "UV_DEFAULT_INDEX", "UV_INDEX", "UV_FIND_LINKS", "UV_INSECURE_HOST", "UV_INDEX_STRATEGY",
)  # fmt: skip
_PIP_VARIABLES = {
    "UV_DEFAULT_INDEX": "PIP_INDEX_URL",
    "UV_INDEX": "PIP_EXTRA_INDEX_URL",
    "UV_FIND_LINKS": "PIP_FIND_LINKS",
    "UV_INSECURE_HOST": "PIP_TRUSTED_HOST",
}
LEAVING_SECONDS = 4.0  # a hub gives its services five to end
QUOTA_PAUSE = 5.0
WAITING_FOR_QUOTA = Text("There is no room for one more build. Waiting until another one ends...")
STILL_FULL = Text("There was no room for one more build for a long time. Try again later.")
ENDED = Text("The build was ended by an administrator.")
_TEMPLATE = re.compile(r"(?:[^{}]|\{[a-z_]{1,30}\})*")  # names to fill in, and no expressions
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f]")


def base_version(folder: Path = ROOT / "images") -> str:
    """A short hash of what every image is built with: the Lab, and the builder's own code.

    It is a part of image names, so that a new Lab means new images.
    """
    return images.hashes(images.read_images(folder), None, ["builder"])["builder"][:12]


def repo2docker_version(folder: Path = ROOT / "images/builder") -> str:
    """The version of repo2docker that is locked for the builder's image."""
    locked = (folder / "requirements.txt").read_text()
    found = re.search(r"^jupyter-repo2docker==(\S+)", locked, re.MULTILINE)
    return found[1] if found else "?"


@dataclass(frozen=True)
class Base:
    """The site's image in the registry: its repository there and its tag."""

    name: str
    tag: str


@dataclass(frozen=True)
class Message:
    """What a container said to us."""

    kind: str
    text: Text | None = None
    name: str = ""
    resources: str = ""


class PodBuildExecutor(KubernetesBuildExecutor):
    """Builds in pods, on the engine of the site."""

    stock: StockBuilds | None = None
    """Where repositories go that need a builder; None where the site has none."""

    def __init__(
        self,
        *,
        site: Site | None = None,
        engine: Engine | None = None,
        podman: Podman | None = None,
        registry: DockerRegistry | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.warn_of_unused()
        self.site: Site = site or cast(Any, self.parent).site
        state = podman.state if podman else state_dir()
        self.registry = registry or DockerRegistry(parent=self.parent, state=state)
        self.engine = self.connect(state, podman, engine)
        self.version = base_version()
        self.repo2docker = repo2docker_version()
        self._env = pod_environment()
        self._pushing: asyncio.Task[None] | None = None
        self._removing: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    # --- what differs from place to place -------------------------------------------------------

    def connect(self, state: Path, podman: Podman | None, engine: Engine | None) -> Engine:
        """The engine that runs the pods: here, that of this machine."""
        port = prepare(state) if self.registry.embedded else None
        if not self.registry.embedded and self.registry.username:
            write_login(state, self.registry.host, self.registry.username, self.registry.password)
        self.podman = podman or Podman(state, registry_port=port)
        if engine is None:
            self.podman.probe()
            engine = PodmanEngine(self.podman, site_id(state), ca_bundle=ca_bundle())
        self._pods_reach = engine.hub_address() if self.registry.embedded else ""
        if self.site.binder.dockerfiles:
            image = self.site.image_reference("builder")
            self.stock = StockBuilds(self.podman, engine, image)
        return engine

    def registry_of_pods(self) -> str:
        """The address of the site's own registry as pods reach it."""
        address = self._pods_reach
        host = f"[{address}]" if ":" in address else address
        return f"http://{host}:{urlsplit(self.registry.url).port}"

    async def copy_lab(self, local: str, base: Base) -> None:
        """Bring the Lab's image to the registry. Raises PodmanError or Failed."""
        # By the address that builders push to: podman remembers by it which layers are there.
        registry, login = self._push(base.name, base.tag, base, int(BASE_SECONDS))
        url = urlsplit(registry)
        with tempfile.TemporaryDirectory(prefix="studovna-push-") as folder:
            file = Path(folder) / "login.json"
            file.write_text(json.dumps(docker_login(url.netloc, **login)))
            await self.podman.arun(
                "push", "--quiet", "--format=oci", f"--authfile={file}",
                *(["--tls-verify=false"] if url.scheme == "http" else []),
                "--", local, f"docker://{url.netloc}/{base.name}:{base.tag}",
                timeout=BASE_SECONDS,
            )  # fmt: skip

    # --- the queue's interface ------------------------------------------------------------------

    async def run(self, request: BuildRequest) -> AsyncGenerator[Event, None]:
        name = request.name
        if name in self._removing:
            await asyncio.wait([self._removing[name]])
        base = self._base_of(request.image)
        pushing = self.push_base(base)
        if not pushing.done():
            done, _ = await asyncio.wait([pushing], timeout=0.2)
            if not done:
                yield event("waiting", Text("Preparing the registry with the site's image..."))
        await self._base_is_there(pushing)
        yield event("fetching", Text("Fetching {url}", url=request.repo_url))
        containers: tuple[str, ...] | None = None
        for waited in self._turns():
            try:
                containers = await self._start(request, base)
                break
            except QuotaFull:
                if not waited:
                    yield event("waiting", WAITING_FOR_QUOTA)
                await asyncio.sleep(QUOTA_PAUSE)
        if containers is None:
            raise Failed(STILL_FULL, status=503)
        try:
            async with contextlib.aclosing(self._follow(request, containers)) as events:
                async for one in events:
                    yield one
            await self._check_image(request)
        except Failed:
            await self._end(name)
            raise
        self._remove_soon(name)

    async def _check_image(self, request: BuildRequest) -> None:
        """Raise Failed when the image is not there, whatever the containers say.

        The repository's code writes in the folders that the last of them reads.
        """
        if await self.registry.image(request.image) is None:
            raise Failed(
                Text(
                    "The build ended without an image. Something that the repository runs while "
                    "it is built, such as its postBuild, has kept it from being made."
                )
            )

    def _turns(self) -> Iterator[bool]:
        """While a pod may wait for room in the cluster's quota; False the first time.

        As long as a build may take: by then those that fill the quota now have ended.
        """
        end = time.monotonic() + self.site.binder.build_minutes * 60
        yield False
        while time.monotonic() < end:
            yield True

    async def cancel(self, name: str) -> None:
        await self._end(name)

    async def prepare(self, image_prefix: str) -> None:
        await self._base_is_there(self.push_base(self._base_of(f"{image_prefix}any")))

    async def running(self) -> set[str]:
        builders = self.stock.names() if self.stock is not None else set()
        return set(await self.engine.states(LABELS)) | builders

    async def builder_info(self) -> dict[str, str]:
        return {"repo2docker-version": self.repo2docker, "site-image": self.version}

    # --- the site's image in the registry -------------------------------------------------------

    def _base_of(self, image: str) -> Base:
        """Beside the built images: the same path, with a name that no built image has."""
        folder = parse_image(image).name.rpartition("/")[0]
        return Base(f"{folder}/site/lab" if folder else "site/lab", self.version)

    def push_base(self, base: Base) -> asyncio.Task[None]:
        """Have the Lab's image in the registry: the push that goes on, or a new one if it failed.

        Costs one question when it is there.
        """
        task = self._pushing
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._pushing = asyncio.create_task(self._push_base(base))
        return task

    async def _push_base(self, base: Base) -> None:
        image = f"{self.registry.host}/{base.name}:{base.tag}"
        # The site's own registry is started beside this service.
        for _ in range(REGISTRY_SECONDS if self.registry.embedded else 0):
            if await self.registry.healthy():
                break
            await asyncio.sleep(1)
        if await self.registry.image(image) is not None:
            return
        local = self.site.image_reference("lab")
        started = time.monotonic()
        await self.copy_lab(local, base)
        app_log.info("Pushed %s to %s in %.1f s", local, image, time.monotonic() - started)

    async def _base_is_there(self, pushing: asyncio.Task[None]) -> None:
        try:
            await asyncio.shield(pushing)
        except PodmanError as error:
            app_log.error("The Lab's image could not be pushed: %s %s", error, error.stderr)
            raise Failed(
                Text(
                    "The registry of this site does not take images. Try again later, or tell its "
                    "administrators."
                ),
                status=503,
            ) from error

    # --- starting -------------------------------------------------------------------------------

    async def _start(self, request: BuildRequest, base: Base) -> tuple[str, ...]:
        """Start the pod; its containers, or none when a service that ended has begun it before.

        Raises QuotaFull, or Failed.

        Whether there is one is not asked first: each question takes as long as a step of the start.
        """
        pod, data = make_build_pod(self.pod(request, base))
        try:
            await self.start_pod(self.engine, pod, data)
        except PodExists:
            return ()
        except QuotaFull:
            raise
        except EngineError as error:
            app_log.error("%s could not start: %s %s", request.name, error, error.detail)
            raise Failed(Text("The build could not start. {why}", why=error.sentence)) from error
        there = {one.name for one in (*(pod.spec.init_containers or ()), *pod.spec.containers)}
        return tuple(one for one in CONTAINERS if one in there)

    async def start_pod(self, engine: Engine, pod: V1Pod, data: list[PodData]) -> None:
        """Have the engine run a pod; what it raises. Its start is not undone by the service's end,
        unless it takes too long."""
        starting = asyncio.ensure_future(engine.run(pod, data=data))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            if self.leaving:
                await asyncio.wait([starting], timeout=LEAVING_SECONDS)
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            raise

    def pod(self, request: BuildRequest, base: Base) -> BuildPod:
        """What the pod of a build has to know."""
        settings = self.site.binder
        image = parse_image(request.image)
        seconds = int(settings.build_minutes * 60)
        settings_of_git, git = git_secret(request)
        registry, push = self._push(image.name, image.reference, base, seconds)
        disk = min(int(settings.image_disk), MAX_DISK)
        job = {
            "content": request.content,
            "url": request.fetch_url,
            "ref": request.ref,
            "repo_url": request.repo_url,
            "git_config": settings_of_git,
            "allow_hosts": sorted(settings.allow_hosts),
            "disk": disk,
            "files": MAX_FILES,
            "stock": self.stock is not None,
            "folder": server_name(request.repo_url),
            "registry": registry,
            "name": image.name,
            "tag": image.reference,
            "base": base.name,
            "base_tag": base.tag,
        }
        return BuildPod(
            name=request.name,
            image=self.site.image_reference("builder"),
            job=job,
            push=push,
            git=git,
            cpu=float(settings.build_cpu),
            memory=self.memory_limit or int(settings.build_memory),
            disk=disk,
            seconds=seconds,
            env=self._env,
        )

    def _push(self, name: str, tag: str, base: Base, seconds: int) -> tuple[str, dict[str, str]]:
        """The registry as pods reach it, and the credential to write one image there."""
        if self.registry.embedded:
            push = Push(name, tag, base.name, time.time() + 3 * seconds + 600)
            password = push.token(self.registry.password)
            return self.registry_of_pods(), {"username": PUSH_USERNAME, "password": password}
        given = self.registry_credentials
        return self.registry.url, {
            "username": str(given.get("username") or self.registry.username),
            "password": str(given.get("password") or self.registry.password),
        }

    # --- following ------------------------------------------------------------------------------

    def stock_build(
        self, request: BuildRequest, said: Message
    ) -> tuple[StockBuild, dict[str, str]]:
        """What the builder has to know, and the credential to push its image."""
        settings = self.site.binder
        image = parse_image(request.image)
        seconds = settings.build_minutes * 60
        base = self._base_of(request.image)
        registry, push = self._push(image.name, image.reference, base, int(seconds))
        url = urlsplit(registry)
        labels = {"repo2docker.repo": request.repo_url, "repo2docker.ref": request.ref}
        if said.resources:
            labels["studovna.resources"] = said.resources
        build = StockBuild(
            state="",
            folder="",
            name=request.name,
            push_to=f"{url.netloc}/{image.name}:{image.reference}",
            insecure=url.scheme == "http",
            memory=self.memory_limit or int(settings.build_memory),
            cpu=float(settings.build_cpu),
            seconds=seconds,
            disk=min(int(settings.image_disk), MAX_DISK),
            log=4 * int(settings.build_log),
            visible=[self.site.image_reference(name) for name in ("base", "lab")],
            labels=labels,
            env={"REPO_NAME": server_name(request.repo_url), "REPO_REF": request.ref},
            arguments=list(self.repo2docker_extra_args),
            appendix=self.appendix,
        )
        return build, push

    async def _build_stock(
        self, request: BuildRequest, asked: Message, said: asyncio.Queue[Event | None]
    ) -> Failed | None:
        """Build what a pod has fetched with repo2docker; why that failed, or None."""
        if self.stock is None:  # no longer: the setting was changed since the pod was started
            return Failed(Text("This site does not build Dockerfiles any more."))
        build, credential = self.stock_build(request, asked)
        volume = self.podman.state.resolve() / "engine/pods" / request.name / "empty/repo"
        phase = "building"
        ended = False
        lines = self.stock.build(request.name, volume, build, credential)
        async with contextlib.aclosing(lines):
            async for line in lines:
                message = read_message(line)
                if message is None:
                    await said.put(event(phase, CONTROL.sub("", line)))
                elif message.kind == "step":
                    phase = PHASES.get(message.name, phase)
                elif message.kind == "failed" and message.text is not None:
                    return Failed(message.text)
                elif message.kind == "end":
                    ended = True
                elif message.text is not None:
                    await said.put(event(phase, message.text))
        if ended:
            return None
        if self.stock.out_of_memory(request.name):
            return self._too_much_memory(Text("The build"))
        return interrupted()

    async def _follow(
        self, request: BuildRequest, containers: tuple[str, ...]
    ) -> AsyncGenerator[Event, None]:
        """The events of a pod that runs or has ended; raises Failed when it did not work out.

        `containers` are those of a pod that was started just now.
        """
        name = request.name
        said: asyncio.Queue[Event | None] = asyncio.Queue(1000)
        outcome: list[Exception | None] = []

        async def pump() -> None:
            try:
                outcome.append(await self._read(request, containers, said))
            except (EngineError, OSError):
                app_log.exception("Following %s", name)
                outcome.append(Failed(Text("The build cannot be followed any more.")))
            except Exception as error:  # whatever it is, who waits must hear of the end
                outcome.append(error)
            await said.put(None)

        deadline = time.monotonic() + self.site.binder.build_minutes * 60
        if not containers:
            state = await self._state(name)
            deadline -= _age(state)
            containers = tuple(one for one in CONTAINERS if one in state.containers)
        reading = asyncio.create_task(pump())
        try:
            while True:
                try:
                    async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                        new = await said.get()
                except TimeoutError:
                    raise self._too_long() from None
                if new is None:
                    break
                yield new
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        if outcome and outcome[0] is not None:
            raise outcome[0]

    async def _read(
        self,
        request: BuildRequest,
        containers: tuple[str, ...],
        said: asyncio.Queue[Event | None],
    ) -> Failed | None:
        """Read the containers' logs one after another; why the build failed, or None."""
        name = request.name
        stock: Message | None = None
        if not containers:
            return Failed(ENDED)
        for container in containers:
            step = container
            last: list[str] = []
            ended = False
            try:
                logs = self.engine.logs(name, container, follow=True)
                async with contextlib.aclosing(logs) as lines:  # type: ignore[type-var]
                    async for line in lines:
                        message = read_message(line)
                        if message is None:
                            line = CONTROL.sub("", line)
                            last = [*last[-LAST_LINES:], line] if line.strip() else last
                            await said.put(event(PHASES.get(step, "building"), line))
                        elif message.kind == "step":
                            step = next_step(step, message.name)
                        elif message.kind == "failed" and message.text is not None:
                            said_so = Failed(message.text)
                            return await self._more(self.engine, name, container, step, said_so)
                        elif message.kind == "end":
                            ended = True
                            break
                        elif message.kind == "stock" and step == FETCH and stock is None:
                            stock = message
                            if message.text is not None:
                                await said.put(event("fetching", message.text))
                        elif message.text is not None:
                            await said.put(event(PHASES.get(step, "building"), message.text))
            except PodMissing:
                return Failed(ENDED)
            if not ended:
                state = await self._state_after_end(self.engine, name, container)
                return self._why(container, step, state, last)
            if stock is not None:
                return await self._build_stock(request, stock, said)
        return None

    async def _more(
        self, engine: Engine, name: str, container: str, step: str, said: Failed
    ) -> Failed:
        """What a container said when it failed, or what was done to it: its memory taken away by
        the kernel, or the whole pod by somebody."""
        state = await self._state_of(engine, name)
        for _ in range(20):
            if state.deleting or state.phase in ("Failed", "Missing"):
                break
            await asyncio.sleep(0.1)
            state = await self._state_of(engine, name)
        one = state.containers.get(container)
        if state.deleting or (one is not None and one.oom_killed):
            return self._why(container, step, state, [])
        return said

    async def _state_after_end(self, engine: Engine, name: str, container: str) -> PodState:
        """The pod after a container's log ended without a word.

        Somebody who deletes a pod ends its containers first, and an answer may be from before that:
        it is asked until it says why, or is new enough to know of nothing.
        """
        end = time.monotonic() + ENDED_SECONDS
        while True:
            state = await self._state_of(engine, name)
            one = state.containers.get(container)
            known = state.phase == "Missing" or state.deleting or state.reason
            if known or (one and one.oom_killed) or time.monotonic() > end:
                return state
            await asyncio.sleep(ENDED_PAUSE)

    def _why(self, container: str, step: str, state: PodState, last: list[str]) -> Failed:
        """Why a container ended without a word, in the middle of a step."""
        what = {
            FETCH: Text("Fetching the repository"),
            INSTALL: Text("Installing what the repository asks for"),
            EXPORT: Text("Pushing the image"),
        }.get(step, Text("The build"))
        one = state.containers.get(container)
        if one is None or state.phase == "Missing":
            return Failed(ENDED)
        if one.oom_killed:
            return self._too_much_memory(what)
        if state.deleting:
            return Failed(ENDED)
        ran = 0.0
        if one.started_at and one.finished_at:
            ran = (one.finished_at - one.started_at).total_seconds()
        if ran >= self.site.binder.build_minutes * 60 - 2:
            return self._too_long()
        if one.state != "ended":
            return Failed(Text("{what} could not start. {why}", what=what, why=state.reason or ""))
        if state.reason:  # the node's doing, or the cluster's: the exit code is that of a kill
            return Failed(Text("{what} was cut off. {why}", what=what, why=state.reason))
        return Failed(
            Text(
                "{what} failed with exit code {code}. It said last: {said}",
                what=what,
                code=one.exit_code,
                said=" / ".join(last[-LAST_LINES:]) or "—",
            )
        )

    def _too_much_memory(self, what: Text) -> Failed:
        memory = self.memory_limit or int(self.site.binder.build_memory)
        return Failed(
            Text(
                "{what} took more than {memory} GB of memory, which is as much as this site "
                "gives to a build. Make it smaller.",
                what=what,
                memory=f"{memory / 2**30:.3g}",
            )
        )

    def _too_long(self) -> Failed:
        return Failed(
            Text(
                "The build took longer than {minutes} minutes, and was ended.",
                minutes=f"{self.site.binder.build_minutes:g}",
            )
        )

    # --- ending ---------------------------------------------------------------------------------

    async def _state(self, name: str) -> PodState:
        return await self._state_of(self.engine, name)

    async def _state_of(self, engine: Engine, name: str) -> PodState:
        try:
            return await engine.state(name)
        except EngineError as error:
            app_log.error("%s: %s %s", name, error, error.detail)
            raise Failed(error.sentence) from error

    async def _end(self, name: str) -> None:
        if name in self._removing:
            await asyncio.wait([self._removing[name]])
        await self._end_all(name)

    def _remove_soon(self, name: str) -> None:
        """Remove what is left of a build that worked out, while its server starts already."""
        task = asyncio.create_task(self._end_later(name))
        self._removing[name] = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end_later(self, name: str) -> None:
        try:
            # The server needs the machine now.
            await asyncio.sleep(REMOVAL_PAUSE)
            await self._end_all(name)
        finally:
            self._removing.pop(name, None)

    async def _end_all(self, name: str) -> None:
        """The builder, where there is one, and the pod."""
        try:
            if self.stock is not None:
                await self.stock.end(name)
            await self.engine.end(name, 0)
        except (EngineError, PodmanError, OSError) as error:
            detail = getattr(error, "detail", "")
            app_log.error("%s could not be ended: %s %s", name, error, detail)


# --- pure -----------------------------------------------------------------------------------------


def _age(state: PodState) -> float:
    """Seconds since the pod's first container was started."""
    started = [one.started_at for one in state.containers.values() if one.started_at]
    if not started:
        return 0.0
    return max(0.0, (datetime.now(UTC) - min(started)).total_seconds())


def read_message(line: str) -> Message | None:
    """What a container says to us in a line of its log; None when it is an ordinary line.

    The repository's own code can write such lines, too: they are sentences in its own build's log.

    >>> read_message('@studovna {"kind": "end"}').kind
    'end'
    """
    if not line.startswith(MARK):
        return None
    try:
        data = json.loads(line.removeprefix(MARK))
        kind = str(data["kind"])
        text = None
        if "template" in data:
            text = _text(data)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return None
    resources = str(data.get("resources", ""))[:4096].replace("\0", "")
    return Message(kind, text, str(data.get("name", "")), resources)


def _text(data: Mapping[str, Any]) -> Text:
    """A sentence that a container wrote, and those in it. Raises as Text.from_json does."""
    template = str(data["template"])[:2000]
    if not _TEMPLATE.fullmatch(template):
        raise ValueError(template)
    params = {
        str(name): _text(value) if isinstance(value, dict) else str(value)[:2000]
        for name, value in dict(data.get("params") or {}).items()
    }
    text = Text(template, **params)
    if len(text) > LONGEST_TEXT:  # what is filled in is filled in again by what is around it
        raise ValueError(template)
    return text


def next_step(step: str, said: str) -> str:
    """The step that a container is at when it says so: steps go forward only.

    Once the repository's code may run, no line of it leads back to where containers are believed.

    >>> next_step("prepare", "fetch"), next_step("install", "fetch")
    ('fetch', 'install')
    """
    order = list(PHASES)
    if said not in order or (step in order and order.index(said) < order.index(step)):
        return step
    return said


def git_secret(request: BuildRequest) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Git's settings that anyone may see, and the files of its secret (none when there is none)."""
    plain: list[tuple[str, str]] = []
    secret: list[tuple[str, str]] = []
    files: dict[str, str] = {}
    for key, value in request.git_config:
        if key == "core.sshCommand":
            command, files = ssh.in_pod(value, "/build/git")
            secret.append((key, command))
        else:
            plain.append((key, value))
    if request.credential is not None and request.content == "git":
        address = parse_address(request.fetch_url)
        secret += credential_settings(address, request.credential)
    if secret:
        files = files | {"config.json": json.dumps(secret)}
    return plain, files


def pod_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The package indexes and proxies of this machine, for fetch and install.

    Folders of this machine are left out: pods do not see them.
    """
    given = build_settings.of_this_machine(environ).env
    env: dict[str, str] = {}
    for name in _INDEX_VARIABLES:
        values = re.split(r"[ ,]+", given.get(name, ""))
        kept = [one for one in values if one and build_settings.MOUNT not in one]
        if kept:
            env[name] = ("," if name == "UV_FIND_LINKS" else " ").join(kept)
            if name in _PIP_VARIABLES:
                env[_PIP_VARIABLES[name]] = " ".join(kept)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        for spelling in (name, name.upper()):
            if environ.get(spelling):
                env[spelling] = environ[spelling]
    return env


__all__ = ["Base", "PodBuildExecutor", "base_version", "git_secret", "pod_environment"]
