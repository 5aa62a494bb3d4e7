"""The main path on a real cluster: install, sign in, work, stop, start, open a link, upgrade."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.binder.githost import GitHost, make_repository
from tests.chart.restricted import broken
from tests.cluster.installed import FULLNAME, NO_IMAGE, RELEASE, Installed, link_to
from tests.cluster.kube import kubectl
from tests.site import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def host(here: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitHost]:
    """A git host that pods reach."""
    found = GitHost(tmp_path_factory.mktemp("git"), here)
    yield found
    found.close()


def test_every_pod_of_the_release_is_restricted(release: Installed) -> None:
    pods = release.pods(f"app.kubernetes.io/instance={RELEASE}")
    parts = {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in pods}
    assert {"hub", "proxy", "binder", "registry"} <= parts
    for pod in pods:
        part = pod["metadata"]["labels"]["app.kubernetes.io/component"]
        assert broken(pod) == [], part
        if part == "singleuser-server":
            continue  # a person's own container may write to its image's files
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, part


def test_each_part_answers_in_the_releases_own_test(release: Installed) -> None:
    assert "Phase:          Succeeded" in release.helm("test", RELEASE)


def test_an_image_that_cannot_be_pulled_keeps_no_other_from_the_node(release: Installed) -> None:
    lab = f"{release.values['site']['images']}/lab:{release.values['images']['tag']}"

    def pulled() -> bool:
        [pod] = release.pods("app.kubernetes.io/component=image-puller")
        images = {box["name"]: box["image"] for box in pod["spec"]["containers"]}
        states = {images[one["name"]]: one["state"] for one in pod["status"]["containerStatuses"]}
        why = states[NO_IMAGE].get("waiting", {}).get("reason", "")
        return "running" in states[lab] and "Pull" in why

    wait_for(pulled, 90, 0.5)


def test_a_wrong_password_is_refused(release: Installed) -> None:
    with httpx.Client(base_url=release.url, trust_env=False) as browser:
        browser.get("/hub/login")
        form = {"username": "eva", "password": "wrong", "_xsrf": browser.cookies["_xsrf"]}
        assert browser.post("/hub/login", data=form).status_code == 403


def test_work_stop_and_start_with_the_home_kept(release: Installed) -> None:
    ana = release.person("ana")
    ana.start("one", profile="cpu")
    code = "import os; open('kept.txt', 'w').write('here'); print(os.getuid(), os.getcwd(), 6 * 7)"
    assert ana.run_cell("one", code).split() == ["1000", "/home/jovyan", "42"]
    pod = release.server_pods("ana")[0]
    assert broken(pod) == []
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["metadata"]["labels"]["app.kubernetes.io/instance"] == RELEASE

    ana.stop("one")
    assert not release.server_pods("ana")
    ana.start("one", profile="cpu")
    assert ana.run_cell("one", "print(open('kept.txt').read())").strip() == "here"
    ana.stop("one")


def test_a_link_is_built_in_a_pod_pushed_and_started(release: Installed, host: GitHost) -> None:
    files = {"requirements.txt": "cowsay==6.1\n", "hello.txt": "from the repository"}
    make_repository(host.root / "notes", files)
    ben = release.person("ben")
    events = ben.events(f"/services/binder/build/{link_to(host.url + '/notes')}")
    phases = list(dict.fromkeys(event["phase"] for event in events))
    assert phases[-1] == "ready", events
    assert [one for one in phases if one in ("fetching", "building", "pushing", "launching")] == [
        "fetching",
        "building",
        "pushing",
        "launching",
    ]
    [server] = [name for name in ben.servers() if name]
    image = release.server_pods("ben")[0]["spec"]["containers"][0]["image"]
    assert image.startswith("127.0.0.1:30500/binder/")
    code = "import cowsay; print(cowsay.__version__, open('hello.txt').read())"
    printed = ben.run_cell(server, code)
    assert "from the repository" in printed or "6.1" in printed
    wait_for(lambda: not release.pods("app.kubernetes.io/component=build", release.builds), 60)

    # Nothing is built the second time.
    again = ben.events(f"/services/binder/build/{link_to(host.url + '/notes')}")
    assert again[-1]["phase"] == "ready" and "building" not in {one["phase"] for one in again}
    ben.stop(server)


def test_an_upgrade_and_a_rollback_leave_servers_alone(release: Installed) -> None:
    cid = release.person("cid")
    cid.start("kept", profile="cpu")
    before = release.server_pods("cid")[0]["metadata"]["uid"]
    hub = _uid(release, "hub")
    proxy = _uid(release, "proxy")
    notice = {"en": "Closed on Sunday."}

    release.upgrade({"site": {"announcement": notice}})
    assert _uid(release, "hub") != hub
    assert _uid(release, "proxy") == proxy  # so nobody's connection was cut
    page = httpx.get(f"{release.url}/hub/login", trust_env=False)
    assert notice["en"] in page.text
    _same_server(release, cid, before)

    release.helm("rollback", RELEASE)
    release.wait()
    assert notice["en"] not in httpx.get(f"{release.url}/hub/login", trust_env=False).text
    _same_server(release, cid, before)
    cid.stop("kept")
    assert not release.server_pods("cid")


def _uid(release: Installed, part: str) -> str:
    pods = release.pods(f"app.kubernetes.io/component={part},app.kubernetes.io/instance={RELEASE}")
    running = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    return str(running[0]["metadata"]["uid"])


def _same_server(release: Installed, person: Any, uid: str) -> None:
    """The server is the same pod, reachable, and in the hub's view."""
    [pod] = release.server_pods(person.name)
    assert pod["metadata"]["uid"] == uid
    wait_for(lambda: person.answers("kept"), 60)
    wait_for(lambda: person.servers()["kept"]["ready"], 60, 0.5)
    assert person.run_cell("kept", "print(1 + 1)").strip() == "2"


def test_the_secret_is_the_same_after_an_upgrade(release: Installed, tmp_path: Path) -> None:
    before = json.loads(release.kubectl("get", "secret", FULLNAME, "-ojson"))["data"]
    release.upgrade()
    after = json.loads(release.kubectl("get", "secret", FULLNAME, "-ojson"))["data"]
    assert after == before


def test_the_hub_may_not_read_secrets(release: Installed) -> None:
    account = f"system:serviceaccount:{release.namespace}:{FULLNAME}-hub"
    words = ["--namespace", release.namespace, "auth", "can-i", "get", "secrets", "--as", account]
    with pytest.raises(AssertionError):  # kubectl ends with 1 for no
        kubectl(*words)
