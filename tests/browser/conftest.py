"""A real Chromium (Debian's) against the real site."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Error, Page, expect, sync_playwright

from studovna.paths import ROOT
from studovna.podman import PodmanError
from tests.site import RunningSite, running_site, wait_for, why_not

# Chromium asks its maker for updates and more when it starts: nothing of that here.
ARGUMENTS = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
START_SECONDS = 90.0
expect.set_options(timeout=15_000)

# Whose servers answer only when the test lets them go on, so that a test sees a start that goes
# on, however fast a start is and however slow the browser.
HELD = ("ana", "leo", "mia", "noe")
HOLD = f"""
command:
  - sh
  - -c
  - |
    case "$JUPYTERHUB_USER" in
      {"|".join(HELD)}) until [ -d /tmp/go-on ]; do sleep 0.1; done ;;
    esac
    exec jupyterhub-singleuser
"""


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSite]:
    """A site with the profiles of the embedded default, whose starts tests can hold."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("site")
    profiles = folder / "profiles"
    shutil.copytree(ROOT / "profiles", profiles)
    with (profiles / "cpu.yaml").open("a") as default:
        default.write(HOLD)
    with running_site(folder, profiles=profiles) as running:
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One browser for all tests; each takes contexts of its own from it."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    arguments = ARGUMENTS + (["--no-sandbox"] if os.geteuid() == 0 else [])
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=arguments)
        yield chromium
        chromium.close()


@dataclass(frozen=True)
class Visitor:
    """One person at one browser."""

    site: RunningSite
    page: Page
    name: str

    def go(self, path: str) -> None:
        """Open a page of the hub, such as ``home``."""
        self.open(f"/hub/{path}")

    def open(self, path: str) -> None:
        """Open any page of the site."""
        address = self.site.url + path
        try:
            self.page.goto(address)
        except Error as error:
            # Chromium notices networks of pods that come and go on this machine, once each.
            if "ERR_NETWORK_CHANGED" not in str(error):
                raise
            self.page.goto(address)

    def sign_in(self) -> None:
        """Through the form; ends on the home page."""
        self.go("login")
        secret = "password-admin" if self.name == "admin" else "password-people"
        self.page.fill("#username_input", self.name)
        self.page.fill("#password_input", self.site.password(secret))
        self.page.click("#login_submit")
        self.page.wait_for_url("**/hub/home")

    def let_go_on(self, server: str = "") -> None:
        """End the hold of a start of somebody who is in ``HELD``."""
        pod = f"jupyter-{self.name}--{server}" if server else f"jupyter-{self.name}"

        def let_go() -> bool:
            try:
                self.site.podman.run("exec", self.site.pod(pod), "mkdir", "/tmp/go-on")
            except (IndexError, PodmanError):
                return False  # not there yet, not running yet, or still the one of an earlier start
            return True

        wait_for(let_go, START_SECONDS)

    def wait_for_server(self, name: str = "") -> None:
        """Until the browser was sent into the server."""
        if self.name in HELD:
            self.let_go_on(name)
        where = f"/user/{self.name}/{name}/" if name else f"/user/{self.name}/"
        self.page.wait_for_url(
            re.compile(re.escape(self.site.url + where) + "(lab|tree|$)"),
            timeout=START_SECONDS * 1000,
            wait_until="commit",
        )

    def card(self, name: str = "") -> Any:
        """A server's card on the home page."""
        return self.page.locator(f'[data-server="{name}"]')

    def stop(self, name: str = "") -> None:
        """With the button on the home page."""
        self.go("home")
        self.card(name).locator('[data-do="stop"]').click()
        expect(self.card(name)).to_have_attribute("data-state", "stopped", timeout=60_000)


@pytest.fixture
def visit(site: RunningSite, browser: Browser) -> Iterator[Callable[..., Visitor]]:
    """Makes a visitor: ``visit("ana", locale="cs-CZ", width=390)``. Errors of scripts fail."""
    contexts: list[BrowserContext] = []
    errors: list[str] = []

    def make(name: str, width: int = 1280, height: int = 900, **options: Any) -> Visitor:
        options = {"locale": "en-GB", **options}
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(f"{page.url}: {error}"))
        return Visitor(site, page, name)

    yield make
    for context in contexts:
        context.close()
    ours = [error for error in errors if "/hub/" in error.split(": ")[0]]
    assert ours == []


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., None]:
    """Keeps a screenshot of the page's top in ``$STUDOVNA_SCREENSHOTS`` (docs/images), if set."""
    folder = Path(os.environ.get("STUDOVNA_SCREENSHOTS", tmp_path))

    def take(page: Page, name: str, height: int) -> None:
        clip = {"x": 0, "y": 0, "width": 1280, "height": height}
        page.screenshot(path=folder / f"{name}.png", clip=clip)

    return take
