"""The pod of a build: a pure function from what is to be built to a manifest.

Three containers over shared folders, one after another: *fetch* (the repository's files, and what
is to be installed), *install* (the repository's own code), *export* (one layer, pushed). Each sees
only the credential that it needs: git's is mounted in fetch, the registry's in export, and the
container that runs the repository's code has neither. Where git needs no credential, fetch and
install are one container, *prepare*. `images/builder/buildpack` runs in them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kubernetes_asyncio.client import (
    V1Capabilities,
    V1ConfigMap,
    V1ConfigMapVolumeSource,
    V1Container,
    V1EmptyDirVolumeSource,
    V1EnvVar,
    V1ObjectMeta,
    V1Pod,
    V1PodSecurityContext,
    V1PodSpec,
    V1ResourceRequirements,
    V1SeccompProfile,
    V1Secret,
    V1SecretVolumeSource,
    V1SecurityContext,
    V1Volume,
    V1VolumeMount,
)

from spawner.engine import PodData
from studovna.build_settings import CA_VARIABLES

LABELS = {"app.kubernetes.io/name": "studovna", "app.kubernetes.io/component": "build"}
"""What every build's pod has, and nothing else."""

FETCH, INSTALL, PREPARE, EXPORT = "fetch", "install", "prepare", "export"
CONTAINERS = (FETCH, INSTALL, PREPARE, EXPORT)
"""Every container that a build's pod may have, in the order of their start."""

CA_FILE = "ca.crt"
UID, GID = 1000, 100
MAX_FILES = 1_000_000
_PROGRAM = ["/usr/bin/python3", "-I", "/opt/builder"]
_REPO, _ENV, _PLAN = "/srv/repo", "/srv/env", "/build/plan"
_TMP = "/tmp"  # noqa: S108 - a path in the container
# What a container is guaranteed; the rest, up to its limit, is lent while nobody else needs it.
_CPU_REQUEST, _MEMORY_REQUEST = 0.25, 256 * 2**20


@dataclass(frozen=True)
class BuildPod:
    """What the pod has to know.

    ``job`` is read by its containers and holds nothing secret; ``git`` is git's secret settings and
    files by name, ``push`` the registry's credential. ``memory`` and ``disk`` are in bytes,
    ``seconds`` is the longest a container may run. ``env`` is for fetch and install (indexes and
    proxies of the site). ``ca`` are the certificates (PEM) that hosts are known by;
    empty: those of the image. ``bound_volumes`` writes the disk's limit into the volumes as well.
    """

    name: str
    image: str
    job: Mapping[str, Any]
    push: Mapping[str, str] = field(repr=False)
    git: Mapping[str, str] = field(default_factory=dict, repr=False)
    cpu: float = 2.0
    memory: int = 4 * 2**30
    disk: int = 10 * 10**9
    seconds: int = 1800
    env: Mapping[str, str] = field(default_factory=dict)
    ca: str = ""
    bound_volumes: bool = False
    pull_policy: str = "IfNotPresent"


def make_build_pod(build: BuildPod) -> tuple[V1Pod, list[PodData]]:
    """The pod, and the ConfigMap and Secrets that it refers to."""
    job = f"{build.name}-job"
    push = f"{build.name}-push"
    git = f"{build.name}-git"
    job_text = json.dumps(dict(build.job), sort_keys=True)
    files = {"job.json": job_text} | ({CA_FILE: build.ca} if build.ca else {})
    trust: dict[str, str] = {}
    if build.ca:
        trust = dict.fromkeys(CA_VARIABLES, f"/build/job/{CA_FILE}") | {"UV_SYSTEM_CERTS": "true"}
    env = {**build.env, **trust}
    data: list[PodData] = [
        V1ConfigMap(metadata=_metadata(job), data=files),
        V1Secret(metadata=_metadata(push), string_data={"credential.json": json.dumps(build.push)}),
    ]
    bound = str(build.disk) if build.bound_volumes else None
    roles = (FETCH, INSTALL, EXPORT) if build.git else (PREPARE, EXPORT)
    folders = ("repo", "env", "plan", *(f"tmp-{name}" for name in roles))
    volumes = [
        V1Volume(name=name, empty_dir=V1EmptyDirVolumeSource(size_limit=bound)) for name in folders
    ]
    volumes += [
        V1Volume(name="job", config_map=V1ConfigMapVolumeSource(name=job)),
        V1Volume(name="push", secret=V1SecretVolumeSource(secret_name=push, default_mode=0o440)),
    ]
    shared = [("repo", _REPO, False), ("plan", _PLAN, False)]
    if build.git:
        data.append(V1Secret(metadata=_metadata(git), string_data=dict(build.git)))
        source = V1SecretVolumeSource(secret_name=git, default_mode=0o440)
        volumes.append(V1Volume(name="git", secret=source))
        install = [("repo", _REPO, False), ("env", _ENV, False), ("plan", _PLAN, True)]
        before = [
            _container(build, FETCH, [*shared, ("git", "/build/git", True)], env),
            _container(build, INSTALL, install, env),
        ]
    else:
        before = [_container(build, PREPARE, [*shared, ("env", _ENV, False)], env)]
    export_mounts = [("repo", _REPO, True), ("env", _ENV, True), ("plan", _PLAN, True)]
    export_mounts.append(("push", "/build/push", True))
    pod = V1Pod(
        api_version="v1",
        kind="Pod",
        metadata=_metadata(build.name),
        spec=V1PodSpec(
            init_containers=before,
            containers=[_container(build, EXPORT, export_mounts, trust)],
            volumes=volumes,
            restart_policy="Never",
            active_deadline_seconds=build.seconds,
            termination_grace_period_seconds=1,
            automount_service_account_token=False,
            enable_service_links=False,
            security_context=V1PodSecurityContext(
                run_as_user=UID,
                run_as_group=GID,
                run_as_non_root=True,
                fs_group=GID,
                seccomp_profile=V1SeccompProfile(type="RuntimeDefault"),
            ),
        ),
    )
    return pod, data


def _metadata(name: str) -> V1ObjectMeta:
    return V1ObjectMeta(name=name, labels=dict(LABELS))


def _container(
    build: BuildPod, role: str, mounts: Sequence[tuple[str, str, bool]], env: Mapping[str, str]
) -> V1Container:
    all_mounts = [("job", "/build/job", True), (f"tmp-{role}", _TMP, False), *mounts]
    return V1Container(
        name=role,
        image=build.image,
        image_pull_policy=build.pull_policy,
        command=[*_PROGRAM, role],
        env=[V1EnvVar(name=name, value=value) for name, value in sorted(env.items())],
        volume_mounts=[
            V1VolumeMount(name=name, mount_path=path, read_only=read_only or None)
            for name, path, read_only in all_mounts
        ],
        resources=V1ResourceRequirements(
            limits={"cpu": f"{build.cpu:g}", "memory": str(build.memory)},
            requests={
                "cpu": f"{min(_CPU_REQUEST, build.cpu):g}",
                "memory": str(min(_MEMORY_REQUEST, build.memory)),
            },
        ),
        security_context=V1SecurityContext(
            allow_privilege_escalation=False,
            capabilities=V1Capabilities(drop=["ALL"]),
            # All that is written is in the volumes, where it is counted.
            read_only_root_filesystem=True,
        ),
    )
