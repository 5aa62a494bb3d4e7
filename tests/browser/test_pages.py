"""Each page, looked at as people do: wide and narrow, light and dark, English and Czech."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Visitor
from tests.site import RunningSite, wait_for

# The lowest contrast of any text on the page that can be read, with what it is (WCAG 1.4.3).
LOWEST_CONTRAST = """
() => {
  const parse = (text) => (text.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
  const over = ([r, g, b, a = 1], below) => [r, g, b].map((c, i) => c * a + below[i] * (1 - a));
  const behind = (element) => {
    if (!element) return [255, 255, 255];
    return over(parse(getComputedStyle(element).backgroundColor), behind(element.parentElement));
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((c) => c / 255)
      .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let lowest = [21, ""];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    if (!text || !element.checkVisibility()) continue;
    if (element.closest(":disabled, script, style")) continue;
    const back = behind(element);
    const ink = over(parse(getComputedStyle(element).color), back);
    const [a, b] = [light(ink), light(back)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < lowest[0]) lowest = [ratio, text];
  }
  return lowest;
}
"""
UNLABELLED = """
() => [...document.querySelectorAll("input:not([type=hidden]), select, button, a[href]")]
  .filter((e) => !(e.labels?.length || e.getAttribute("aria-label") || e.textContent.trim()))
  .map((e) => e.outerHTML)
"""


def _look(page: Page) -> None:
    """What holds for every page."""
    wider = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert wider <= 0, f"{page.url} scrolls sideways by {wider} px"
    ratio, text = page.evaluate(LOWEST_CONTRAST)
    assert ratio >= 4.5, f"{page.url}: contrast {ratio:.2f} of {text!r}"
    assert page.evaluate(UNLABELLED) == []
    assert page.locator("h1").count() == 1


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("language", ["en-GB", "cs-CZ"])
def test_every_page_can_be_read(
    visit: Callable[..., Visitor], language: str, scheme: str, width: int
) -> None:
    zoe = visit("zoe", width=width, locale=language, color_scheme=scheme)
    page = zoe.page
    zoe.go("login")
    expect(page.locator("html")).to_have_attribute("lang", language[:2])
    expect(page.locator("html")).to_have_attribute("data-bs-theme", scheme)
    _look(page)
    zoe.sign_in()
    for path in ("home", "spawn/zoe/work", "home", "no-such-page"):
        zoe.go(path)
        _look(page)
    zoe.go("spawn/zoe")
    page.locator('label[for="profile-custom-image"]').click()
    _look(page)


def test_dark_is_chosen_with_the_button_and_stays(visit: Callable[..., Visitor]) -> None:
    eva = visit("eva")
    eva.go("login")
    eva.page.get_by_role("button", name="Light or dark").click()
    eva.page.reload()
    expect(eva.page.locator("html")).to_have_attribute("data-bs-theme", "dark")


def test_a_wrong_name_gets_the_rule_and_a_wrong_password_does_not(
    visit: Callable[..., Visitor],
) -> None:
    page = visit("nobody").page
    for name, sentence in [
        ("Ána 1", "Ána 1 is no user name here."),
        ("ana", "This name and password do not belong together. Try again."),
    ]:
        page.goto(visit("nobody").site.url + "/hub/login")
        page.fill("#username_input", name)
        page.fill("#password_input", "wrong")
        page.click("#login_submit")
        expect(page.get_by_role("alert")).to_have_text(sentence)
        expect(page.locator("#username_input")).to_have_value(name)


def test_the_summary_follows_the_choices(visit: Callable[..., Visitor]) -> None:
    ida = visit("ida", locale="cs-CZ")
    ida.sign_in()
    ida.go("spawn/ida")
    page = ida.page
    expect(page.locator('[data-show="cpu"]')).to_have_text("až 1 CPU (zaručeno 0,25)")
    page.locator('input[name="profile-option-cpu--cpu"][value="large"]').check()
    expect(page.locator('[data-show="cpu"]')).to_have_text("až 4 CPU (zaručeno 1)")
    expect(page.locator('[data-quota="cpu"]')).to_contain_text("zbude 28 z 32")
    # The profile that needs a GPU cannot be chosen, and says why.
    gpu = page.locator('[data-profile="gpu"]')
    expect(gpu.locator('input[name="profile"]')).to_be_disabled()
    expect(gpu).to_contain_text("Tento stroj nemá žádné GPU")


def test_profiles_are_found_by_a_word_and_say_what_is_here(visit: Callable[..., Visitor]) -> None:
    lea = visit("lea")
    page = lea.page
    lea.sign_in()
    lea.go("spawn/lea")
    notebook = page.locator('[data-profile="cpu"]')
    expect(notebook.get_by_text("Image on this machine:").first).to_contain_text("MB")
    # What cannot be started stands apart, with its reason.
    gpu = page.locator('.away [data-profile="gpu"]')
    expect(gpu).to_contain_text("no GPU")
    expect(gpu.locator("input")).to_be_disabled()
    page.get_by_label("Search").fill("own IMAGE")
    expect(page.locator('[data-profile="custom-image"]')).to_be_visible()
    expect(notebook).to_be_hidden()
    page.get_by_label("Search").fill("graphics")
    expect(gpu).to_be_visible()
    page.get_by_label("Search").fill("no such thing")
    expect(page.get_by_text("Nothing here is called that.")).to_be_visible()
    page.get_by_label("Search").fill("")
    expect(notebook).to_be_visible()


@pytest.mark.parametrize("width", [1280, 390])
def test_what_does_not_fit_is_said_before(visit: Callable[..., Visitor], width: int) -> None:
    ida = visit("ida", width=width)
    ida.sign_in()
    # As if other servers of this person had taken all but 1 GB.
    ida.page.route(
        "**/spawn/ida",
        lambda route: route.fulfill(
            body=re.sub(
                r'("memory_limit": {"left": )\d+', r"\g<1>1073741824", route.fetch().text()
            ),
            content_type="text/html",
        ),
    )
    ida.go("spawn/ida")
    expect(ida.page.locator("#too-much")).to_have_text(
        "It does not fit: you have 1\N{NO-BREAK SPACE}GB of memory left, and it may use"
        " 2\N{NO-BREAK SPACE}GB. Choose a smaller size or stop a server."
    )
    # Without scrolling, however long the list is.
    expect(ida.page.locator("#too-much")).to_be_in_viewport()
    expect(ida.page.locator("#start")).to_be_in_viewport()


@pytest.mark.slow
def test_a_refused_start_is_told_on_top_of_the_form_with_the_choices_kept(
    visit: Callable[..., Visitor],
) -> None:
    ivo = visit("ivo", locale="cs-CZ")
    ivo.sign_in()
    ivo.go("spawn/ivo/own")
    page = ivo.page
    page.locator('label[for="profile-custom-image"]').click()
    field = page.locator("#profile-option-custom-image--image--unlisted-choice")
    field.fill("not an image")
    page.click("#start")
    assert not field.evaluate("field => field.validity.valid")
    field.fill("localhost/no-such-image:1")
    page.locator('input[name="profile-option-custom-image--memory"][value="medium"]').check()
    page.click("#start")
    sentence = "Obraz localhost/no-such-image:1 na tomto stroji neexistuje."
    expect(page.get_by_role("alert")).to_have_text(sentence)
    if "spawn-pending" in page.url:  # slower than the second for which JupyterHub holds the form
        page.get_by_role("link", name="Změnit nastavení").click()
    expect(field).to_have_value("localhost/no-such-image:1")
    expect(
        page.locator('input[name="profile-option-custom-image--memory"][value="medium"]')
    ).to_be_checked()
    ivo.go("spawn-pending/ivo/own")
    expect(page.get_by_role("alert")).to_have_text(sentence)
    _look(page)
    ivo.go("home")
    expect(ivo.card("own")).to_contain_text(sentence)
    _look(page)
    # Once more from its card: the same refusal, in the same words.
    ivo.card("own").get_by_role("link", name="Spustit znovu").click()
    page.wait_for_url("**/spawn-pending/ivo/own")
    expect(page.get_by_role("alert")).to_have_text(sentence)
    ivo.go("home")
    ivo.card("own").get_by_role("button", name="Smazat").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Váš domov a všechny soubory v něm zůstanou.")
    dialog.get_by_role("button", name="Smazat").click()
    expect(ivo.card("own")).to_have_count(0)


@pytest.mark.slow
def test_a_named_server_starts_without_scripts_and_its_home_is_erased_by_name_only(
    site: RunningSite, browser: Browser, visit: Callable[..., Visitor]
) -> None:
    bare = visit("leo", java_script_enabled=False)
    bare.go("login")
    bare.page.fill("#username_input", "leo")
    bare.page.fill("#password_input", site.password())
    bare.page.click("#login_submit")
    bare.go("spawn/leo/quiet")
    bare.page.check('input[name="profile-option-cpu--memory"][value="medium"]')
    bare.page.click("#start")
    expect(bare.page.get_by_role("heading", level=1)).to_have_text("Starting “quiet”")

    leo = visit("leo")
    page = leo.page
    leo.sign_in()
    leo.go("spawn-pending/leo/quiet")
    leo.wait_for_server("quiet")
    leo.go("home")
    expect(leo.card("quiet")).to_contain_text("up to 1 CPU and 4 GB")
    home = page.locator('[data-home="home-leo"]')
    erase = home.get_by_role("button", name="Erase…")
    expect(erase).to_be_disabled()
    expect(home).to_contain_text("in use by quiet")
    leo.stop("quiet")
    erase.click()
    dialog = page.get_by_role("dialog")
    forever = dialog.get_by_role("button", name="Erase for ever")
    dialog.get_by_role("textbox").fill("home-le")
    expect(forever).to_be_disabled()
    dialog.get_by_role("button", name="Keep it").click()
    expect(home).to_be_visible()
    erase.click()
    dialog.get_by_role("textbox").fill("home-leo")
    forever.click()
    expect(home).to_have_count(0)


@pytest.mark.slow
def test_a_start_can_be_cancelled_and_restarted(visit: Callable[..., Visitor]) -> None:
    mia = visit("mia")
    page = mia.page
    mia.sign_in()
    mia.go("spawn/mia/draft")
    page.click("#start")
    page.wait_for_url("**/spawn-pending/mia/draft**", wait_until="commit")
    page.get_by_role("button", name="Cancel").click()
    page.wait_for_url("**/hub/home", timeout=60_000)
    expect(mia.card("draft")).to_have_attribute("data-state", "stopped")
    mia.card("draft").get_by_role("link", name="Start again").click()
    mia.wait_for_server("draft")
    mia.go("home")
    mia.card("draft").get_by_role("button", name="Restart").click()
    mia.wait_for_server("draft")
    mia.stop("draft")


@pytest.mark.slow
def test_progress_goes_on_when_the_hub_was_away_for_a_moment(
    visit: Callable[..., Visitor],
) -> None:
    noe = visit("noe", locale="cs-CZ")
    page = noe.page
    noe.sign_in()
    answers = iter([503])

    def away(route: Any) -> None:
        status = next(answers, None)
        route.fulfill(status=status) if status else route.continue_()

    page.route("**/progress?*", away)
    noe.go("spawn/noe")
    page.click("#start")
    expect(page.get_by_role("alert")).to_contain_text("Spojení se přerušilo")
    noe.wait_for_server()
    noe.stop()


@pytest.mark.slow
def test_a_server_that_was_killed_says_so_where_the_person_is(
    site: RunningSite, visit: Callable[..., Visitor]
) -> None:
    uma = visit("uma", locale="cs-CZ")
    page = uma.page
    uma.sign_in()
    uma.go("spawn/uma")
    page.click("#start")
    uma.wait_for_server()
    pod = site.pod("jupyter-uma")
    site.podman.run("kill", "--signal", "KILL", pod)
    wait_for(lambda: not site.podman.run("ps", "--quiet", "--filter", f"name={pod}").strip(), 20)
    sentence = "Váš server byl násilně ukončen zvenčí. Váš domov zůstal; spusťte server znovu."
    uma.go("home")  # which has the hub look after the server
    expect(uma.card()).to_contain_text(sentence)
    expect(uma.card()).to_contain_text("Skončil")
    _look(page)
    page.goto(f"{site.url}/user/uma/lab")
    expect(page.get_by_role("heading", level=1)).to_have_text("Váš server skončil")
    expect(page.get_by_text(sentence)).to_be_visible()
    _look(page)
    page.get_by_role("link", name="Spustit znovu").click()
    uma.wait_for_server()
    uma.stop()


@pytest.mark.slow
def test_an_admin_starts_for_somebody_else(visit: Callable[..., Visitor]) -> None:
    visit("kim").sign_in()
    admin = visit("admin")
    admin.sign_in()
    admin.go("spawn/kim/lesson")
    page = admin.page
    expect(page.get_by_role("note")).to_contain_text("You are starting this for kim")
    page.click("#start")
    # JupyterHub has an admin say yes before somebody else's server learns who they are.
    page.get_by_role("button", name="Authorize").click(timeout=90_000)
    page.wait_for_url(re.compile(".*/user/kim/lesson/lab.*"), wait_until="commit")
    kim = visit("kim")
    kim.sign_in()
    expect(kim.card("lesson")).to_have_attribute("data-state", "ready")
    kim.stop("lesson")
    admin.go("admin")
    expect(page.get_by_text("kim").first).to_be_visible()
    admin.go("token")
    expect(page.get_by_role("button", name="Request new API token")).to_be_visible()


def test_a_new_server_needs_a_name_that_can_be(visit: Callable[..., Visitor]) -> None:
    ota = visit("ota")
    ota.sign_in()
    ota.go("spawn/ota/first")
    ota.go("home")
    field: Any = ota.page.locator("#new-name")
    for name, message in [
        ("Two Words", "At most 30 small letters"),
        ("a--b", "At most 30 small letters"),
        ("first", "You have a server of this name already."),
    ]:
        field.fill(name)
        assert message in field.evaluate("field => field.validationMessage")
    field.fill("second-1")
    field.press("Enter")
    ota.page.wait_for_url("**/hub/spawn/ota/second-1")
