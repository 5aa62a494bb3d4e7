"""The profiles of vendors' applications, with stand-ins on volumes for what vendors sell.

What they prove is the way there: the volume, the release, the licence servers, the command. The
vendors' own libraries are in images of their own; here the desktop's image takes their place, but
for MATLAB's page, which is tried where the image was built before.
"""

from __future__ import annotations

import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, expect

from studovna.paths import ROOT
from studovna.podman import PodmanError
from studovna.system import primary_address
from tests.browser.conftest import Visitor
from tests.desktop.conftest import Desktop, open_desktop, stop
from tests.site import RunningSite, running_site, wait_for, why_not
from tests.support import need_image

PROGRAMS = {
    "matlab": "R2024b/bin/matlab",
    "ansys": "v242/Framework/bin/Linux64/runwb2",
    "knime": "knime",
}
LICENCES = ("MLM_LICENSE_FILE", "ANSYSLMD_LICENSE_FILE")
STAND_IN = f"""\
#!/usr/bin/python3
import os, sys, tkinter
root = tkinter.Tk()
found = [os.environ[name] for name in {LICENCES!r} if name in os.environ]
root.title(" ".join(["Stand-in", *sys.argv[1:], *found]))
root.mainloop()
"""


@contextmanager
def _licence_server() -> Iterator[str]:
    """A stand-in that accepts connections; ``port@host``."""
    address = primary_address()
    if address is None:
        pytest.skip("this machine has no address that pods reach")
    with socket.create_server((address, 0)) as server:
        threading.Thread(target=_accept, args=(server,), daemon=True).start()
        yield f"{server.getsockname()[1]}@{address}"


def _accept(server: socket.socket) -> None:
    while True:
        try:
            server.accept()[0].close()
        except OSError:
            return


@pytest.fixture(scope="module")
def vendors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSite]:
    """A site with volumes of stand-ins and a licence server."""
    if reason := why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("vendors")
    profiles = folder / "profiles"
    profiles.mkdir()
    shutil.copy(ROOT / "profiles/cpu.yaml", profiles)
    shutil.copy(ROOT / "profiles/matlab.yaml", profiles / "matlab-page.yaml")
    for name, program in PROGRAMS.items():
        text = (ROOT / f"profiles/{name}.yaml").read_text()
        (profiles / f"{name}.yaml").write_text(text.replace(f"image: {name}\n", "image: desktop\n"))
        file = folder / "volumes" / name / program
        file.parent.mkdir(parents=True)
        file.write_text(STAND_IN)
        file.chmod(0o755)
    (folder / "volumes/matlab/R2024b/VersionInfo.xml").write_text(
        "<MathWorks_version_info><release>R2024b</release></MathWorks_version_info>"
    )
    with _licence_server() as licence:
        paths = ", ".join(f"{name}: {{path: {folder}/volumes/{name}}}" for name in PROGRAMS)
        settings = f"""\
volumes: {{{paths}}}
licences:
  matlab: {{MLM_LICENSE_FILE: '{licence}'}}
  ansys: {{ANSYSLMD_LICENSE_FILE: '{licence}'}}
"""
        with running_site(folder, settings, profiles) as running:
            yield running


@pytest.fixture
def iva(vendors: RunningSite, browser: Browser) -> Iterator[Visitor]:
    """A person at a browser."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, locale="en-GB")
    yield Visitor(vendors, context.new_page(), "iva")
    context.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_program_on_the_volume_has_its_window(iva: Visitor, name: str) -> None:
    desktop = open_desktop(iva, name)
    title = desktop.windows()[desktop.wait_window("Stand-in")]
    expected = {"matlab": r"-desktop \d+@", "ansys": r"\d+@", "knime": r"-data /home/jovyan/knime-"}
    assert re.search(f"Stand-in {expected[name]}", title), title
    top = {"matlab": "/usr/local/MATLAB", "ansys": "/ansys_inc", "knime": "/opt/knime"}[name]
    assert "ro," in desktop.run("findmnt", "-n", "-o", "OPTIONS", "--target", top)
    assert _megabytes(desktop, "/dev/shm") == {"ansys": 4096}.get(name, 1024)
    stop(iva.site, "iva", name)


def _megabytes(desktop: Desktop, path: str) -> int:
    return int(desktop.run("df", "-m", "--output=size", path).split()[-1])


@pytest.mark.slow
def test_matlab_has_a_page_without_a_desktop(iva: Visitor, picture: Callable[..., None]) -> None:
    site = iva.site
    need_image(site.podman, "matlab")
    site.start("iva", "page", {"profile": "matlab-page", "where": "browser"})
    iva.sign_in()
    iva.open("/user/iva/page/matlab/")
    expect(iva.page).to_have_title(re.compile("MATLAB"), timeout=60_000)
    # The real matlab-proxy starts the stand-in, with the site's licence server.
    script = "tr '\\0' '\\n' < /proc/$(pgrep -of [e]xternalUI)/environ | grep MLM_LICENSE_FILE"

    def licence() -> str:
        try:
            return site.podman.run("exec", site.pod("jupyter-iva--page"), "sh", "-c", script)
        except PodmanError:
            return ""

    assert re.search(r"(?m)^MLM_LICENSE_FILE=\d+@", wait_for(licence, 60, 1))
    picture(iva.page, "matlab-page", 800)
    stop(site, "iva", "page")
