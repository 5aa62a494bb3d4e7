"""What a server gets that may run jobs, and which servers do."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from spawner import kube_jobs, kubernetes_spawner
from spawner.kube_jobs import make_account, make_binding, make_quota, with_jobs
from spawner.kubernetes_spawner import KubernetesSpawner

POD: dict[str, Any] = {
    "metadata": {"name": "jupyter-ana", "labels": {"component": "singleuser-server"}},
    "spec": {
        "serviceAccount": "default",
        "automountServiceAccountToken": False,
        "containers": [
            {"name": "sidecar", "image": "s"},
            {"name": "notebook", "image": "r/workflows:1", "env": [{"name": "A", "value": "b"}]},
        ],
    },
}


def test_the_server_learns_what_a_job_must_be_like() -> None:
    before = copy.deepcopy(POD)
    pod = with_jobs(POD, "notebook", "hub-u-ana", "home-ana", "/home/jovyan", many_nodes=False)
    assert before == POD, "the manifest that was given stays as it was"
    assert pod["metadata"]["labels"] == {"component": "singleuser-server", "studovna.jobs": "true"}
    spec = pod["spec"]
    assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == (
        "studovna-jobs",
        True,
    )
    assert "serviceAccount" not in spec
    assert spec["containers"][0] == {"name": "sidecar", "image": "s"}
    environment = {one["name"]: one for one in spec["containers"][1]["env"]}
    assert json.loads(environment["STUDOVNA_JOBS"]["value"]) == {
        "namespace": "hub-u-ana",
        "claim": "home-ana",
        "home": "/home/jovyan",
        "image": "r/workflows:1",
        "many_nodes": False,
    }
    paths = {
        name: one["valueFrom"]["fieldRef"]["fieldPath"]
        for name, one in environment.items()
        if "valueFrom" in one
    }
    assert paths == {
        "STUDOVNA_POD_NAME": "metadata.name",
        "STUDOVNA_POD_UID": "metadata.uid",
        "STUDOVNA_NODE_NAME": "spec.nodeName",
    }


def test_the_rights_are_of_one_account_in_one_namespace() -> None:
    binding = make_binding("hub-u-ana", "site-hub-jobs")
    assert binding["kind"] == "RoleBinding"
    assert binding["roleRef"]["name"] == "site-hub-jobs"
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": kube_jobs.NAME, "namespace": "hub-u-ana"}
    ]
    assert make_account()["automountServiceAccountToken"] is False
    (scope,) = make_quota()["spec"]["scopeSelector"]["matchExpressions"]
    assert make_quota()["spec"]["hard"] == {"pods": "0"}
    assert scope["values"] == ["system-node-critical", "system-cluster-critical"]


class Asked:
    """What of a spawner decides; no hub behind it."""

    def __init__(self, may: bool, role: str, home: str) -> None:
        self.may_run_jobs, self.jobs_role, self.home_kind = may, role, home
        self.namespace = "hub-u-ana"
        self._with_jobs: set[str] = set()

    _runs_jobs = KubernetesSpawner._runs_jobs
    _ensure_jobs = KubernetesSpawner._ensure_jobs


@pytest.mark.parametrize(
    ("may", "role", "home", "runs"),
    [
        pytest.param(True, "r", "person", True, id="all of it"),
        pytest.param(False, "r", "person", False, id="another profile"),
        pytest.param(True, "", "person", False, id="the site does not let it"),
        pytest.param(True, "r", "none", False, id="no home"),
    ],
)
async def test_which_servers_run_jobs(
    monkeypatch: pytest.MonkeyPatch, may: bool, role: str, home: str, runs: bool
) -> None:
    made: list[tuple[str, str]] = []

    async def ensure(namespace: str, name: str) -> None:
        made.append((namespace, name))

    monkeypatch.setattr(kubernetes_spawner.kube_jobs, "ensure", ensure)
    spawner: Any = Asked(may, role, home)
    await spawner._ensure_jobs()
    await spawner._ensure_jobs()
    assert made == ([("hub-u-ana", "r")] if runs else []), "once in the hub's life"
