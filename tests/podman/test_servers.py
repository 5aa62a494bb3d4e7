"""Servers on a real hub: what the form does, by REST; homes, quota, and refusals by name."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.site import RunningSite, wait_for

CPU = {"profile": "cpu"}


def test_a_server_starts_keeps_its_home_and_forgets_nothing(site: RunningSite) -> None:
    client = site.start("ana", "first", CPU)
    note = client.put(
        "/user/ana/first/api/contents/note.txt",
        json={"type": "file", "format": "text", "content": "kept"},
    )
    assert note.status_code == 201, note.text
    # What the image brings beside JupyterLab.
    assert client.get("/user/ana/first/api/metrics/v1").json()["limits"]["memory"]["rss"] == 2**31
    assert client.get("/user/ana/first/git-pull?repo=x").status_code == 200  # nbgitpuller's page
    assert client.get("/user/ana/first/git/settings").json()["gitVersion"]
    labels = client.get("/user/ana/first/lab/api/extensions").json()
    assert all(one["status"] != "error" for one in labels), labels
    stop(site, client, "ana", "first")

    again = client.post("/hub/api/users/ana/servers/first")
    assert again.status_code in (201, 202), again.text
    wait_for(lambda: site.answers(client, "ana", "first"), 60)
    kept = client.get("/user/ana/first/api/contents/note.txt").json()
    assert kept["content"] == "kept"

    # Another server of the same person sees the same home; deleting servers keeps it.
    site.start("ana", "second", CPU)
    assert client.get("/user/ana/second/api/contents/note.txt").status_code == 200
    for name in ("first", "second"):
        client.request("DELETE", f"/hub/api/users/ana/servers/{name}", json={"remove": True})
        wait_for(lambda name=name: site.server(client, "ana", name) is None, 30)
    homes = client.get("/hub/api/users/ana/homes").json()
    assert [home["name"] for home in homes] == ["home-ana"]
    assert homes[0]["size"] > 0


def test_a_home_is_erased_only_by_its_confirmed_name_and_not_while_in_use(
    site: RunningSite,
) -> None:
    client = site.start("eva", "work", CPU)
    home = "/hub/api/users/eva/homes/home-eva"
    assert client.request("DELETE", home).status_code == 400
    assert client.request("DELETE", home, json={"confirm": "yes"}).status_code == 400
    in_use = client.request("DELETE", home, json={"confirm": "home-eva"})
    assert in_use.status_code == 409
    assert "stop it first" in in_use.json()["message"]

    stop(site, client, "eva", "work")
    other = site.client("bob")
    assert other.request("DELETE", home, json={"confirm": "home-eva"}).status_code in (403, 404)
    assert client.request("DELETE", home, json={"confirm": "home-eva"}).status_code == 204
    assert client.get("/hub/api/users/eva/homes").json() == []
    assert client.request("DELETE", home, json={"confirm": "home-eva"}).status_code == 404


@pytest.mark.parametrize(
    ("options", "named"),
    [
        pytest.param({"profile": "cpuu"}, "cpuu", id="unknown profile"),
        pytest.param({"profile": "cpu", "size": "big"}, "size", id="unknown option"),
        pytest.param({"profile": "cpu", "memory": "huge"}, "huge", id="unknown choice"),
        pytest.param({"profile": "cpu", "memory": ["small"]}, "memory", id="a list"),
        pytest.param(
            {"profile": "custom-image", "image--unlisted-choice": "quay.io/ok/img evil"},
            "quay.io/ok/img evil",
            id="more than an image",
        ),
        pytest.param(
            {"profile": "custom-image", "image--unlisted-choice": "--privileged"},
            "--privileged",
            id="an option for podman",
        ),
        pytest.param({"profile": "gpu"}, "GPU", id="no GPU here"),
        pytest.param({"profile": "x" * 20000}, "too long", id="20 kB"),
    ],
)
def test_bad_options_are_refused_by_name(
    site: RunningSite, options: dict[str, object], named: str
) -> None:
    client = site.client("ivo")
    reply = client.post("/hub/api/users/ivo/servers/bad", json=options)
    assert reply.status_code == 400, reply.text
    assert named in reply.json()["message"]
    assert "Traceback" not in reply.text
    assert site.server(client, "ivo", "bad") is None
    # JupyterHub keeps what was asked for; the form that offers it again must not break on it.
    browser = site.signed_in("ivo")
    pages = [browser.get(f"/hub/{page}") for page in ("spawn/ivo/bad", "home")]
    assert [page.status_code for page in pages] == [200, 200]
    assert 'value="cpu"' in pages[0].text


def test_an_image_that_does_not_exist_is_named(site: RunningSite) -> None:
    client = site.client("ivo")
    options = {"profile": "custom-image", "image--unlisted-choice": "localhost/no/such-image:1"}
    reply = client.post("/hub/api/users/ivo/servers/noimage", json=options)
    assert reply.status_code == 500
    assert "localhost/no/such-image:1" in reply.json()["message"]


def test_two_starts_at_once_cannot_both_take_what_is_left(site: RunningSite) -> None:
    # 16 GB of limits each, of 64 GB: four fit, however many ask at the same moment.
    client = site.client("tom")
    options = {"profile": "cpu", "memory": "extra-large"}

    def ask(number: int) -> tuple[int, str]:
        reply = client.post(f"/hub/api/users/tom/servers/s{number}", json=options)
        return reply.status_code, reply.text

    try:
        with ThreadPoolExecutor(5) as pool:
            replies = list(pool.map(ask, range(5)))
        refused = [text for status, text in replies if status == 403]
        assert len(refused) == 1, replies
        assert "64 GB" in refused[0]
        assert "16 GB" in refused[0]
    finally:
        for number in range(5):
            client.request("DELETE", f"/hub/api/users/tom/servers/s{number}")
        wait_for(lambda: not client.get("/hub/api/users/tom").json()["servers"], 90)


def test_a_wrong_password_is_told_whatever_its_letters(site: RunningSite) -> None:
    for password in ("wrong", "žluťoučký kůň"):
        _, page = site.sign_in("ana", password)
        assert page.status_code == 403
        assert 'id="login-error"' in page.text
        assert "name and password do not" in page.text


def test_pages_and_cookies_are_guarded(site: RunningSite) -> None:
    _, page = site.sign_in("ana", site.password())
    policy = page.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in policy and "object-src 'none'" in policy
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert page.headers["Referrer-Policy"] == "strict-origin-when-cross-origin"
    cookies = [c for reply in page.history for c in reply.headers.get_list("set-cookie")]
    (login,) = [cookie for cookie in cookies if cookie.startswith("jupyterhub-hub-login=")]
    assert "HttpOnly" in login and "SameSite=Lax" in login and "Path=/hub/" in login
    assert "Secure" not in login  # the site has no TLS


def test_people_cannot_reach_each_others_servers(site: RunningSite) -> None:
    site.start("ana", "private", CPU)
    bob = site.client("bob")
    assert bob.get("/user/ana/private/api/contents").status_code in (403, 404)
    assert bob.request("DELETE", "/hub/api/users/ana/servers/private").status_code in (403, 404)
    ana = site.client("ana")
    stop(site, ana, "ana", "private")


def test_a_pod_is_restricted_and_its_limits_hold(site: RunningSite) -> None:
    client = site.start("lea", "limits", CPU)
    container = site.pod("jupyter-lea--limits")

    def inside(*argv: str) -> str:
        return site.podman.run("exec", container, *argv)

    assert inside("id", "-u").strip() == "1000"
    status = inside("cat", "/proc/1/status")
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    environment = inside("cat", "/proc/1/environ")
    assert "STUDOVNA" not in environment
    assert site.password() not in environment
    limits = site.podman.run(
        "inspect", "--format", "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}", container
    )
    assert limits.split() == [str(2 * 1024**3), str(10**9)]
    stop(site, client, "lea", "limits")


def stop(site: RunningSite, client, person: str, name: str) -> None:
    reply = client.request("DELETE", f"/hub/api/users/{person}/servers/{name}")
    assert reply.status_code in (202, 204), reply.text
    wait_for(lambda: site.server(client, person, name) is None, 60)
