"""The real Octave on a real desktop, driven by keyboard, clipboard and reloads."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import Visitor
from tests.desktop.conftest import CONNECTED, MEGABYTE, START_SECONDS, Desktop, stop
from tests.site import RunningSite, wait_for

PLOT = (
    "x = linspace(0, 6*pi, 600); plot(x, sin(x).*exp(-x/12), 'linewidth', 2, "
    "x, cos(x).*exp(-x/12), 'linewidth', 2); grid on; title('Damped oscillation'); "
    "legend('sine', 'cosine');"
)
ORANGE = (217, 83, 25)  # of the second line of every plot


@pytest.fixture(scope="module")
def octave(site: RunningSite, browser: Browser) -> Iterator[Desktop]:
    """Octave, started on the spawn page as people do, with its window there."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, locale="en-GB")
    eva = Visitor(site, context.new_page(), "eva")
    eva.sign_in()
    eva.go("spawn/eva/octave")
    eva.page.locator('label[for="profile-octave"]').click()
    eva.page.click("#start")
    eva.page.wait_for_url(re.compile(r".*/user/eva/octave/desktop/"), timeout=90_000)
    desktop = Desktop(site, eva.page, site.pod("jupyter-eva--octave"))
    desktop.wait_connected()
    desktop.wait_window('"Octave"', START_SECONDS)
    yield desktop
    context.close()
    stop(site, "eva", "octave")


def _type(octave: Desktop, line: str) -> None:
    octave.page.keyboard.type(line, delay=2)
    octave.page.keyboard.press("Enter")


@pytest.mark.slow
def test_octave_draws_a_plot_from_typed_input(
    octave: Desktop, picture: Callable[..., None]
) -> None:
    # The application, and no wizard and no other window over it, has the whole screen.
    window = octave.wait_window('"Octave"')
    wait_for(lambda: "MAXIMIZED_VERT" in octave.run("xprop", "-id", window, "_NET_WM_STATE"), 10)
    assert list(octave.windows()) == [window]
    expect(octave.page).to_have_title("Octave")
    # Its prompt is there when what is typed into it is done.
    octave.page.locator("#screen canvas").click(position={"x": 700, "y": 400})

    def prompt() -> str:
        _type(octave, "fputs(fopen('ready','w'),'1');fclose all;")
        return octave.run("cat", "/home/jovyan/ready")

    wait_for(prompt, 30, 2)
    before = octave.pixels(ORANGE)
    _type(octave, "clc")
    _type(octave, PLOT)
    figure = octave.wait_window("Figure 1")
    wait_for(lambda: octave.pixels(ORANGE) > before + 300, 30, 0.3)
    assert "MAXIMIZED" not in octave.run("xprop", "-id", figure, "_NET_WM_STATE")
    picture(octave.page, "octave", 800)


@pytest.mark.slow
def test_a_paste_from_outside_arrives_after_a_megabyte_of_unicode_too(octave: Desktop) -> None:
    page = octave.page
    processes = octave.processes("octave-gui")
    octave.paste(MEGABYTE)
    page.click("#clipboard-button")
    field = page.locator("#clipboard-text")
    field.fill("f = fopen('pasted', 'w'); fputs(f, 'žluťoučký 漢字'); fclose(f);")
    field.blur()
    page.click("#clipboard-button")
    octave.run("wmctrl", "-i", "-a", octave.wait_window('"Octave"'))
    page.locator("#screen canvas").click(position={"x": 700, "y": 400})

    def arrived() -> bool:
        page.keyboard.press("Control+v")
        page.keyboard.press("Enter")
        return octave.run("cat", "/home/jovyan/pasted") == "žluťoučký 漢字"

    wait_for(arrived, 20, 2)
    assert page.evaluate(CONNECTED)
    assert octave.processes("octave-gui") == processes


@pytest.mark.slow
def test_the_desktop_outlives_reloads_browsers_and_is_shared_by_two_tabs(
    octave: Desktop, site: RunningSite, visit: Callable[..., Visitor]
) -> None:
    octave.run("wmctrl", "-i", "-a", octave.wait_window("Figure 1"))
    windows, processes = octave.windows(), octave.processes("octave-gui")
    octave.page.reload()
    octave.wait_connected()
    assert (octave.windows(), octave.processes("octave-gui")) == (windows, processes)
    # Another browser, while the first is there; then the first comes back from another page.
    other = visit("eva")
    other.sign_in()
    other.open("/user/eva/octave/desktop/")
    second = Desktop(site, other.page, octave.pod)
    second.wait_connected()
    wait_for(lambda: second.pixels(ORANGE) > 300, 20)
    assert octave.page.evaluate(CONNECTED)
    octave.page.goto("about:blank")
    octave.page.go_back()
    octave.wait_connected()
    wait_for(lambda: octave.pixels(ORANGE) > 300, 20)
    assert second.page.evaluate(CONNECTED)
    assert (octave.windows(), octave.processes("octave-gui")) == (windows, processes)


@pytest.mark.slow
def test_an_application_and_a_display_that_are_killed_come_back(octave: Desktop) -> None:
    first = octave.processes("octave-gui")
    octave.run("pkill", "-9", "-f", "octave-gui")
    second = wait_for(
        lambda: (now := octave.processes("octave-gui")) and now != first and now, 30, 0.2
    )
    octave.wait_window('"Octave"')
    octave.run("pkill", "-9", "Xtigervnc")
    # The page says it, and has the new desktop by itself.
    expect(octave.page.get_by_role("alertdialog")).to_contain_text("The connection ended")
    octave.wait_connected()
    octave.wait_window('"Octave"')
    assert octave.processes("octave-gui") != second
