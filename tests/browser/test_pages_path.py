"""What a newcomer does: sign in, start, work, save, stop, start again, and find the work there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Visitor
from tests.site import wait_for

pytestmark = pytest.mark.slow


def _run_cell(page: Page, code: str, output: str) -> None:
    # What is typed before the kernel is there may be lost.
    expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible(timeout=60_000)
    editor = page.locator(".jp-Notebook .jp-CodeCell .cm-content").first
    editor.click()
    page.keyboard.type(code)
    expect(editor).to_have_text(code)
    page.keyboard.press("Shift+Enter")
    expect(page.locator(".jp-OutputArea-output").get_by_text(output).first).to_be_visible(
        timeout=60_000
    )


def _saved(visitor: Visitor, file: str, text: str) -> bool:
    reply = visitor.page.request.get(f"{visitor.site.url}/user/{visitor.name}/api/contents/{file}")
    return reply.ok and text in reply.text()


def test_from_signing_in_to_a_notebook_that_is_still_there(
    visit: Callable[..., Visitor], picture: Callable[..., None]
) -> None:
    ana = visit("ana")
    page = ana.page
    # A pod's network comes up on this machine while the browser fetches JupyterLab's parts, and
    # Chromium then drops connections that are just being made.
    page.add_locator_handler(
        page.get_by_text("Error Loading Theme"),
        lambda: page.get_by_role("button", name="OK").click(),
    )
    ana.go("login")
    picture(page, "login", 560)
    ana.sign_in()
    expect(page.get_by_role("heading", name="Welcome, ana")).to_be_visible()
    page.get_by_role("link", name="Start a server").click()
    expect(page.locator("#summary")).to_contain_text("31 of 32 CPU left")
    picture(page, "spawn", 900)
    page.get_by_role("button", name="Start", exact=True).click()
    page.wait_for_url("**/spawn-pending/ana**")
    expect(page.locator("#steps")).to_contain_text("Waiting for the server to answer")
    picture(page, "progress", 470)
    ana.wait_for_server()

    page.locator('.jp-LauncherCard[data-category="Notebook"]').first.click(timeout=60_000)
    _run_cell(page, "6 * 7 * 1000", "42000")
    picture(page, "lab", 640)
    page.keyboard.press("Control+s")
    # The first time, JupyterLab asks for the file's name.
    page.get_by_role("button", name="Rename").click()
    wait_for(lambda: _saved(ana, "Untitled.ipynb", "42000"), 30)

    ana.go("home")
    expect(ana.card()).to_contain_text("Notebook")
    expect(ana.card()).to_contain_text("up to 1 CPU and 2 GB")
    expect(ana.card().locator("time")).to_contain_text("ago")
    picture(page, "home", 620)
    ana.stop()
    ana.card().get_by_role("link", name="Start again").click()
    ana.wait_for_server()
    page.goto(f"{ana.site.url}/user/ana/lab/tree/Untitled.ipynb")
    expect(page.locator(".jp-OutputArea-output").get_by_text("42000").first).to_be_visible(
        timeout=60_000
    )
    ana.stop()


def test_the_keyboard_is_enough(visit: Callable[..., Visitor]) -> None:
    eva = visit("eva")
    page = eva.page
    eva.go("login")
    page.keyboard.type("eva")
    page.keyboard.press("Tab")
    page.keyboard.type(eva.site.password())
    page.keyboard.press("Enter")
    page.wait_for_url("**/hub/home")

    def tab_to(wanted: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("wanted => document.activeElement.matches(wanted)", wanted):
                outline = page.evaluate(
                    "() => getComputedStyle(document.activeElement.matches('label input')"
                    " ? document.activeElement.closest('label') : document.activeElement)"
                    ".outlineStyle"
                )
                assert outline != "none", f"{wanted} has the focus, and nobody sees it"
                return
        raise AssertionError(f"Tab never comes to {wanted}")

    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    tab_to("#start")
    page.keyboard.press("Enter")
    page.wait_for_url("**/hub/spawn/eva")
    tab_to('input[name="profile"]')
    tab_to('input[name="profile-option-cpu--memory"]')
    page.keyboard.press("ArrowRight")
    expect(page.locator("#summary")).to_contain_text("up to 4 GB")
    tab_to("#start")
    page.keyboard.press("Enter")
    eva.wait_for_server()
    eva.go("home")
    expect(eva.card()).to_contain_text("up to 1 CPU and 4 GB")
    tab_to('[data-do="stop"]')
    page.keyboard.press("Enter")
    expect(eva.card()).to_have_attribute("data-state", "stopped", timeout=60_000)
