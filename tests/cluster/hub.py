"""A real hub on this machine whose servers run on a real cluster, and a break in between."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import yaml

from studovna.paths import ROOT
from tests.bench.hubs import free_port
from tests.cluster.kube import IMAGE

_CONFIG = """
from pathlib import Path
from spawner import hub_config
from spawner.deployment import deployment
from spawner.kubernetes_spawner import KubernetesSpawner
from studovna.release import Release
shared = deployment({site!r}, {state!r})
release = Release(name="eng", instance="eng", namespace={namespace!r},
    builds_namespace={namespace!r}, registry_port=None, registry_url="", jobs_role={jobs_role!r})
KubernetesSpawner.prepare(c, shared, release, "")
c.JupyterHub.spawner_class = KubernetesSpawner
hub_config.configure_spawner(c, shared)
c.Spawner.poll_interval = 2
c.Spawner.http_timeout = 60
c.KubernetesSpawner.delete_grace_period = 1
c.JupyterHub.tornado_settings = {{"slow_spawn_timeout": 0.3, "slow_stop_timeout": 0}}
c.JupyterHub.bind_url = "http://127.0.0.1:{port}"
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{api}"
c.ConfigurableHTTPProxy.auth_token = {token!r}
c.ConfigurableHTTPProxy.command = ["node", {proxy!r}]
c.JupyterHub.hub_port = {hub_port}
c.JupyterHub.cleanup_servers = False
c.JupyterHub.allow_named_servers = True
c.JupyterHub.concurrent_spawn_limit = 64
c.JupyterHub.authenticator_class = "shared-password"
c.SharedPasswordAuthenticator.user_password = {token!r}
c.Authenticator.allow_all = True
c.JupyterHub.services = [{{"name": "test", "api_token": {token!r}}}]
c.JupyterHub.load_roles = [{{"name": "test", "services": ["test"],
    "scopes": ["admin:users", "admin:servers", "access:servers", "admin:server_state"]}}]
"""

SERVE = ["python3", "-m", "http.server", "8888"]
"""A program that answers on the server's port, in place of JupyterLab."""


def profile(**effects: Any) -> dict[str, Any]:
    """A profile that starts at once; what is given replaces."""
    small: dict[str, Any] = {
        "image": IMAGE,
        "command": SERVE,
        "cpu": {"request": 0.02, "limit": 1.0},
        "memory": {"request": "32M", "limit": "64M"},
        "home": "none",
    }
    return {"title": {"en": "Test", "cs": "Test"}, "category": "notebooks", **small, **effects}


