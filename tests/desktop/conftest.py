"""A real Chromium at real desktops: one site, its images, and a person's look at a desktop."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Page
from rich.console import Console

from studovna.images import build
from studovna.images_cli import PlainReporter
from studovna.paths import ROOT
from studovna.podman import PodmanError
from tests.browser.conftest import Visitor, browser, picture, visit
from tests.desktop.inside import LIST_WINDOWS, SAVES
from tests.site import RunningSite, running_site, wait_for, why_not

__all__ = ["browser", "picture", "visit"]

MEGABYTE = "Příliš žluťoučký kůň 漢字 🐎\n" * 30_000
"""More than one, in UTF-8."""
CONNECTED = "document.getElementById('status')?.textContent === 'Connected'"
START_SECONDS = 60.0

# Shipped applications by image, with what the title of their window has in it.
TITLES = {"paraview": "ParaView", "rkward": "RKWard", "spyder": "Spyder"}

# Stand-ins for applications.
APPLICATIONS = {
    "terminal": ["xterm"],
    "saves": ["/usr/bin/python3", "-c", SAVES],
    "gone": ["/opt/vendor/bin/app"],
    "vendor": ["/home/jovyan/vendor/app"],
    "unlicensed": ["xterm"],
    "crashing": ["sh", "-c", "echo cannot open the project; exit 3"],
}


def _profile(name: str, command: list[str]) -> str:
    lines = [
        f"title: {name}",
        "category: desktops",
        "image: desktop",
        "default_url: /desktop/",
        "cpu: {request: 0.25, limit: 2}",
        "memory: {request: 256M, limit: 2G}",
        "application:",
        f"  title: {name.title()}",
        f"  command: {command!r}" if "\n" not in command[-1] else "  command:",
    ]
    if "\n" in command[-1]:
        lines += [f"  - {word}" for word in command[:-1]]
        lines += ["  - |", *(f"    {line}" for line in command[-1].splitlines())]
    if name == "vendor":
        lines.append(f"  needs: [{command[0]}]")
    if name == "unlicensed":
        lines.append("licences: [vendor]")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSite]:
    """A site with the real Octave, the whole desktop, and stand-ins for what goes wrong."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("site")
    profiles = folder / "profiles"
    profiles.mkdir()
    for name in ("cpu", "octave", "desktop", *TITLES):
        shutil.copy(ROOT / f"profiles/{name}.yaml", profiles)
    for name, command in APPLICATIONS.items():
        (profiles / f"{name}.yaml").write_text(_profile(name, command))
    # A port on which nobody listens, on the pod's own machine.
    licences = "licences: {vendor: {MLM_LICENSE_FILE: '1@127.0.0.1:2@127.0.0.1'}}\n"
    with running_site(folder, licences, profiles=profiles) as running:
        build(running.podman, ROOT / "images", ["octave"], PlainReporter(Console()))
        yield running


@dataclass(frozen=True)
class Desktop:
    """One person's desktop: its page, and its pod from inside."""

    site: RunningSite
    page: Page
    pod: str

    def wait_connected(self) -> None:
        """Until the page has the desktop on it."""
        self.page.wait_for_function(CONNECTED, timeout=START_SECONDS * 1000)

    def run(self, *argv: str) -> str:
        """A program in the pod, on the display; nothing when it fails."""
        try:
            return self.site.podman.run("exec", "--env", "DISPLAY=:0", self.pod, *argv)
        except PodmanError:
            return ""

    def paste(self, text: str) -> None:
        """Put a text on the desktop's clipboard, at once as a paste does: fill() would type it."""
        self.page.evaluate(
            """(text) => {
              const field = document.getElementById("clipboard-text");
              field.value = text;
              field.dispatchEvent(new Event("change"));
            }""",
            text,
        )

    def windows(self) -> dict[str, str]:
        """Titles by window id."""
        rows = (line.partition(" ") for line in self.run("sh", "-c", LIST_WINDOWS).splitlines())
        return {window: title for window, _, title in rows}

    def size(self, *window: str) -> tuple[int, int]:
        """Width and height of a window, such as ``-root`` or ``-id 0x1``; zeros when it is gone."""
        found = re.search(r"Width: (\d+)\s+Height: (\d+)", self.run("xwininfo", *window))
        return (int(found[1]), int(found[2])) if found else (0, 0)

    def wait_window(self, title: str, seconds: float = 30.0) -> str:
        """The id of a window whose title has these words."""

        def found() -> str | None:
            return next((one for one, name in self.windows().items() if title in name), None)

        try:
            window: str = wait_for(found, seconds, 0.2)
        except AssertionError:
            raise AssertionError(f"no window {title!r}, but {self.windows()}") from None
        return window

    def text_of(self, window: str) -> str:
        """The sentence of one of our own messages."""
        return self.run("xprop", "-id", window, "WM_ICON_NAME", "_NET_WM_ICON_NAME")

    def processes(self, program: str) -> list[str]:
        """The ids of a program's processes."""
        return self.run("pgrep", "-f", program).split()

    def pixels(self, colour: tuple[int, int, int]) -> int:
        """How many pixels of the desktop, as the browser shows it, have about this colour."""
        count: int = self.page.evaluate(
            """([r, g, b]) => {
              const canvas = document.querySelector("#screen canvas");
              const {data} = canvas.getContext("2d")
                .getImageData(0, 0, canvas.width, canvas.height);
              let count = 0;
              for (let i = 0; i < data.length; i += 4)
                if (Math.abs(data[i] - r) + Math.abs(data[i + 1] - g)
                    + Math.abs(data[i + 2] - b) < 30) count++;
              return count;
            }""",
            list(colour),
        )
        return count


def open_desktop(visitor: Visitor, profile: str) -> Desktop:
    """Start a profile as a server of the same name, and open its desktop in the browser."""
    site, person = visitor.site, visitor.name
    site.start(person, profile, {"profile": profile})
    visitor.sign_in()
    visitor.open(f"/user/{person}/{profile}/desktop/")
    desktop = Desktop(site, visitor.page, site.pod(f"jupyter-{person}--{profile}"))
    desktop.wait_connected()
    return desktop


def stop(site: RunningSite, person: str, server: str) -> None:
    """Stop a server and wait until it is gone."""
    client = site.client(person)
    client.delete(f"/hub/api/users/{person}/servers/{server}")
    wait_for(lambda: site.server(client, person, server) is None, 60)
