"""An application of one's own behind the hub's sign-in: what passes, and who does."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from playwright.sync_api import expect
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

from tests.site import RunningSite

from .conftest import container, own, start, stop

SAME = {"strip": "/", "keep": "/user/ana/keep/"}
"""By the way of prefixes (and name of the server): what the application sees of its root."""


@pytest.fixture(scope="module")
def ana(site: RunningSite) -> Iterator[httpx.Client]:
    """Ana's client; her servers are ``strip`` and ``keep``."""
    for prefix in SAME:
        client = start(site, "ana", prefix, own(prefix=prefix))
    yield client
    for prefix in SAME:
        stop(site, client, "ana", prefix)


both = pytest.mark.parametrize("prefix", SAME)


@both
def test_paths_and_headers_pass(ana: httpx.Client, prefix: str) -> None:
    address = f"/user/ana/{prefix}/a%2Fb/hello?x=1&y=%20"
    told = ana.get(address, headers={"Cookie": "mine=1; jupyterhub-session-id=key"}).json()
    assert told["path"] == SAME[prefix] + "a%2Fb/hello?x=1&y=%20"
    headers = dict(told["headers"])
    assert headers["cookie"] == "mine=1"
    assert "authorization" not in headers
    wanted = {"strip": "/user/ana/strip", "keep": None}[prefix]
    assert headers.get("x-forwarded-prefix") == wanted


def test_the_application_has_no_secret(site: RunningSite, ana: httpx.Client) -> None:
    environment = ana.get("/user/ana/strip/").json()["environment"]
    assert environment["PORT"] == "8080"
    assert environment["JUPYTERHUB_SERVICE_PREFIX"] == "/user/ana/strip/"
    assert {name for name in environment if "TOKEN" in name or name.startswith("JPY_")} == set()
    # What it lacks is the sidecar's, so that the test sees what it would see.
    pods = {part: container(site, "jupyter-ana--strip", part) for part in ("sidecar", "notebook")}
    of = {
        part: site.podman.run("exec", pod, "cat", "/proc/1/environ") for part, pod in pods.items()
    }
    token = next(
        one for one in of["sidecar"].split("\0") if one.startswith("JUPYTERHUB_API_TOKEN=")
    )
    assert token.partition("=")[2] not in of["notebook"]


@both
def test_bodies_pass_with_their_methods(ana: httpx.Client, prefix: str) -> None:
    body = bytes(range(256)) * 4096
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        told = ana.request(method, f"/user/ana/{prefix}/form", content=body).json()
        assert (told["method"], told["length"]) == (method, len(body))
        assert told["sha256"] == hashlib.sha256(body).hexdigest()
    pieces = ana.post(f"/user/ana/{prefix}/form", content=iter([b"in ", b"pieces"])).json()
    assert pieces["begin"] == "in pieces"


def test_more_passes_than_the_sidecar_has_memory_for(ana: httpx.Client) -> None:
    size = 300 * 2**20
    block = b"x" * 2**20
    sent = ana.post("/user/ana/strip/form", content=iter([block] * 300), timeout=120).json()
    assert sent["length"] == size
    with ana.stream("GET", f"/user/ana/strip/large?{size}", timeout=120) as reply:
        assert reply.headers["Content-Length"] == str(size)
        assert sum(len(chunk) for chunk in reply.iter_raw()) == size


@both
def test_a_stream_arrives_piece_by_piece(ana: httpx.Client, prefix: str) -> None:
    arrived = []
    with ana.stream("GET", f"/user/ana/{prefix}/stream") as reply:
        arrived = [(time.monotonic(), chunk) for chunk in reply.iter_raw()]
    assert b"".join(chunk for _, chunk in arrived).count(b"data: ") == 5
    gaps = [later - earlier for (earlier, _), (later, _) in zip(arrived, arrived[1:], strict=False)]
    assert len([gap for gap in gaps if gap > 0.15]) >= 4


@both
def test_redirects_and_cookies_stay_within(ana: httpx.Client, prefix: str) -> None:
    away = ana.get(f"/user/ana/{prefix}/away", follow_redirects=False)
    assert (away.status_code, away.headers["Location"]) == (302, f"/user/ana/{prefix}/there?a=b")
    cookies = ana.get(f"/user/ana/{prefix}/cookies").headers.get_list("Set-Cookie")
    path = f"Path=/user/ana/{prefix}/"
    assert cookies == [f"first=1; HttpOnly; {path}", f"second=2; {path}"]


def test_what_breaks_off_does_not_look_complete(site: RunningSite, ana: httpx.Client) -> None:
    # Asked of the sidecar itself: the hub's proxy lets such an answer wait for its rest.
    there = site.podman.run("port", container(site, "jupyter-ana--strip", "sidecar"), "18888")
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(
            f"http://{there.strip()}/user/ana/strip/broken",
            headers={"Authorization": ana.headers["Authorization"]}, trust_env=False,
        )  # fmt: skip


