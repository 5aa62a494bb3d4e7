"""What only an API server can say of the chart: that it takes each object, that secrets are kept
over upgrades, and who may do what. No pod of it runs: no node has the label that they want."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.chart.rendering import CHART, SITE, complete, tagged
from tests.cluster import kube
from tests.kubetools import helm, why_not

RELEASE = "chart"
FULLNAME = f"{RELEASE}-studovna"
NOWHERE = {"nodeSelector": {"studovna.test/nowhere": "true"}}
PARTS = ("hub", "proxy", "binder", "registry", "prePuller")
PORT = 30871  # of the registry, beside other releases


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> None:
    kube.use_cluster()
    if reason := why_not():
        pytest.skip(reason)


@pytest.fixture
def namespace() -> Iterator[str]:
    with kube.namespace("chart") as name:
        try:
            yield name
        finally:
            run("uninstall", namespace=name)


def values(**more: Any) -> dict[str, Any]:
    """The least, with pods that no node takes."""
    found: dict[str, Any] = {part: dict(NOWHERE) for part in PARTS}
    found["registry"]["nodePort"] = PORT
    return tagged({**found, "site": SITE, **more})


def run(
    *words: str, namespace: str, given: dict[str, Any] | None = None
) -> subprocess.CompletedProcess[str]:
    """helm, about the test's release."""
    verb, *rest = words
    argv = [str(helm()), verb, RELEASE, *rest, "--namespace", namespace]
    if given is not None:
        argv += [str(CHART), "--values", "-"]
    return subprocess.run(
        argv,
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=180,
    )


def done(*words: str, namespace: str, given: dict[str, Any] | None = None) -> None:
    answer = run(*words, namespace=namespace, given=given)
    assert answer.returncode == 0, answer.stderr


def secret(namespace: str) -> dict[str, str]:
    """The site's Secret: name → value as the API has it."""
    [found] = kube.get("secrets", "-n", namespace, f"--field-selector=metadata.name={FULLNAME}")
    data: dict[str, str] = found["data"]
    return data


def may(namespace: str, who: str, verb: str, what: str, where: str) -> bool:
    """Whether the API server lets a service account of the release do this."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:{namespace}:{FULLNAME}-{who}",
            "resourceAttributes": {
                "namespace": where,
                "verb": verb,
                "resource": what.partition("/")[0],
                "subresource": what.partition("/")[2],
            },
        },
    }
    answer = json.loads(kube.kubectl("create", "-f", "-", "-o", "json", given=review))
    allowed: bool = answer["status"]["allowed"]
    return allowed


def test_the_api_server_takes_the_complete_example(namespace: str) -> None:
    given = complete()
    # These are other projects' objects, which a cluster need not know.
    del given["gateway"]
    given["metrics"] = {"dashboards": {"enabled": True}}
    given["registry"]["nodePort"] = PORT
    for part in PARTS:
        given.setdefault(part, {}).update(NOWHERE)
    # Not on a cluster with one family.
    given["service"] = {"type": "LoadBalancer"}
    done("install", namespace=namespace, given=given)


def test_secrets_are_kept(namespace: str) -> None:
    done("install", namespace=namespace, given=values())
    first = secret(namespace)
    assert len(first) > 10
    done("upgrade", namespace=namespace, given=values(site={**SITE, "name": "Another"}))
    assert secret(namespace) == first
    done("rollback", "1", namespace=namespace)
    assert secret(namespace) == first

    changed = values(secrets={"values": {"password-admin": "x" * 32}})
    done("upgrade", namespace=namespace, given=changed)
    second = secret(namespace)
    assert {key for key in first if first[key] != second[key]} == {"password-admin"}
    # What was given once stays, too.
    done("upgrade", namespace=namespace, given=values())
    assert secret(namespace) == second

    done("uninstall", "--wait", namespace=namespace)
    assert secret(namespace) == second
    claims = {
        one["metadata"]["name"] for one in kube.get("persistentvolumeclaims", "-n", namespace)
    }
    assert claims == {f"{FULLNAME}-{part}" for part in ("hub", "binder", "registry")}
    done("install", namespace=namespace, given=values())
    assert secret(namespace) == second


def test_a_secret_of_ones_own_must_hold_everything(namespace: str) -> None:
    mine = values(secrets={"existingSecret": "mine"})
    kube.kubectl("-n", namespace, "create", "secret", "generic", "mine", "--from-literal=a=b")
    answer = run("install", namespace=namespace, given=mine)
    assert answer.returncode and "The Secret mine in namespace" in answer.stderr
    assert "has no key" in answer.stderr
    run("uninstall", namespace=namespace)

    kube.kubectl("-n", namespace, "delete", "secret", "mine")
    done("install", namespace=namespace, given=values())
    whole = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "mine", "namespace": namespace},
        "data": secret(namespace),
    }
    done("uninstall", "--wait", namespace=namespace)
    kube.kubectl("create", "-f", "-", given=whole)
    done("install", namespace=namespace, given=mine)


def test_who_may_do_what(namespace: str) -> None:
    done("install", namespace=namespace, given=values())
    builds = f"{namespace}-builds"
    allowed = [
        ("hub", "create", "pods", namespace),
        ("hub", "watch", "pods", namespace),
        ("hub", "get", "pods/log", namespace),
        ("hub", "delete", "persistentvolumeclaims", namespace),
        ("hub", "list", "events", namespace),
        ("hub", "list", "nodes", ""),
        ("binder", "create", "pods", builds),
        ("binder", "get", "pods/log", builds),
        ("binder", "create", "secrets", builds),
        ("binder", "delete", "configmaps", builds),
    ]
    refused = [
        *(("hub", verb, "secrets", namespace) for verb in ("get", "list", "watch", "create")),
        ("hub", "create", "pods/exec", namespace),
        ("hub", "list", "pods", "kube-system"),
        ("hub", "create", "pods", "kube-system"),
        ("hub", "create", "pods", builds),
        ("hub", "create", "namespaces", ""),
        ("hub", "update", "nodes", ""),
        *(("binder", verb, "secrets", builds) for verb in ("get", "list", "watch", "update")),
        ("binder", "get", "secrets", namespace),
        ("binder", "create", "pods", namespace),
        ("binder", "create", "pods/exec", builds),
        ("proxy", "get", "pods", namespace),
    ]
    assert [one for one in allowed if not may(namespace, *one)] == []
    assert [one for one in refused if may(namespace, *one)] == []
