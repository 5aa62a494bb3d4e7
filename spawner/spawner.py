"""A person's choices and a profile become one pod, the same for every engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from jupyterhub.utils import utcnow
from kubernetes_asyncio.client import V1Pod
from kubespawner import KubeSpawner
from kubespawner.slugs import is_valid_label, safe_slug
from tornado import web
from traitlets import Bool, Dict, Enum, Instance, Integer, List, Unicode, default

from spawner.culling import BINDER_PROFILE
from spawner.deployment import Deployment
from spawner.engine import Claim, EngineError
from spawner.licences import silent_servers
from spawner.options import (
    BINDER_KEYS,
    OptionsError,
    from_binderhub,
    normalise_options,
    typed_overrides,
)
from spawner.profile_list import Capabilities, compile_profiles
from spawner.quota import Resources, check_quota
from spawner.refusals import StartRefused
from spawner.web import SIDECAR, Web, with_sidecar
from studovna.profile_schema import SIDECAR_IMAGE, SIDECAR_PORT
from studovna.site import Volume
from studovna.text import Text

HOME = "/home/jovyan"
MAX_PROGRESS_EVENTS = 500


class ProfileSpawner(KubeSpawner):
    """KubeSpawner with checked options, a quota, restricted pods and homes that outlive servers.

    The order of a start is KubeSpawner's: ``load_user_options`` applies the profile, and only
    then is the quota asked, because only then is it known what the server will use.
    """

    deployment = Instance(Deployment, config=True, help="The site this hub serves.")

    shm_size = Integer(
        64 * 1024**2,
        help="Bytes of /dev/shm, a memory volume inside the server's memory limit.",
    )
    home_kind = Enum(
        ["person", "server", "none"],
        "person",
        help="Whose home is mounted: the person's, one of this server's own, or none.",
    )
    run_timeout = Integer(
        600,
        config=True,
        help="Seconds within which a server's pod has to run; fetching its images is part of it.",
    )
    user_options: dict[str, Any]
    extra_pod_config: dict[str, Any]
    licences = List(Unicode(), help="The licence servers of the site that the server uses.")
    site_volumes = Dict(help="Volumes of the site to mount, read-only, by their path.")
    may_run_jobs = Bool(False, help="Whether it may run jobs beside it, where the site lets it.")
    web_port = Integer(0, help="Where an application that is no Jupyter server listens; 0: none.")
    web_prefix = Enum(["strip", "keep"], "strip", help="Whether it sees its server's prefix.")
    walltime = Integer(0, help="Seconds after which the pod is ended whatever it does; 0: never.")

    # A pod, always: Pod Security "restricted" holds for every server.
    # https://kubernetes.io/docs/concepts/security/pod-security-standards/
    @default("uid")
    def _uid(self) -> int:
        return 1000

    @default("gid")
    def _gid(self) -> int:
        return 100

    @default("fs_gid")
    def _fs_gid(self) -> int:
        return 100

    @default("container_security_context")
    def _container_security_context(self) -> dict[str, Any]:
        return {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        }

    @default("pod_security_context")
    def _pod_security_context(self) -> dict[str, Any]:
        return {
            "fsGroupChangePolicy": "OnRootMismatch",
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        }

    # A claim deleted by hand is made again at the next start, instead of being waited for.
    remember_pvc_name = Bool(False)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.reserved: Resources | None = None
        self.last_end: dict[str, Any] | None = None
        self._events: list[dict[str, Any]] = []
        self._events_changed = asyncio.Event()
        super().__init__(*args, **kwargs)

    # Profiles

    @default("profile_list")
    def _profile_list_default(self) -> Any:
        return type(self).offered_profiles

    @default("options_form")
    def _options_form_default(self) -> str:
        # The spawn page draws the profiles itself; JupyterHub only asks whether there is a form.
        return " "

    @default("apply_user_options")
    def _apply_user_options_default(self) -> Any:
        # Options are applied by load_user_options, with the profile; there is nothing left to do.
        return lambda spawner, user_options: None

    async def capabilities(self) -> Capabilities:
        """What the place where pods run has to offer (images, GPUs)."""
        raise NotImplementedError

    def groups(self) -> set[str]:
        """The person's groups: the provider's, as of the last sign-in, or those of the site file.

        JupyterHub adds people to groups when it starts, and takes nobody out.
        """
        if self.authenticator.manage_groups:
            return {group.name for group in self.user.groups}
        return self.deployment.site.groups_of(self.user.name)

    async def offered_profiles(self) -> list[dict[str, Any]]:
        """The profiles this person may start, in KubeSpawner's ``profile_list`` format."""
        return compile_profiles(
            self.deployment.profiles,
            self.deployment.site,
            self.groups(),
            await self.capabilities(),
            include_hidden=True,
        )

    async def load_user_options(self) -> None:
        """Check the person's choices, apply the profile, and take its share of the quota.

        Raises ``StartRefused`` with a sentence that names the wrong option or the numbers of the
        quota. There is no ``await`` between asking the quota and holding the share, so two
        starts at the same moment cannot both take what is left.
        """
        self._tell(Text("Checking your choices"), 5)
        profiles = await self.offered_profiles()
        try:
            self.user_options = normalise_options(
                profiles, from_binderhub(self.user_options or {}), BINDER_KEYS
            )
        except OptionsError as error:
            raise StartRefused(error.text, reason="options") from error
        await super().load_user_options()
        self.pvc_name = await self._home_name()
        self._apply_volumes()
        if self.web_port:
            self.port = SIDECAR_PORT
        if self.walltime:
            limit = {"activeDeadlineSeconds": self.walltime}
            self.extra_pod_config = {**self.extra_pod_config, **limit}
        self._reserve()
        await self._ask_licences()

    async def _ask_licences(self) -> None:
        """Say which licence servers do not answer; the server starts all the same.

        The program may reach one that the hub does not, and it says itself what it lacks.
        """
        licences = {name: self.deployment.site.licences[name] for name in self.licences}
        for name, address in await silent_servers(licences):
            self._tell(
                Text(
                    "The licence server {address} ({name}) does not answer. The program may not "
                    "start; tell the operator.",
                    name=name,
                    address=address,
                )
            )

    def _apply_overrides(self, spawner_override: dict[str, Any]) -> None:
        # What a person typed arrives as text; cores and sizes are numbers.
        super()._apply_overrides(typed_overrides(spawner_override))

    async def _home_name(self) -> str:
        """The home that is mounted, if any. No person's name makes ``home-…`` a server's."""
        if self.home_kind == "none":
            return ""
        if self.home_kind == "person":
            return str(self._expand_user_properties("home-{username}"))
        try:
            there = await self._own_homes()
        except EngineError as error:
            raise StartRefused(
                error.sentence, reason="engine", detail=error.detail, status_code=500
            ) from error
        return there[0] if there else str(self._expand_user_properties("server-home-{user_server}"))

    async def _own_homes(self) -> list[str]:
        """The home of this server's own, if there is one. Raises EngineError."""
        # What servers' homes were named first, which "of-ana" and a server of ana's shared.
        templates = ("home-of-{user_server}", "server-home-{user_server}")
        names = [str(self._expand_user_properties(template)) for template in templates]
        there = {home.name for home in await self.homes(measured=False)}
        return [name for name in names if name in there]

    async def rename(self, old_name: str, new_name: str) -> None:
        """Refuse a name under which the server would not find its home again."""
        try:
            there = await self._own_homes()
        except EngineError as error:
            raise web.HTTPError(503, str(error.sentence)) from error
        if there:
            raise web.HTTPError(
                409,
                str(
                    Text(
                        "This server has a home of its own, {home}, which is named after it. "
                        "Change its display_name instead.",
                        home=there[0],
                    )
                ),
            )

    def _apply_volumes(self) -> None:
        volumes: list[dict[str, Any]] = [
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": str(self.shm_size)}}
        ]
        mounts: list[dict[str, Any]] = [
            {"name": "shm", "mountPath": "/dev/shm"}  # noqa: S108 - the pod's own
        ]
        if self.home_kind == "none":
            self.storage_pvc_ensure = False
        else:
            self.storage_pvc_ensure = True
            volumes.append({"name": "home", "persistentVolumeClaim": {"claimName": self.pvc_name}})
            mounts.append({"name": "home", "mountPath": HOME})
        for path, name in sorted(self.site_volumes.items()):
            volume = {"name": f"site-{name}", **volume_source(self.deployment.site.volumes[name])}
            if volume not in volumes:
                volumes.append(volume)
            mounts.append({"name": volume["name"], "mountPath": path, "readOnly": True})
        self.volumes = volumes
        self.volume_mounts = mounts

    async def get_pod_manifest(self) -> V1Pod:
        """The pod of this server; an application has the hub's sign-in before it."""
        pod = await super().get_pod_manifest()
        if not self.web_port:
            return pod
        web = Web(
            self.web_port,
            self.web_prefix,
            self.deployment.site.image_reference(SIDECAR_IMAGE),
            args=self.cmd,
            variables=self.environment.keys(),
            home=HOME if self.home_kind != "none" else None,
        )
        return with_sidecar(pod, web)

    # Quota

    def _reserve(self) -> None:
        wanted = Resources.from_traits(
            {
                "cpu_guarantee": self.cpu_guarantee,
                "cpu_limit": self.cpu_limit,
                "mem_guarantee": self.mem_guarantee,
                "mem_limit": self.mem_limit,
                "extra_resource_limits": self.extra_resource_limits,
            }
        )
        if self.web_port:
            wanted += SIDECAR
        refusal = self._one_too_many() or check_quota(
            self.deployment.site.project, self.others_reserved(), wanted
        )
        if refusal:
            raise StartRefused(refusal, reason="quota", status_code=403)
        self.reserved = wanted

    def _one_too_many(self) -> Text | None:
        """Binder keeps its limit itself; a start by the REST API does not come by there."""
        most = self.deployment.site.binder.servers
        if self.user_options.get("profile") != BINDER_PROFILE:
            return None
        running = [
            one for one in self._others() if one.user_options.get("profile") == BINDER_PROFILE
        ]
        if len(running) < most:
            return None
        return Text(
            "You run {most} servers from repositories, which is as many as you may. "
            "Stop one first.",
            most=most,
        )

    def _others(self) -> list[ProfileSpawner]:
        """The person's other servers, those that are just starting included."""
        return [
            other
            for other in self.user.spawners.values()
            if other is not self and other.active and other.reserved is not None
        ]

    def others_reserved(self) -> list[Resources]:
        """What the person's other servers hold."""
        return [other.reserved for other in self._others() if other.reserved is not None]

    # State

    def get_state(self) -> dict[str, Any]:
        state = super().get_state()
        if self.reserved is not None:
            state["reserved"] = self.reserved.as_dict()
            if self.home_kind != "none":
                state["home"] = self.pvc_name
        if self.last_end is not None:
            state["last_end"] = self.last_end
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        if "reserved" in state:
            self.reserved = Resources.from_dict(state["reserved"])
        # Which home is in use is known after the hub has been started again, too.
        if "home" in state:
            self.pvc_name = state["home"]
        self.last_end = state.get("last_end")

    def clear_state(self) -> None:
        super().clear_state()
        self.reserved = None

    # Homes

    async def homes(self, *, measured: bool = True) -> list[Claim]:
        """Every home of this person, those of deleted servers included."""
        raise NotImplementedError

    async def erase_home(self, name: str) -> None:
        """Delete a home and all that is in it. Raises ``ClaimInUse`` while a server mounts it."""
        raise NotImplementedError

    def home_labels(self) -> dict[str, str]:
        """The labels by which a person's homes are found."""
        return {
            "hub.jupyter.org/username": safe_slug(self.user.name, is_valid=is_valid_label),
            "component": "singleuser-storage",
        }

    async def delete_forever(self) -> None:
        """A server or a person is deleted: the homes stay until somebody erases them by name."""
        self.log.info("%s is deleted; its home %s is kept.", self._log_name, self.pvc_name)

    # Progress

    def _tell(self, sentence: Text, progress: int | None = None) -> None:
        """Add a sentence to the start's progress, which everyone who watches it reads."""
        event: dict[str, Any] = {**sentence.as_event(), "at": utcnow().isoformat()}
        if progress is not None:
            event["progress"] = progress
        if len(self._events) < MAX_PROGRESS_EVENTS:
            self._events.append(event)
        self._events_changed.set()
        self._events_changed = asyncio.Event()

    def start(self) -> Any:
        self._events = []
        self.last_end = None
        future = super().start()
        future.add_done_callback(self._start_is_over)
        return future

    def _start_is_over(self, start: asyncio.Future[str]) -> None:
        self._events_changed.set()
        error = None if start.cancelled() else start.exception()
        if isinstance(error, StartRefused):
            # JupyterHub forgets it as soon as somebody opens the form again.
            refusal = error.jupyterhub_message.as_event()
            self.last_end = {**refusal, "failed": True, "at": utcnow().isoformat()}

    async def progress(self) -> AsyncIterator[dict[str, object]]:
        """The sentences of this start, from its beginning, until it ends."""
        sent = 0
        while True:
            changed = self._events_changed
            finished = self._start_future is not None and self._start_future.done()
            while sent < len(self._events):
                yield self._events[sent]
                sent += 1
            if finished:
                return
            await changed.wait()


def volume_source(volume: Volume) -> dict[str, Any]:
    """A volume of the site as the source of a pod's volume."""
    if volume.claim is not None:
        return {"persistentVolumeClaim": {"claimName": volume.claim, "readOnly": True}}
    return {"hostPath": {"path": volume.path, "type": "Directory"}}


def last_end(orm: Any, live: ProfileSpawner | None) -> dict[str, Any] | None:
    """How the latest run of a server ended, when it did not end by being stopped.

    ``orm`` is the server in JupyterHub's database, if there is one; ``live`` its spawner.
    """
    if live is not None:
        return live.last_end
    found: dict[str, Any] | None = (orm.state or {}).get("last_end") if orm else None
    return found