class ClusterHub:
    """The hub: started, killed, started again on the same state."""

    def __init__(
        self,
        folder: Path,
        namespace: str,
        profiles: dict[str, Any],
        jobs_role: str = "",
        **site: Any,
    ) -> None:
        self.namespace = namespace
        self._folder = folder
        self._token = secrets.token_hex(24)
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.relay = Relay(os.environ["KUBECONFIG"], folder)
        (folder / "profiles").mkdir(parents=True)
        for name, one in profiles.items():
            (folder / "profiles" / f"{name}.yaml").write_text(yaml.safe_dump(one))
        settings = {
            "engine": "kubernetes",
            "images": IMAGE.rpartition("/")[0],
            "binder": {"enabled": False},
            "storage": {"home_size": "1G"},
            **site,
        }
        (folder / "site.yaml").write_text(yaml.safe_dump(settings))
        proxy = ROOT / "node_modules/configurable-http-proxy/bin/configurable-http-proxy"
        (folder / "config.py").write_text(
            _CONFIG.format(
                site=str(folder / "site.yaml"), state=str(folder), namespace=namespace,
                port=self._port, api=free_port(), hub_port=free_port(), token=self._token,
                proxy=str(proxy), jobs_role=jobs_role,
            )
        )  # fmt: skip
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self._port}",
            headers={"Authorization": f"token {self._token}"},
            timeout=60,
            trust_env=False,
        )

    def start(self) -> None:
        """Start the hub and wait until it answers."""
        log = (self._folder / "hub.log").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jupyterhub", "--config", str(self._folder / "config.py")],
            cwd=self._folder,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "KUBECONFIG": str(self.relay.kubeconfig),
            },
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.wait(self._healthy, 120)

    def _healthy(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        try:
            return self.client.get("/hub/api/").is_success
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        """End the hub and its proxy at once, as a node that dies does."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def log(self) -> str:
        """What the hub wrote."""
        return (self._folder / "hub.log").read_text()

    def ask(self, person: str, profile: str, name: str = "") -> None:
        """Ask for a server; what becomes of it is for ``events``."""
        self.client.post(f"/hub/api/users/{person}")
        with contextlib.suppress(httpx.ReadTimeout):
            self.client.post(f"/hub/api/users/{person}/servers/{name}", json={"profile": profile})

    def run(self, person: str, profile: str, seconds: float = 120) -> list[dict[str, Any]]:
        """Start a server; all events of its progress, the last of them ready or failed."""
        self.client.post(f"/hub/api/users/{person}")
        reply = self.client.post(f"/hub/api/users/{person}/servers/", json={"profile": profile})
        if reply.status_code >= 400:
            return [{"failed": True, "message": reply.json()["message"]}]
        found: list[dict[str, Any]] = []
        self.wait(lambda: self._progress(person, found, seconds), seconds)
        return found

    def _progress(self, person: str, found: list[dict[str, Any]], seconds: float) -> bool:
        """Read the progress to its end; False when the hub has none to tell yet."""
        path = f"/hub/api/users/{person}/server/progress"
        with self.client.stream("GET", path, timeout=seconds) as stream:
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    found.append(json.loads(line[5:]))
        return bool(found)

    def server(self, person: str, name: str = "") -> dict[str, Any] | None:
        """What the hub knows of a server that is not stopped."""
        model = self.client.get(f"/hub/api/users/{person}").json()
        found: dict[str, Any] | None = model.get("servers", {}).get(name)
        return found

    def answers(self, person: str, name: str = "") -> bool:
        """Whether the server answers through the proxy."""
        answer = self.client.get(f"/user/{person}/{name}".rstrip("/") + "/", timeout=10)
        return answer.status_code == 404 and "File not found" in answer.text

    def stop(self, person: str) -> None:
        """Stop the server and wait until it is gone."""
        self.client.delete(f"/hub/api/users/{person}/server")
        self.wait(lambda: self.server(person) is None, 90)

    def wait(self, true: Callable[[], bool], seconds: float) -> None:
        """Wait until something is true."""
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, self.log()[-5000:]
            time.sleep(0.3)

    def close(self) -> None:
        """End everything that runs on this machine."""
        self.kill()
        self.relay.close()
        self.client.close()


@contextlib.contextmanager
def running_hub(*args: Any, **more: Any) -> Iterator[ClusterHub]:
    """A hub that is ended after the tests."""
    hub = ClusterHub(*args, **more)
    try:
        hub.start()
        yield hub
    finally:
        hub.close()


class Relay:
    """Carries the hub's connections to the API server, until it is told to break them."""

    def __init__(self, kubeconfig: str, folder: Path) -> None:
        config = yaml.safe_load(Path(kubeconfig).read_text())
        server = urlsplit(config["clusters"][0]["cluster"]["server"])
        self._target = (server.hostname or "", server.port or 443)
        self.port = free_port()
        cluster = config["clusters"][0]["cluster"]
        cluster["server"] = f"https://127.0.0.1:{self.port}"
        cluster.pop("certificate-authority-data", None)
        cluster.pop("certificate-authority", None)
        cluster["insecure-skip-tls-verify"] = True
        folder.mkdir(parents=True, exist_ok=True)
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(yaml.safe_dump(config))
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.mend()

    def _do(self, what: Any) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(10)

    def mend(self) -> None:
        """Take connections (again)."""
        self._do(self._listen())

    def cut(self) -> None:
        """Break every connection, and take none, as an API server that is down."""
        self._do(self._cut())

    def close(self) -> None:
        """Cut, and end the loop."""
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._open):
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*self._target)
        self._open |= {writer, back}
        try:
            await asyncio.gather(self._copy(reader, back), self._copy(there, writer))
        finally:
            self._open -= {writer, back}

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await source.read(65536):
                sink.write(chunk)
                await sink.drain()
        sink.close()
