"""Real parts for the service's tests: a git host, and a hub that runs the service."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.binder.githost import GitHost, make_repository
from tests.building import executor, make_executor, place, request_of  # noqa: F401 - fixtures

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def git_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitHost]:
    host = GitHost(tmp_path_factory.mktemp("git"))
    make_repository(host.root / "notes", {"index.ipynb": "{}", "requirements.txt": ""})
    make_repository(host.root / "other", {"a.py": ""})
    make_repository(host.root / "long", {"a.py": ""})
    make_repository(host.root / "broken", {"requirements.txt": "no-such-package"})
    make_repository(host.root / "bug", {"a.py": ""})
    make_repository(host.root / "empty", None)
    make_repository(host.root / "private" / "thesis", {"thesis.md": "secret"})
    yield host
    host.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Hub:
    """A running hub with the service; ``url`` ends with a slash."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]
    tokens: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @property
    def binder(self) -> str:
        return f"{self.url}services/binder/"

    def client(self, person: str = "") -> httpx.Client:
        headers = {"Authorization": f"token {self.tokens[person]}"} if person else {}
        return httpx.Client(base_url=self.binder, headers=headers, timeout=60, trust_env=False)

    def sign_in(self, person: str) -> httpx.Client:
        """A browser's session: cookies, no token."""
        client = httpx.Client(
            base_url=self.binder, timeout=60, trust_env=False, follow_redirects=True
        )
        page = client.get(f"{self.url}hub/login")
        xsrf = client.cookies.get("_xsrf", path="/hub/")
        page = client.post(
            f"{self.url}hub/login", data={"username": person, "password": "pw", "_xsrf": xsrf}
        )
        assert page.status_code == 200, page.text
        return client

    def events(self, person: str, link: str, **params: str) -> list[dict[str, Any]]:
        """All events of one stream."""
        return [event for event, _id in self.stream(person, link, **params)]

    def stream(
        self, person: str, link: str, last_id: str = "", **params: str
    ) -> Iterator[tuple[dict[str, Any], str]]:
        headers = {"Accept": "text/event-stream"}
        if last_id:
            headers["Last-Event-ID"] = last_id
        with self.client(person) as client:
            with client.stream("GET", f"build/{link}", headers=headers, params=params) as answer:
                assert answer.status_code in (200, 204)
                event_id = ""
                for line in answer.iter_lines():
                    if line.startswith("id:"):
                        event_id = line[3:].strip()
                    elif line.startswith("data:"):
                        yield json.loads(line[5:]), event_id
                        event_id = ""

    def starts(self) -> list[dict[str, Any]]:
        """The builds that the executor was given."""
        file = self.folder / "double" / "starts"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()


HUB_CONFIG = """
import sys
sys.path.insert(0, {root!r})
from binder import tokens
c = get_config()
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = "pw"
c.Authenticator.allow_all = True
c.Authenticator.admin_users = {{"root"}}
c.Authenticator.enable_auth_state = True
c.Authenticator.reconcile_auth_state_hook = tokens.keep_git_tokens
c.CryptKeeper.keys = [bytes.fromhex({key!r})]
c.JupyterHub.extra_handlers = tokens.hub_handlers
c.JupyterHub.custom_scopes = tokens.CUSTOM_SCOPES
c.JupyterHub.spawner_class = "simple"
c.Spawner.cmd = [sys.executable, "-m", "jupyterhub.singleuser"]
c.Spawner.args = ["--allow-root"]
c.Spawner.http_timeout = 120
c.Spawner.environment = {{
    "JUPYTERHUB_SINGLEUSER_APP": "jupyter_server.serverapp.ServerApp",
    "JUPYTERHUB_SINGLEUSER_EXTENSION": "0",
}}
c.JupyterHub.allow_named_servers = True
c.JupyterHub.redirect_to_server = False
c.JupyterHub.bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{hub_port}"
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{proxy_port}"
c.ConfigurableHTTPProxy.command = {proxy!r}
c.JupyterHub.services = [
    {{
        "name": "binder",
        "url": "http://127.0.0.1:{service_port}",
        "command": [sys.executable, "-m", "binder", "-f", {binder_config!r}],
        "environment": {environment!r},
        "api_token": {token!r},
        "oauth_no_confirm": True,
    }},
    {{"name": "tests", "api_token": {tests_token!r}, "admin": True}},
]
c.JupyterHub.load_roles = [
    {{
        "name": "binder",
        "scopes": ["read:users", "list:users", "servers", "custom:git-tokens"],
        "services": ["binder"],
    }},
    {{"name": "user", "scopes": ["self", "access:services!service=binder"]}},
]
"""

