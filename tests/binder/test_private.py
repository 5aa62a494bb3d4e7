"""Private repositories: the token a person gives once, and who sees what is built with it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.binder.conftest import Hub
from tests.binder.githost import TOKEN, GitHost, make_repository
from tests.binder.test_faults import service_process
from tests.binder.test_service import link
from tests.binder_site import link_to, running_binder
from tests.site import RunningSite, wait_for, why_not

pytestmark = pytest.mark.slow

SECRETS = (TOKEN, base64.b64encode(f"reader:{TOKEN}".encode()).decode().rstrip("="))
FILES = {"thesis.md": "not for everyone", "postBuild": "#!/bin/sh\nsleep 1\n"}


# --- who may read the log; builds are doubles -----------------------------------------------------


def give_token(hub: Hub, person: str, token: str = TOKEN) -> None:
    with closing(hub.sign_in(person)) as browser:
        keep_token(browser, "tokens", "127.0.0.1", token)


def keep_token(browser: httpx.Client, page: str, host: str, token: str) -> None:
    found = re.search(r'name="_xsrf" value="([^"]+)"', browser.get(page).text)
    assert found
    form = {"host": host, "username": "reader", "token": token, "_xsrf": found[1]}
    answer = browser.post(page, data=form, follow_redirects=True)
    assert answer.status_code == 200 and f'value="{host}"' in answer.text, answer.text
    assert not any(secret in answer.text for secret in SECRETS)


def test_who_may_read_the_log(hub: Hub, git_host: GitHost) -> None:
    make_repository(git_host.root / "private/report", {"a.py": ""})

    def log(person: str, name: str) -> int:
        with hub.client(person) as client:
            return client.get(f"api/builds/{name}/log").status_code

    first, *_ = hub.events("ben", link(git_host, "notes"), build_only="true")
    public = first["build"]["id"]
    assert [log(person, public) for person in ("ana", "ben", "root")] == [200, 200, 200]

    give_token(hub, "ana")
    first, *_, last = hub.events("ana", link(git_host, "private/report"), build_only="true")
    assert last["phase"] == "ready", last
    private = first["build"]["id"]
    # Who asked for it, and an admin; and nobody else who knows the id.
    assert [log(person, private) for person in ("ana", "ben", "root")] == [200, 403, 200]
    # Neither after a restart, when only the store knows the build.
    os.kill(service_process(hub).pid, signal.SIGKILL)
    with hub.client() as client:
        wait_for(lambda: "double" in client.get("versions").text, 60)
    assert [log(person, private) for person in ("ana", "ben", "root")] == [200, 403, 200]
    assert log("ben", public) == 200
    # A token that does not open the repository is no help; one that does, is.
    give_token(hub, "ben", "another")
    assert log("ben", private) == 403
    give_token(hub, "ben")
    time.sleep(4)  # so long a refusal of the git host is taken for the next question, too
    assert log("ben", private) == 200
    with hub.client() as client:
        metrics = client.get("metrics").text
    assert "private/report" not in metrics
    with hub.client("root") as client:
        assert client.get("api/builds/build-" + "0" * 32 + "/log").status_code == 404


# --- the whole site -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def binder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningSite, GitHost]]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with running_binder(tmp_path_factory.mktemp("private"), "  build_minutes: 5\n") as both:
        yield both


def sign_in(site: RunningSite, person: str) -> httpx.Client:
    """A browser's session."""
    browser = httpx.Client(base_url=site.url, timeout=60, trust_env=False, follow_redirects=True)
    browser.get("/hub/login")
    data = {
        "username": person,
        "password": site.password(),
        "_xsrf": browser.cookies.get("_xsrf", path="/hub/") or "",
    }
    answer = browser.post("/hub/login", data=data)
    assert answer.status_code == 200, answer.text
    return browser


def open_link(site: RunningSite, person: str, to: str, **params: str) -> list[dict[str, Any]]:
    """All events of a link's stream."""
    with site.client(person) as client:
        headers = {"Accept": "text/event-stream"}
        url = f"/services/binder/build/{to}"
        with client.stream("GET", url, headers=headers, params=params, timeout=300) as answer:
            text = list(answer.iter_lines())
    lines = [line for line in text if line.startswith("data:")]
    assert lines, (answer.status_code, text)
    return [json.loads(line[5:]) for line in lines]


class Watcher(threading.Thread):
    """Looks at all command lines of this machine, and at the site's containers, until told."""

    def __init__(self, site: RunningSite) -> None:
        super().__init__(daemon=True)
        self._site, self._over = site, threading.Event()
        self.seen, self.containers, self.commands = "", 0, set[str]()

    def run(self) -> None:
        podman = self._site.podman
        while not self._over.wait(0.1):
            for process in psutil.process_iter():
                try:
                    self.commands.add(" ".join(process.cmdline()))
                except psutil.Error:
                    continue
            names = podman.run("ps", "--all", "--quiet", "--filter", "label=studovna.site").split()
            for name in names:
                try:
                    self.seen += podman.run("inspect", name)
                    self.containers += 1
                except Exception:  # noqa: BLE001, S112 - it has gone meanwhile
                    continue

    def end(self) -> str:
        self._over.set()
        self.join(30)
        assert self.containers
        return self.seen + "\n".join(self.commands)


