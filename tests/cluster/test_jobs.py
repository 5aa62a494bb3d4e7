"""Snakemake in a server runs rules as jobs of the person's namespace, with the chart's rights."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from spawner import kube_jobs, kube_namespace
from studovna.images import build
from studovna.paths import ROOT
from studovna.podman import Podman
from tests import kubetools
from tests.chart.rendering import SITE, Manifest, render
from tests.chart.restricted import broken
from tests.cluster.hub import SERVE, ClusterHub, running_hub
from tests.cluster.kube import bring_image, get, kubectl, namespace, use_cluster
from tests.support import preparation_state

VALUES: dict[str, Any] = {
    "site": {**SITE, "cluster": {"namespaces": "person"}},
    "rbac": {"jobs": {"enabled": True, "apiServer": ["192.0.2.1/32"]}},
}
RUN = "cp -r /opt/examples ~; cd ~/examples/workflows && snakemake --profile jobs --forceall"


class _Silent:
    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


def of_the_chart(name: str) -> Manifest:
    """A ClusterRole of the chart."""
    objects = [one for one in render(VALUES) if one["kind"] == "ClusterRole"]
    return next(one for one in objects if one["metadata"]["name"] == name)


@pytest.fixture(scope="module")
def space() -> Iterator[str]:
    use_cluster()
    if reason := kubetools.why_not():
        pytest.skip(reason)
    podman = Podman(preparation_state())
    podman.probe()
    build(podman, ROOT / "images", ["workflows"], _Silent())
    bring_image("workflows")
    with namespace("job") as name:
        yield name


@pytest.fixture(scope="module")
def role(space: str) -> Iterator[str]:
    """The chart's role for jobs, under a name of this test's."""
    role = of_the_chart("site-hub-studovna-jobs")
    role["metadata"] = {"name": f"{space}-jobs"}
    kubectl("create", "-f", "-", given=role)
    yield f"{space}-jobs"
    kubectl("delete", "clusterrole", f"{space}-jobs")


@pytest.fixture(scope="module")
def hub(space: str, role: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterHub]:
    profile = yaml.safe_load((ROOT / "profiles/workflows.yaml").read_text())
    # This hub is on a machine that pods do not reach: what answers there needs no hub.
    profile["command"] = SERVE
    folder = tmp_path_factory.mktemp("jobs") / "hub"
    cluster = {"namespaces": "person", "room_minutes": 1}
    profiles = {"workflows": profile, "without": {**profile, "jobs": False}}
    with running_hub(folder, space, profiles, jobs_role=role, cluster=cluster) as hub:
        yield hub
    kubectl("delete", "namespace", own(space), "--wait=false", "--ignore-not-found")


def own(space: str) -> str:
    return f"{kube_namespace.prefix(space)}ana"


def inside(space: str, *command: str) -> str:
    """Run a command in the server; what it said, and how it ended."""
    argv = ["kubectl", "exec", "-n", own(space), "jupyter-ana", "--", *command]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=240)
    return f"{done.stdout}{done.stderr}\nexit {done.returncode}"


def one_rule(folder: str, command: str) -> str:
    """A shell's commands that make a workflow of one rule, and go there."""
    rule = f'rule all:\\n output: "x"\\n shell: "{command}"\\n'
    return f"mkdir -p ~/{folder} && cd ~/{folder} && printf '{rule}' > Snakefile; "


class Seen(threading.Thread):
    """The pods of jobs, which are gone when Snakemake is done."""

    def __init__(self, space: str) -> None:
        super().__init__(daemon=True)
        self.pods: dict[str, dict[str, Any]] = {}
        self._space, self._over = space, threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.3):
            for pod in get("pods", "-n", own(self._space), "-l", "studovna.job=true"):
                self.pods[pod["metadata"]["name"]] = pod

    def end(self) -> None:
        self._over.set()
        self.join()


