"""What goes wrong with an image of one's own: each time a sentence for the person."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Visitor
from tests.site import RunningSite, wait_for

from .conftest import ANSWER_SECONDS, container, own, start, stop

FAULTS: dict[str, tuple[dict[str, str], list[str]]] = {
    "never listens": (
        {"command": "8080 3600"},
        [
            f"did not listen on port 8080, or on any other, within {ANSWER_SECONDS} seconds",
            "the application begins",
        ],
    ),
    "listens on another port": (
        {"port": "3000", "command": "8123"},
        ["Nothing answered on port 3000, which you asked for", "It listens on: 8123."],
    ),
    "speaks no HTTP": (
        {"command": "8080 mute"},
        ["listens on port 8080 but did not answer a web request"],
    ),
    "crashes at start": (
        {"command": "8080 crash"},
        ["ended by itself with exit code 3", "the licence has run out"],
    ),
    "no such program": (
        {"image": "localhost/studovna/base:latest", "command": "no-such-program"},
        ["The image localhost/studovna/base:latest has no program no-such-program."],
    ),
}


def failed_start(site: RunningSite, options: dict[str, str], name: str = "s") -> str:
    """Ask for a start that fails; the sentence that the person gets."""
    client = site.client("ana")
    reply = client.post(f"/hub/api/users/ana/servers/{name}", json=options)
    if reply.is_success:  # slower than the ten seconds that the hub holds the request
        events = client.get(f"/hub/api/users/ana/servers/{name}/progress", timeout=180).text
        assert '"failed": true' in events
        return events
    return str(reply.json()["message"])


@pytest.fixture(scope="module")
def said(site: RunningSite) -> dict[str, str]:
    """What the person hears of each fault; all are waited for at once."""

    def ask(fault: str) -> tuple[str, str]:
        return fault, failed_start(site, own(**FAULTS[fault][0]), fault.lower().replace(" ", "-"))

    with ThreadPoolExecutor(len(FAULTS)) as pool:
        return dict(pool.map(ask, FAULTS))


@pytest.mark.parametrize("fault", FAULTS)
def test_an_application_that_does_not_start(
    site: RunningSite, said: dict[str, str], fault: str
) -> None:
    for sentence in FAULTS[fault][1]:
        assert sentence in said[fault]
    pod = "jupyter-ana--" + fault.lower().replace(" ", "-")
    assert site.podman.run("ps", "-aq", "--filter", f"label=studovna.pod={pod}") == ""


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        pytest.param({"command": "'not closed"}, "Is a quotation mark missing?", id="no command"),
        pytest.param({"command": "a\nb"}, "quotation marks", id="two lines"),
        pytest.param({"port": "80"}, "a number from 1024 to 65535", id="port of root"),
        pytest.param({"port": "99999"}, "a number from 1024 to 65535", id="no port"),
        pytest.param({"port": "18888"}, "The sign-in listens on port 18888", id="port taken"),
    ],
)
def test_what_cannot_be_is_refused_at_once(
    site: RunningSite, typed: dict[str, str], sentence: str
) -> None:
    reply = site.client("ana").post("/hub/api/users/ana/servers/s", json=own(**typed))
    assert reply.status_code == 400
    assert sentence in reply.json()["message"]


def test_no_shell_reads_a_command(site: RunningSite) -> None:
    client = start(site, "ana", "s", own(command="8080 0 '$(id); `id`' \"a b\" > /tmp/x"))
    told = client.get("/user/ana/s/").json()
    assert told["arguments"] == ["8080", "0", "$(id); `id`", "a b", ">", "/tmp/x"]
    stop(site, client, "ana", "s")


def test_an_image_without_a_shell(site: RunningSite, bare: str) -> None:
    client = start(site, "ana", "s", own(bare))
    assert client.get("/user/ana/s/").text == "no shell"
    stop(site, client, "ana", "s")
    # A command follows the image's own program, as with podman run.
    client = start(site, "ana", "s", own(bare, port="9000", command="9000"))
    assert client.get("/user/ana/s/").text == "no shell"
    stop(site, client, "ana", "s")


def test_an_image_that_says_nothing_to_run(site: RunningSite, nothing: str) -> None:
    assert "does not say what to run" in failed_start(site, own(nothing))
    refused = failed_start(site, own(nothing, command="sh -c 'sleep 100'"))
    assert f"The image {nothing} has no program sh." in refused


def test_one_that_listens_late_is_waited_for(site: RunningSite) -> None:
    client = start(site, "ana", "s", own(command="8080 4"))
    assert client.get("/user/ana/s/").json()["arguments"] == ["8080", "4"]
    stop(site, client, "ana", "s")


@pytest.mark.parametrize(
    ("end", "sentences"),
    [
        pytest.param(
            "crash", ["ended by itself with exit code 7", "the application says farewell"],
            id="the application",
        ),
        pytest.param(
            "sidecar", ["What checks the sign-in before your application ended"], id="the sidecar"
        ),
    ],
)  # fmt: skip
def test_one_that_ends_later_is_noticed_and_told(
    site: RunningSite, visit: Callable[..., Visitor], end: str, sentences: list[str]
) -> None:
    person = visit("ana")
    person.sign_in()
    client = start(site, "ana", "s", own())
    if end == "crash":
        crash(client)
    else:
        sidecar = container(site, "jupyter-ana--s", "sidecar")
        site.podman.run("kill", "--signal", "KILL", sidecar)
    wait_for(lambda: site.server(client, "ana", "s") is None, 40)
    person.open("/user/ana/s/")
    for sentence in sentences:
        expect(person.page.locator("main")).to_contain_text(sentence)
    assert site.podman.run("ps", "-aq", "--filter", "label=studovna.pod=jupyter-ana--s") == ""


def crash(client: httpx.Client) -> None:
    """End the application from inside; the person sees a page of the sidecar's meanwhile."""
    page = client.get("/user/ana/s/crash", headers={"Accept-Language": "cs"})
    assert page.status_code == 502
    assert "Aplikace neodpovídá." in page.text
