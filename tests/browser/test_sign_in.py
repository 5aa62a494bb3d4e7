"""Signing in at an OpenID Connect provider, a real one, in a real browser."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from spawner.openid_connect import ASK_AGAIN
from studovna.paths import ROOT
from studovna.secrets import read_secret
from tests.bench.hubs import free_port
from tests.openid_provider import SECRET, Provider, need_provider
from tests.site import RunningSite, running_site, why_not

pytestmark = pytest.mark.slow

SPAWN_PAGE = 90_000  # milliseconds: it asks podman, which others may keep busy
ACCOUNTS: dict[str, dict[str, Any]] = {
    "ana": {"preferred_username": "Ana", "realm_access": {"roles": ["students"]}},
    "petr": {
        "preferred_username": "petr@example.org",
        "realm_access": {"roles": ["students", "/teachers", 7, "x\u0000y"]},
    },
    "olga": {"preferred_username": "olga", "realm_access": {"roles": ["operators"]}},
    "eve": {"preferred_username": "eve", "realm_access": {"roles": ["visitors"]}},
    "max": {"preferred_username": "max", "realm_access": "students"},
    "last": {"preferred_username": "last", "realm_access": {"roles": ["students"]}},
    "nobody": {"realm_access": {"roles": ["students"]}},
    "odd": {
        "preferred_username": "../<b>ana</b>",
        "realm_access": {"roles": ["students"]},
    },
}
PROFILE = """
title: {en: For teachers, cs: Pro učitele}
image: lab
cpu: {request: 0.1, limit: 1}
memory: {request: 128M, limit: 1G}
access: {groups: [/teachers]}
"""


@dataclass
class Place:
    """A site whose people sign in at a provider."""

    site: RunningSite
    provider: Provider

    @property
    def url(self) -> str:
        """As people know it: where the provider sends them back to."""
        return self.site.site.url


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    need_provider()
    folder = tmp_path_factory.mktemp("sign-in")
    profiles = folder / "profiles"
    shutil.copytree(ROOT / "profiles", profiles)
    (profiles / "teachers.yaml").write_text(PROFILE)
    (folder / "secret").write_text(f"{SECRET}\n")
    provider = Provider(f"http://127.0.0.1:{free_port()}", "", ACCOUNTS)
    settings = f"""
binder: {{enabled: false}}
auth:
  type: openid-connect
  issuer: {provider.issuer}
  client_id: studovna
  client_secret_file: secret
  login_service: Example University
  scopes: [openid, profile, roles]
  groups_claim: realm_access.roles
  allowed_groups: [students]
  admin_groups: [operators]
  logout_redirect_url: {provider.issuer}/session/end
"""
    try:
        with running_site(folder, settings, profiles) as site:
            found = Place(site, provider)
            provider.redirect = f"{found.url}/hub/oauth_callback"
            provider.start()
            yield found
    finally:
        provider.stop()


@pytest.fixture
def open_browser(place: Place, browser: Browser) -> Iterator[Callable[..., Page]]:
    """A new browser at the sign-in page."""
    contexts: list[BrowserContext] = []

    def make(locale: str = "en-GB", width: int = 1280) -> Page:
        contexts.append(
            browser.new_context(locale=locale, viewport={"width": width, "height": 800})
        )
        page = contexts[-1].new_page()
        page.goto(f"{place.url}/hub/login")
        return page

    yield make
    for context in contexts:
        context.close()


def at_provider(page: Page, account: str) -> None:
    """Sign in at the provider's own page, and let it tell the site who it is."""
    page.click("#login_submit")
    page.fill('input[name="login"]', account)
    page.fill('input[name="password"]', "any")
    page.click('button[type="submit"]')
    page.get_by_role("button", name="Continue").click()


def told(page: Page, sentence: str) -> None:
    """The sign-in page says this, and can be used again."""
    expect(page.locator("#login-error")).to_contain_text(sentence)
    expect(page.locator("#login_submit")).to_be_visible()


def test_the_sign_in_page(open_browser: Callable[..., Page], place: Place) -> None:
    for locale, label in (
        ("en-GB", "Sign in with Example University"),
        ("cs-CZ", "Přihlásit se přes Example University"),
    ):
        page = open_browser(locale)
        expect(page.locator("#login_submit")).to_have_text(label)
        assert page.locator("input[type=password]").count() == 0
        if folder := os.environ.get("STUDOVNA_SCREENSHOTS"):
            page.screenshot(path=f"{folder}/sign-in-{locale[:2]}.png")


def test_a_student_comes_in_and_is_led_to_where_they_wanted(
    open_browser: Callable[..., Page], place: Place
) -> None:
    page = open_browser()
    page.goto(f"{place.url}/hub/token")
    at_provider(page, "ana")
    page.wait_for_url(f"{place.url}/hub/token")
    page.goto(f"{place.url}/hub/spawn", timeout=SPAWN_PAGE)
    expect(page.locator("body")).not_to_contain_text("For teachers")
    page.goto(f"{place.url}/hub/admin")
    expect(page.locator("h1")).to_contain_text("not for you to see")
    page.goto(f"{place.url}/hub/home")
    # In lower case, whatever the provider's spelling is.
    assert page.evaluate("window.jhdata.user") == "ana"
    page.goto(f"{place.url}/hub/logout")
    page.wait_for_url(f"{place.provider.issuer}/session/end*")
    page.goto(f"{place.url}/hub/home")
    expect(page.locator("#login_submit")).to_be_visible()


