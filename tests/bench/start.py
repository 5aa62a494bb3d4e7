"""From the start request to a server that answers: ours, the floor, and dockerspawner."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console

from spawner.end_servers import end_servers
from spawner.podman_engine import PodmanEngine
from studovna import hub_process
from studovna.images import build
from studovna.images_cli import PlainReporter
from studovna.paths import ROOT, site_id
from studovna.podman import Podman
from studovna.secrets import read_secret
from studovna.site import load_site
from studovna.up import up
from tests.bench.hubs import Hub, free_port, plain_hub
from tests.bench.results import Results

CASE = "start request to answering server"
OURS = "studovna, podman, images/lab"
FLOOR = "SimpleLocalProcessSpawner, plain Jupyter (the floor)"
DOCKER_OURS = "dockerspawner, images/lab"
DOCKER_PLAIN = "dockerspawner, plain pip install"

LOCAL = """
c.JupyterHub.spawner_class = "simple"
c.Spawner.cmd = ["{jupyter}"]
c.Spawner.args = ["--allow-root"]
"""
DOCKER = """
c.JupyterHub.spawner_class = "docker"
c.DockerSpawner.image = "{image}"
c.DockerSpawner.cmd = ["jupyterhub-singleuser"]
c.DockerSpawner.remove = True
c.DockerSpawner.prefix = "bench-{name}"
c.DockerSpawner.pull_policy = "never"
c.JupyterHub.hub_ip = "{address}"
c.Spawner.start_timeout = 120
"""


@contextmanager
def our_hub(folder: Path, prepare: Callable[[Path], None] | None = None) -> Iterator[Hub]:
    """The embedded default on a free port; ``prepare`` gets its state folder before it starts."""
    site_file = folder / "site.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    site_file.write_text(f"bind: 127.0.0.1:{free_port()}\nprofiles: {ROOT / 'profiles'}\n")
    state = folder / "var"
    state.mkdir()
    if prepare is not None:
        prepare(state)
    try:
        up(site_file, state, Console(quiet=True), build_others=False)
        site = load_site(site_file)
        hub = next(
            p for p in hub_process.processes(state) if "jupyterhub_config" in str(p.cmdline())
        )
        yield Hub(
            hub_process.local_url(site),
            read_secret(state, "service-token-operator")[0],
            hub.pid,
            read_secret(state, "password-people")[0],
            read_secret(state, "password-admin")[0],
        )
    finally:
        hub_process.stop(state)
        end_servers(state)


@contextmanager
def docker_socket(folder: Path, podman: Podman) -> Iterator[str]:
    """Podman's Docker-compatible socket."""
    path = folder / "podman.sock"
    argv = podman.argv("system", "service", "--time=0", f"unix://{path}")
    service = subprocess.Popen(argv, env=podman.environment, stderr=subprocess.DEVNULL)
    try:
        while not path.exists():
            time.sleep(0.1)
        yield f"unix://{path}"
    finally:
        service.terminate()
        service.wait()


def plain_image(folder: Path, podman: Podman) -> str:
    """Build the image that dockerspawner is compared with, beside ours."""
    images = folder / "images"
    shutil.copytree(ROOT / "images", images)
    shutil.copytree(ROOT / "tests/bench/images", images, dirs_exist_ok=True)
    build(podman, images, ["plain", "lab"], PlainReporter(Console()))
    return "localhost/studovna/plain:latest"


def measure(results: Results, runs: int) -> None:
    """One start after another, the subjects in turn, so that a busy minute hits all alike."""
    with tempfile.TemporaryDirectory(prefix="studovna-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        ours = stack.enter_context(our_hub(folder / "ours"))
        podman = Podman(folder / "ours/var")
        podman.probe()
        address = PodmanEngine(podman, site_id(podman.state)).hub_address()
        socket = stack.enter_context(docker_socket(folder, podman))
        plain = plain_image(folder, podman)
        jupyter = Path(sys.executable).parent / "jupyterhub-singleuser"
        local = stack.enter_context(plain_hub(folder, "floor", LOCAL.format(jupyter=jupyter)))
        docker = {
            subject: stack.enter_context(
                plain_hub(
                    folder,
                    label,
                    DOCKER.format(image=image, name=label, address=address),
                    DOCKER_HOST=socket,
                )
            )
            for subject, label, image in (
                (DOCKER_OURS, "lab", "localhost/studovna/lab:latest"),
                (DOCKER_PLAIN, "plain", plain),
            )
        }
        subjects = {OURS: ours, FLOOR: local, **docker}
        for run in range(runs + 1):
            for subject, hub in subjects.items():
                person = "bench"
                seconds = hub.start_to_answer(person, {"profile": "cpu"} if hub is ours else {})
                hub.stop_server(person)
                if run:  # the first start warms every cache and is not counted
                    results.add(CASE, subject, seconds, "s")
        results.add("memory of the hub process", OURS, ours.memory(), "MB")
        results.add("memory of the hub process", FLOOR, local.memory(), "MB")
        for subject, hub in docker.items():
            results.add("memory of the hub process", subject, hub.memory(), "MB")
