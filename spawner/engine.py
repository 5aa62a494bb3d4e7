"""What runs pods: one small interface for servers and for builds.

An engine takes a Kubernetes pod manifest, runs it, tells its state and its logs, and ends it. Names
of pods and claims are unique within one site. Every method may be called from several tasks at
once.

Errors::

    EngineError                 something an operator or a person has to know
    ├── UntranslatableField     the manifest asks for what this engine cannot do
    ├── ImageMissing            an image does not exist
    ├── RegistryUnreachable     the registry of an image did not answer
    ├── PodExists               a pod of that name is there already
    ├── PodMissing              there is no pod, or no container, of that name
    ├── PodEnded                the pod was ended while it was starting
    ├── PortInUse               a port to be published is taken
    ├── DiskFull                no space left on the engine's disk
    ├── NoFreeDevice            fewer free GPUs than asked for
    ├── NoRoom                  no node of the cluster has room for the pod, or is of its kind
    ├── NotAdmitted             a quota, a limit or a policy of the cluster forbids it
    │   └── QuotaFull           a quota of the cluster has no room now, and has when others end
    ├── ClaimMissing            the pod mounts a claim that does not exist and was not given
    ├── ClaimInUse              the claim is mounted by a pod
    └── EngineUnavailable       the engine itself is missing or broken
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from typing import Literal

from kubernetes_asyncio.client import (
    V1ConfigMap,
    V1PersistentVolumeClaim,
    V1Pod,
    V1Secret,
)

from studovna.text import Text

Phase = Literal["Pending", "Running", "Succeeded", "Failed", "Missing"]
OnEvent = Callable[[Text], None]
PodData = V1Secret | V1ConfigMap

DEFAULT_GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL when nobody says otherwise."""


