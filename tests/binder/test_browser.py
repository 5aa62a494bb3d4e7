"""The pages in a real browser, with a real hub and a real git host; builds are doubles."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect, sync_playwright

from tests.binder.conftest import Hub
from tests.binder.githost import GitHost, commit, make_repository
from tests.binder.test_faults import service_process
from tests.binder.test_service import link

pytestmark = pytest.mark.slow

# Chromium asks its maker for updates and more when it starts: nothing of that here.
ARGUMENTS = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-sandbox",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield found
        found.close()


@pytest.fixture
def page(browser, hub: Hub) -> Iterator[Page]:
    context = browser.new_context(locale="en-GB", viewport={"width": 1000, "height": 800})
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "console",
        lambda said: problems.append(said.text) if "Content Security" in said.text else None,
    )
    yield page
    context.close()
    assert not problems


def sign_in(page: Page, person: str) -> None:
    page.get_by_label("Username").fill(person)
    page.get_by_label("Password").fill("pw")
    page.get_by_role("button", name="Sign in").click()


def test_a_link_leads_to_the_server(page: Page, hub: Hub, git_host: GitHost) -> None:
    # The way into the server is held until the log was looked at.
    held: list[Route] = []
    page.route("**/user/ana/**", lambda route: held.append(route))
    page.goto(f"{hub.binder}v2/{link(git_host, 'notes')}?labpath=index.ipynb")
    sign_in(page, "ana")
    expect(page.locator("#log")).to_contain_text("line 2 <b>red</b>")
    page.unroute("**/user/ana/**")
    for route in held:
        route.continue_()
    page.wait_for_url(re.compile(r"/user/ana/notes-[0-9a-f]{8}/doc/tree/index\.ipynb"))


def test_a_link_leads_nowhere_else(page: Page, hub: Hub, git_host: GitHost) -> None:
    for path in ("https://evil.example/x", "//evil.example", "../../../hub/logout"):
        page.goto(f"{hub.binder}v2/{link(git_host, 'notes')}?urlpath={path}")
        if "login" in page.url:
            sign_in(page, "ana")
        page.wait_for_url(re.compile(rf"^{re.escape(hub.url)}user/ana/notes-[0-9a-f]{{8}}/"))


def test_failure_log_and_cancel(page: Page, hub: Hub, git_host: GitHost) -> None:
    page.goto(f"{hub.binder}v2/{link(git_host, 'broken')}")
    sign_in(page, "ana")
    expect(page.locator("#failure-message")).to_contain_text("asks for a package that does not")
    with page.expect_download() as download:
        page.locator("#failure-log").click()
    assert "line 0" in download.value.path().read_text()
    make_repository(git_host.root / "endless", {"a.py": "1"})
    page.goto(f"{hub.binder}v2/{link(git_host, 'endless')}")
    expect(page.locator("#log")).to_contain_text("line 2")
    page.reload()  # the same build, from its beginning
    expect(page.locator("#log")).to_contain_text("line 2")
    page.get_by_role("button", name="Cancel the build").click()
    expect(page.locator("#failure-message")).to_contain_text("cancelled by ana")
    expect(page.get_by_role("button", name="Cancel the build")).to_be_hidden()


def test_the_page_tells_how_long_it_takes(page: Page, hub: Hub, git_host: GitHost) -> None:
    make_repository(git_host.root / "timed", {"a.py": "1"})
    hub.events("ben", link(git_host, "timed"), build_only="true")
    newer = commit(git_host.root / "timed", {"a.py": "2"})
    others = [f"other{number}/held" for number in range(4)]  # as many as are built at once
    for name in others:
        make_repository(git_host.root / name, {"a.py": ""})
        next(hub.stream("root", link(git_host, name), build_only="true"))
    page.goto(f"{hub.binder}v2/{link(git_host, 'timed', newer)}")
    sign_in(page, "ben")
    expect(page.locator("#status")).to_have_text("Waiting in the queue, in place 1.")
    expect(page.locator("#last-build")).to_have_text(re.compile(r"^The last build took \d+ s\.$"))
    expect(page.locator("#elapsed")).to_have_text(re.compile(r"^[23] s$"))
    waited = page.locator("#elapsed").inner_text()
    page.reload()  # the time goes on, for it is the build's
    expect(page.locator("#status")).to_have_text("Waiting in the queue, in place 1.")
    expect(page.locator("#elapsed")).to_have_text(re.compile(r"^[3-9] s$"), timeout=3000)
    assert int(page.locator("#elapsed").inner_text().split()[0]) >= int(waited.split()[0])
    (hub.folder / "double" / "let-go").touch()
    page.wait_for_url(re.compile(r"/user/ben/timed-"))


def test_the_form(page: Page, hub: Hub) -> None:
    page.goto(hub.binder)
    sign_in(page, "ana")
    page.get_by_label("GitHub repository name or URL").fill("https://github.com/a/b")
    page.get_by_label("Branch, tag or commit").fill("v1")
    page.get_by_label("What to open (optional)").fill("x y.ipynb")
    url = f"{hub.binder}v2/gh/a/b/v1?labpath=x%20y.ipynb"
    expect(page.locator("#share-url")).to_have_value(url)
    expect(page.locator("#share-markdown")).to_have_value(
        f"[![Binder]({hub.binder}badge_logo.svg)]({url})"
    )
    if folder := os.environ.get("STUDOVNA_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/binder-form.png")
    page.get_by_label("Where the repository is").select_option("git")
    page.locator("#repository").fill("https://example.org/x")
    page.get_by_label("What to open (optional)").fill("")
    expect(page.locator("#share-url")).to_have_value(
        f"{hub.binder}v2/git/https%3A%2F%2Fexample.org%2Fx/v1"
    )
    page.get_by_label("Where the repository is").select_option("zenodo")
    page.locator("#repository").fill("nonsense")
    expect(page.locator("#results")).to_be_hidden()
    page.get_by_role("button", name="Launch").click()
    expect(page.locator("#form-problem")).to_contain_text("not an address that this provider")
    page.locator("#repository").fill("https://doi.org/10.5281/zenodo.3242074")
    expect(page.locator("#share-url")).to_have_value(
        f"{hub.binder}v2/zenodo/10.5281/zenodo.3242074"
    )
    expect(page.locator("#ref-group")).to_be_hidden()


# What a person types, with the branch, and what follows v2/ in the link (facts of the contract).
LINKS = [
    ("gh", "https://github.com/a/b.c/", "", "a/b.c/HEAD"),
    ("gh", "a/b", "fix/one#2", "a/b/fix/one%232"),
    ("gh", "https://github.com/a/b/tree/fix/one", "", "a/b/fix/one"),
    ("gh", "a/b/blob/main/x.ipynb", "", None),
    ("gl", "https://gitlab.com/g/sub/p", "v1", "g%2Fsub%2Fp/v1"),
    ("gl", "https://gitlab.com/g/p/-/tree/dev", "", "g%2Fp/dev"),
    ("git", "https://example.org/x y.git", "", "https%3A%2F%2Fexample.org%2Fx%20y.git/HEAD"),
    ("git", "git@example.org:g/p", "", "git%40example.org%3Ag%2Fp/HEAD"),
    ("gist", "https://gist.github.com/a/0123abcd", "", "a/0123abcd/HEAD"),
    ("zenodo", "https://doi.org/10.5281/zenodo.3242074", "", "10.5281/zenodo.3242074"),
    ("zenodo", "doi:10.5281/zenodo.3242074", "", "10.5281/zenodo.3242074"),
    ("zenodo", "nonsense", "", None),
    ("figshare", "10.6084/m9.figshare.9782777.v1", "", "10.6084/m9.figshare.9782777.v1"),
    ("dataverse", "10.7910/DVN/TJCLKP", "", "10.7910/DVN/TJCLKP"),
    ("hydroshare", "8f7c2f0341ef4180b0dbe97f59130756", "", "8f7c2f0341ef4180b0dbe97f59130756"),
    ("ckan", "https://demo.ckan.org/dataset/x", "", "https%3A%2F%2Fdemo.ckan.org%2Fdataset%2Fx"),
]


def test_each_providers_links(page: Page, hub: Hub) -> None:
    page.goto(hub.binder)
    sign_in(page, "ana")
    for provider, typed, ref, spec in LINKS:
        page.locator("#provider").select_option(provider)
        page.locator("#repository").fill(typed)
        if page.locator("#ref").is_visible():
            page.locator("#ref").fill(ref)
        if spec is None:
            expect(page.locator("#results")).to_be_hidden()
            continue
        url = f"{hub.binder}v2/{provider}/{spec}"
        badge = f"{hub.binder}badge_logo.svg"
        expect(page.locator("#share-url")).to_have_value(url)
        expect(page.locator("#share-markdown")).to_have_value(f"[![Binder]({badge})]({url})")
        expect(page.locator("#share-rst")).to_have_value(f".. image:: {badge}\n   :target: {url}")
        expect(page.locator("#share-html")).to_have_value(
            f'<a href="{url}"><img src="{badge}" alt="Binder"></a>'
        )


def test_the_form_speaks_the_persons_language_and_programs_read_english(
    browser: Any, hub: Hub
) -> None:
    context = browser.new_context(locale="cs-CZ")
    page = context.new_page()
    page.goto(hub.binder)
    page.locator("#username_input").fill("ana")
    page.locator("#password_input").fill("pw")
    page.locator("#login_submit").click()
    page.locator("#provider").select_option("git")
    expect(page.locator("#repository-label")).to_have_text("Adresa repozitáře git")
    names = {one["displayName"] for one in hub.client().get("api/repoproviders").json()}
    assert "Git repository" in names
    context.close()


def test_a_page_outlives_the_service(page: Page, hub: Hub, git_host: GitHost) -> None:
    make_repository(git_host.root / "longest", {"a.py": "1"})
    page.goto(f"{hub.binder}v2/{link(git_host, 'longest')}")
    sign_in(page, "ben")
    expect(page.locator("#log")).to_contain_text("line 10")
    os.kill(service_process(hub).pid, signal.SIGKILL)
    expect(page.locator("#status")).to_contain_text("Connection lost", timeout=45_000)
    page.wait_for_url(re.compile(r"/user/ben/longest-"), timeout=90_000)
