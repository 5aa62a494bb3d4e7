"""Desktops and applications of one's own on a real cluster, through its proxy."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

from studovna.podman import Podman
from tests.apps.image import PLAIN, build_plain
from tests.chart.restricted import broken
from tests.cluster.installed import Installed, Person
from tests.cluster.kubernetes import settings
from tests.desktop.inside import LIST_WINDOWS
from tests.site import wait_for
from tests.support import preparation_state

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def plain(registry: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An application that knows nothing of the hub, where the cluster pulls from."""
    podman = Podman(preparation_state())
    build_plain(podman, tmp_path_factory.mktemp("plain"))
    image = f"{registry}/test-application:1"
    tls = "false" if registry.startswith(settings.REGISTRY) else "true"
    podman.run("push", f"--tls-verify={tls}", PLAIN, image, timeout=300)
    return image


def _websocket(person: Person, path: str, message: str = "", token: str | None = None) -> bytes:
    """What a WebSocket of a server says first, or in reply."""

    async def heard() -> bytes:
        url = "ws" + str(person.client.base_url).removeprefix("http").rstrip("/") + path
        headers = {"Authorization": f"token {person.token if token is None else token}"}
        socket = await websocket_connect(HTTPRequest(url, headers=headers))
        if message:
            await socket.write_message(message)
        async with asyncio.timeout(30):
            said = await socket.read_message()
        socket.close()
        assert said is not None, "the connection was closed"
        return said if isinstance(said, bytes) else said.encode()

    return asyncio.run(heard())


def _started(person: Person, server: str, **options: str) -> None:
    person.ask(server, **options)
    last = person.progress(server)[-1]
    assert last.get("ready"), last


def test_an_own_application_answers_its_person_and_nobody_else(
    release: Installed, plain: str
) -> None:
    fay, gil = release.person("fay"), release.person("gil")
    chosen = {"image--unlisted-choice": plain, "home": "none"}
    _started(fay, "mine", profile="own-app", **chosen)
    [pod] = release.server_pods("fay")
    assert broken(pod) == []
    told = fay.client.get("/user/fay/mine/a%2Fb?x=1").json()
    assert told["path"] == "/a%2Fb?x=1"
    assert not {name for name in told["environment"] if "TOKEN" in name}
    assert _websocket(fay, "/user/fay/mine/ws", "žluťoučký") == "žluťoučký".encode()

    # Nobody else, by a page nor by a WebSocket.
    assert gil.client.get("/user/fay/mine/hello").status_code == 403
    stranger = httpx.get(f"{release.url}/user/fay/mine/hello", trust_env=False)
    assert stranger.status_code in (302, 403)
    for token in (gil.token, "wrong"):
        with pytest.raises(HTTPClientError) as refused:
            _websocket(fay, "/user/fay/mine/ws", "hello", token)
        assert refused.value.code == 403
    fay.stop("mine")
    assert not release.server_pods("fay")


def test_an_own_application_that_ends_at_once_is_told_with_its_last_words(
    release: Installed, plain: str
) -> None:
    fay = release.person("fay")
    chosen = {"image--unlisted-choice": plain, "command--unlisted-choice": "8080 crash"}
    options = {"profile": "own-app", "home": "none", **chosen}
    asked = fay.client.post("/hub/api/users/fay/servers/ends", json=options)
    # A start that fails within the hub's patience for a reply is the reply.
    said = asked.json() if asked.status_code == 500 else fay.progress("ends")[-1]
    assert "ended by itself with exit code 3" in said["message"]
    assert "the licence has run out" in said["message"]
    wait_for(lambda: not release.server_pods("fay"), 60, 0.5)


def _windows(release: Installed, person: str) -> str:
    [pod] = release.server_pods(person)
    name = pod["metadata"]["name"]
    words = [
        "exec",
        name,
        "--container",
        "notebook",
        "--",
        "env",
        "DISPLAY=:0",
        "sh",
        "-c",
        LIST_WINDOWS,
    ]
    try:
        return release.kubectl(*words)
    except AssertionError:
        return ""  # the display is not there yet


def test_octave_has_a_desktop(release: Installed) -> None:
    hana = release.person("hana")
    hana.start("octave", profile="octave")
    [pod] = release.server_pods("hana")
    assert broken(pod) == []
    page = hana.client.get("/user/hana/octave/desktop/")
    assert page.status_code == 200 and "<title>Octave" in page.text
    # RFC 6143, 7.1.1: the server of a display begins with its protocol's version.
    assert _websocket(hana, "/user/hana/octave/desktop-websockify/").startswith(b"RFB 003.")
    wait_for(lambda: '"Octave"' in _windows(release, "hana"), 90, 1)
    hana.stop("octave")


def test_an_application_saves_before_its_pod_ends(release: Installed) -> None:
    hana = release.person("hana")
    hana.start("work", profile="unsaved")
    hana.client.get("/user/hana/work/desktop/")
    _websocket(hana, "/user/hana/work/desktop-websockify/")
    wait_for(lambda: '"Unsaved"' in _windows(release, "hana"), 60, 1)
    hana.stop("work")
    assert not release.server_pods("hana")
    hana.start("look", profile="cpu")
    assert hana.run_cell("look", "print(open('saved.txt').read())").strip() == "all of it"
    hana.stop("look")
