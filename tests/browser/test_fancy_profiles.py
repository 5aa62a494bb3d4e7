"""jupyterhub-fancy-profiles' form on our hub: build one's own image with Binder, and start it.

GitHub, the only host that its form knows, is a double: `tests.binder.archive_doubles`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page

from spawner.podman_network import hub_address
from studovna import hub_process
from studovna.paths import ROOT, site_id
from studovna.podman import Podman
from tests.binder.archive_doubles import ArchiveDoubles
from tests.binder.githost import GitHost, make_repository
from tests.browser.conftest import Visitor
from tests.site import RunningSite, running_site, wait_for, why_not

pytestmark = pytest.mark.slow

BUILD_SECONDS = 180.0

# What an operator adds for jupyterhub-fancy-profiles is what its documentation says, and the first
# line: our spawner draws its own page, so KubeSpawner's form has to be asked for.
HUB_CONFIG = """
load_subconfig({root!r} + "/jupyterhub_config.py")
import jupyterhub_fancy_profiles
c.ProfileSpawner.options_form = lambda spawner: spawner._render_options_form_dynamically(spawner)
c.JupyterHub.template_paths = []
jupyterhub_fancy_profiles.setup_ui(c)

for service in c.JupyterHub.services:
    if service["name"] == "binder":
        service["command"][-1] = {folder!r} + "/binderhub_config.py"
        service["environment"] |= {environment!r}
"""

# The double's certificate is not one that this machine trusts.
BINDER_CONFIG = """
from pathlib import Path
load_subconfig({root!r} + "/binderhub_config.py")
from binder.executor import PodBuildExecutor
from spawner.podman_engine import PodmanEngine
from studovna.paths import site_id


class TrustingExecutor(PodBuildExecutor):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        site = site_id(self.podman.state)
        self.engine = PodmanEngine(self.podman, site, ca_bundle=Path({ca!r}))


c.BinderHub.build_class = TrustingExecutor
"""


@dataclass(frozen=True)
class Fancy:
    site: RunningSite
    host: GitHost
    doubles: ArchiveDoubles


@contextmanager
def running(folder: Path) -> Iterator[Fancy]:
    git = GitHost(folder / "github", "127.0.0.1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub_process, "ROOT", folder)
        address = pod_address(folder)
        doubles = ArchiveDoubles(folder, address, git)
        environment = {
            "https_proxy": doubles.proxy,
            "GIT_SSL_CAINFO": str(doubles.ca),
            "SSL_CERT_FILE": str(doubles.ca),
        }
        root = str(ROOT)
        (folder / "jupyterhub_config.py").write_text(
            HUB_CONFIG.format(root=root, folder=str(folder), environment=environment)
        )
        (folder / "binderhub_config.py").write_text(
            BINDER_CONFIG.format(root=root, ca=str(doubles.ca))
        )
        try:
            with running_site(folder / "site", "binder:\n  build_minutes: 5\n") as site:
                health = f"{site.url}/services/binder/health"  # the hub answers first
                wait_for(lambda: httpx.get(health, trust_env=False).is_success, 60)
                yield Fancy(site, git, doubles)
        finally:
            doubles.close()
            git.close()


def pod_address(folder: Path) -> str:
    """The address of this machine that the site's pods reach."""
    state = folder / "site" / "var"
    state.mkdir(parents=True)
    podman = Podman(state)
    podman.probe()
    return hub_address(podman, site_id(state))


@pytest.fixture(scope="module")
def fancy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fancy]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with running(tmp_path_factory.mktemp("fancy")) as found:
        yield found


@pytest.fixture(scope="module")
def site(fancy: Fancy) -> RunningSite:
    return fancy.site


def choose_to_build(page: Page, repository: str) -> None:
    """In the form: the profile for one's own image, built from a repository."""
    profile = page.locator("#profile-custom-image")
    profile.get_by_role("heading").click()
    profile.locator(".select__control").first.click()
    profile.locator(".select__option", has_text="Build your own image").click()
    profile.get_by_role("combobox", name="Repository").fill(repository)
    if shots := os.environ.get("STUDOVNA_SCREENSHOTS"):
        page.screenshot(path=f"{shots}/fancy-form.png", full_page=True)
    page.get_by_role("button", name="Build Image and Start").click()


def test_build_your_own_image_and_start_it(fancy: Fancy, visit: Callable[..., Visitor]) -> None:
    make_repository(
        fancy.host.root / "ana/course",
        {"lesson.md": "one", "postBuild": "#!/bin/sh\necho from-post-build > made.txt\n"},
    )
    ana = visit("ana")
    ana.sign_in()
    ana.go("spawn/ana")
    said: list[str] = []
    ana.page.on("console", lambda message: said.append(message.text))
    try:
        choose_to_build(ana.page, "ana/course")
        where = re.compile(r"/user/ana/(lab|doc|tree|\?|$)")
        ana.page.wait_for_url(where, timeout=BUILD_SECONDS * 1000, wait_until="commit")
    except BaseException:
        if shots := os.environ.get("STUDOVNA_SCREENSHOTS"):
            ana.page.screenshot(path=f"{shots}/fancy-failed.png", full_page=True)
            print(said, ana.page.url)
        raise
    model = fancy.site.server(fancy.site.client("ana"), "ana", "")
    assert model is not None
    options = model["user_options"]
    assert options["profile"] == "custom-image"
    assert "/binder/ana-course-" in options["image--unlisted-choice"]
