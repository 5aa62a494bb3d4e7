"""From a link to a notebook that runs: the real service, real builds, a real git host."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.binder.githost import GitHost, commit, make_repository
from tests.binder_site import THREE_PACKAGES, link_to, running_binder
from tests.browser.conftest import Visitor
from tests.browser.test_pages import _look
from tests.site import RunningSite, wait_for, why_not

pytestmark = pytest.mark.slow

BUILD_SECONDS = 120.0  # the first one brings the site's image into the registry
CELL = "import cowsay, tabulate\ncowsay.cow('from requirements.txt')"
NOTEBOOK = {
    "cells": [
        {
            "cell_type": "code",
            "id": "first",
            "execution_count": None,
            "metadata": {},
            "outputs": [],
            "source": CELL,
        }
    ],
    "metadata": {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
    },
    "nbformat": 4,
    "nbformat_minor": 5,
}
FILES = {
    "index.ipynb": json.dumps(NOTEBOOK),
    "requirements.txt": THREE_PACKAGES,
    "notes/data.txt": "first\n",
    "postBuild": "#!/bin/sh\nsleep 2\n",  # long enough to be seen
}

PHASES = ("waiting", "fetching", "building", "pushing", "launching")
REMEMBER_PHASES = """
new MutationObserver(() => {
  const now = document.querySelector("#phases .now")?.dataset.phase;
  const seen = JSON.parse(sessionStorage.phases ?? "[]");
  if (now && seen.at(-1) !== now) sessionStorage.phases = JSON.stringify([...seen, now]);
}).observe(document, { subtree: true, childList: true, attributeFilter: ["class"] });
"""


@pytest.fixture(scope="module")
def binder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningSite, GitHost]]:
    """A site that may build from a git host of this machine."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("binder")
    with running_binder(folder, "  servers: 2\n  build_minutes: 5\n") as both:
        yield both


@pytest.fixture(scope="module")
def site(binder: tuple[RunningSite, GitHost]) -> RunningSite:
    return binder[0]


@pytest.fixture
def repository(
    binder: tuple[RunningSite, GitHost], request: pytest.FixtureRequest
) -> tuple[str, Path]:
    """A repository of this test's own: its link, and its folder."""
    host = binder[1]
    name = re.sub(r"[^a-z]+", "-", request.node.name.removeprefix("test_"))[:20].strip("-")
    make_repository(host.root / name, FILES)
    return link_to(host, name), host.root / name


def open_link(visitor: Visitor, link: str, query: str = "") -> Page:
    """Open a launch page, signing in on the way where that is asked for."""
    page = visitor.page
    visitor.open(f"/services/binder/v2/{link}{query}")
    page.locator("#phases, #username_input").wait_for()
    if page.locator("#username_input").is_visible():
        page.fill("#username_input", visitor.name)
        page.fill("#password_input", visitor.site.password())
        page.click("#login_submit")
    return page


def in_server(page: Page, person: str, path: str) -> None:
    """Until the browser was led into the person's server, at this place."""
    where = re.compile(rf"/user/{person}/[a-z0-9-]+/{re.escape(path)}")
    page.wait_for_url(where, timeout=BUILD_SECONDS * 1000, wait_until="commit")


def run_first_cell(page: Page) -> None:
    """In JupyterLab, and its output is there."""
    cell = page.locator(".jp-CodeCell").first
    cell.wait_for(timeout=60_000)
    # The kernel's state in the status bar: what is run before that is forgotten.
    expect(page.get_by_role("button", name="| Idle")).to_be_visible(timeout=60_000)
    cell.locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")
    expect(cell.locator(".jp-OutputArea-output")).to_contain_text(
        "from requirements.txt", timeout=60_000
    )


