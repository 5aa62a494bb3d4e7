"""A person's own namespace: its name, and the objects that keep it within the project's quota."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from kubernetes_asyncio.client import ApiException
from kubespawner.clients import load_config, shared_client

from spawner.engine import NotAdmitted
from spawner.kube_api import Json, ask, core, refusal
from studovna.site import Project
from studovna.text import Text
from studovna.units import GIB

NAME = "studovna"
HUB = "studovna.site"
"""The label of a person's namespace; its value is the namespace of the hub that made it."""
_PREFIX = 12  # with an infix of 3 and a person's part of at most 48 characters: 63


def prefix(namespace: str) -> str:
    """What the names of the persons' namespaces of the hub in ``namespace`` begin with.

    The infix is for them alone: nobody is called so that theirs is that of the builds.
    """
    if len(namespace) > _PREFIX:
        namespace = f"{namespace[:5]}-{hashlib.sha256(namespace.encode()).hexdigest()[:6]}"
    return f"{namespace}-u-"


def make_namespace(name: str, hub: str) -> Json:
    """The namespace, under Pod Security *restricted*."""
    level = "pod-security.kubernetes.io"
    labels = {
        "app.kubernetes.io/name": NAME,
        HUB: hub,
        f"{level}/enforce": "restricted",
        f"{level}/warn": "restricted",
    }
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def make_quota(project: Project) -> Json:
    """The project's quota as the cluster enforces it."""
    hard = {
        "requests.cpu": _cores(project.requests.cpu),
        "requests.memory": str(project.requests.memory),
        "limits.cpu": _cores(project.limits.cpu),
        "limits.memory": str(project.limits.memory),
        "pods": str(project.servers),
    }
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": NAME},
            "spec": {"hard": hard}}  # fmt: skip


def make_limits(project: Project) -> Json:
    """What one container may have at most, and what one has that does not say.

    A quota admits only containers with requests and limits; without these defaults a profile that
    leaves one out could not start.
    """
    most = {"cpu": _cores(project.limits.cpu), "memory": str(project.limits.memory)}
    cpu = _cores(min(1.0, project.limits.cpu, project.requests.cpu))
    memory = str(min(GIB, project.limits.memory, project.requests.memory))
    one = {"cpu": cpu, "memory": memory}
    limit = {"type": "Container", "max": most, "default": one, "defaultRequest": one}
    return {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": NAME},
            "spec": {"limits": [limit]}}  # fmt: skip


def _cores(cores: float) -> str:
    return f"{round(cores * 1000)}m"


def read_policies(file: Path) -> list[Json]:
    """The NetworkPolicies of each person's namespace, from the list that the chart writes."""
    if not file.is_file():
        return []
    items: list[Json] = json.loads(file.read_text())["items"]
    return items


async def ensure(name: str, hub: str, project: Project, policies: list[Json]) -> None:
    """Have the namespace with its quota, limits and policies.

    Raises EngineError; NotAdmitted when there is one of that name which this hub did not make.
    """
    api = core()
    try:
        if not await _create(api.create_namespace, make_namespace(name, hub)):
            _check_ours(await ask(api.read_namespace, name), hub)
    except ApiException as error:
        raise refusal(error) from error
    await _apply(api, "resource_quota", name, make_quota(project))
    await _apply(api, "limit_range", name, make_limits(project))
    if policies:
        load_config()
        networking = shared_client("NetworkingV1Api")
        for policy in policies:
            await _apply(networking, "network_policy", name, policy)


def _check_ours(namespace: Json, hub: str) -> None:
    """Raises NotAdmitted for a namespace that is another's, or on its way out."""
    metadata = namespace["metadata"]
    if (metadata.get("labels") or {}).get(HUB) != hub:
        raise NotAdmitted(
            Text(
                "The namespace {name} of the cluster, which would be yours, belongs to something "
                "else. Tell the administrators.",
                name=metadata["name"],
            ),
            detail=f"it has no label {HUB}={hub}",
        )
    if "deletionTimestamp" in metadata:
        raise NotAdmitted(
            Text(
                "The namespace {name} of the cluster is being deleted, with everything in it. Try "
                "again in a few minutes.",
                name=metadata["name"],
            )
        )


async def have_config_map(name: str, config_map: Json) -> None:
    """Have a ConfigMap in the namespace as it is given. Raises EngineError."""
    await _apply(core(), "config_map", name, config_map)


async def _create(create: Any, *args: Any) -> bool:
    """False when it is there already."""
    try:
        await ask(create, *args)
    except ApiException as error:
        if error.status != 409:
            raise
        return False
    return True


async def _apply(api: Any, kind: str, namespace: str, body: Json) -> None:
    """Make an object, or have it say what it should: the site's quota may have changed."""
    try:
        if not await _create(getattr(api, f"create_namespaced_{kind}"), namespace, body):
            replace = getattr(api, f"replace_namespaced_{kind}")
            await ask(replace, body["metadata"]["name"], namespace, body)
    except ApiException as error:
        raise refusal(error) from error
