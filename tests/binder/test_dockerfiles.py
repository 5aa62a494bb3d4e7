"""A site that builds Dockerfiles: from a link to a server that answers, started by the hub."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from studovna.images import images_status
from studovna.paths import ROOT
from tests.binder.githost import GitHost, make_repository
from tests.binder_site import answers, open_link, phases, running_binder
from tests.site import RunningSite, why_not

pytestmark = pytest.mark.slow

DOCKERFILE = """\
FROM localhost/studovna/lab
ARG NB_UID
USER root
RUN pip install --no-cache-dir cowsay==6.1
USER ${NB_UID}
"""


@pytest.fixture(scope="module")
def binder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningSite, GitHost]]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with running_binder(tmp_path_factory.mktemp("dockerfiles"), "  dockerfiles: true\n") as both:
        yield both


def test_a_dockerfile_from_the_link_to_the_server(binder: tuple[RunningSite, GitHost]) -> None:
    site, host = binder
    make_repository(host.root / "docker", {"Dockerfile": DOCKERFILE, "notes/a.txt": "first\n"})
    of_the_site = images_status(site.podman, ROOT / "images")

    events = open_link(site, host, "ana", "docker")
    assert answers(site, "ana", events)
    wanted = ["fetching", "building", "pushing", "built", "launching", "ready"]
    assert [one for one in phases(events) if one != "waiting"] == wanted

    found = re.search(r"/user/ana/([a-z0-9-]+)/", events[-1]["url"])
    assert found is not None
    name = found[1]
    script = "id -u; id -g; pwd; cat notes/a.txt; python -c 'import cowsay; print(cowsay.__file__)'"
    pod = site.podman.run("ps", "--format", "{{.Names}} {{.Image}}").splitlines()
    (container,) = [line.split()[0] for line in pod if events[-1]["image"] in line]
    argv = site.podman.argv("exec", container, "sh", "-ec", f"cd ~/{name}; {script}")
    done = subprocess.run(argv, env=site.podman.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"1000\n100\n/home/jovyan/{name}\nfirst\n/opt/venv/")

    # Its image is here now, with the labels of the Lab that it stands on: no image of the site's.
    assert images_status(site.podman, ROOT / "images") == of_the_site

    # Whoever comes next waits for no build.
    again = open_link(site, host, "ben", "docker")
    assert answers(site, "ben", again)
    assert phases(again) == ["built", "launching", "ready"]
    assert not list((Path(site.state) / "engine/stock").iterdir())
