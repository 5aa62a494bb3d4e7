"""Builds: one per image, shared by all who ask for it, fair to all who wait.

``BuildQueue`` decides what is built when; a ``BuildExecutor`` knows how. The queue keeps for each
build what a restart of the service needs to find it again, and its log afterwards (`BuildStore`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import time
from abc import abstractmethod
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Self

from tornado.log import app_log
from traitlets import Bool, Dict, Integer, List, Unicode
from traitlets.config import LoggingConfigurable

from studovna.text import Text

from . import metrics
from .errors import BinderError, Failed, Refused
from .events import Event, EventLog, event, failed
from .providers import Credential
from .store import BuildStore

JUST_BUILT = 5.0  # seconds in which a registry's "absent" may be older than the image
PRIVATE = "private"
ENDING_SECONDS = 10.0  # in which a build that is being cancelled may end when the service ends
KEPT_LOGS = 50  # finished builds whose log stays in memory


@dataclass(frozen=True)
class BuildRequest:
    """What is to be built: one exact version of one repository, into one image.

    ``content`` names the kind of source (``git`` or a record's: ``zenodo``, ``ckan`` …);
    ``fetch_url`` and ``git_config`` say where it is fetched from, pinned to checked addresses;
    ``credential`` is for that fetch only, and is not stored: a build that the service finds again
    after a restart has been given it already. ``private_link`` is the link of a private repository
    (empty: it is none): who can still open it may see what is known of the build.
    """

    image: str
    repo_url: str
    ref: str
    content: str
    fetch_url: str
    resolved_spec: str
    provider: str
    started_by: str
    git_config: tuple[tuple[str, str], ...] = ()
    credential: Credential | None = field(default=None, repr=False, compare=False)
    private_link: str = ""

    @property
    def name(self) -> str:
        """The build's name (`build_name`)."""
        return build_name(self.image)

    @property
    def metric(self) -> str:
        """The repository as metrics name it, which everybody may read."""
        return PRIVATE if self.private_link else self.repo_url

    @property
    def timed_as(self) -> str:
        """What the time of the build is kept under: a page asks before it knows who may read."""
        return f"{PRIVATE} {self.repo_url}" if self.private_link else self.repo_url

    def to_dict(self) -> dict[str, Any]:
        """For the store: everything but the credential, and whether there is one."""
        data = asdict(self)
        del data["credential"]
        return data | {"with_credential": self.credential is not None}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        known = {entry.name for entry in fields(cls)} - {"credential"}
        values = {name: value for name, value in data.items() if name in known}
        values["git_config"] = tuple((str(k), str(v)) for k, v in values.get("git_config", ()))
        return cls(**values)


def build_name(image: str) -> str:
    """The name of an image's build: the same for the same image, fit for a pod (38 characters)."""
    return "build-" + hashlib.sha256(image.encode()).hexdigest()[:32]


class BuildExecutor(LoggingConfigurable):
    """Runs builds. Subclasses say where; the traits are BinderHub's.

    The queue gives each build to ``run`` once. The same build may be given again to an executor
    of a later process, which then follows what it finds instead of starting anew.

    ``version`` names what every image is built upon; with another one, images have other names.
    """

    version = ""
    leaving = False
    """Whether the service ends: a build that is cancelled then is to go on without it."""

    appendix = Unicode("", help="Lines for the end of the Dockerfile, where one is used.").tag(
        config=True
    )
    push_secret = Unicode("", help="Known for BinderHub's sake.", allow_none=True).tag(
        config=True, ignored="the registry's credential is in site.yaml, or registry_credentials"
    )
    registry_credentials = Dict(
        help="The registry's push credential: {'registry', 'username', 'password'}."
    ).tag(config=True)
    repo2docker_extra_args = List(Unicode(), help="Further arguments for repo2docker.").tag(
        config=True
    )
    memory_limit = Integer(0, help="Memory in bytes that a build may use; 0: no limit.").tag(
        config=True
    )
    git_credentials = Unicode("", help="Known for BinderHub's sake.").tag(
        config=True, ignored="set RepoProvider.git_credentials"
    )

    @abstractmethod
    def run(self, request: BuildRequest) -> AsyncGenerator[Event, None]:
        """Build: an async generator of events with the phases ``waiting``, ``fetching``,
        ``building``, ``pushing`` (made with `events.event`).

        When it ends, the image is complete in the registry. When a build of this name runs
        already (from before a restart), it is followed from its beginning and not started again;
        one that has ended meanwhile is concluded.

        Raises Failed with a sentence for the person when the build does not work out. Leaves
        nothing running and nothing half-pushed when it raises, is cancelled (``cancel`` came
        before) or is closed.
        """

    @abstractmethod
    async def cancel(self, name: str) -> None:
        """End every process of the build of this name. Does nothing when there is none."""

    @abstractmethod
    async def running(self) -> set[str]:
        """The names of the builds that exist in the engine, running or ended and not removed."""

    async def prepare(self, image_prefix: str) -> None:
        """Do once what the first build would wait for. Raises Failed."""
        del image_prefix

    async def builder_info(self) -> dict[str, str]:
        """What ``/versions`` says of the builder."""
        return {}


class KubernetesBuildExecutor(BuildExecutor):
    """BinderHub's options for builds in pods, known for its sake: ours are those of the site."""

    namespace = Unicode("", help="The namespace of build pods.").tag(
        config=True, ignored="it is the chart's"
    )
    build_image = Unicode("", help="The image of build pods.").tag(
        config=True, ignored="it is the site's own builder"
    )
    docker_host = Unicode("", help="Docker's socket.").tag(config=True, ignored="no socket is used")
    resources = Dict(help="Resources of build pods, as Kubernetes writes them.").tag(
        config=True, ignored="set build_cpu and build_memory in site.yaml"
    )
    node_selector = Dict(help="Labels of the nodes that build.").tag(
        config=True, ignored="builds run where the cluster puts them"
    )
    log_tail_lines = Integer(100, help="What of a log is shown to who joins.").tag(
        config=True, ignored="whoever joins sees the whole log"
    )
    sticky_builds = Bool(False, help="Whether a repository is built on one node.").tag(
        config=True, ignored="builds keep nothing on their nodes"
    )

    instead: ClassVar[dict[str, str]] = {
        "namespace": "builds.namespace of the chart's values",
        "build_image": "images.tag of the chart's values, or images in site.yaml",
        "resources": "binder.build_cpu and binder.build_memory in site.yaml",
        "node_selector": "cluster.placement.builds in site.yaml",
    }
    """Options of BinderHub that have no effect here, and what has."""

    def warn_of_unused(self) -> None:
        """Tell an operator of options that somebody set in vain."""
        for name, other in self.instead.items():
            if getattr(self, name):
                app_log.warning(
                    "KubernetesBuildExecutor.%s has no effect here: set %s", name, other
                )


class Build:
    """One build, waiting, running or ended. ``log`` is what its viewers see."""

    def __init__(self, request: BuildRequest, log_limit: int) -> None:
        self.request = request
        self.log = EventLog(f"{request.name[-12:]}-{secrets.token_hex(4)}", log_limit)
        self.people = {request.started_by}
        self.position: int | None = None  # from 1 while it waits, None when it runs or has ended
        self.asked = time.time()
        self.started: float | None = None  # seconds since 1970, when it left the queue
        self.ended: float | None = None
        self.cancelled_by = ""

    @property
    def name(self) -> str:
        return self.request.name

    @property
    def state(self) -> str:
        if self.log.closed:
            return "failed" if (self.log.final or {}).get("phase") == "failed" else "built"
        return "waiting" if self.started is None else "running"

    def seconds(self) -> float:
        """How long it has run, or ran."""
        return ((self.ended or time.time()) - self.started) if self.started else 0.0

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.name,
            "image": self.request.image,
            "repo_url": self.request.repo_url,
            "ref": self.request.ref,
            "state": self.state,
            "position": self.position,
            "started_by": self.request.started_by,
            "asked": self.asked,
            "started": self.started,
            "seconds": round(self.seconds(), 1),
        }


