"""Repositories with a Dockerfile on a real cluster: built by buildah, pushed, started, bounded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.binder.githost import GitHost, make_repository
from tests.cluster.installed import Installed, Person, installed, link_to, merged
from tests.cluster.kube import kubectl
from tests.site import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

MINUTES = 2  # of a build
NODE_PORT = 30501  # the other installation of these tests has the default


@pytest.fixture(scope="module")
def host(here: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitHost]:
    """A git host that pods reach."""
    found = GitHost(tmp_path_factory.mktemp("git"), here)
    yield found
    found.close()


@pytest.fixture(scope="module")
def builds(values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """An installation that builds Dockerfiles."""
    changes = {
        "site": {"binder": {"dockerfiles": True, "build_minutes": MINUTES, "build_memory": "1G"}},
        "registry": {"nodePort": NODE_PORT},
    }
    with installed(tmp_path_factory.mktemp("release"), merged(values, changes)) as found:
        yield found


def opened(person: Person, host: GitHost, name: str, files: dict[str, str]) -> list[dict[str, Any]]:
    """The events of a link to a new repository."""
    make_repository(host.root / name, files)
    return person.events(f"/services/binder/build/{link_to(f'{host.url}/{name}')}")


def said(events: list[dict[str, Any]]) -> str:
    return "\n".join(str(one.get("message", "")) for one in events)


def pods(builds: Installed) -> list[dict[str, Any]]:
    return builds.pods("app.kubernetes.io/component=build", f"{builds.namespace}-dockerfiles")


def builds_now(builds: Installed) -> bool:
    """Whether the container that builds runs in a pod."""
    states = [
        one["state"]
        for pod in pods(builds)
        for one in pod["status"].get("initContainerStatuses", [])
        if one["name"] == "build"
    ]
    return any("running" in state for state in states)


def test_a_dockerfile_is_built_pushed_and_started(
    builds: Installed, host: GitHost, registry: str
) -> None:
    dockerfile = (
        f"FROM {registry}/lab:latest\n"
        "ARG NB_USER\nARG NB_UID\nENV WHO=$NB_USER:$NB_UID\n"
        "USER root\n"
        "RUN id -u > /made && install -o 33 -g 33 /dev/null /of-33 && chown 1000 /made\n"
        "USER ${NB_UID}\n"
        "RUN id -u >> /made; ls /build/push /srv/repo /srv/store 2>&1 || true\n"
    )
    eva = builds.person("eva")
    events = opened(eva, host, "docker", {"Dockerfile": dockerfile, "notes.txt": "here"})
    assert events[-1]["phase"] == "ready", events
    phases = list(dict.fromkeys(one["phase"] for one in events))
    wanted = ["fetching", "building", "pushing", "launching"]
    assert [one for one in phases if one in wanted] == wanted
    text = said(events)
    assert "Dockerfile needs a builder" in text and "STEP" in text
    # A step sees nothing of the pod around it: not the credential, not the store.
    assert "cannot access '/build/push'" in text and "cannot access '/srv/store'" in text
    [server] = [name for name in eva.servers() if name]
    code = (
        "import os; s = os.stat('/of-33'); "
        "print(open('/made').read().split(), s.st_uid, os.environ['WHO'], open('notes.txt').read())"
    )
    assert eva.run_cell(server, code).strip() == "['0', '1000'] 33 jovyan:1000 here"
    eva.stop(server)
    wait_for(lambda: not pods(builds), 60)


def test_a_step_that_fails_is_named(builds: Installed, host: GitHost, registry: str) -> None:
    files = {"Dockerfile": f"FROM {registry}/lab:latest\nRUN exit 7\n"}
    events = opened(builds.person("eva"), host, "fails", files)
    assert events[-1]["phase"] == "failed"
    assert "RUN exit 7 failed (exit code 7)" in said(events)
    wait_for(lambda: not pods(builds), 60)


def test_too_much_memory_is_named(builds: Installed, host: GitHost, registry: str) -> None:
    step = "python3 -c 'x = bytearray(2 * 10**9)'"
    files = {"Dockerfile": f"FROM {registry}/lab:latest\nRUN {step}\n"}
    events = opened(builds.person("eva"), host, "memory", files)
    assert events[-1]["phase"] == "failed"
    assert "GB of memory, which is as much as this site gives" in said(events)


def test_a_step_without_an_end_is_cut_off(builds: Installed, host: GitHost, registry: str) -> None:
    files = {"Dockerfile": f"FROM {registry}/lab:latest\nRUN sleep infinity\n"}
    started = time.monotonic()
    events = opened(builds.person("eva"), host, "endless", files)
    assert events[-1]["phase"] == "failed"
    assert f"took longer than {MINUTES} minutes" in said(events)
    assert time.monotonic() - started < 60 * MINUTES + 120
    wait_for(lambda: not pods(builds), 60)


def test_a_pod_that_somebody_deletes_is_told(
    builds: Installed, host: GitHost, registry: str
) -> None:
    files = {"Dockerfile": f"FROM {registry}/lab:latest\nRUN sleep infinity\n"}
    person = builds.person("eva")
    with ThreadPoolExecutor(1) as aside:
        events = aside.submit(opened, person, host, "deleted", files)
        wait_for(lambda: builds_now(builds), 120, 0.5)
        where = ("--namespace", f"{builds.namespace}-dockerfiles")
        kubectl(*where, "delete", "pod", pods(builds)[0]["metadata"]["name"], "--wait=false")
        last = events.result(120)[-1]
    assert last["phase"] == "failed" and "ended by an administrator" in last["message"]
    wait_for(lambda: not builds.pods("app.kubernetes.io/component=build", builds.builds), 60)


def test_only_one_container_is_more_than_restricted(
    builds: Installed, host: GitHost, registry: str
) -> None:
    files = {"Dockerfile": f"FROM {registry}/lab:latest\nRUN sleep 20\n"}
    make_repository(host.root / "seen", files)
    # Nobody waits for the end: the pod is what is looked at.
    path = f"/services/binder/build/{link_to(f'{host.url}/seen')}"
    person = builds.person("eva")
    with person.client.stream("GET", path, headers={"Accept": "text/event-stream"}, timeout=400):
        wait_for(lambda: pods(builds), 240, 0.5)
    [pod] = pods(builds)
    security = {
        one["name"]: one["securityContext"]
        for one in [*pod["spec"]["initContainers"], *pod["spec"]["containers"]]
    }
    assert pod["spec"]["automountServiceAccountToken"] is False
    for name in ("fetch", "export"):
        assert security[name]["allowPrivilegeEscalation"] is False
        assert security[name]["capabilities"] == {"drop": ["ALL"]}
        assert "seccompProfile" not in security[name]  # the pod's: RuntimeDefault
    assert security["build"]["runAsUser"] == 1000 and not security["build"].get("privileged")
    assert security["build"]["capabilities"] == {"drop": ["ALL"], "add": ["SETUID", "SETGID"]}
    mounted = {
        one["name"]: {mount["name"] for mount in one["volumeMounts"]}
        for one in pod["spec"]["initContainers"]
    }
    assert not {"push", "git"} & mounted["build"]


def test_a_site_without_the_setting_refuses_it_by_name(
    release: Installed, host: GitHost, registry: str
) -> None:
    files = {"Dockerfile": f"FROM {registry}/lab:latest\n"}
    events = opened(release.person("eva"), host, "refused", files)
    assert events[-1]["phase"] == "failed"
    assert "Dockerfile" in said(events)
    names = kubectl("get", "namespaces", "-o", "name")
    assert f"{release.namespace}-dockerfiles" not in names
