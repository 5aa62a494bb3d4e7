"""R, RStudio, MPI and workflows: servers of their profiles, started through a real hub.

What runs in them are the examples that people find in their homes.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import subprocess
import threading
import uuid
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from spawner.podman_network import hub_address
from studovna.images import BuildError, build, images_status
from studovna.paths import ROOT, site_id
from studovna.podman import Podman
from tests.podman.test_images import Heard
from tests.site import RunningSite, running_site, wait_for, why_not

IMAGES = ROOT / "images"
STAND_IN = Path(__file__).with_name("stand_in_rserver.py")
"""Not RStudio: it proves what jupyter-rsession-proxy asks of RStudio's server, and passes on."""


class _Package:
    """A Debian package that holds the stand-in where RStudio's package has its server."""

    def __init__(self, folder: Path, address: str) -> None:
        tree, self.file = folder / "tree", folder / "served" / "rstudio-server.deb"
        server = tree / "usr/lib/rstudio-server/bin/rserver"
        for path in (server.parent, tree / "DEBIAN", self.file.parent):
            path.mkdir(parents=True)
        shutil.copy(STAND_IN, server)
        server.chmod(0o755)
        (tree / "DEBIAN/control").write_text(
            "Package: rstudio-server\nVersion: 0\nArchitecture: all\n"
            "Maintainer: tests <t@example.org>\nDescription: a stand-in for RStudio's server\n"
        )
        argv = ["dpkg-deb", "--root-owner-group", "--build", str(tree), str(self.file)]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        self.sha256 = hashlib.sha256(self.file.read_bytes()).hexdigest()
        handler = functools.partial(_Quiet, directory=str(self.file.parent))
        self.server = ThreadingHTTPServer((address, 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://{address}:{self.server.server_address[1]}/{self.file.name}"

    @property
    def args(self) -> dict[str, str]:
        return {"RSTUDIO_DEB": self.url, "RSTUDIO_SHA256": self.sha256}


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Nobody reads it."""


@pytest.fixture(scope="module")
def science(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSite]:
    """A site with the real profiles. RStudio's image has another name: a real one stays."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("science")
    profiles = shutil.copytree(ROOT / "profiles", folder / "profiles")
    name = f"test-{uuid.uuid4().hex[:8]}"
    rstudio = profiles / "rstudio.yaml"
    text = rstudio.read_text()
    assert "\nimage: rstudio\n" in text
    rstudio.write_text(
        text.replace("\nimage: rstudio\n", f"\nimage: localhost/studovna/{name}:latest\n")
    )
    with running_site(folder, profiles=profiles) as site:
        images = shutil.copytree(IMAGES, folder / "images", symlinks=True)
        (images / "rstudio").rename(images / name)
        package = _Package(folder, hub_address(site.podman, site_id(site.state)))
        build(site.podman, IMAGES, ["r", "mpi", "workflows"], Heard())
        _rstudio_builds_only_as_named(site.podman, images, name, package)
        yield site
        package.server.shutdown()
        podman, reference = site.podman, f"localhost/studovna/{name}"
    for tag in podman.run("images", "--format", "{{.Repository}}:{{.Tag}}").split():
        if tag.startswith(f"{reference}:"):
            podman.run("rmi", "--force", tag)


def _rstudio_builds_only_as_named(
    podman: Podman, images: Path, name: str, package: _Package
) -> None:
    """Refused without the package and with another one; once built, it keeps what it was told."""
    with pytest.raises(BuildError, match="RSTUDIO_DEB, the address .* make images"):
        build(podman, images, [name], Heard())
    wrong = package.args | {"RSTUDIO_SHA256": "0" * 64}
    with pytest.raises(BuildError, match=f"is not the file that was meant.*{package.sha256}"):
        build(podman, images, [name], Heard(), args=wrong)
    assert build(podman, images, [name], Heard(), args=package.args) == [name]
    assert build(podman, images, [name], Heard()) == []
    assert {row.name: row for row in images_status(podman, images)}[name].up_to_date


def outputs(site: RunningSite, person: str, profile: str, notebook: str) -> list[dict[str, Any]]:
    """Start the profile, run the example that is then in the home, stop; what its cells said."""
    client = site.start(person, profile, {"profile": profile})
    container = site.pod(f"jupyter-{person}--{profile}")
    run = ["jupyter", "execute", "--inplace", notebook]
    site.podman.run("exec", "--workdir", "/home/jovyan", container, *run, timeout=120)
    model = client.get(f"/user/{person}/{profile}/api/contents/{notebook}").json()
    client.request("DELETE", f"/hub/api/users/{person}/servers/{profile}")
    wait_for(lambda: site.server(client, person, profile) is None, 60)
    cells = [cell for cell in model["content"]["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in cells)
    return [output for cell in cells for output in cell["outputs"]]


def said(found: list[dict[str, Any]]) -> str:
    """All text of the outputs."""
    texts = [output.get("text") or output.get("data", {}).get("text/plain") for output in found]
    return "\n".join("".join(text) for text in texts if text)


def pictures(found: list[dict[str, Any]]) -> int:
    return sum("image/png" in output.get("data", {}) for output in found)


def test_r_in_lab_runs_cells(science: RunningSite) -> None:
    found = outputs(science, "ana", "r", "examples/r/first-steps.ipynb")
    assert "R version 4." in said(found)
    assert "251.41" in said(found), "lme4's fixed effect of its own example data"
    assert pictures(found) == 1


def test_an_mpi_notebook_runs_on_four_ranks(science: RunningSite) -> None:
    found = outputs(science, "ben", "mpi", "examples/mpi/four-ranks.ipynb")
    for rank in range(4):
        assert f"rank {rank} of 4" in said(found)
    assert said(found).count("3.141592654") == 4
    assert "the token went through 4 ranks" in said(found)
    assert pictures(found) == 1


def test_snakemake_runs_a_small_workflow(science: RunningSite) -> None:
    found = outputs(science, "eva", "workflows", "examples/workflows/workflow.ipynb")
    assert said(found).count("4 of 4 steps (100%) done") == 1
    assert "Nothing to be done" in said(found)
    assert said(found).count("3 of 3 steps (100%) done") == 1, "only what comes from the new line"


def test_r_compiles_a_package_into_the_home(science: RunningSite) -> None:
    """Through the kernel's own R, restricted and with the home of before."""
    client = science.start("ana", "again", {"profile": "r", "cpu": "medium"})
    container = science.pod("jupyter-ana--again")
    script = """
      set -e; mkdir -p /tmp/own/R /tmp/own/src; cd /tmp
      printf 'Package: own\\nVersion: 1.0\\nTitle: T\\nDescription: D.\\nLicense: none\\n' \
        > own/DESCRIPTION
      printf 'useDynLib(own)\\nexport(twice)\\n' > own/NAMESPACE
      echo 'twice <- function(x) .Call("c_twice", x)' > own/R/own.R
      printf '#include <Rinternals.h>\\nSEXP c_twice(SEXP x) {' > own/src/own.c
      echo 'return ScalarReal(2 * asReal(x)); }' >> own/src/own.c
      R CMD build own > /dev/null
      R --no-echo -e 'install.packages("own_1.0.tar.gz", repos = NULL, quiet = TRUE)' > /dev/null
      R --no-echo -e 'cat(own::twice(21), find.package("own"), getOption("Ncpus"))'
    """
    out = science.podman.run("exec", container, "sh", "-c", script, timeout=120)
    assert out.startswith("42 /home/jovyan/R/") and out.endswith(" 2")
    client.request("DELETE", "/hub/api/users/ana/servers/again")


def test_rstudio_is_reached_behind_the_sign_in_with_a_stand_in(science: RunningSite) -> None:
    """The real jupyter-rsession-proxy in a real pod; its ``rserver`` is a stand-in."""
    client = science.start("ida", "rs", {"profile": "rstudio"})
    base = f"{science.url}/user/ida/rs"

    first = client.get(f"{base}/")
    assert first.status_code == 302
    assert first.headers["location"].rstrip("?") == "/user/ida/rs/rstudio/"
    reply = client.get(f"{base}/rstudio/")
    assert reply.status_code == 200, reply.text
    told = json.loads(reply.text)
    assert told["what"] == "a stand-in for RStudio's server"
    assert told["problems"] == []
    assert told["flags"]["www-root-path"] == "/user/ida/rs/rstudio/"
    assert (told["home"], told["folder"], told["uid"]) == ("/home/jovyan", "/home/jovyan", 1000)
    moved = client.get(f"{base}/rstudio/moved")
    assert moved.headers["location"].removeprefix(science.url) == "/user/ida/rs/rstudio/there"

    bob = science.client("bob")
    assert bob.get(f"{base}/rstudio/").status_code == 403
    bob.headers.pop("authorization")
    nobody = bob.get(f"{base}/rstudio/")
    assert nobody.status_code == 302 and "/hub/api/oauth2/authorize" in nobody.headers["location"]

    # R without the server's environment, as RStudio starts it.
    container = science.pod("jupyter-ida--rs")
    code = 'cat(Sys.getenv(c("JUPYTERHUB_USER", "CPU_LIMIT", "JUPYTERHUB_API_TOKEN")), sep = "|")'
    run = ["env", "-i", "HOME=/home/jovyan", "/usr/bin/R", "--no-echo", "-e", code]
    assert science.podman.run("exec", container, *run) == "ida|1.0|"
    client.request("DELETE", "/hub/api/users/ida/servers/rs")