def echo(site: RunningSite, path: str, headers: dict[str, str]) -> list[str | bytes | None]:
    """What comes back of three messages."""
    # In a thread: a browser's own event loop may run in this one.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(_echo(site, path, headers))).result()


async def _echo(site: RunningSite, path: str, headers: dict[str, str]) -> list[str | bytes | None]:
    request = HTTPRequest(site.url.replace("http", "ws") + path, headers=headers)
    socket = await websocket_connect(request, max_message_size=2**25)
    heard = []
    for message in ("žluťoučký kůň", b"\x00\xff" * 4, "x" * 2**17):
        await socket.write_message(message, binary=isinstance(message, bytes))
        heard.append(await socket.read_message())
    socket.close()
    return heard


@both
def test_websockets_pass(site: RunningSite, ana: httpx.Client, prefix: str) -> None:
    keys = {"Authorization": ana.headers["Authorization"]}
    heard = echo(site, f"/user/ana/{prefix}/ws", keys)
    assert heard == ["žluťoučký kůň", b"\x00\xff" * 4, "x" * 2**17]


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param(lambda site: {}, id="nobody"),
        pytest.param(lambda site: {"Authorization": "token wrong"}, id="a wrong token"),
        pytest.param(
            lambda site: {"Authorization": site.client("bob").headers["Authorization"]}, id="bob"
        ),
    ],
)
def test_without_the_sign_in_nothing_passes(site: RunningSite, ana: httpx.Client, keys) -> None:
    headers = keys(site)
    with httpx.Client(base_url=site.url, headers=headers, trust_env=False) as client:
        page = client.get("/user/ana/strip/hello", follow_redirects=False)
        assert page.status_code in (302, 403)
        assert (
            "/hub/api/oauth2/authorize" in page.headers.get("Location", "") or not page.is_redirect
        )
        assert "environment" not in page.text
        # Each ends its connection, and says so to the hub's proxy, which keeps connections.
        again = [client.get("/user/ana/strip/hello", follow_redirects=False) for _ in range(20)]
        assert {reply.status_code for reply in again} == {page.status_code}
        assert client.post("/user/ana/strip/form", content=b"a").status_code == 403
        assert client.get("/user/ana/strip/_studovna/state").status_code == 403
    with pytest.raises(HTTPClientError) as refused:
        echo(site, "/user/ana/strip/ws", headers)
    assert refused.value.code == 403


def test_there_is_no_way_around_the_sidecar(site: RunningSite, ana: httpx.Client) -> None:
    sidecar = container(site, "jupyter-ana--strip", "sidecar")
    published = json.loads(
        site.podman.run("inspect", "--format", "{{json .NetworkSettings.Ports}}", sidecar)
    )
    assert list(published) == ["18888/tcp"]
    assert [one["HostIp"] for one in published["18888/tcp"]] == ["127.0.0.1"]
    address = site.podman.run(
        "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", sidecar
    ).strip()
    bob = start(site, "bob", "other", own())
    try:
        script = (
            "import socket\nfor port in (8080, 18888):\n try:\n"
            f"  socket.create_connection(('{address}', port), 1); print('reached', port)\n"
            " except OSError as error: print('refused', port)\n"
        )
        inside = container(site, "jupyter-bob--other", "notebook")
        said = site.podman.run("exec", inside, "python3", "-c", script).split("\n")
        assert said[:2] == ["refused 8080", "refused 18888"]
    finally:
        stop(site, bob, "bob", "other")


def test_what_the_sidecar_takes_counts_for_the_quota(site: RunningSite, ana: httpx.Client) -> None:
    limits = site.podman.run(
        "inspect", "--format", "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}",
        container(site, "jupyter-ana--strip", "sidecar"),
    )  # fmt: skip
    assert limits.split() == [str(256 * 2**20), str(5 * 10**8)]


def test_in_a_browser(site: RunningSite, visit, tmp_path) -> None:
    person = visit("eva")
    person.sign_in()
    client = start(site, "eva", "mine", own())
    person.open("/user/eva/mine/page")
    expect(person.page.locator("#said")).to_have_text("echo: hello")
    assert client.get("/user/eva/mine/").status_code == 200

    stranger = visit("bob")
    stranger.open("/user/eva/mine/page")
    stranger.page.wait_for_url("**/hub/login**")
    stranger.sign_in()
    stranger.open("/user/eva/mine/page")
    expect(stranger.page.locator("body")).not_to_contain_text("echo")
    expect(stranger.page.locator("#said")).to_have_count(0)
    stop(site, client, "eva", "mine")
