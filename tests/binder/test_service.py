"""The service with a real hub: links, builds, launches, pages. Builds and registry are doubles."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import threading
import time
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from binder.hub_config import services
from spawner.deployment import Deployment
from studovna.paths import ROOT
from studovna.site import load_site
from tests.binder.conftest import Hub
from tests.binder.githost import GitHost, commit, make_repository
from tests.site import wait_for

pytestmark = pytest.mark.slow


def link(git_host: GitHost, name: str, ref: str = "HEAD") -> str:
    return f"git/{quote(f'{git_host.url}/{name}', safe='')}/{ref}"


def phases(events: list[dict]) -> list[str]:
    return [
        key
        for index, key in enumerate(e["phase"] for e in events)
        if index == 0 or events[index - 1]["phase"] != key
    ]


def test_open_routes(hub: Hub) -> None:
    with hub.client() as client:
        health = client.get("health").json()
        assert {"service": "JupyterHub API", "ok": True} in health["checks"]
        assert client.head("health").status_code == 200
        versions = client.get("versions")
        assert versions.json()["builder_info"] == {"repo2docker-version": "double"}
        assert versions.headers["Access-Control-Allow-Origin"] == "*"
        ids = [one["id"] for one in client.get("api/repoproviders").json()]
        assert ids == [
            "gh",
            "gist",
            "git",
            "gl",
            "zenodo",
            "figshare",
            "hydroshare",
            "dataverse",
            "ckan",
        ]
        for badge in ("badge.svg", "badge_logo.svg", "assets/images/badge.svg"):
            answer = client.get(badge)
            assert answer.status_code == 200
            assert answer.headers["Content-Type"] == "image/svg+xml"
        metrics = client.get("metrics").text
        for name in ("inprogress_builds", "build_time_seconds", "launch_time_seconds"):
            assert f"binderhub_{name}" in metrics


def test_without_a_login(hub: Hub, git_host: GitHost) -> None:
    with hub.client() as client:
        for page in ("", "v2/gh/a/b/HEAD", "tokens", "repo/a/b"):
            answer = client.get(page)
            assert answer.status_code == 302, page
            assert "/hub/api/oauth2/authorize" in answer.headers["Location"]
        answer = client.get(
            f"build/{link(git_host, 'notes')}", headers={"Accept": "text/event-stream"}
        )
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        (data,) = [line for line in answer.text.splitlines() if line.startswith("data:")]
        assert json.loads(data[5:])["phase"] == "failed"
        assert json.loads(data[5:])["status_code"] == 403
        assert client.get("api/builds").status_code == 403


def test_missing_accept_header(hub: Hub) -> None:
    with hub.client("ana") as client:
        answer = client.get("build/gh/a/b/HEAD", headers={"Accept": "*/*"})
        assert answer.status_code == 200
        assert "Missing Accept header" in answer.text
        assert '"status_code": 400' in answer.text


def test_build_then_launch_then_found(hub: Hub, git_host: GitHost) -> None:
    events = hub.events("ana", link(git_host, "notes"))
    assert phases(events) == [
        "waiting",
        "fetching",
        "building",
        "pushing",
        "built",
        "launching",
        "ready",
    ]
    ready = events[-1]
    assert set(ready) >= {
        "phase",
        "message",
        "image",
        "repo_url",
        "token",
        "binder_ref_url",
        "binder_launch_host",
        "binder_request",
        "binder_persistent_request",
        "url",
    }
    commit_ = ready["image"].rpartition(":")[2]
    assert re.fullmatch("[0-9a-f]{40}", commit_)
    assert ready["binder_persistent_request"].endswith(commit_)
    assert ready["url"].startswith(f"{hub.url}user/ana/notes-")
    # The link again leads to the running server; another person builds nothing.
    again = hub.events("ana", link(git_host, "notes", "main"))
    assert phases(again) == ["built", "launching", "ready"]
    assert again[-1]["url"] == ready["url"]
    other = hub.events("ben", link(git_host, "notes", commit_), build_only="true")
    assert phases(other) == ["ready"]
    assert other[0]["imageName"] == ready["image"]
    assert len([s for s in hub.starts() if s["repo_url"].endswith("/notes")]) == 1


def test_the_server_is_ours(hub: Hub) -> None:
    headers = {"Authorization": f"token {hub.tokens['ana']}"}
    with httpx.Client(trust_env=False, headers=headers) as client:
        servers = client.get(f"{hub.url}hub/api/users/ana").json()["servers"]
    (server,) = [one for name, one in servers.items() if name.startswith("notes-")]
    options = server["user_options"]
    assert options["profile"] == "binder"
    assert options["repo_url"].endswith("/notes")
    assert "s3cret" not in json.dumps(options)


def test_another_version_while_one_starts(hub: Hub, git_host: GitHost) -> None:
    folder = git_host.root / "versions"
    first, second = make_repository(folder, {"a.py": "1"}), commit(folder, {"a.py": "2"})
    for version in (first, second):
        hub.events("ben", link(git_host, "versions", version), build_only="true")
    starting = hub.stream("ben", link(git_host, "versions", first))
    seen = [event for event, _ in itertools.takewhile(lambda x: "Launching" not in x[0]["message"],
                                                      starting)]  # fmt: skip
    joined = hub.events("ben", link(git_host, "versions", second))
    note = "is just starting with another version"
    assert sum(note in event["message"] for event in joined) == 1
    assert joined[-1]["phase"] == "ready" and joined[-1]["image"].endswith(first)
    seen += [event for event, _ in starting]
    assert seen[-1]["phase"] == "ready" and not any(note in event["message"] for event in seen)


def test_what_a_repository_asks_for(hub: Hub, git_host: GitHost) -> None:
    make_repository(git_host.root / "asking", {"a.py": ""})
    events = hub.events("ben", link(git_host, "asking"))
    assert events[-1]["phase"] == "ready"
    said = [event["message"] for event in events if event["phase"] == "launching"]
    assert any("Line 3 of .resources is not used: memory=lots is none of" in one for one in said)
    assert any(".resources asks for meml=9999; your project allows 64" in one for one in said)
    headers = {"Authorization": f"token {hub.tokens['ben']}"}
    with httpx.Client(trust_env=False, headers=headers) as client:
        servers = client.get(f"{hub.url}hub/api/users/ben").json()["servers"]
    (server,) = [one for name, one in servers.items() if name.startswith("asking-")]
    asked = {
        k: v for k, v in server["user_options"].items() if k.endswith("-limit--unlisted-choice")
    }
    assert asked == {"cpu-limit--unlisted-choice": "1", "memory-limit--unlisted-choice": "64G"}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("gh/only", "is not of the form"),
        ("gh/-user/repo/HEAD", "cannot be the name"),
        ("gh/user/repo/--upload-pack=x", "is not a name that a branch"),
        ("gh/user/repo/a%00b", "control character"),
        ("gh/%3Cscript%3E/repo/HEAD", "no repository address has"),
        ("git/file%3A%2F%2F%2Fetc%2Fpasswd/HEAD", "must begin with"),
        ("git/ext%3A%3Ash%20-c%20id/HEAD", "no repository address has"),
        ("git/ext%3A%3Ash/HEAD", "must begin with"),
        ("git/-oProxyCommand%3Dx/HEAD", "must begin with"),
        ("git/http%3A%2F%2F127.0.0.1%3A1%2Fx/HEAD", "inside this site's own network"),
        ("git/http%3A%2F%2Flocalhost%2Fx/HEAD", "inside this site's own network"),
        ("git/http%3A%2F%2F169.254.169.254%2Flatest/HEAD", "inside this site's own network"),
        ("git/http%3A%2F%2F%5B%3A%3A1%5D%2Fx/HEAD", "inside this site's own network"),
        ("git/http%3A%2F%2F2130706433%2Fx/HEAD", "inside this site's own network"),
        ("git/ssh%3A%2F%2Fgit%40127.0.0.1%2Fx/HEAD", "inside this site's own network"),
        ("ckan/http%3A%2F%2F127.0.0.1%3A1%2Fdataset%2Fx", "inside this site's own network"),
        ("git/https%3A%2F%2Fu%3Ap%40example.org%2Fx/HEAD", "user name or a password"),
        ("nowhere/x/y", "No provider found for prefix nowhere"),
        ("gh/" + "a" * 10_000 + "/b/HEAD", "too long"),
        ("zenodo/not-a-doi", "is not a DOI"),
    ],
)
def test_refused_links(hub: Hub, spec: str, said: str) -> None:
    events = hub.events("ben", spec)
    assert [event["phase"] for event in events] == ["failed"]
    assert said in events[0]["message"]


def test_git_says_no(hub: Hub, git_host: GitHost) -> None:
    for name, ref, said in [
        ("absent", "HEAD", "There is no git repository at"),
        ("empty", "HEAD", "is empty"),
        ("notes", "no-such-branch", "has no branch or tag"),
        ("private/thesis", "HEAD", "does not exist or is private"),
        ("html/page", "HEAD", "is empty"),
    ]:
        events = hub.events("ben", link(git_host, name, ref))
        assert [event["phase"] for event in events] == ["failed"], name
        assert said in events[0]["message"], events


def test_redirects(hub: Hub, git_host: GitHost) -> None:
    events = hub.events("ben", link(git_host, "moved/notes"), build_only="true")
    assert events[-1]["phase"] == "ready", events
    git_host.trap = "http://127.0.0.1:9"
    events = hub.events("ben", link(git_host, "trap/notes"))
    assert "inside this site's own network" in events[-1]["message"]


def test_master_falls_back_to_head(hub: Hub, git_host: GitHost) -> None:
    events = hub.events("ben", link(git_host, "notes", "master"), build_only="true")
    assert [event["phase"] for event in events] == ["waiting", "ready"]
    assert "update the link" in events[0]["message"]


def test_failures_are_one_final_event(hub: Hub, git_host: GitHost) -> None:
    events = hub.events("ben", link(git_host, "broken"))
    assert [event["phase"] for event in events].count("failed") == 1
    assert events[-1]["message"].startswith("requirements.txt asks for a package")
    events = hub.events("ben", link(git_host, "bug"))
    assert [event["phase"] for event in events].count("failed") == 1
    assert "fault of the service" in events[-1]["message"]


def test_viewers_share_a_build_and_come_back(hub: Hub, git_host: GitHost) -> None:
    commit(git_host.root / "other", {"b.py": "1"})
    results: dict[int, list] = {}

    def watch(number: int) -> None:
        person = "ana" if number % 2 else "ben"
        results[number] = list(hub.stream(person, link(git_host, "other"), build_only="true"))

    threads = [threading.Thread(target=watch, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    for thread in threads:
        thread.join()
    assert len([s for s in hub.starts() if s["repo_url"].endswith("/other")]) == 1
    shared = [[pair for pair in result if pair[1]] for result in results.values()]
    full = max(shared, key=len)
    assert all(events[-1][0]["phase"] == "ready" for events in shared)
    assert sum(events == full for events in shared) > 6
    # Whoever was cut off goes on where they were; whoever saw the end is told to stop.
    middle = full[len(full) // 2]
    rest = [
        pair
        for pair in hub.stream("ben", link(git_host, "other"), middle[1], build_only="true")
        if pair[1]
    ]
    assert rest == full[len(full) // 2 + 1 :]
    assert list(hub.stream("ben", link(git_host, "other"), full[-1][1])) == []


def test_cancel(hub: Hub, git_host: GitHost) -> None:
    stream = hub.stream("ana", link(git_host, "long"), build_only="true")
    first, _ = next(stream)
    name = first["build"]["id"]
    with hub.client("ben") as ben, hub.client("ana") as ana:
        assert ben.delete(f"api/builds/{name}").status_code == 403
        assert [b["id"] for b in ana.get("api/builds").json()["builds"]] == [name]
        assert ben.get("api/builds").json()["builds"] == []
        assert ana.delete(f"api/builds/{name}").status_code == 204
        last = [event for event, _ in stream][-1]
        assert last["phase"] == "failed" and "cancelled by ana" in last["message"]
        log = ana.get(f"api/builds/{name}/log")
        assert log.headers["Content-Type"].startswith("text/plain")
        assert "Fetching" in log.text and "cancelled by ana" in log.text
        assert ana.delete(f"api/builds/{name}").status_code == 404


def test_private_repository(hub: Hub, git_host: GitHost) -> None:
    browser = hub.sign_in("ana")
    page = browser.get("tokens")
    assert page.status_code == 200
    xsrf = re.search(r'name="_xsrf" value="([^"]+)"', page.text)[1]
    form = {"host": "127.0.0.1", "username": "reader", "token": "s3cret-token"}
    assert browser.post("tokens", data=form).status_code == 403  # no XSRF token
    saved = browser.post("tokens", data={**form, "_xsrf": xsrf})
    assert saved.status_code == 200 and "127.0.0.1" in saved.text
    assert "s3cret" not in saved.text
    events = hub.events("ana", link(git_host, "private/thesis"), build_only="true")
    assert events[-1]["phase"] == "ready", events
    sha = events[-1]["imageName"].rpartition(":")[2]
    # The image is there; whoever may not read the repository does not get it, even by its commit.
    for ref in ("HEAD", sha):
        refused = hub.events("ben", link(git_host, "private/thesis", ref), build_only="true")
        assert "does not exist or is private" in refused[-1]["message"]
    # It survives another login.
    hub.sign_in("ana")
    assert 'value="127.0.0.1"' in browser.get("tokens").text
    for text in [(hub.folder / "hub.log").read_text(), json.dumps(hub.starts())]:
        assert "s3cret-token" not in text
    removed = browser.post("tokens", data={"host": "127.0.0.1", "action": "remove", "_xsrf": xsrf})
    assert 'value="127.0.0.1"' not in removed.text


def test_pages(hub: Hub, git_host: GitHost) -> None:
    browser = hub.sign_in("ben")
    page = browser.get("")
    assert page.status_code == 200 and "Zenodo" in page.text
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
    page = browser.get(f"v2/{link(git_host, 'notes')}", headers={"Origin": "http://my.origin"})
    config = json.loads(re.search(r"window.pageConfig = (.*);</script>", page.text)[1])
    import jwt

    claims = jwt.decode(config["buildToken"], options={"verify_signature": False})
    assert claims["aud"] == link(git_host, "notes")
    assert claims["origin"] == "my.origin"
    hostile = browser.get("v2/gh/%3Cscript%3Ealert(1)%3C%2Fscript%3E/x/HEAD")
    assert "<script>alert" not in hostile.text
    assert browser.get("nothing-here").status_code == 404
    czech = browser.get("", headers={"Accept-Language": "cs"})
    assert 'lang="cs"' in czech.text
    legacy = browser.get("repo/u/r/notebooks/i.ipynb", follow_redirects=False)
    assert legacy.status_code == 302
    assert legacy.headers["Location"].endswith("/v2/gh/u/r/master?urlpath=%2Fnotebooks%2Fi.ipynb")


def test_build_token(hub: Hub, git_host: GitHost) -> None:
    spec = link(git_host, "notes")
    events = hub.events("ben", spec, build_token="x.y.z")
    assert events[0]["status_code"] == 403 and "build token" in events[0]["message"]


def test_an_idle_server_is_culled(hub: Hub, git_host: GitHost, tmp_path: Path) -> None:
    """By the command and with the scopes that a site gives to the culler of Binder's servers."""
    (tmp_path / "site.yaml").write_text("binder: {idle_days: 0.00003}\n")  # 2.6 s
    site = load_site(tmp_path / "site.yaml")
    made = services(Deployment(site, {}, tmp_path))
    (service,) = [one for one in made.services if one["name"] == "binder-culler"]
    (role,) = [one for one in made.roles if one["name"] == "binder-culler"]
    assert hub.events("root", link(git_host, "notes"))[-1]["phase"] == "ready"
    headers = {"Authorization": f"token {hub.tokens['root']}"}
    with httpx.Client(trust_env=False, headers=headers, base_url=hub.url, timeout=60) as client:
        started = client.post("hub/api/users/root/server")
        assert started.status_code in (201, 202), started.text
        token = client.post("hub/api/users/root/tokens", json={"scopes": role["scopes"]}).json()

        def servers() -> dict[str, dict]:
            return client.get("hub/api/users/root").json()["servers"]

        wait_for(lambda: servers()[""]["ready"], 60)
        (name,) = [name for name in servers() if name]
        time.sleep(3)
        environment = {
            **os.environ, **service["environment"], "STUDOVNA_SITE": str(tmp_path / "site.yaml"),
            "JUPYTERHUB_API_URL": f"{hub.url}hub/api", "JUPYTERHUB_API_TOKEN": token["token"],
            "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        with (tmp_path / "log").open("wb") as log:
            culler = subprocess.Popen(service["command"], env=environment, stdout=log, stderr=log)
        try:
            wait_for(lambda: name not in servers(), 60)
            assert servers()[""]["ready"]  # the other culler's
            assert culler.poll() is None
        finally:
            culler.terminate()
            culler.wait(20)
        # It is removed, and not only stopped: the hub's page does not fill with them.
        there = client.get("hub/api/users/root?include_stopped_servers=1").json()
        assert set(there["servers"]) == {""}