BINDER_CONFIG = """
import sys
sys.path.insert(0, {tests!r})
c = get_config()
load_subconfig({config!r})
import doubles
c.BinderHub.build_class = doubles.DoubleExecutor
c.BinderHub.registry_class = doubles.DoubleRegistry
c.DoubleExecutor.folder = {folder!r}
c.DoubleExecutor.step_seconds = {step}
c.Launcher.retry_delay = 1
"""


def find_proxy() -> list[str]:
    here = ROOT / "node_modules/configurable-http-proxy/bin/configurable-http-proxy"
    if here.exists():
        return ["node", str(here)]
    found = shutil.which("configurable-http-proxy")
    if not found:
        pytest.skip("configurable-http-proxy is not installed (npm ci)")
    return [found]


def start_hub(folder: Path, git_host: GitHost, step: float = 0.1, **site: Any) -> Hub:
    """Start a hub with the service; its site allows the git host."""
    (folder / "double").mkdir(parents=True, exist_ok=True)
    (folder / "users").mkdir(exist_ok=True)
    state = folder / "var"
    state.mkdir(exist_ok=True)
    port, hub_port, proxy_port, service_port = (free_port() for _ in range(4))
    settings = {
        "bind": f"127.0.0.1:{port}",
        "binder": {"allow_hosts": [f"127.0.0.1:{git_host.port}"], **site},
    }
    (folder / "site.yaml").write_text(json.dumps(settings))
    environment = {
        "STUDOVNA_HOME": str(state),
        "STUDOVNA_SITE": str(folder / "site.yaml"),
        "PYTHONPATH": str(ROOT),
        "PATH": os.environ["PATH"],
    }
    binder_config = folder / "binder_config.py"
    binder_config.write_text(
        BINDER_CONFIG.format(
            tests=str(Path(__file__).parent),
            config=str(ROOT / "binderhub_config.py"),
            folder=str(folder / "double"),
            step=step,
        )
    )
    tests_token = secrets.token_urlsafe(30)
    (folder / "jupyterhub_config.py").write_text(
        HUB_CONFIG.format(
            root=str(ROOT),
            key=secrets.token_hex(32),
            port=port,
            hub_port=hub_port,
            proxy_port=proxy_port,
            service_port=service_port,
            proxy=find_proxy(),
            binder_config=str(binder_config),
            environment=environment,
            token=secrets.token_urlsafe(30),
            tests_token=tests_token,
        )
    )
    log = (folder / "hub.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "jupyterhub", "-f", "jupyterhub_config.py"],
        cwd=folder,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    hub = Hub(folder, port, process)
    headers = {"Authorization": f"token {tests_token}"}
    with httpx.Client(trust_env=False, timeout=10) as client:
        deadline = time.monotonic() + 60
        while True:
            try:
                if client.get(f"{hub.binder}versions").is_success:
                    break
            except httpx.HTTPError:
                pass
            if process.poll() is not None or time.monotonic() > deadline:
                hub.stop()
                raise RuntimeError((folder / "hub.log").read_text()[-5000:])
            time.sleep(0.2)
        for person in ("ana", "ben", "root"):
            client.post(f"{hub.url}hub/api/users/{person}", headers=headers)
            made = client.post(f"{hub.url}hub/api/users/{person}/tokens", headers=headers)
            hub.tokens[person] = made.json()["token"]
    return hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, git_host: GitHost) -> Iterator[Hub]:
    hub = start_hub(tmp_path_factory.mktemp("hub"), git_host)
    yield hub
    hub.stop()