def test_a_link_leads_into_a_notebook_that_runs_and_the_next_person_needs_no_build(
    site: RunningSite, visit: Callable[..., Visitor], repository: tuple[str, Path]
) -> None:
    link, folder = repository
    ana = visit("ana")
    ana.page.add_init_script(REMEMBER_PHASES)
    page = open_link(ana, link, "?urlpath=lab/tree/index.ipynb")
    in_server(page, "ana", "lab/tree/index.ipynb")
    run_first_cell(page)
    # Looked at afterwards: a fast build goes through a phase before anybody could wait for it.
    seen = page.evaluate("JSON.parse(sessionStorage.phases)")
    assert [phase for phase in PHASES if phase in seen] == seen
    assert {"waiting", "building", "launching"} <= set(seen)

    # Bob's server comes from the registry: nothing is built, not even what has the same name.
    builds = site.client("ana").get("/services/binder/metrics").text
    bob = visit("bob")
    page = open_link(bob, link, "?urlpath=lab/tree/index.ipynb")
    in_server(page, "bob", "lab/tree/index.ipynb")
    run_first_cell(page)
    count = re.compile(r"^binderhub_build_count_total.*$", re.MULTILINE)
    after = site.client("ana").get("/services/binder/metrics").text
    assert count.findall(builds) == count.findall(after) != []

    # The link once more: the same server, at another place of it.
    page = open_link(bob, link, "?labpath=notes/data.txt")
    in_server(page, "bob", "doc/tree/notes/data.txt")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_its_pages_can_be_read(visit: Callable[..., Visitor], scheme: str, width: int) -> None:
    zoe = visit("zoe", width=width, color_scheme=scheme, locale="cs-CZ")
    zoe.sign_in()
    for path in ("", "tokens", "v2/gh/no-such", "no-such-page"):
        zoe.open(f"/services/binder/{path}")
        if path.startswith("v2"):
            expect(zoe.page.locator("#failure")).to_be_visible()
        _look(zoe.page)
        if shots := os.environ.get("STUDOVNA_SCREENSHOTS"):
            name = path.partition("/")[0] or "form"
            zoe.page.screenshot(path=f"{shots}/binder-{name}-{scheme}-{width}.png", full_page=True)
    # The way there from where servers are started.
    zoe.go("spawn/zoe/work")
    zoe.page.locator("a.profile-link").click()
    zoe.page.wait_for_url("**/services/binder/")


def test_what_a_person_wrote_stays_and_a_newer_version_adds_to_it(
    site: RunningSite, visit: Callable[..., Visitor], repository: tuple[str, Path]
) -> None:
    link, folder = repository
    eva = visit("eva")
    page = open_link(eva, link, "?labpath=notes/data.txt")
    in_server(page, "eva", "doc/tree/notes/data.txt")
    name = page.url.partition("/user/eva/")[2].partition("/")[0]
    client = site.client("eva")
    files = f"/user/eva/{name}/api/contents"
    mine = {"type": "file", "format": "text", "content": "mine"}
    assert client.put(f"{files}/notes/data.txt", json=mine).status_code == 200

    commit(folder, {"notes/data.txt": "second\n", "notes/new.txt": "new\n"})
    server = f"/hub/api/users/eva/servers/{name}"
    page = open_link(eva, link, "?labpath=notes/data.txt")  # into the one that runs
    in_server(page, "eva", "doc/tree/notes/data.txt")
    client.request("DELETE", server)
    wait_for(lambda: site.server(client, "eva", name) is None, 60)

    page = open_link(eva, link, "?labpath=notes/new.txt")
    in_server(page, "eva", "doc/tree/notes/new.txt")
    assert client.get(f"{files}/notes/data.txt").json()["content"] == "mine"
    assert client.get(f"{files}/notes/new.txt").json()["content"] == "new\n"


def test_more_servers_than_allowed_are_refused_with_their_names(
    site: RunningSite, visit: Callable[..., Visitor], binder: tuple[RunningSite, GitHost]
) -> None:
    host = binder[1]
    ivo = visit("ivo")
    for name in ("one", "two", "three"):
        make_repository(host.root / name, {"a.py": ""})
        page = open_link(ivo, link_to(host, name))
        if name != "three":
            in_server(page, "ivo", "")
    expect(page.locator("#failure-message")).to_contain_text(
        "You run 2 servers from repositories", timeout=60_000
    )
    expect(page.locator("#failure-message")).to_contain_text("one, two")
