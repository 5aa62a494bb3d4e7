"""Servers that may run jobs beside them, in the person's own namespace: what they need for it.

The rights are those of one ClusterRole of the chart, bound in that namespace to one service
account. The hub itself has none of them: it may only bind that role.
"""

from __future__ import annotations

import json
from typing import Any

from kubernetes_asyncio.client import ApiException
from kubespawner.clients import load_config, shared_client

from spawner.kube_api import Json, ask, core, refusal

NAME = "studovna-jobs"
LABELS = {"studovna.jobs": "true"}
"""What the network rule knows such a server by."""
_RBAC = "rbac.authorization.k8s.io"


def make_account() -> Json:
    """The service account of servers that may run jobs."""
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": NAME},
            "automountServiceAccountToken": False}  # fmt: skip


def make_binding(namespace: str, role: str) -> Json:
    """The chart's ClusterRole for that account, in this namespace alone."""
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": NAME},
        "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": namespace}],
    }


def make_quota() -> Json:
    """No pod of the namespace goes before the cluster's own: a job could say that it does."""
    critical = ["system-node-critical", "system-cluster-critical"]
    scope = {"scopeName": "PriorityClass", "operator": "In", "values": critical}
    spec = {"hard": {"pods": "0"}, "scopeSelector": {"matchExpressions": [scope]}}
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": NAME}, "spec": spec}


def with_jobs(
    pod: Json, container: str, namespace: str, claim: str, home: str, *, many_nodes: bool
) -> Json:
    """A server's manifest with the account, and with what a job's pod must be like.

    ``many_nodes``: whether several nodes can mount the home at the same time.
    """
    told = {"namespace": namespace, "claim": claim, "home": home, "many_nodes": many_nodes}
    spec = pod["spec"]
    containers = [
        {**one, "env": [*one.get("env", []), *_environment({**told, "image": one["image"]})]}
        if one["name"] == container
        else one
        for one in spec["containers"]
    ]
    account = {"serviceAccountName": NAME, "automountServiceAccountToken": True}
    metadata = {**pod["metadata"], "labels": {**pod["metadata"].get("labels", {}), **LABELS}}
    # The old name of the same field, which KubeSpawner may have set.
    spec = {key: value for key, value in spec.items() if key != "serviceAccount"}
    return {**pod, "metadata": metadata, "spec": {**spec, **account, "containers": containers}}


def _environment(told: dict[str, Any]) -> list[Json]:
    fields = {
        "STUDOVNA_POD_NAME": "metadata.name",
        "STUDOVNA_POD_UID": "metadata.uid",
        "STUDOVNA_NODE_NAME": "spec.nodeName",
    }
    return [
        {"name": "STUDOVNA_JOBS", "value": json.dumps(told, sort_keys=True)},
        *(
            {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
            for name, path in fields.items()
        ),
    ]


async def ensure(namespace: str, role: str) -> None:
    """Have the account with its rights in the namespace. Raises EngineError."""
    load_config()
    rbac = shared_client("RbacAuthorizationV1Api")
    for create, body in (
        (core().create_namespaced_resource_quota, make_quota()),
        (core().create_namespaced_service_account, make_account()),
        (rbac.create_namespaced_role_binding, make_binding(namespace, role)),
    ):
        try:
            await ask(create, namespace, body)
        except ApiException as error:
            if error.status != 409:  # it is there already, and never changes
                raise refusal(error) from error
