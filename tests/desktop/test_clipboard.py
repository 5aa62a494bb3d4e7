"""What is pasted on the page arrives in an application, all of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.browser.conftest import Visitor
from tests.desktop.conftest import MEGABYTE, open_desktop, stop
from tests.site import RunningSite, wait_for


@pytest.mark.slow
def test_a_megabyte_of_unicode_arrives_whole(
    site: RunningSite, visit: Callable[..., Visitor]
) -> None:
    size = len(MEGABYTE.encode())
    assert size > 1024**2
    desktop = open_desktop(visit("eva"), "terminal")
    screen = desktop.page.locator("#screen canvas")

    def is_listening() -> bool:
        screen.click(position={"x": 600, "y": 400})
        desktop.page.keyboard.type("stty -echo; touch ready; cat > pasted\n", delay=5)
        return bool(desktop.run("ls", "/home/jovyan/ready"))

    desktop.wait_window("")
    wait_for(is_listening, 30, 3)
    desktop.paste(MEGABYTE)
    # The panel closes, so that the desktop has the keyboard.
    desktop.page.click("#clipboard-button")
    desktop.page.click("#clipboard-button")
    screen.click(position={"x": 600, "y": 400})
    desktop.page.keyboard.press("Shift+Insert")
    pasted = "/home/jovyan/pasted"
    wait_for(lambda: int(desktop.run("stat", "-c", "%s", pasted) or 0) >= size, 60, 1)
    assert desktop.run("cat", pasted).endswith(MEGABYTE)
    stop(site, "eva", "terminal")
