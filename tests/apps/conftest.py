"""A real site and two images of applications that know nothing of it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext

from studovna import images
from studovna.paths import ROOT
from studovna.podman import Podman, PodmanError
from tests.apps.image import HERE, PLAIN, build, build_plain
from tests.browser.conftest import Visitor, browser, picture, visit  # noqa: F401 - fixtures
from tests.site import RunningSite, running_site, wait_for, why_not
from tests.support import preparation_state

BARE = "localhost/studovna-test/bare:1"
"""One static program, and nothing else."""
NOTHING = "localhost/studovna-test/nothing:1"
CATALOGUE = ("shiny", "streamlit", "tensorboard")
"""What is built for the tests; MLflow is tried where it was built before, for it is large."""
ANSWER_SECONDS = 15


class _Silent:
    """Nobody watches the image being built."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSite]:
    """A site whose own applications have little time to answer."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("applications")
    podman = Podman(preparation_state())
    try:
        podman.probe()
    except PodmanError as error:
        pytest.skip(str(error))
    images.build(podman, ROOT / "images", ["sidecar", *CATALOGUE], _Silent())
    build_plain(podman, folder)
    profiles = folder / "profiles"
    shutil.copytree(ROOT / "profiles", profiles)
    with (profiles / "own-app.yaml").open("a") as file:
        file.write(f"answer_seconds: {ANSWER_SECONDS}\n")
    settings = f"catalogue: [code-server, mlflow, shiny-r, {', '.join(CATALOGUE)}]\n"
    with running_site(folder, settings, profiles) as running:
        yield running


@pytest.fixture(scope="session")
def bare(site: RunningSite, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image without a shell."""
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc to make a static program with")
    folder = tmp_path_factory.mktemp("bare")
    argv = ["gcc", "-static", "-O1", "-o", str(folder / "serve"), str(HERE / "serve.c")]
    subprocess.run(argv, check=True)
    build(Podman(preparation_state()), folder, BARE, [
        "FROM scratch", "COPY serve /serve", 'ENTRYPOINT ["/serve"]', 'CMD ["8080"]',
    ])  # fmt: skip
    return BARE


@pytest.fixture(scope="session")
def nothing(site: RunningSite, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image with a file in it, and not a word of what to run."""
    folder = tmp_path_factory.mktemp("nothing")
    (folder / "note").write_text("nothing to run")
    build(Podman(preparation_state()), folder, NOTHING, ["FROM scratch", "COPY note /note"])
    return NOTHING


@pytest.fixture(scope="module")
def visit_for(site: RunningSite, browser: Browser) -> Iterator[Callable[[str], Visitor]]:  # noqa: F811
    """Makes a visitor who stays for all tests of a module."""
    contexts: list[BrowserContext] = []

    def make(name: str) -> Visitor:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-GB")
        contexts.append(context)
        return Visitor(site, context.new_page(), name)

    yield make
    for context in contexts:
        context.close()


def own(image: str = PLAIN, **options: str) -> dict[str, str]:
    """The options of an own application; ``port``, ``command`` as typed."""
    chosen = {"profile": "own-app", "image--unlisted-choice": image, "home": "none"}
    for name in ("port", "command"):
        if name in options:
            chosen[f"{name}--unlisted-choice"] = options.pop(name)
    return chosen | options


def start(site: RunningSite, person: str, name: str, options: dict[str, str]) -> httpx.Client:
    """Start an application and wait until the hub says that it is ready."""
    client = site.client(person)
    reply = client.post(f"/hub/api/users/{person}/servers/{name}", json=options)
    assert reply.status_code in (201, 202), reply.text
    wait_for(lambda: (site.server(client, person, name) or {}).get("ready"), 120)
    return client


def stop(site: RunningSite, client: httpx.Client, person: str, name: str) -> None:
    """Stop it, and wait until it is gone."""
    reply = client.request("DELETE", f"/hub/api/users/{person}/servers/{name}")
    assert reply.status_code in (202, 204), reply.text
    wait_for(lambda: site.server(client, person, name) is None, 60)


def container(site: RunningSite, pod: str, part: str) -> str:
    """What podman calls a container of a pod."""
    filters = [
        "--filter",
        f"label=studovna.pod={pod}",
        "--filter",
        f"label=studovna.container={part}",
    ]
    return site.podman.run("ps", "-a", "--format", "{{.Names}}", *filters).strip()