def test_a_group_of_the_provider_opens_a_profile(
    open_browser: Callable[..., Page], place: Place
) -> None:
    page = open_browser("cs-CZ")
    at_provider(page, "petr")
    page.wait_for_url(f"{place.url}/hub/home")
    page.goto(f"{place.url}/hub/spawn", timeout=SPAWN_PAGE)
    expect(page.locator("body")).to_contain_text("Pro učitele")
    operator = read_secret(place.site.state, "service-token-operator")[0]
    found = httpx.get(
        f"{place.site.url}/hub/api/users/petr@example.org",
        headers={"Authorization": f"token {operator}"},
        trust_env=False,
    ).json()
    assert sorted(found["groups"]) == ["/teachers", "students"]
    assert found["admin"] is False


def test_an_admin_by_group(open_browser: Callable[..., Page], place: Place) -> None:
    page = open_browser()
    at_provider(page, "olga")
    page.wait_for_url(f"{place.url}/hub/home")
    assert page.evaluate("window.jhdata.admin_access") is not None
    page.goto(f"{place.url}/hub/admin")
    expect(page).to_have_url(re.compile("/hub/admin"))
    expect(page.locator("body")).to_contain_text("ana")


@pytest.mark.parametrize(
    ("account", "sentence"),
    [
        pytest.param("eve", "this site is for certain groups", id="in no group"),
        pytest.param("nobody", "Your account has no preferred_username", id="no claim"),
        pytest.param("odd", "name ../<b>ana</b> cannot be a user name here", id="no name"),
    ],
)
def test_who_is_not_let_in_is_told_why(
    open_browser: Callable[..., Page], place: Place, account: str, sentence: str
) -> None:
    page = open_browser()
    at_provider(page, account)
    told(page, sentence)
    # The provider asks again who it is, although it knows this browser: one can be somebody else.
    at_provider(page, "ana")
    page.wait_for_url(f"{place.url}/hub/home")
    czech = open_browser("cs-CZ")
    at_provider(czech, account)
    expect(czech.locator("#login-error")).to_be_visible()
    expect(czech.locator("#login-error")).not_to_contain_text(sentence)
    if folder := os.environ.get("STUDOVNA_SCREENSHOTS"):
        czech.screenshot(path=f"{folder}/sign-in-{account}-cs.png")


def test_one_group_that_is_a_text(open_browser: Callable[..., Page], place: Place) -> None:
    """`realm_access` is no map here, so there is no list of groups inside it."""
    page = open_browser()
    at_provider(page, "max")
    told(page, "this site is for certain groups")


def test_an_answer_that_nobody_asked_for(open_browser: Callable[..., Page], place: Place) -> None:
    page = open_browser()
    for query in (
        "code=stolen&state=eyJzdGF0ZV9pZCI6ICJ4In0=",
        "code=stolen&state=ř",
        "code=stolen&state=W10=",
        "code=stolen",
        "error=access_denied&error_description=<b>call+this+number</b>",
    ):
        page.goto(f"{place.url}/hub/oauth_callback?{query}")
        told(page, "begun too long ago, or in another window")
        expect(page.locator("body")).not_to_contain_text("call this number")
    # With a cookie of a sign-in that was begun, and the state of another one.
    page.goto(f"{place.url}/hub/login")
    page.click("#login_submit")
    page.locator('input[name="login"]').wait_for()
    page.goto(f"{place.url}/hub/oauth_callback?code=stolen&state=eyJzdGF0ZV9pZCI6ICJ4In0=")
    told(page, "begun too long ago, or in another window")


def test_turning_back_at_the_provider(open_browser: Callable[..., Page], place: Place) -> None:
    page = open_browser()
    page.click("#login_submit")
    page.get_by_role("link", name=re.compile("Cancel", re.IGNORECASE)).click()
    told(page, "Example University did not let you in, or you turned back")


def test_a_provider_that_is_away(open_browser: Callable[..., Page], place: Place) -> None:
    inside = open_browser()
    at_provider(inside, "ana")
    inside.wait_for_url(f"{place.url}/hub/home")
    # Away after the person has signed in there, and before the site asks who it was.
    page = open_browser()
    at_provider(page, "last")
    told(page, "Example University cannot be reached now")
    # Nobody is led to where nobody answers.
    assert place.provider.process is not None
    place.provider.process.wait(10)
    time.sleep(ASK_AGAIN)
    page = open_browser()
    page.click("#login_submit")
    told(page, "Example University cannot be reached now")
    if folder := os.environ.get("STUDOVNA_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/sign-in-away.png")
    # Who is in stays in.
    inside.goto(f"{place.url}/hub/home")
    assert inside.evaluate("window.jhdata.user") == "ana"
    place.provider.start()
    at_provider(page, "ana")
    page.wait_for_url(f"{place.url}/hub/home")


def test_no_secret_is_in_the_log(place: Place) -> None:
    log = place.site.log()
    assert "People sign in at http://127.0.0.1" in log
    assert SECRET not in log and "id_token" not in log
    assert not re.search(r"[?&](code|state)=(?!\[secret\])", log)
    assert httpx.get(f"{place.url}/hub/health", trust_env=False).is_success
