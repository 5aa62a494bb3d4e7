"""The catalogue's applications: each for real, in a browser, behind the sign-in."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import httpx
import pytest
from playwright.sync_api import expect

from studovna.podman import PodmanError
from tests.browser.conftest import Visitor
from tests.site import RunningSite, wait_for
from tests.support import need_image

from .conftest import container, own, start, stop

FILES = {
    "board/app.py": """\
import streamlit
streamlit.title("Measured today")
name = streamlit.text_input("Who measured?")
streamlit.write(f"Measured by {name}" if name else "Nobody yet")
""",
    "stirring.py": """\
from shiny import App, render, ui
page = ui.page_fluid(ui.h1("Shaken"), ui.input_text("name", "Who?"), ui.output_text("said"))
def server(input, output, session):
    @render.text
    def said():
        return f"Stirred by {input.name()}"
app = App(page, server)
""",
    "swirl/app.R": """\
library(shiny)
ui <- fluidPage(h1("Swirled"), textInput("name", "Who?"), textOutput("said"))
server <- function(input, output) output$said <- renderText(paste("Swirled by", input$name))
shinyApp(ui, server)
""",
    "runs/readme": "a folder of logs\n",
}


@pytest.fixture(scope="module")
def leo(site: RunningSite, visit_for: Callable[[str], Visitor]) -> Visitor:
    """A person whose home holds applications, at a browser."""
    client = start(site, "leo", "files", own(home="person"))
    inside = container(site, "jupyter-leo--files", "notebook")
    for name, text in FILES.items():
        script = 'mkdir -p "$(dirname "$1")" && cat > "$1"'
        argv = ["exec", "-i", inside, "sh", "-c", script, "sh", f"/home/jovyan/{name}"]
        subprocess.run(
            site.podman.argv(*argv), env=site.podman.environment, input=text.encode(), check=True
        )
    stop(site, client, "leo", "files")
    person = visit_for("leo")
    person.sign_in()
    return person


@pytest.fixture
def open_one(site: RunningSite, leo: Visitor) -> Iterator[Callable[..., httpx.Client]]:
    """Starts one of the catalogue and opens it; it is stopped after the test."""
    started: list[tuple[httpx.Client, str]] = []

    def begin(profile: str, **options: str) -> httpx.Client:
        client = start(site, "leo", profile, {"profile": profile, **options})
        started.append((client, profile))
        leo.open(f"/user/leo/{profile}/")
        return client

    yield begin
    for client, profile in started:
        stop(site, client, "leo", profile)


def test_streamlit_runs_a_file_of_the_home(
    leo: Visitor, open_one: Callable[..., httpx.Client], picture: Callable[..., None]
) -> None:
    open_one("streamlit", **{"application--unlisted-choice": "board/app.py"})
    expect(leo.page.get_by_role("heading", name="Measured today")).to_be_visible(timeout=60_000)
    field = leo.page.get_by_label("Who measured?")
    field.fill("Leo")
    field.press("Enter")
    expect(leo.page.get_by_text("Measured by Leo")).to_be_visible()
    picture(leo.page, "streamlit", 500)


def test_shiny_runs_a_file_of_the_home(
    leo: Visitor, open_one: Callable[..., httpx.Client], picture: Callable[..., None]
) -> None:
    open_one("shiny", **{"application--unlisted-choice": "stirring.py"})
    leo.page.get_by_label("Who?").fill("Leo")
    expect(leo.page.get_by_text("Stirred by Leo")).to_be_visible(timeout=60_000)
    picture(leo.page, "shiny", 400)


def test_shiny_in_r_runs_a_file_of_the_home(
    site: RunningSite,
    leo: Visitor,
    open_one: Callable[..., httpx.Client],
    picture: Callable[..., None],
) -> None:
    need_image(site.podman, "r")
    open_one("shiny-r", **{"application--unlisted-choice": "swirl/app.R"})
    expect(leo.page.get_by_role("heading", name="Swirled")).to_be_visible(timeout=60_000)
    leo.page.get_by_label("Who?").fill("Leo")
    expect(leo.page.get_by_text("Swirled by Leo")).to_be_visible(timeout=60_000)
    picture(leo.page, "shiny-r", 400)


def test_tensorboard_shows_its_page(
    leo: Visitor, open_one: Callable[..., httpx.Client], picture: Callable[..., None]
) -> None:
    client = open_one("tensorboard", **{"logs--unlisted-choice": "runs"})
    told = client.get("/user/leo/tensorboard/data/environment").json()
    assert told["data_location"] == "/home/jovyan/runs"
    expect(leo.page.get_by_text("No dashboards are active")).to_be_visible(timeout=60_000)
    picture(leo.page, "tensorboard", 500)


def test_code_server_has_a_terminal_in_the_home(
    site: RunningSite,
    leo: Visitor,
    open_one: Callable[..., httpx.Client],
    picture: Callable[..., None],
) -> None:
    need_image(site.podman, "code-server")
    open_one("code-server")
    page = leo.page
    expect(page.get_by_role("treeitem", name="stirring.py")).to_be_visible(timeout=60_000)
    page.keyboard.press("Control+`")
    expect(page.locator(".terminal.xterm")).to_be_visible(timeout=30_000)
    inside = container(site, "jupyter-leo--code-server", "notebook")

    def typed() -> bool:
        page.locator(".terminal.xterm").click()
        page.keyboard.type("echo $((6*7)) > /home/jovyan/made\n")
        try:
            return site.podman.run("exec", inside, "cat", "/home/jovyan/made").strip() == "42"
        except PodmanError:
            return False  # what is typed before the shell is there is lost

    wait_for(typed, 30, 1)
    picture(page, "code-server", 600)


def test_mlflow_keeps_an_experiment(
    site: RunningSite,
    leo: Visitor,
    open_one: Callable[..., httpx.Client],
    picture: Callable[..., None],
) -> None:
    need_image(site.podman, "mlflow")
    client = open_one("mlflow")
    api = "/user/leo/mlflow/api/2.0/mlflow/experiments"
    made = client.post(f"{api}/create", json={"name": "first light"})
    assert made.status_code == 200, made.text
    leo.open("/user/leo/mlflow/#/experiments")
    expect(leo.page.get_by_text("first light")).to_be_visible(timeout=60_000)
    picture(leo.page, "mlflow", 500)
    assert wait_for(lambda: client.get(f"{api}/get-by-name?experiment_name=first+light"), 10)