class EngineError(Exception):
    """Something went wrong that someone has to know.

    `sentence` is for people. `detail` is for the operator's log: what was called and what it wrote.
    """

    def __init__(self, sentence: Text, detail: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.detail = detail


class UntranslatableField(EngineError):
    """A field of the manifest that this engine cannot honour; `field` is its path."""

    def __init__(self, field: str, why: Text) -> None:
        super().__init__(
            Text("This machine cannot run the pod: {field}: {why}", field=field, why=why)
        )
        self.field = field
        self.why = why


class ImageMissing(EngineError):
    """An image does not exist, neither here nor in its registry."""


class RegistryUnreachable(EngineError):
    """The registry of an image did not answer."""


class PodExists(EngineError):
    """A pod of that name is there already."""


class PodMissing(EngineError):
    """There is no pod, or no container in it, of that name."""


class PodEnded(EngineError):
    """The pod was ended by someone while it was starting."""


class PortInUse(EngineError):
    """A port to be published is taken."""


class DiskFull(EngineError):
    """No space is left on the disk of the engine."""


class NoFreeDevice(EngineError):
    """Fewer GPUs are free than the pod asks for."""


class NoRoom(EngineError):
    """No node of the cluster has room for the pod, or is of the kind that it wants."""


class NotAdmitted(EngineError):
    """A quota, a limit or a policy of the cluster forbids it."""


class QuotaFull(NotAdmitted):
    """A quota of the cluster has no room for it now; it has when others have ended."""


class ClaimMissing(EngineError):
    """The pod mounts a claim that does not exist and that was not given to be made."""


class ClaimInUse(EngineError):
    """The claim is mounted by a pod."""


class EngineUnavailable(EngineError):
    """The engine itself is missing or broken."""


@dataclasses.dataclass(frozen=True)
class ContainerState:
    """One container of a pod, init containers included.

    `exit_code` and `finished_at` are None until it has ended. `oom_killed` is true when the kernel
    killed one of its processes for the memory limit; known only once the container has ended.
    """

    state: Literal["waiting", "running", "ended"]
    exit_code: int | None = None
    oom_killed: bool = False
    started_at: datetime | None = None
    finished_at: datetime | None = None


@dataclasses.dataclass(frozen=True)
class PodState:
    """One pod as it is now.

    Pending until every container has started (init containers run in this phase), Running while one
    of them runs, then Succeeded when all ended with 0 and Failed otherwise. A pod is Failed, too,
    when an init container failed or its start was cut short; `reason` says so then. Missing: there
    is no such pod. A pod that ended keeps its state and logs until `Engine.end`.

    `deleting`: somebody asked for its end. Its containers may go on for their grace, and once they
    have ended the pod is still there until everything of it is gone.
    """

    phase: Phase
    containers: Mapping[str, ContainerState] = dataclasses.field(default_factory=dict)
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    reason: Text | None = None
    deleting: bool = False


MISSING = PodState("Missing")


@dataclasses.dataclass(frozen=True)
class Claim:
    """One persistent volume claim.

    `size` is what its files take, in bytes; None when it could not be measured in time.
    `requested` is what the manifest asked for, in bytes.
    """

    name: str
    size: int | None
    requested: int | None
    created: datetime
    labels: Mapping[str, str]


class Engine(abc.ABC):
    """Runs pods. All methods raise `EngineUnavailable` when the engine itself does not work."""

    @abc.abstractmethod
    async def run(
        self,
        pod: V1Pod,
        claims: Sequence[V1PersistentVolumeClaim] = (),
        on_event: OnEvent | None = None,
        *,
        data: Sequence[PodData] = (),
    ) -> None:
        """Make and start a pod; returns when its containers were started.

        With init containers it returns when the first of them is being started; what happens after
        that is in `state`, and goes on when this process ends.

        Images that are absent are pulled (`imagePullPolicy` is respected; images of `localhost/`
        are never pulled). `claims` that do not exist are made, those that do are left as they are.
        `data` are the Secrets and ConfigMaps that the pod refers to. `on_event` is called with
        sentences about the progress, from the loop's thread; it must not raise.

        When it raises or is cancelled, nothing of the pod is left but its claims.

        Raises UntranslatableField (before anything is done), PodExists, PodEnded, ImageMissing,
        RegistryUnreachable, ClaimMissing, NoFreeDevice, PortInUse, DiskFull, or EngineError.
        """

    @abc.abstractmethod
    async def state(self, name: str) -> PodState:
        """The state of one pod, at most a second old, and never older than the last `run` or `end`.

        A pod that does not exist is `Missing`, not an error. Many calls at once cost one question.
        """

    @abc.abstractmethod
    async def states(self, labels: Mapping[str, str]) -> dict[str, PodState]:
        """The pods of this site that have all these labels, by name. Costs one question."""

    @abc.abstractmethod
    def logs(
        self,
        name: str,
        container: str,
        *,
        follow: bool = False,
        since: datetime | None = None,
    ) -> AsyncIterator[str]:
        """The lines that a container wrote, without line ends, oldest first.

        Old lines are dropped beyond some megabytes. With `follow` it goes on until the container
        has ended or the pod is gone; a container that has not started yet is waited for. `since`
        leaves out lines written before. Raises PodMissing.
        """

    @abc.abstractmethod
    async def tail(self, name: str, container: str, lines: int) -> list[str]:
        """The last lines that a container wrote. Raises PodMissing."""

    @abc.abstractmethod
    async def url(self, name: str, port: int) -> str:
        """`http://host:port` at which this machine reaches a containerPort of a pod.

        Raises PodMissing, or EngineError when the manifest does not list the port.
        """

    @abc.abstractmethod
    async def end(self, name: str, grace: float = DEFAULT_GRACE) -> None:
        """End a pod and remove everything of it but its claims.

        Processes get SIGTERM, `grace` seconds later SIGKILL; none is left afterwards. A pod that is
        starting is cut short (its `run` raises PodEnded). One that does not exist, or half exists,
        is no error: what there is of it is removed. May be called again after it failed.
        """

    @abc.abstractmethod
    async def erase_claim(self, name: str) -> None:
        """Delete a claim and everything in it, for ever. No-op when it does not exist.

        Raises ClaimInUse while a pod, running or ended, mounts it.
        """

    @abc.abstractmethod
    async def claims(self, labels: Mapping[str, str], *, measured: bool = True) -> list[Claim]:
        """The claims that have all these labels, by name; `measured`: with their sizes, where they
        are known."""

    async def tidy(self) -> None:  # noqa: B027 - most engines have nothing to do
        """Finish what a process that was killed left half done; called once, by the hub, at start.

        No-op where nothing of that kind can be left.
        """

    @abc.abstractmethod
    def hub_address(self) -> str:
        """An address of this machine that every pod reaches, for the hub to listen on.

        Called once at start, before the loop runs; may be called again and answers the same.
        """
