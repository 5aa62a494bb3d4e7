"""Servers on a Kubernetes cluster: KubeSpawner's pods and names, watched and told about."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from kubespawner.spawner import PodReflector
from traitlets import Unicode

from spawner import kube_jobs, kube_logs, kube_namespace, kube_objects, kube_start
from spawner.answering import SERVER_CONTAINER, AnsweringSpawner, has_ended
from spawner.cluster import Cluster, asked_of
from spawner.deployment import Deployment
from spawner.engine import MISSING, Claim, EngineError, PodEnded, PodExists, PodState
from spawner.kube_api import Json
from spawner.kube_reflector import LastingReflector, Reflectors
from spawner.kube_states import pod_state
from spawner.manifest import plain, quantity
from spawner.placement import for_server, merged
from spawner.profile_list import Capabilities
from spawner.quota import Resources
from spawner.spawner import HOME
from spawner.trust import make_config_map, trusting
from studovna.profile_rules import ways
from studovna.release import Release
from studovna.text import Text

INTERVAL = 0.1
RUNNING_LATE = 3.0  # seconds that a watch may be behind before the API is asked itself
LOST_SECONDS = 60.0
"""How long after its grace a pod may still be there before its node is taken for lost."""
_ASK_PATIENCE = 3.0


class KubernetesSpawner(AnsweringSpawner):
    """ProfileSpawner on KubeSpawner's own ground.

    Manifests, names, state and the watch of pods are KubeSpawner's. What it knows of a pod from the
    watch is believed while the pod is there; that a pod is gone is believed only from the API.
    """

    ca_config_map = Unicode(
        help="The ConfigMap whose ca.crt servers trust in place of the public authorities; or none."
    ).tag(config=True)

    cluster: ClassVar[Cluster]
    hub_namespace: ClassVar[str]
    """Where the hub's own pod runs, and servers too unless each person has a namespace."""
    jobs_role: ClassVar[str] = ""
    """The ClusterRole of servers that may run jobs in their person's namespace; empty: none may."""
    _namespaces: ClassVar[set[str]] = set()
    _with_jobs: ClassVar[set[str]] = set()

    _pod_uid: str | None = None
    """Of the pod that this server runs in, where it is known."""
    _node = ""
    _deleted = False
    """Whether the pod, when it was last seen, was being deleted."""

    @classmethod
    def prepare(cls, c: Any, deployment: Deployment, release: Release, image_prefix: str) -> None:
        """Set what all servers of this hub share, from the site and the chart's release."""
        settings = deployment.site.cluster
        cls.cluster = Cluster(release.namespace, image_prefix, _gpu_names(deployment))
        cls.hub_namespace = release.namespace
        c.KubernetesSpawner.namespace = release.namespace
        c.KubernetesSpawner.extra_labels = {"app.kubernetes.io/instance": release.instance}
        c.KubernetesSpawner.image_pull_secrets = list(settings.pull_secrets)
        if settings.namespaces == "person":
            prefix = kube_namespace.prefix(release.namespace)
            cls.jobs_role = release.jobs_role
            c.KubernetesSpawner.enable_user_namespaces = True
            c.KubernetesSpawner.user_namespace_template = f"{prefix}{{username}}"
        # Events are asked for where a pod waits, instead of being kept of all pods.
        c.KubernetesSpawner.events_enabled = False

    async def capabilities(self) -> Capabilities:
        return await self.cluster.capabilities()

    # --- the watch ------------------------------------------------------------------------------

    async def _start_reflector(
        self, kind: str, reflector_class: Any, replace: bool = False, **kwargs: Any
    ) -> Any:
        """One living watch for all servers, instead of KubeSpawner's, which may be dead."""
        chosen = LastingReflector if reflector_class is PodReflector else reflector_class
        return await Reflectors.living(
            type(self).reflectors,
            self._get_reflector_key(kind),
            replace,
            lambda: chosen(parent=self, namespace=self.namespace, **kwargs),
        )

    async def _watched(self) -> Json | None:
        """The pod as the watch knows it, if that is the pod of this server."""
        await self._start_watching_pods()
        pod: Json | None = self.pod_reflector.pods.get(f"{self.namespace}/{self.pod_name}")
        if pod is not None and self._pod_uid in (None, pod["metadata"]["uid"]):
            return pod
        return None

    async def _find(self) -> Json | None:
        pod = await self._watched()
        if pod is None:
            pod = await kube_objects.find_pod(self.namespace, self.pod_name, patience=_ASK_PATIENCE)
        if pod is not None:
            self._node = str(pod["spec"].get("nodeName") or "")
            self._deleted = "deletionTimestamp" in pod["metadata"]
        return pod

    # --- starting -------------------------------------------------------------------------------

    async def _start(self) -> str:
        await self.load_user_options()
        self._pod_uid = None
        try:
            await self._ensure_namespace()
            await self._ensure_jobs()
            await self._start_watching_pods()
            if self.storage_pvc_ensure:
                # Asked for at every start: one that was deleted by hand is made again.
                if await kube_objects.make_claim(self.namespace, self.get_pvc_manifest()):
                    # No news to somebody who comes for the first time, but to whoever had one.
                    self._tell(Text("Your home is new and empty"), 20)
            manifest = self._placed(plain(await self.get_pod_manifest()))
            self._tell(Text("Creating the server"), 30)
            try:
                return await self._run(manifest)
            except PodExists:
                # Left over from a start that the hub did not live to finish.
                await kube_objects.remove_pod(self.namespace, self.pod_name, 0)
                return await self._run(manifest)
        except EngineError as error:
            self._namespaces.discard(self.namespace)  # it may have been deleted by hand
            self._with_jobs.discard(self.namespace)
            raise self.refused(error) from error
        finally:
            self._gpus_changed()

    def _placed(self, pod: Json) -> Json:
        """The manifest where the site wants it to run, trusting what the site trusts; what has
        ended is not started again."""
        gpus = [name for name, count in (self.extra_resource_limits or {}).items() if count]
        placement = for_server(self.deployment.site.cluster.placement, gpus)
        spec = {**merged(pod["spec"], placement), "restartPolicy": "Never"}
        if self.ca_config_map:
            spec = trusting(spec, self.ca_config_map)
        placed = {**pod, "spec": spec}
        if not self._runs_jobs():
            return placed
        return kube_jobs.with_jobs(
            placed, SERVER_CONTAINER, self.namespace, self.pvc_name, HOME,
            many_nodes="ReadWriteMany" in self.storage_access_modes,
        )  # fmt: skip

    def _runs_jobs(self) -> bool:
        """A job's pod has the home; without one it would have nothing to work on."""
        return bool(self.may_run_jobs and self.jobs_role and self.home_kind != "none")

    async def _ensure_jobs(self) -> None:
        if self._runs_jobs() and self.namespace not in self._with_jobs:
            await kube_jobs.ensure(self.namespace, self.jobs_role)
            self._with_jobs.add(self.namespace)

    async def _run(self, manifest: Json) -> str:
        async with kube_objects.making_pod(self.namespace, manifest) as made:
            self._pod_uid = made["metadata"]["uid"]
            url = await self._until_running(made, self.run_timeout)
            await self.wait_for_answer(url)
            return url

    async def _until_running(self, made: Json, seconds: float) -> str:
        """The address of the server, when its container runs. Raises EngineError, StartRefused."""
        seen = time.monotonic()

        async def find() -> Json | None:
            nonlocal seen
            pod = await self._watched()
            if pod is not None:
                seen = time.monotonic()
            elif time.monotonic() - seen > RUNNING_LATE:
                pod = await kube_objects.find_pod(self.namespace, self.pod_name)
                seen = time.monotonic() - RUNNING_LATE + 1
                return pod
            return pod or made

        pod = await kube_start.until(
            self._runs_or_ended, find, self.namespace, made["metadata"]["uid"], self._tell,
            room_seconds=self.deployment.site.cluster.room_minutes * 60,
            seconds=seconds, interval=INTERVAL,
        )  # fmt: skip
        self._node = str(pod["spec"].get("nodeName") or "")
        if not self.is_pod_running(pod):
            raise EngineError(await self.how_it_ended(pod_state(pod)))
        self.pod_id = made["metadata"]["uid"]
        url: str = self._get_pod_url(pod)
        return url

    def _runs_or_ended(self, pod: Json) -> bool:
        if has_ended(pod_state(pod)):
            return True
        status = pod["status"]
        return bool(
            status.get("containerStatuses") and status.get("podIP") and self.is_pod_running(pod)
        )

    async def _ensure_namespace(self) -> None:
        """A person's own namespace, with the project's quota; once for each life of the hub."""
        if not self.enable_user_namespaces or self.namespace in self._namespaces:
            return
        site = self.deployment.site
        policies = kube_namespace.read_policies(site.path("namespace.json"))
        await kube_namespace.ensure(self.namespace, self.hub_namespace, site.project, policies)
        if self.ca_config_map:
            trusted = make_config_map(self.ca_config_map, _trusted())
            await kube_namespace.have_config_map(self.namespace, trusted)
        self._namespaces.add(self.namespace)

    # --- what goes on ---------------------------------------------------------------------------

    async def pod_state(self) -> PodState:
        pod = await self._find()
        if pod is None:
            return MISSING
        if self._lost(pod):
            return PodState("Failed", reason=Text(
                "The node {node} that it ran on does not answer any more.", node=self._node
            ))  # fmt: skip
        return pod_state(pod)

    def _lost(self, pod: Json) -> bool:
        """Whether a pod should have gone long ago: only its node can say so, and it does not."""
        due = pod["metadata"].get("deletionTimestamp")
        if due is None:
            return False
        late = (datetime.now(UTC) - datetime.fromisoformat(due)).total_seconds()
        return late > LOST_SECONDS

    async def pod_tail(self, lines: int) -> list[str]:
        return await kube_logs.tail(self.namespace, self.pod_name, SERVER_CONTAINER, lines)

    async def end_pod(self, grace: float) -> None:
        try:
            await kube_objects.remove_pod(self.namespace, self.pod_name, grace)
        finally:
            self._gpus_changed()

    def _gpus_changed(self) -> None:
        """Only servers with GPUs change what the cluster has to offer, and asking costs a list of
        all nodes: not for every server of a course that begins."""
        if self.reserved is not None and self.reserved.gpus:
            self.cluster.changed()

    async def stop(self, now: bool = False) -> None:
        await self.end_pod(0 if now else self.delete_grace_period)

    async def how_it_ended(self, state: PodState) -> Text:
        # A container that was killed because its pod was deleted says no more than that.
        if state.phase == "Missing" or self._deleted and state.reason is None:
            state = MISSING
            why = await kube_start.why_gone(
                self.namespace, self.pod_name, self._pod_uid, self._node
            )
            if why is not None:
                state = PodState("Missing", reason=why)
        return await super().how_it_ended(state)

    async def adopt_pod(self) -> bool:
        """Take over a pod that the hub made and died before it ran: its start goes on here."""
        pod = await self._find()
        if pod is None or self.server is None:
            return False
        self._pod_uid = pod["metadata"]["uid"]
        self.port = kube_objects.port_of(pod)
        self.reserved = held_by(pod)
        self.home_kind = "none"
        home = kube_objects.home_of(pod)
        if home is not None:
            self.pvc_name, self.home_kind = home, "person"
        self.log.info("%s was starting when the hub ended; its pod is taken over", self._log_name)
        try:
            url = await self._until_running(pod, self.run_timeout)
        except PodEnded:
            return False
        host, _, port = url.removeprefix("http://").rpartition(":")
        self.server.ip, self.server.port = host.strip("[]"), int(port)
        self.orm_spawner.state = self.get_state()
        self.db.commit()
        return True

    # --- state ----------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        state = super().get_state()
        if self._pod_uid is not None:
            state["pod_uid"] = self._pod_uid
        if self._node:
            state["node"] = self._node
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self._pod_uid = state.get("pod_uid")
        self._node = str(state.get("node") or "")

    def clear_state(self) -> None:
        super().clear_state()
        self._pod_uid = None
        self._node = ""
        self._deleted = False

    # --- homes ----------------------------------------------------------------------------------

    async def homes(self, *, measured: bool = True) -> list[Claim]:
        return await kube_objects.list_claims(self.namespace, self.home_labels())

    async def erase_home(self, name: str) -> None:
        await kube_objects.erase_claim(self.namespace, name)


def held_by(pod: Json) -> Resources:
    """What a pod holds of the quota: cores, bytes and GPUs."""
    sums: dict[str, float] = {}
    for container in pod["spec"]["containers"]:
        for kind, amounts in (container.get("resources") or {}).items():
            if kind in ("requests", "limits"):
                for name, amount in amounts.items():
                    key = f"{kind}.{name}"
                    sums[key] = sums.get(key, 0.0) + float(quantity(amount, name))
    return Resources(
        sums.get("requests.cpu", 0.0),
        sums.get("limits.cpu", 0.0),
        int(sums.get("requests.memory", 0)),
        int(sums.get("limits.memory", 0)),
        asked_of(pod),
    )


def _trusted() -> str:
    """The authorities that the hub itself trusts (PEM)."""
    return Path(os.environ["SSL_CERT_FILE"]).read_text()


def _gpu_names(deployment: Deployment) -> set[str]:
    """The resources that the site's profiles name as GPUs."""
    found = set()
    for profile in deployment.profiles.values():
        effects = [profile, *(way for one in profile.options.values() for way in ways(one))]
        found |= {one.gpu.resource for one in effects if one.gpu is not None}
    return found - {"any"}
