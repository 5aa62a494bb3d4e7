"""The hubs that are measured beside ours: each with JupyterHub's own defaults but its spawner."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from studovna.paths import ROOT

ANSWER_SECONDS = 120.0


@dataclass(frozen=True)
class Hub:
    """A running hub: where it is, a token that may start servers, its process, and the passwords
    of everybody and of ``admin``."""

    url: str
    token: str
    pid: int
    password: str
    admin_password: str

    def client(self) -> httpx.Client:
        """An HTTP client with the token."""
        headers = {"Authorization": f"token {self.token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)

    @contextmanager
    def browser(self, person: str) -> Iterator[httpx.Client]:
        """An HTTP client that has signed in, as pages want it."""
        with httpx.Client(base_url=self.url, timeout=60, trust_env=False) as client:
            client.get("/hub/login")
            password = self.admin_password if person == "admin" else self.password
            form = {"username": person, "password": password, "_xsrf": client.cookies["_xsrf"]}
            reply = client.post("/hub/login", data=form)
            if reply.status_code != 302:
                raise RuntimeError(f"{self.url}: {person} cannot sign in: {reply.status_code}")
            yield client

    def start_to_answer(self, person: str, options: dict[str, str]) -> float:
        """Seconds from the start request to the server's first answer through the proxy."""
        with self.client() as client:
            client.post(f"/hub/api/users/{person}")
            begun = time.perf_counter()
            reply = client.post(f"/hub/api/users/{person}/server", json=options)
            if reply.status_code not in (201, 202):
                raise RuntimeError(f"{self.url}: {reply.status_code} {reply.text[:500]}")
            while time.perf_counter() - begun < ANSWER_SECONDS:
                answer = client.get(f"/user/{person}/api")
                if answer.status_code == 200 and "version" in answer.text:
                    return time.perf_counter() - begun
                time.sleep(0.02)
        raise RuntimeError(f"{self.url}: no answer from the server of {person}")

    def stop_server(self, person: str) -> None:
        """Stop the server and wait until the hub says that it is gone."""
        with self.client() as client:
            client.delete(f"/hub/api/users/{person}/server")
            for _ in range(300):
                if not client.get(f"/hub/api/users/{person}").json().get("servers"):
                    return
                time.sleep(0.1)
        raise RuntimeError(f"{self.url}: the server of {person} does not stop")

    def memory(self) -> float:
        """The hub process's resident memory in MB."""
        return psutil.Process(self.pid).memory_info().rss / 1e6


def free_port() -> int:
    """A port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def plain_hub(folder: Path, name: str, config: str, **environment: str) -> Iterator[Hub]:
    """JupyterHub as it is installed, with these lines of configuration."""
    folder = folder / name
    folder.mkdir(parents=True)
    token, port, api = secrets.token_urlsafe(32), free_port(), free_port()
    password, admin_password = secrets.token_urlsafe(16), secrets.token_urlsafe(32)
    hub_port = free_port()
    proxy = ROOT / "node_modules/configurable-http-proxy/bin/configurable-http-proxy"
    file = folder / f"{name}.py"
    file.write_text(
        f"""
c.JupyterHub.bind_url = "http://127.0.0.1:{port}"
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{api}"
c.ConfigurableHTTPProxy.command = ["node", "{proxy}"]
c.JupyterHub.hub_port = {hub_port}
c.JupyterHub.authenticator_class = "shared-password"
c.SharedPasswordAuthenticator.user_password = "{password}"
c.SharedPasswordAuthenticator.admin_password = "{admin_password}"
c.Authenticator.admin_users = {{"admin"}}
c.Authenticator.allow_all = True
c.JupyterHub.services = [{{"name": "bench", "api_token": "{token}"}}]
c.JupyterHub.load_roles = [{{
    "name": "bench",
    "scopes": ["admin:users", "admin:servers", "access:servers"],
    "services": ["bench"],
}}]
{config}
"""
    )
    log = (folder / f"{name}.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "jupyterhub", "--config", str(file)],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            **environment,
        },
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        for _ in range(600):
            try:
                if httpx.get(f"http://127.0.0.1:{port}/hub/health", trust_env=False).is_success:
                    break
            except httpx.HTTPError:
                pass
            if process.poll() is not None:
                said = Path(log.name).read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{name}: the hub ended: {said}")
            time.sleep(0.1)
        yield Hub(f"http://127.0.0.1:{port}", token, process.pid, password, admin_password)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.close()
