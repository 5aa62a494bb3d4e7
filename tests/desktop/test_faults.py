"""What a person sees when something is wrong. The applications are stand-ins that go wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.conftest import Visitor
from tests.desktop.conftest import Desktop, open_desktop, stop
from tests.site import RunningSite, wait_for


@pytest.fixture
def opened(visit: Callable[..., Visitor]) -> Any:
    """Opens the desktop of a profile; stops its server afterwards."""
    open_ones: list[Desktop] = []

    def make(profile: str) -> Desktop:
        desktop = open_desktop(visit("ota", height=800), profile)
        open_ones.append(desktop)
        return desktop

    yield make
    for desktop in open_ones:
        stop(desktop.site, "ota", desktop.pod.rpartition("--")[2])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("profile", "title", "sentence"),
    [
        ("gone", "Gone is not here", "The program /opt/vendor/bin/app was not found"),
        ("unlicensed", "The licence server does not answer", "at 1@127.0.0.1, 2@127.0.0.1, and"),
        ("crashing", "Crashing ends as soon as it starts", "with exit code 3"),
    ],
)
def test_what_is_wrong_is_told_in_a_window(
    opened: Any, picture: Callable[..., None], profile: str, title: str, sentence: str
) -> None:
    desktop = opened(profile)
    window = desktop.wait_window(title)
    assert sentence in desktop.text_of(window)
    # Blue is the button's: the window is drawn, on the page.
    wait_for(lambda: desktop.pixels((31, 95, 174)) > 2000, 10)
    picture(desktop.page, f"desktop-{profile}", 800)
    # No busy loop behind the window.
    log = desktop.run("cat", f"/home/jovyan/.studovna/logs/{profile}.log")
    assert log.count("ended with") == (3 if profile == "crashing" else 0)
    shown = desktop.processes("studovna_desktop.window")
    desktop.page.keyboard.press("Enter")
    wait_for(lambda: desktop.processes("studovna_desktop.window") not in (shown, []), 20)
    desktop.wait_window(title)


@pytest.mark.slow
def test_a_missing_file_is_named_and_try_again_finds_it(opened: Any) -> None:
    desktop = opened("vendor")
    window = desktop.wait_window("Vendor is not here")
    said = desktop.text_of(window)
    assert "/home/jovyan/vendor/app is missing" in said
    assert "is there below /home/jovyan, so the volume" in said
    script = "mkdir vendor && echo 'exec xterm -T Found' > vendor/app && chmod 755 vendor/app"
    desktop.run("sh", "-c", f"cd /home/jovyan && {script} && sed -i '1i #!/bin/sh' vendor/app")
    for part in ("vendor/app", "vendor"):
        shown = desktop.processes("studovna_desktop.window")
        desktop.run("chmod", "000", f"/home/jovyan/{part}")
        desktop.page.keyboard.press("Enter")
        # The next window may have the id of the last one.
        wait_for(
            lambda shown=shown: desktop.processes("studovna_desktop.window") not in (shown, []), 20
        )
        window = desktop.wait_window("Vendor cannot be read")
        assert "/home/jovyan/vendor" in desktop.text_of(window)
        desktop.run("chmod", "755", f"/home/jovyan/{part}")
    desktop.page.keyboard.press("Enter")
    desktop.wait_window("Found")


@pytest.mark.slow
def test_windows_larger_than_the_screen_fit_and_stopping_asks_to_save(
    opened: Any, site: RunningSite
) -> None:
    desktop = opened("saves")
    desktop.wait_window("Unsaved")
    desktop.run("sh", "-c", "xterm -T Large -geometry 400x150 > /dev/null 2>&1 &")
    large = desktop.wait_window("Large")

    screen = desktop.size("-root")

    def fits() -> bool:
        width, height = desktop.size("-id", large)
        return 0 < width <= screen[0] and 0 < height <= screen[1]

    wait_for(fits, 10)
    stop(site, "ota", "saves")
    home = site.state / "claims/home-ota/data"
    assert (home / "saved.txt").read_text() == "all of it"


@pytest.mark.slow
def test_the_whole_desktop_starts(opened: Any, picture: Callable[..., None]) -> None:
    desktop = opened("desktop")
    desktop.wait_window("LXQt Panel")
    desktop.run("sh", "-c", "qterminal > /dev/null 2>&1 &")
    desktop.wait_window("Shell")
    picture(desktop.page, "desktop", 800)