def test_rules_run_as_restricted_jobs_beside_the_server(hub: ClusterHub, space: str) -> None:
    events = hub.run("ana", "workflows", 240)
    assert events[-1].get("ready"), (events, hub.log()[-3000:])
    seen = Seen(space)
    seen.start()
    said = inside(space, "bash", "-lc", RUN)
    seen.end()
    assert "4 of 4 steps (100%) done" in said and said.endswith("exit 0"), said
    assert len(seen.pods) == 3, "two counts and what they have in common; `all` is no work"
    (server,) = get("pods", "-n", own(space), "-l", "component=singleuser-server")
    for pod in seen.pods.values():
        assert broken(pod) == []
        assert pod["spec"]["automountServiceAccountToken"] is False
    assert server["spec"]["serviceAccountName"] == kube_jobs.NAME
    assert get("jobs", "-n", own(space)) == []


def test_a_rule_that_fails_says_why_and_leaves_nothing(hub: ClusterHub, space: str) -> None:
    shell = one_rule("bad", "echo it is wrong >&2; exit 3")
    shell += "snakemake --profile jobs; tail -n 30 .snakemake/kubernetes-logs/*.log"
    said = inside(space, "bash", "-lc", shell)
    assert "it is wrong" in said, said
    assert get("jobs", "-n", own(space)) == []


def test_the_server_may_do_nothing_else(hub: ClusterHub, space: str) -> None:
    account = f"--as=system:serviceaccount:{own(space)}:{kube_jobs.NAME}"

    def may(*words: str) -> bool:
        argv = ["kubectl", "auth", "can-i", *words, account]
        return subprocess.run(argv, capture_output=True, text=True).stdout.strip() == "yes"

    assert may("create", "jobs.batch", "-n", own(space))
    assert not may("create", "jobs.batch", "-n", space)
    for verb, kind in (
        ("get", "secrets"), ("create", "secrets"), ("create", "pods"), ("delete", "pods"),
        ("create", "pods/exec"), ("create", "rolebindings"), ("update", "resourcequotas"),
    ):  # fmt: skip
        assert not may(verb, kind, "-n", own(space)), (verb, kind)


def test_jobs_end_with_the_server(hub: ClusterHub, space: str) -> None:
    shell = one_rule("long", "sleep 900")
    shell += "nohup snakemake --profile jobs > log 2>&1 & sleep 1"
    inside(space, "bash", "-lc", shell)
    hub.wait(lambda: bool(get("jobs", "-n", own(space))), 60)
    hub.stop("ana")
    hub.wait(lambda: not get("jobs", "-n", own(space)), 60)


def test_a_server_of_another_profile_has_no_account(hub: ClusterHub, space: str) -> None:
    events = hub.run("ana", "without", 240)
    assert events[-1].get("ready"), events
    assert "may not run jobs in its cluster" in inside(space, "bash", "-lc", RUN)
    (server,) = get("pods", "-n", own(space), "-l", "component=singleuser-server")
    assert server["spec"].get("serviceAccountName") in (None, "default")
    hub.stop("ana")


def test_the_hub_may_bind_this_role_and_no_other(space: str, role: str) -> None:
    """The chart's own rule, on a real API server, which refuses to give away what one has not."""
    hubs = of_the_chart("site-hub-studovna-hub")
    hubs["metadata"] = {"name": f"{space}-hub"}
    for rule in hubs["rules"]:
        if "resourceNames" in rule:
            rule["resourceNames"] = [role]
    kubectl("create", "-f", "-", given=hubs)
    account = f"system:serviceaccount:{space}:hub"
    binding = f"--clusterrole={space}-hub"
    kubectl("create", "clusterrolebinding", f"{space}-hub", binding, f"--user={account}")
    try:
        kubectl("create", "-f", "-", "-n", space, f"--as={account}", given=kube_jobs.make_account())
        made = kube_jobs.make_binding(space, role)
        kubectl("create", "-f", "-", "-n", space, f"--as={account}", given=made)
        for other in ("cluster-admin", "edit", "view"):
            wanted = kube_jobs.make_binding(space, other)
            wanted["metadata"]["name"] = other
            with pytest.raises(AssertionError, match="orbidden"):
                kubectl("create", "-f", "-", "-n", space, f"--as={account}", given=wanted)
    finally:
        kubectl("delete", "clusterrole,clusterrolebinding", f"{space}-hub")
