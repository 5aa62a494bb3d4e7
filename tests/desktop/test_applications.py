"""Shipped applications: their windows open. Large: tried where their images were built before."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.browser.conftest import Visitor
from tests.desktop.conftest import TITLES, open_desktop, stop
from tests.site import RunningSite, wait_for
from tests.support import need_image


@pytest.mark.slow
@pytest.mark.parametrize("name", TITLES)
def test_the_application_opens_its_window(
    site: RunningSite,
    name: str,
    visit: Callable[..., Visitor],
    picture: Callable[..., None],
) -> None:
    need_image(site.podman, name)
    desktop = open_desktop(visit("eva"), name)

    def is_open() -> bool:
        # The picture that comes first has the title, too, but not the whole screen.
        windows = [one for one, title in desktop.windows().items() if TITLES[name] in title]
        states = [desktop.run("xprop", "-id", one, "_NET_WM_STATE") for one in windows]
        return any("MAXIMIZED_VERT" in state for state in states)

    wait_for(is_open, 120, 0.5)
    picture(desktop.page, name, 800)
    stop(site, "eva", name)
