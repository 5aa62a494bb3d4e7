"""What a job has to be in a person's namespace: Pod Security *restricted*, within the quota."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kubernetes import client as k

MEMORY = "1G"
"""Of a rule that says nothing."""
KEPT_SECONDS = 600
LABELS = {"studovna.job": "true"}
"""What the site's network rules know a job by."""


@dataclass(frozen=True)
class Place:
    """Where the server runs, and so its jobs.

    ``node`` is where a home has to be that only one node can mount; empty where several can.
    """

    namespace: str
    claim: str
    image: str
    home: Path
    folder: Path
    pod_name: str
    pod_uid: str
    node: str

    @classmethod
    def read(cls, environ: Mapping[str, str], folder: Path) -> "Place":
        """From what the hub tells the server. Raises LookupError with a sentence."""
        if "STUDOVNA_JOBS" not in environ:
            raise LookupError(
                "This server may not run jobs in its cluster: leave --profile jobs out, and the "
                "rules run in the server. The operator can allow it."
            )
        told = json.loads(environ["STUDOVNA_JOBS"])
        home = Path(told["home"])
        if folder != home and home not in folder.parents:
            raise LookupError(
                f"The folder {folder} is not in the home, and jobs see the home only: {home}."
            )
        return cls(
            namespace=told["namespace"],
            claim=told["claim"],
            image=told["image"],
            home=home,
            folder=folder,
            pod_name=environ["STUDOVNA_POD_NAME"],
            pod_uid=environ["STUDOVNA_POD_UID"],
            node="" if told["many_nodes"] else environ["STUDOVNA_NODE_NAME"],
        )


def restricted(job: k.V1Job, place: Place) -> k.V1Job:
    """The job that Snakemake's executor made, as this namespace admits it; the same object."""
    job.metadata.labels = {**(job.metadata.labels or {}), **LABELS}
    # A server that ends takes its jobs along.
    job.metadata.owner_references = [
        k.V1OwnerReference(api_version="v1", kind="Pod", name=place.pod_name, uid=place.pod_uid)
    ]
    job.spec.ttl_seconds_after_finished = KEPT_SECONDS
    template = job.spec.template
    template.metadata = k.V1ObjectMeta(labels=LABELS)
    pod = template.spec
    pod.automount_service_account_token = False
    pod.enable_service_links = False
    pod.security_context = k.V1PodSecurityContext(
        run_as_non_root=True,
        run_as_user=1000,
        run_as_group=100,
        fs_group=100,
        fs_group_change_policy="OnRootMismatch",
        seccomp_profile=k.V1SeccompProfile(type="RuntimeDefault"),
    )
    if place.node:
        pod.affinity = _on(place.node)
    for container in pod.containers:
        container.working_dir = str(place.folder)
        container.security_context = k.V1SecurityContext(
            allow_privilege_escalation=False, capabilities=k.V1Capabilities(drop=["ALL"])
        )
        # A quota admits only what says both, and the default limit may be below the request.
        requests = {"memory": MEMORY, **container.resources.requests}
        container.resources.requests = requests
        container.resources.limits = {**requests, **(container.resources.limits or {})}
        container.env = [*(container.env or []), k.V1EnvVar("SNAKEMAKE_PROFILE", "none")]
    return job


def _on(node: str) -> k.V1Affinity:
    """On this node, and waiting there for room."""
    field = k.V1NodeSelectorRequirement(key="metadata.name", operator="In", values=[node])
    terms = [k.V1NodeSelectorTerm(match_fields=[field])]
    return k.V1Affinity(
        node_affinity=k.V1NodeAffinity(
            required_during_scheduling_ignored_during_execution=k.V1NodeSelector(terms)
        )
    )
