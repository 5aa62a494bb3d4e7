"""The pod that builds a repository which needs a builder, on a cluster: a pure function.

*fetch* is the one of every build (`binder.buildpod`): restricted, with git's credential if there is
one. *build* runs buildah and the repository's steps, with no credential. *export* is restricted
again, and has the registry's credential. The pod is in a namespace of its own, because *build* is
the exception from Pod Security *restricted*. What it needs more, and why (found by leaving out one
after another on a real node):

- seccomp ``Unconfined``: RuntimeDefault refuses a user namespace, and mounts within it, to whoever
  has no CAP_SYS_ADMIN, which would be far more;
- ``allowPrivilegeEscalation`` with CAP_SETUID and CAP_SETGID in the bounding set: newuidmap and
  newgidmap, which have one of them each as a file capability, give the namespace more than one
  user. Without, there is only its root, and not even a base image can be unpacked;
- a root file system that is not read-only: buildah changes the flags of its mount, and those of a
  read-only one are locked. User 1000 can write to nothing of it that matters;
- AppArmor ``unconfined``, where the node has it: the profile of container runtimes refuses mounts.

It needs no root, no other capability, no device, no privileged container, no service account and
nothing of the node's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace

from kubernetes_asyncio.client import (
    V1Capabilities,
    V1ConfigMap,
    V1Container,
    V1EmptyDirVolumeSource,
    V1EnvVar,
    V1Pod,
    V1ResourceRequirements,
    V1SeccompProfile,
    V1SecurityContext,
    V1Volume,
    V1VolumeMount,
)

from spawner.engine import PodData

from .builder_room import StockBuild
from .buildpod import CA_FILE, EXPORT, FETCH, GID, UID, BuildPod, make_build_pod

BUILD = "build"
CONTAINERS = (FETCH, BUILD, EXPORT)
JOB, PUSH, SOURCE = "/build/job", "/build/push", "/srv/repo"
STORE, IMAGE = "/srv/store", "/srv/image"
REGISTRIES = "registries.conf"
_PROGRAM = ["/opt/venv/bin/python3", "-m", "binder.engine_buildah"]
_DISK_REQUEST = 10**9  # bytes; the rest is lent while nobody else needs it
_APPARMOR = f"container.apparmor.security.beta.kubernetes.io/{BUILD}"


def make_dockerfile_pod(
    build: BuildPod, stock: StockBuild, image: str, registries: str = ""
) -> tuple[V1Pod, list[PodData]]:
    """The pod, and the ConfigMap and Secrets that it refers to.

    `image` is the builder's. `registries` is how registries are reached, in the format of
    containers-registries.conf(5).
    """
    # Only a pod with a secret of git has a container that fetches, and nothing else.
    pod, data = make_build_pod(build if build.git else replace(build, git={"config.json": "[]"}))
    files = {"build.json": json.dumps(asdict(replace(stock, folder=STORE)), sort_keys=True)}
    if registries:
        files[REGISTRIES] = registries
    for one in data:
        if isinstance(one, V1ConfigMap):
            one.data |= files
    fetch, export = pod.spec.init_containers[0], pod.spec.containers[0]
    trust = dict.fromkeys(("SSL_CERT_FILE",), f"{JOB}/{CA_FILE}") if build.ca else {}
    pod.metadata.annotations = {_APPARMOR: "unconfined"}
    pod.spec.init_containers = [fetch, _build(build, fetch, image)]
    pod.spec.containers = [_export(export, image, trust)]
    kept = {"repo", "plan", "job", "push", "git", "tmp-fetch", "tmp-export"}
    pod.spec.volumes = [one for one in pod.spec.volumes if one.name in kept] + [
        V1Volume(name=name, empty_dir=V1EmptyDirVolumeSource(size_limit=str(build.disk)))
        for name in ("store", "image", "tmp-build")
    ]
    return pod, data


def _build(build: BuildPod, fetch: V1Container, image: str) -> V1Container:
    mounts = [
        *(one for one in fetch.volume_mounts if one.name in ("job", "repo")),
        V1VolumeMount(name="tmp-build", mount_path="/tmp"),  # noqa: S108 - in the container
        V1VolumeMount(name="store", mount_path=STORE),
        V1VolumeMount(name="image", mount_path=IMAGE),
    ]
    limits, requests = dict(fetch.resources.limits), dict(fetch.resources.requests)
    # Store, image and repository, and what is written beside them.
    limits["ephemeral-storage"] = str(4 * build.disk)
    requests["ephemeral-storage"] = str(min(build.disk, _DISK_REQUEST))
    return V1Container(
        name=BUILD,
        image=image,
        image_pull_policy=build.pull_policy,
        command=["/usr/bin/buildah", "unshare", "--", *_PROGRAM, BUILD],
        env=[V1EnvVar(name="HOME", value="/tmp"), *(fetch.env or ())],  # noqa: S108
        volume_mounts=mounts,
        resources=V1ResourceRequirements(limits=limits, requests=requests),
        security_context=V1SecurityContext(
            run_as_user=UID,
            run_as_group=GID,
            run_as_non_root=True,
            allow_privilege_escalation=True,
            capabilities=V1Capabilities(drop=["ALL"], add=["SETUID", "SETGID"]),
            seccomp_profile=V1SeccompProfile(type="Unconfined"),
            # buildah changes the flags of its root's mount, which a read-only one does not let it.
            read_only_root_filesystem=False,
        ),
    )


def _export(export: V1Container, image: str, trust: Mapping[str, str]) -> V1Container:
    mounts = [one for one in export.volume_mounts if one.name in ("job", "push", "tmp-export")]
    env = {"HOME": "/tmp", **trust}  # noqa: S108
    return V1Container(
        name=EXPORT,
        image=image,
        image_pull_policy=export.image_pull_policy,
        command=[*_PROGRAM, EXPORT],
        env=[V1EnvVar(name=name, value=value) for name, value in sorted(env.items())],
        volume_mounts=[*mounts, V1VolumeMount(name="image", mount_path=IMAGE, read_only=True)],
        resources=export.resources,
        security_context=export.security_context,
    )
