"""From the start request to a desktop on the page, beside an ordinary start of JupyterLab."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright
from rich.console import Console

from studovna.images import build
from studovna.images_cli import PlainReporter
from studovna.paths import ROOT
from studovna.podman import Podman
from tests.bench.hubs import Hub
from tests.bench.results import Results
from tests.bench.start import our_hub

CASE = "start request to a desktop on the page"
LAB = "JupyterLab, the server answers"
ANSWER = "Octave's desktop, the server answers"
CONNECTED = "Octave's desktop, the page is connected"
PERSON = "bench"


def measure(results: Results, runs: int) -> None:
    """One start after another, the subjects in turn. The page is Chromium's, signed in before."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    with (
        tempfile.TemporaryDirectory(prefix="studovna-bench-") as name,
        our_hub(Path(name) / "ours", _build) as hub,
        sync_playwright() as playwright,
    ):
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        page = browser.new_page()
        _sign_in(hub, page)
        for run in range(runs + 1):
            lab = hub.start_to_answer(PERSON, {"profile": "cpu"})
            hub.stop_server(PERSON)
            options = {"profile": "octave", "cpu": "small", "memory": "small"}
            answer, connected = _start_to_connected(hub, page, options)
            hub.stop_server(PERSON)
            if run:  # the first start warms every cache and is not counted
                results.add(CASE, LAB, lab, "s")
                results.add(CASE, ANSWER, answer, "s")
                results.add(CASE, CONNECTED, connected, "s")
        browser.close()


def _build(state: Path) -> None:
    podman = Podman(state)
    podman.probe()
    build(podman, ROOT / "images", ["octave"], PlainReporter(Console()))


def _sign_in(hub: Hub, page: Page) -> None:
    page.goto(f"{hub.url}/hub/login")
    page.fill("#username_input", PERSON)
    page.fill("#password_input", hub.password)
    page.click("#login_submit")
    page.wait_for_url("**/hub/home")


def _start_to_connected(hub: Hub, page: Page, options: dict[str, str]) -> tuple[float, float]:
    begun = time.perf_counter()
    answer = hub.start_to_answer(PERSON, options)
    page.goto(f"{hub.url}/user/{PERSON}/desktop/", wait_until="commit")
    page.wait_for_function("document.getElementById('status')?.textContent === 'Connected'")
    connected = time.perf_counter() - begun
    page.goto("about:blank")
    return answer, connected