class BuildQueue:
    """At most ``limit`` builds at once; the rest wait, one person after the other.

    Among people who wait, each gets a turn before anyone gets a second one, whatever the number
    of builds that each has asked for.
    """

    def __init__(
        self,
        executor: BuildExecutor,
        store: BuildStore,
        *,
        limit: int,
        log_limit: int = 8 * 1024**2,
        waiting_limit: int = 1000,
        may_start: Callable[[str], None] = lambda person: None,
    ) -> None:
        self.executor = executor
        self.store = store
        self.limit = limit
        self.log_limit = log_limit
        self.waiting_limit = waiting_limit
        self._may_start = may_start
        self._active: dict[str, Build] = {}  # by image: waiting and running ones
        self._waiting: OrderedDict[str, deque[Build]] = OrderedDict()  # by person, next one first
        self._running: dict[str, asyncio.Task[None]] = {}  # by image
        self._ended: OrderedDict[str, Build] = OrderedDict()  # by name

    async def restore(self) -> None:
        """After a restart: follow the builds that still exist, and queue the others again.

        One that needs a credential to be fetched has lost it, and is concluded as failed.
        """
        found = await self.executor.running()
        for data in await self.store.unfinished():
            try:
                request = BuildRequest.from_dict(data)
            except (TypeError, ValueError) as error:
                app_log.error("A stored build cannot be read: %s", error)
                continue
            if request.image in self._active:
                continue  # asked for again in the meantime
            build = self._active[request.image] = Build(request, self.log_limit)
            if request.name in found:
                app_log.info("Following %s of %s again", request.name, request.repo_url)
                self._start(build)
            elif data.get("with_credential"):
                interrupted = Text(
                    "The build of {url} was interrupted when the service restarted. Open the "
                    "link again to build it.",
                    url=request.repo_url,
                )
                await self._conclude(build, failed(interrupted))
            else:
                app_log.info("Queueing %s of %s again", request.name, request.repo_url)
                self._wait(build)
        self._next()
        for name in found - {build.name for build in self._active.values()}:
            app_log.warning("Ending the build %s: nothing is known of it", name)
            await self.executor.cancel(name)

    async def submit(self, request: BuildRequest) -> Build:
        """The build of this image: the one that goes on or has just ended well, or a new one.

        Raises Refused when the person may not start another one, or too many wait.
        """
        build = self._active.get(request.image)
        if build is not None:
            build.people.add(request.started_by)
            return build
        ended = self._ended.get(request.name)
        if ended and ended.state == "built" and time.time() - (ended.ended or 0) < JUST_BUILT:
            ended.people.add(request.started_by)
            return ended
        if sum(map(len, self._waiting.values())) >= self.waiting_limit:
            raise Refused(
                Text(
                    "{count} builds are waiting already. Try again later.", count=self.waiting_limit
                ),
                status=503,
            )
        self._may_start(request.started_by)
        build = self._active[request.image] = Build(request, self.log_limit)
        self._wait(build)
        self._next()
        try:
            await self.store.begin(request.name, request.to_dict())
        except OSError as error:
            app_log.error("Could not store %s: a restart will not find it: %s", build.name, error)
        return build

    def find(self, name: str) -> Build | None:
        """A build by its name: one that goes on, or one that ended not long ago."""
        for build in self._active.values():
            if build.name == name:
                return build
        return self._ended.get(name)

    def by_log(self, log: str) -> Build | None:
        """The build whose log has this name."""
        for build in [*self._active.values(), *self._ended.values()]:
            if build.log.name == log:
                return build
        return None

    def active(self) -> list[Build]:
        """The builds that wait or run, in the order in which they were asked for."""
        return list(self._active.values())

    async def cancel(self, build: Build, person: str) -> None:
        """End a build for everyone who watches it. Returns when nothing of it runs any more."""
        if build.log.closed:
            return
        first = not build.cancelled_by
        build.cancelled_by = build.cancelled_by or person
        task = self._running.get(build.request.image)
        if task is None:
            self._remove_waiting(build)
            await self._conclude(build, failed(_cancelled(build)))
            return
        if first:  # a second one would cut off the ending that the first one began
            task.cancel()
        await asyncio.wait([task])
        if not build.log.closed:  # it was cut off itself: before its first step, or at its end
            await self._end_in_engine(build)
            await self._conclude(build, failed(_cancelled(build)))

    async def close(self) -> None:
        """At the service's end: builds go on in the engine, and are found again at its start.

        One that is just being cancelled is not to be found again: it may end first.
        """
        self.executor.leaving = True
        ending = [task for image, task in self._running.items() if self._active[image].cancelled_by]
        tasks = list(self._running.values())
        for task in tasks:
            if task not in ending:
                task.cancel()
        if ending:
            await asyncio.wait(ending, timeout=ENDING_SECONDS)
        for task in ending:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _wait(self, build: Build) -> None:
        self._waiting.setdefault(build.request.started_by, deque()).append(build)
        build.log.append(event("waiting", Text("Waiting for the build to start...")))

    def _remove_waiting(self, build: Build) -> None:
        mine = self._waiting.get(build.request.started_by)
        if mine and build in mine:
            mine.remove(build)
            if not mine:
                del self._waiting[build.request.started_by]

    def _next(self) -> None:
        while self._waiting and len(self._running) < self.limit:
            person, builds = next(iter(self._waiting.items()))
            build = builds.popleft()
            if builds:
                self._waiting.move_to_end(person)
            else:
                del self._waiting[person]
            self._start(build)
        self._number()

    def _number(self) -> None:
        """Tell every waiting build its place, in the order in which turns will come."""
        place, lines = 0, [list(builds) for builds in self._waiting.values()]
        for turn in range(max(map(len, lines), default=0)):
            for line in lines:
                if turn < len(line):
                    place += 1
                    if line[turn].position != place:
                        line[turn].position = place
                        line[turn].log.notify()

    def _start(self, build: Build) -> None:
        build.position = None
        build.started = time.time()
        task = asyncio.create_task(self._run(build), name=build.name)
        self._running[build.request.image] = task

    async def _run(self, build: Build) -> None:
        request, leaving = build.request, False
        metrics.BUILDS_INPROGRESS.inc()
        try:
            async with contextlib.aclosing(self.executor.run(request)) as events:
                async for new in events:
                    build.log.append(new)
            last = event("built", Text("The image is built."), imageName=request.image)
        except asyncio.CancelledError:
            if not build.cancelled_by:
                leaving = True
                raise  # the service ends; the build goes on in the engine
            await self._end_in_engine(build)
            last = failed(_cancelled(build))
        except BinderError as error:
            last = failed(error.message)
        except Exception:
            app_log.exception("The build of %s at %s broke", request.repo_url, request.ref)
            await self._end_in_engine(build)
            last = failed(
                Text(
                    "The build of {url} broke through a fault of the service, which its "
                    "administrators find in the log. Open the link again to try once more.",
                    url=request.repo_url,
                )
            )
        finally:
            metrics.BUILDS_INPROGRESS.dec()
            if leaving:
                self._running.pop(request.image, None)
        await self._conclude(build, last)

    async def _end_in_engine(self, build: Build) -> None:
        try:
            await self.executor.cancel(build.name)
        except Exception:
            app_log.exception("Could not end %s in the engine", build.name)

    async def _conclude(self, build: Build, last: Event) -> None:
        """Whatever happened, a build ends here: once, with its final event, its log stored."""
        if build.log.closed:
            return
        build.ended = time.time()
        build.position = None
        request = build.request
        status = "success" if last["phase"] == "built" else "failure"
        if build.started is not None:
            metrics.BUILD_TIME.labels(status=status).observe(build.seconds())
        metrics.BUILD_COUNT.labels(
            status=status, provider=request.provider, repo=request.metric
        ).inc()
        self._active.pop(request.image, None)
        self._running.pop(request.image, None)
        self._ended[build.name] = build
        self._ended.move_to_end(build.name)
        while len(self._ended) > KEPT_LOGS:
            self._ended.popitem(last=False)
        build.log.close(last)
        app_log.info("%s of %s: %s", build.name, request.repo_url, last["message"].strip())
        self._next()
        try:
            await self.store.finish(
                build.name,
                request.timed_as,
                build.seconds(),
                status,
                build.log,
                request.private_link,
            )
        except OSError as error:
            app_log.error("The log of %s could not be stored: %s", build.name, error)


def _cancelled(build: Build) -> Text:
    return Text(
        "The build of {url} was cancelled by {person}.",
        url=build.request.repo_url,
        person=build.cancelled_by,
    )


__all__ = [
    "Build",
    "BuildExecutor",
    "BuildQueue",
    "BuildRequest",
    "Failed",
    "KubernetesBuildExecutor",
    "build_name",
]
