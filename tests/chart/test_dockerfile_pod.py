"""The pod that builds Dockerfiles: one container is more than restricted, and by how much."""

from __future__ import annotations

import json
from typing import Any

import pytest
from kubernetes_asyncio.client import V1ConfigMap, V1Secret

from binder.builder_room import StockBuild
from binder.buildpod import BuildPod
from binder.dockerfile_pod import CONTAINERS, STORE, make_dockerfile_pod
from spawner.engine import PodData
from spawner.manifest import plain
from tests.chart.restricted import broken

EXCEPTIONS = {
    "build: seccompProfile",
    "build: allowPrivilegeEscalation",
    "build: adds capabilities",
}
SECRET = {"username": "push", "password": "s3cret"}


def made(git: dict[str, str]) -> tuple[dict[str, Any], list[PodData]]:
    build = BuildPod(
        "build-1", "example.org/builder", {"url": "https://example.org/r"}, SECRET, git,
        bound_volumes=True, disk=10**9, ca="-----BEGIN CERTIFICATE-----",
    )  # fmt: skip
    stock = StockBuild("", "", "build-1", "registry:5000/a:1", 2**30, 1.0, 60.0, 10**9, 2**20)
    pod, data = make_dockerfile_pod(build, stock, "example.org/dockerfiles", "[[registry]]\n")
    return plain(pod), data


@pytest.fixture(params=[{}, {"config.json": "[]", "key": "private"}], ids=["open", "private"])
def pod(request: pytest.FixtureRequest) -> dict[str, Any]:
    return made(request.param)[0]


def containers(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = [*pod["spec"]["initContainers"], *pod["spec"]["containers"]]
    return {one["name"]: one for one in found}


def test_one_container_breaks_three_rules(pod: dict[str, Any]) -> None:
    assert set(broken(pod)) == EXCEPTIONS
    assert tuple(containers(pod)) == CONTAINERS
    security = containers(pod)["build"]["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"], "add": ["SETUID", "SETGID"]}
    assert security["runAsUser"] == 1000 and not security.get("privileged")
    assert pod["metadata"]["annotations"] == {
        "container.apparmor.security.beta.kubernetes.io/build": "unconfined"
    }


def test_each_container_has_its_own_credential_only(pod: dict[str, Any]) -> None:
    mounts = {
        name: {mount["name"] for mount in one["volumeMounts"]}
        for name, one in containers(pod).items()
    }
    assert {"git", "push"} & mounts["fetch"] == {"git"}
    assert {"git", "push"} & mounts["build"] == set()
    assert {"git", "push"} & mounts["export"] == {"push"}
    assert not {"repo", "store"} & mounts["export"]
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    assert volumes == set().union(*mounts.values())


def test_everything_is_bounded(pod: dict[str, Any]) -> None:
    for volume in pod["spec"]["volumes"]:
        assert volume.get("emptyDir", {"sizeLimit": 1}).get("sizeLimit"), volume
    limits = containers(pod)["build"]["resources"]["limits"]
    assert limits.keys() == {"cpu", "memory", "ephemeral-storage"}
    assert pod["spec"]["activeDeadlineSeconds"] > 0


def test_the_job_holds_nothing_secret() -> None:
    _, data = made({})
    [job] = [one for one in data if isinstance(one, V1ConfigMap)]
    assert job.data.keys() == {"job.json", "build.json", "ca.crt", "registries.conf"}
    assert SECRET["password"] not in json.dumps(job.data)
    assert json.loads(job.data["build.json"])["folder"] == STORE
    assert len([one for one in data if isinstance(one, V1Secret)]) == 2
