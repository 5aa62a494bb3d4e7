"""Parts of a release are killed or taken away while people use it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.binder.githost import GitHost, make_repository
from tests.chart.restricted import broken
from tests.cluster.installed import FULLNAME, RELEASE, Installed, link_to
from tests.cluster.kube import kubectl
from tests.cluster.kubernetes.node import Node
from tests.site import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def host(here: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitHost]:
    """A git host that pods reach."""
    found = GitHost(tmp_path_factory.mktemp("git"), here)
    yield found
    found.close()


def kill(release: Installed, part: str) -> None:
    """Kill a part's pod without a word, and return when another has been asked for."""
    labels = f"app.kubernetes.io/component={part},app.kubernetes.io/instance={RELEASE}"
    release.kubectl("delete", "pod", "-l", labels, "--grace-period=0", "--force")


def test_routes_come_back_when_the_proxy_was_killed(release: Installed) -> None:
    dan = release.person("dan")
    dan.start("one", profile="cpu")
    kill(release, "proxy")
    release.wait()
    wait_for(lambda: dan.answers("one"), 120, 0.5)
    assert dan.run_cell("one", "print(1 + 1)").strip() == "2"
    dan.stop("one")


def test_a_server_goes_on_while_the_hub_is_away(release: Installed) -> None:
    eva = release.person("eva")
    eva.start("one", profile="cpu")
    [before] = release.server_pods("eva")
    release.kubectl("scale", "deployment", f"{FULLNAME}-hub", "--replicas=0")
    try:
        labels = f"app.kubernetes.io/component=hub,app.kubernetes.io/instance={RELEASE}"
        wait_for(lambda: not release.pods(labels), 90, 0.5)
        # The token was checked before, and the server remembers that for a while.
        assert eva.answers("one")
    finally:
        release.kubectl("scale", "deployment", f"{FULLNAME}-hub", "--replicas=1")
    release.wait()
    wait_for(lambda: eva.servers().get("one", {}).get("ready"), 120, 0.5)
    [after] = release.server_pods("eva")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    eva.stop("one")
    assert not release.server_pods("eva")


def test_a_hub_killed_while_ten_servers_start_loses_none(release: Installed) -> None:
    people = [release.person(f"p{number}") for number in range(10)]
    servers = "component=singleuser-server"

    def pods() -> dict[str, str]:
        return {
            pod["metadata"]["name"]: pod["metadata"]["uid"]
            for pod in release.pods(servers)
            if pod["metadata"]["name"].startswith("jupyter-p")
        }

    with ThreadPoolExecutor(10) as pool:
        asked = [pool.submit(person.ask, "ten", profile="slow") for person in people]
        wait_for(lambda: len(pods()) == 10, 60, 0.5)
        before = pods()
        kill(release, "hub")
        for one in asked:
            one.exception()  # some had their answer before, some have none
    release.wait()
    for person in people:
        wait_for(lambda person=person: person.servers().get("ten", {}).get("ready"), 120, 0.5)
    assert pods() == before
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda person: person.stop("ten"), people))
    assert not pods()


def test_an_api_server_that_restarts_loses_no_server(release: Installed) -> None:
    node = Node()
    if Path(os.environ["KUBECONFIG"]) != node.kubeconfig or not node.runs("kube-apiserver"):
        pytest.skip("only the API server of the cluster that `make test-cluster` starts is killed")
    hal, ida = release.person("hal"), release.person("ida")
    hal.start("one", profile="cpu")
    [before] = release.server_pods("hal")
    ida.ask("two", profile="slow")
    wait_for(lambda: release.server_pods("ida"), 30)
    node.restart("kube-apiserver")
    assert hal.run_cell("one", "print(1 + 1)").strip() == "2"
    node.wait(node.ready, 90, "the API server")
    assert ida.progress("two")[-1].get("ready")
    assert hal.servers()["one"]["ready"]
    [after] = release.server_pods("hal")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    # What happens now is seen, too.
    name = after["metadata"]["name"]
    release.kubectl("delete", "pod", name, "--grace-period=0", "--force")
    wait_for(lambda: "one" not in hal.servers(), 90, 0.5)
    ida.stop("two")


def test_a_registry_that_is_down_is_a_sentence(release: Installed, host: GitHost) -> None:
    make_repository(host.root / "down", {"hello.txt": "x"})
    fay = release.person("fay")
    link = f"/services/binder/build/{link_to(host.url + '/down')}"
    release.kubectl("scale", "deployment", f"{FULLNAME}-registry", "--replicas=0")
    try:
        labels = f"app.kubernetes.io/component=registry,app.kubernetes.io/instance={RELEASE}"
        wait_for(lambda: not release.pods(labels), 90, 0.5)
        last = fay.events(link, build_only="true")[-1]
        assert last["phase"] == "failed"
        assert "registry of this site" in last["message"], last
    finally:
        release.kubectl("scale", "deployment", f"{FULLNAME}-registry", "--replicas=1")
    release.wait()
    # What had been pushed is there, and the link works again.
    assert fay.events(link, build_only="true")[-1]["phase"] in ("ready", "built")


def test_a_build_outlives_binder_and_who_deletes_its_pod_is_told(
    release: Installed, host: GitHost
) -> None:
    files = {"postBuild": "#!/bin/sh\nsleep 600\n"}
    make_repository(host.root / "slow-build", files)
    gus = release.person("gus")
    link = f"/services/binder/build/{link_to(host.url + '/slow-build')}"
    build = "app.kubernetes.io/component=build"
    # Nobody waits here for its end: a proxy in between may not tell that Binder has gone.
    asked = {"params": {"build_only": "true"}, "headers": {"Accept": "text/event-stream"}}
    with gus.client.stream("GET", link, timeout=400, **asked):
        [pod] = wait_for(
            lambda: [
                one
                for one in release.pods(build, release.builds)
                if one["status"]
                .get("initContainerStatuses", [{}])[0]
                .get("state", {})
                .get("running")
            ],
            120,
            0.5,
        )
    assert broken(pod) == []
    name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
    # As a change of the settings does.
    release.kubectl("rollout", "restart", f"deployment/{FULLNAME}-binder")
    release.wait()
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(gus.events, link, build_only="true")
        with pytest.raises(TimeoutError):
            following.result(10)
        seen = [one["metadata"]["uid"] for one in release.pods(build, release.builds)]
        # As people do it: the pod is there until everything of it is gone.
        kubectl("-n", release.builds, "delete", "pod", name, "--wait=false")
        last = following.result(120)[-1]
    assert seen == [uid]
    assert last["phase"] == "failed"
    assert "ended by an administrator" in last["message"], last
    wait_for(lambda: not release.pods(build, release.builds), 60, 0.5)
