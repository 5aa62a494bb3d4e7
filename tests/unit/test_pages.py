"""The pages' frame and what is written into it, rendered with JupyterHub's own loader."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PrefixLoader
from jupyterhub._data import DATA_FILES_PATH
from tornado import locale

from spawner import pages
from spawner.pages import PAGES, sentence_and_lines, server_name, shown_size
from studovna.site import Site
from studovna.text import Text

THEIRS = Path(DATA_FILES_PATH) / "templates"


class _Handler:
    """What pages ask of JupyterHub's handler: where static files are, and the language."""

    def __init__(self, language: str) -> None:
        pages.load_translations()
        self.locale = locale.get(language)

    def static_url(self, path: str, include_version: bool = True) -> str:
        return f"/hub/static/{path}"


def _render(template: str, language: str = "en", notices: Any = (), **variables: Any) -> str:
    site = variables.pop("site", None) or Site()
    person = SimpleNamespace(name="ana", escaped_name="ana")
    deployment: Any = SimpleNamespace(site=site, profiles={})
    environment = Environment(
        loader=ChoiceLoader(
            [
                PrefixLoader({"templates": FileSystemLoader([THEIRS])}),
                FileSystemLoader([PAGES / "templates", THEIRS]),
            ]
        ),
        autoescape=True,
    )
    ours = {name: make(person) for name, make in pages.template_vars(deployment, notices).items()}
    return environment.get_template(template).render(
        base_url="/hub/",
        prefix="/",
        user=person,
        static_url=_Handler(language).static_url,
        version_hash="1",
        xsrf_token="token",
        parsed_scopes={},
        services=[],
        login_url="/hub/login",
        logout_url="/hub/logout",
        **ours,
        **variables,
    )


def test_the_frame_has_all_that_jupyterhubs_pages_expect() -> None:
    theirs, ours = ((folder / "page.html").read_text() for folder in (THEIRS, PAGES / "templates"))
    block = re.compile(r"{%-?\s*block (\w+)")
    assert set(block.findall(theirs)) - set(block.findall(ours)) == set()
    data = re.compile(r"^\s+(?:{%.*?%})?(\w+): ", re.MULTILINE)
    wanted = set(data.findall(theirs[theirs.index("require.config") :].split("</script>")[0]))
    assert wanted - set(data.findall(ours)) - {"js"} == set()
    identifiers = re.compile(r'id="([a-z_-]+)"')
    assert {"dark-theme-toggle", "login_widget", "error-dialog"} <= set(identifiers.findall(ours))


@pytest.mark.parametrize("page", ["token.html", "admin.html", "oauth.html", "accept-share.html"])
def test_jupyterhubs_own_pages_stand_in_our_frame(page: str) -> None:
    source = (THEIRS / page).read_text()
    assert '{% extends "page.html" %}' in source


def test_the_announcement_and_the_sites_name_are_text() -> None:
    announcement = {"en": "Closed <b>& empty</b> on Friday", "cs": "V pátek zavřeno"}
    site = Site().model_copy(
        update={
            "name": 'A<script>"',
            "announcement": SimpleNamespace(as_dict=lambda: announcement),
        }
    )
    page = _render("page.html", site=site)
    assert "Closed &lt;b&gt;&amp; empty&lt;/b&gt; on Friday" in page
    assert "A<script>" not in page
    assert "V pátek zavřeno" in _render("page.html", "cs", site=site)


def test_notices_are_translated_and_the_page_says_its_language() -> None:
    notice = Text("There is no pod {pod}.", pod="<lab>")
    page = _render("page.html", "cs", [notice])
    assert "Pod &lt;lab&gt; neexistuje." in page
    assert '<html lang="cs">' in page


def test_an_error_page_says_what_to_do_and_keeps_details_for_the_operator() -> None:
    page = _render(
        "error.html",
        status_code=500,
        status_message="Internal Server Error",
        message="KeyError: <x>",
        exception=KeyError("x"),
    )
    assert "Something went wrong here" in page
    assert "KeyError: &lt;x&gt;" in page.split("<details")[1]
    assert "KeyError" not in page.split("<details")[0]
    assert "Traceback" not in page


def test_a_sentence_of_ours_is_the_error_page() -> None:
    sentence = Text("There is no pod {pod}.", pod="x")
    page = _render("404.html", "cs", status_code=404, status_message="x", message=sentence)
    assert "Pod x neexistuje." in page


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("/hub/spawn", ""),
        ("/hub/spawn?_xsrf=a/b", ""),
        ("/hub/spawn/ana", ""),
        ("/hub/spawn/ana/", ""),
        ("/hub/spawn/ana/work?next=/hub/spawn/x/y", "work"),
        ("/base/hub/spawn/spawn/ana-2", "ana-2"),
        ("/hub/spawn/a%2Fb/work", "work"),
    ],
)
def test_the_server_is_in_the_address_of_the_spawn_page(url: str, name: str) -> None:
    assert server_name(url) == name


@pytest.mark.parametrize(
    ("size", "language", "shown"),
    [
        (0, "en", "0 GB"),
        (24 * 1024, "en", "24 kB"),
        (1, "en", "1 kB"),
        (700 * 1024**2, "cs", "700 MB"),
        (3 * 1024**3 // 2, "cs", "1,5 GB"),
        (3 * 1024**3 // 2, "en", "1.5 GB"),
        (250 * 1024**3 + 5, "en", "250 GB"),
    ],
)
def test_sizes_are_written_as_the_language_does(size: int, language: str, shown: str) -> None:
    context: Any = {"static_url": _Handler(language).static_url}
    assert shown_size(context, size).replace("\N{NO-BREAK SPACE}", " ") == shown


def test_log_lines_are_apart_from_their_sentence() -> None:
    assert sentence_and_lines("It ended:\na\n\nb\n") == ("It ended:", "a\n\nb")
    assert sentence_and_lines("It ended.") == ("It ended.", "")