def held_in(folder: Path, words: tuple[str, ...]) -> list[Path]:
    """The files below a folder that hold one of these words."""
    found = []
    for file in folder.rglob("*"):
        try:
            data = file.read_bytes() if file.is_file() and not file.is_symlink() else b""
        except OSError:
            continue
        if any(word.encode() in data for word in words):
            found.append(file)
    return found


def test_one_token_from_the_page_to_the_server(binder: tuple[RunningSite, GitHost]) -> None:
    site, host = binder
    make_repository(host.root / "private/thesis", FILES)
    to = link_to(host, "private/thesis")
    address = host.url.partition("://")[2].rpartition(":")[0]

    # Without a token, a sentence says what to do.
    refused = open_link(site, "ana", to)
    assert [event["phase"] for event in refused] == ["failed"]
    sentence = refused[0]["message"]
    assert "does not exist or is private" in sentence
    assert f"give a token for {address} on the page for private repositories" in sentence

    with closing(sign_in(site, "ana")) as browser:
        keep_token(browser, "/services/binder/tokens", address, TOKEN)
    watcher = Watcher(site)
    watcher.start()
    events = open_link(site, "ana", to)
    said = watcher.end() + json.dumps(events)
    assert events[-1]["phase"] == "ready", events[-1]
    image = events[-1]["image"]

    # It is her server, with her files.
    client = site.client("ana")
    name = re.search(r"/user/ana/([a-z0-9-]+)/", events[-1]["url"])[1]
    wait_for(lambda: site.answers(client, "ana", name), 60)
    contents = client.get(f"/user/ana/{name}/api/contents/thesis.md").json()
    assert contents["content"] == "not for everyone"
    model = site.server(client, "ana", name)
    assert model is not None
    said += json.dumps(model) + site.log()

    # The token is with the hub, encrypted, and nowhere else.
    assert not any(secret in said for secret in SECRETS)
    # What the build's pod had of it goes with the pod, soon after the server has started.
    wait_for(lambda: held_in(site.state, SECRETS) == [], 60)
    podman = site.podman
    for words in (["history", "--no-trunc", image], ["inspect", image]):
        assert not any(secret in podman.run(*words) for secret in SECRETS)
    search = "grep -rlF " + " ".join(f"-e {secret}" for secret in SECRETS) + " /srv /home /tmp /etc"
    argv = ["run", "--rm", "--network", "none", "--user", "0:0", image, "sh", "-c"]
    assert podman.run(*argv, f"{search} || true", timeout=120).strip() == ""

    # Another person is refused, with or without the commit, and with a token that does not open it.
    commit = image.rpartition(":")[2]
    for ref in ("HEAD", commit):
        refused = open_link(site, "ben", link_to(host, "private/thesis", ref))
        assert [event["phase"] for event in refused] == ["failed"]
        assert "give a token for" in refused[0]["message"]
    with closing(sign_in(site, "ben")) as browser:
        keep_token(browser, "/services/binder/tokens", address, "not-the-one")
    refused = open_link(site, "ben", to)
    assert "does not accept the stored token" in refused[-1]["message"]

    # Nor can he start the image by itself: a public repository's would have a name that he can
    # work out from the link and the commit, and this one's has not.
    prefix, _, last = image.rpartition("/")
    slug, _, digest = last.partition(":")[0].rpartition("-")
    assert re.fullmatch("[0-9a-f]{32}", digest)
    version = client.get("/services/binder/versions").json()["builder_info"]["site-image"]
    text = f"{host.url}/private/thesis {version}"
    guess = hashlib.sha256(text.encode()).hexdigest()
    for end in (guess[:12], guess[:32]):
        guessed = f"{prefix}/{slug}-{end}:{commit}"
        options = {"profile": "binder", "image--unlisted-choice": guessed}
        with site.client("ben") as ben:
            started = ben.post("/hub/api/users/ben/servers/guess", json=options)
            if started.status_code == 202:
                wait_for(lambda ben=ben: site.server(ben, "ben", "guess") is None, 90)
            else:
                assert started.status_code >= 400
    # Metrics, which everyone may read, do not tell of it.
    assert "thesis" not in httpx.get(f"{site.url}/services/binder/metrics", trust_env=False).text

    # With his own token he gets the same image, without a build.
    with closing(sign_in(site, "ben")) as browser:
        keep_token(browser, "/services/binder/tokens", address, TOKEN)
    time.sleep(4)  # so long an answer of the git host is taken for the next question, too
    events = open_link(site, "ben", to, build_only="true")
    assert [event["phase"] for event in events] == ["ready"]
    assert events[0]["imageName"] == image
