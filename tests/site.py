"""A real site for tests: hub, proxy, culler and podman pods in a state folder of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from rich.console import Console

from spawner.end_servers import end_servers
from studovna import hub_process
from studovna.hub_api import new_token
from studovna.hub_log import log_file
from studovna.paths import ROOT, site_id
from studovna.podman import Podman
from studovna.secrets import read_secret
from studovna.site import Site, load_site
from studovna.up import up
from tests.bench.hubs import free_port

START_SECONDS = 120.0


@dataclass(frozen=True)
class RunningSite:
    """A site that runs: its settings, its state folder, and what tests ask of it."""

    site: Site
    state: Path

    @property
    def url(self) -> str:
        """Where this machine reaches the site."""
        return hub_process.local_url(self.site)

    @property
    def podman(self) -> Podman:
        """Podman as the site calls it."""
        return Podman(self.state)

    def password(self, name: str = "password-people") -> str:
        """One of the site's generated passwords."""
        return read_secret(self.state, name)[0]

    def client(self, person: str) -> httpx.Client:
        """The REST API as this person."""
        token = new_token(self.site, self.state, person, 3600, "tests")
        return httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"token {token}"},
            timeout=60,
            trust_env=False,
        )

    def signed_in(self, person: str) -> httpx.Client:
        """The pages as this person's browser gets them after its sign-in."""
        client, page = self.sign_in(person, self.password())
        assert page.status_code == 200, page.text
        return client

    def sign_in(self, person: str, password: str) -> tuple[httpx.Client, httpx.Response]:
        """What a browser has and shows after this name and password."""
        client = httpx.Client(base_url=self.url, timeout=60, trust_env=False, follow_redirects=True)
        client.get("/hub/login")
        form = {"username": person, "password": password, "_xsrf": client.cookies["_xsrf"]}
        return client, client.post("/hub/login", data=form)

    def start(self, person: str, name: str, options: dict[str, Any]) -> httpx.Client:
        """Start a server and wait until it answers; returns the person's client."""
        client = self.client(person)
        reply = client.post(f"/hub/api/users/{person}/servers/{name}", json=options)
        assert reply.status_code in (201, 202), reply.text
        wait_for(lambda: self.answers(client, person, name), START_SECONDS)
        return client

    def answers(self, client: httpx.Client, person: str, name: str) -> bool:
        """Whether the server answers through the proxy."""
        try:
            return client.get(f"/user/{person}/{name}/api").status_code == 200
        except httpx.HTTPError:
            return False

    def server(self, client: httpx.Client, person: str, name: str) -> dict[str, Any] | None:
        """The server as the hub's REST API tells it; None when it is not active."""
        model = client.get(f"/hub/api/users/{person}", params={"include_stopped_servers": "1"})
        found: dict[str, Any] | None = model.json()["servers"].get(name)
        return found if found and not found["stopped"] else None

    def pod(self, name: str) -> str:
        """The name podman knows a pod's only container by, given the manifest's pod name."""
        listed = self.podman.run(
            "ps", "-a", "--format", "{{.Names}}", "--filter", f"name={site_id(self.state)}-{name}"
        )
        return listed.split()[0]

    def hub(self) -> psutil.Process:
        """The hub's process."""
        return self._process("jupyterhub_config.py")

    def proxy(self) -> psutil.Process:
        """The proxy's process."""
        return self._process("configurable-http-proxy")

    def _process(self, word: str) -> psutil.Process:
        for process in hub_process.processes(self.state):
            try:
                if any(word in argument for argument in process.cmdline()):
                    return process
            except psutil.Error:
                continue
        raise LookupError(f"no process of the site has {word} in its command line")

    def up(self) -> None:
        """What ``make up`` does."""
        up(self.site.file, self.state, Console(quiet=True), build_others=False)

    def kill_hub(self) -> None:
        """kill -9, so that nothing of the hub can clean up."""
        hub = self.hub()
        hub.send_signal(signal.SIGKILL)
        hub.wait(10)

    def log(self) -> str:
        """The operator's log."""
        return log_file(self.state).read_text(errors="replace")


@contextmanager
def running_site(
    folder: Path, settings: str = "", profiles: Path | None = None
) -> Iterator[RunningSite]:
    """Bring a site up with these further lines of settings; take it down, pods included."""
    state = folder / "var"
    state.mkdir(parents=True, exist_ok=True)
    file = folder / "site.yaml"
    where = profiles or ROOT / "profiles"
    file.write_text(f"bind: 127.0.0.1:{free_port()}\nprofiles: {where}\n{settings}")
    running = RunningSite(load_site(file), state)
    try:
        running.up()
        yield running
    finally:
        hub_process.stop(state)
        # In a thread: a browser's own event loop may run in this one.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(end_servers, state).result()
        remove_homes(state)


def remove_homes(state: Path) -> None:
    """Homes belong to the people of the pods: as a user without root, podman must remove them."""
    if os.geteuid() == 0:
        shutil.rmtree(state / "claims", ignore_errors=True)
    else:
        argv = Podman(state).argv("unshare", "rm", "-rf", str(state / "claims"))
        subprocess.run(argv, check=False)


def wait_for(condition: Any, seconds: float, every: float = 0.1) -> Any:
    """The condition's first true value; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(every)
    raise AssertionError(f"not within {seconds} s: {condition}")


def why_not() -> str | None:
    """Why real pods cannot run here; None when they can."""
    try:
        Podman(ROOT / "var").argv("--version")
    except Exception as error:  # noqa: BLE001 - any reason is worth telling
        return str(error)
    if shutil.which("node") is None:
        return "there is no node for the proxy"
    return None
