"""The chart installed on a real cluster, and what a person does there, through the proxy."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import yaml
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

from studovna import build_settings
from studovna.paths import ROOT
from tests import kubetools
from tests.cluster.kube import kubectl, namespace
from tests.site import wait_for

CHART = ROOT / "helm" / "studovna"
RELEASE = "test"
FULLNAME = f"{RELEASE}-studovna"
ROLLOUT = 300  # seconds
NO_IMAGE = "127.0.0.1:9/no-such:1"
"""Nobody listens there."""


class Person:
    """Somebody who has signed in through the proxy, with a token of their own."""

    def __init__(self, browser: httpx.Client, name: str) -> None:
        url = str(browser.base_url).rstrip("/")
        self.name, self.browser = name, browser
        headers = {"X-XSRFToken": _xsrf(browser), "Referer": f"{url}/hub/home"}
        made = browser.post(f"/hub/api/users/{name}/tokens", headers=headers, json={})
        assert made.status_code == 201, made.text
        self.token = made.json()["token"]
        self.client = httpx.Client(
            base_url=url,
            headers={"Authorization": f"token {self.token}"},
            timeout=60,
            trust_env=False,
        )

    def ask(self, server: str, **options: str) -> None:
        """Ask for a server."""
        answer = self.client.post(f"/hub/api/users/{self.name}/servers/{server}", json=options)
        assert answer.status_code in (201, 202), answer.text

    def start(self, server: str, **options: str) -> None:
        """Start a server and wait until it answers through the proxy."""
        self.ask(server, **options)
        last = self.progress(server)[-1]
        assert last.get("ready"), last
        wait_for(lambda: self.answers(server), 60)

    def stop(self, server: str) -> None:
        """Stop a server and wait until it is gone."""
        answer = self.client.delete(f"/hub/api/users/{self.name}/servers/{server}")
        assert answer.status_code in (202, 204), answer.text
        wait_for(lambda: not self.servers().get(server, {}).get("pending"), 60, 0.5)

    def servers(self) -> dict[str, Any]:
        """The person's servers as the hub's API tells them."""
        found: dict[str, Any] = self.client.get(f"/hub/api/users/{self.name}").json()["servers"]
        return found

    def progress(self, server: str) -> list[dict[str, Any]]:
        """The events of a start, until it has ended."""
        path = f"/hub/api/users/{self.name}/servers/{server}/progress"
        return self.events(path)

    def events(self, path: str, **query: str) -> list[dict[str, Any]]:
        """An event stream, to its end."""
        headers = {"Accept": "text/event-stream"}
        found = []
        with self.client.stream("GET", path, params=query, headers=headers, timeout=400) as answer:
            assert answer.status_code == 200, (answer.status_code, answer.read())
            for line in answer.iter_lines():
                if line.startswith("data:"):
                    event = json.loads(line[5:])
                    found.append(event)
                    if event.get("ready") or event.get("failed") or event.get("phase") == "failed":
                        break
        return found

    def answers(self, server: str) -> bool:
        """Whether a server answers through the proxy."""
        try:
            answer = self.client.get(f"/user/{self.name}/{server}/api/status", timeout=10)
        except httpx.HTTPError:
            return False
        return answer.status_code == 200

    def run_cell(self, server: str, code: str) -> str:
        """What a cell prints, in a new kernel of the server, by websocket through the proxy."""
        base = f"/user/{self.name}/{server}"
        made = self.client.post(f"{base}/api/kernels", json={})
        assert made.status_code == 201, made.text
        kernel = made.json()["id"]
        try:
            url = f"{str(self.client.base_url).rstrip('/')}{base}/api/kernels/{kernel}/channels"
            return asyncio.run(_execute("ws" + url.removeprefix("http"), self.token, code))
        finally:
            self.client.delete(f"{base}/api/kernels/{kernel}")


def _xsrf(browser: httpx.Client) -> str:
    found = [cookie for cookie in browser.cookies.jar if cookie.name == "_xsrf"]
    # The cookie of the most particular path counts.
    return max(found, key=lambda cookie: len(cookie.path)).value or ""


def signed_in_by_password(url: str, name: str, password: str) -> httpx.Client:
    """A browser after the sign-in page."""
    browser = httpx.Client(base_url=url, timeout=60, trust_env=False)
    page = browser.get("/hub/login")
    form = {"username": name, "password": password, "_xsrf": _xsrf(browser)}
    answer = browser.post("/hub/login", data=form)
    assert page.is_success and answer.status_code == 302, answer.text
    return browser


async def _execute(url: str, token: str, code: str) -> str:
    """Send one execute_request and gather what it prints.

    https://jupyter-client.readthedocs.io/en/stable/messaging.html
    """
    request = HTTPRequest(url, headers={"Authorization": f"token {token}"}, request_timeout=60)
    socket = await websocket_connect(request)
    asked = uuid.uuid4().hex
    header = {
        "msg_id": asked,
        "msg_type": "execute_request",
        "username": "",
        "session": uuid.uuid4().hex,
        "version": "5.3",
    }
    content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False}
    message = {
        "channel": "shell",
        "header": header,
        "parent_header": {},
        "metadata": {},
        "content": content,
        "buffers": [],
    }
    await socket.write_message(json.dumps(message))
    printed = ""
    async with asyncio.timeout(90):
        while True:
            text = await socket.read_message()
            assert isinstance(text, str), "the kernel's connection was closed"
            answer = json.loads(text)
            if answer["parent_header"].get("msg_id") != asked:
                continue
            kind, content = answer["header"]["msg_type"], answer["content"]
            if kind == "stream":
                printed += content["text"]
            elif kind == "error":
                raise AssertionError("\n".join(content["traceback"]))
            elif kind == "status" and content["execution_state"] == "idle":
                socket.close()
                return printed


@dataclass
class Installed:
    """One release of the chart in a namespace of its own."""

    namespace: str
    values: dict[str, Any]
    folder: Path
    people: dict[str, Person] = field(default_factory=dict)

    @property
    def builds(self) -> str:
        """The namespace of build pods."""
        return f"{self.namespace}-builds"

    def helm(self, *words: str) -> str:
        """helm in the release's namespace; what it wrote."""
        argv = [str(kubetools.helm()), "--namespace", self.namespace, *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=ROLLOUT, check=False)
        assert done.returncode == 0, f"helm {' '.join(words)}: {done.stderr}"
        return done.stdout

    def kubectl(self, *words: str) -> str:
        """kubectl in the release's namespace."""
        return kubectl("--namespace", self.namespace, *words)

    def upgrade(self, changes: Mapping[str, Any] | None = None) -> None:
        """Install, or upgrade to changed values, and wait until all of it is there."""
        file = self.folder / "values.yaml"
        file.write_text(yaml.safe_dump(merged(self.values, changes or {})))
        self.helm("upgrade", "--install", RELEASE, str(CHART), "--values", str(file))
        self.wait()

    def wait(self) -> None:
        """Wait until every part of the release runs as it was last asked for."""
        binder = self.values["site"].get("binder", {}).get("enabled", True)
        for part in ("hub", "proxy", *(("binder", "registry") if binder else ())):
            name = f"deployment/{FULLNAME}-{part}"
            self.kubectl("rollout", "status", name, f"--timeout={ROLLOUT}s")
        # A proxy that was started after the hub gets its routes a little later.
        paths = ["/hub/health", *(["/services/binder/versions"] if binder else [])]
        for url in [self.url + path for path in paths]:
            wait_for(lambda url=url: _is_there(url), 60, 0.5)

    @property
    def url(self) -> str:
        """The proxy's address, by the port that every node has for it."""
        service = json.loads(self.kubectl("get", "service", f"{FULLNAME}-proxy-public", "-ojson"))
        port = next(one["nodePort"] for one in service["spec"]["ports"] if one["name"] == "http")
        return f"http://{node_address()}:{port}"

    def secret(self, key: str) -> str:
        """A value of the release's Secret."""
        found = json.loads(self.kubectl("get", "secret", FULLNAME, "-ojson"))
        return base64.b64decode(found["data"][key]).decode()

    def person(self, name: str) -> Person:
        """Somebody who has signed in."""
        if name not in self.people:
            browser = signed_in_by_password(self.url, name, self.secret("password-people"))
            self.people[name] = Person(browser, name)
        return self.people[name]

    def pods(self, selector: str, where: str | None = None) -> list[dict[str, Any]]:
        """The pods with these labels."""
        words = ("--namespace", where or self.namespace, "get", "pods", "-l", selector, "-ojson")
        found: list[dict[str, Any]] = json.loads(kubectl(*words))["items"]
        return found

    def server_pods(self, person: str) -> list[dict[str, Any]]:
        """The pods of a person's servers."""
        return self.pods(f"component=singleuser-server,hub.jupyter.org/username={person}")


def _is_there(url: str) -> bool:
    """Whether a page can be had; a new Service's port is open a little later than its pods."""
    try:
        return httpx.get(url, trust_env=False).is_success
    except httpx.TransportError:
        return False


def node_address() -> str:
    """Where a node's ports are reached."""
    return next(
        str(one["address"])
        for node in json.loads(kubectl("get", "nodes", "-ojson"))["items"]
        for one in node["status"].get("addresses", [])
        if one["type"] == "InternalIP"
    )


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Values over values, as Helm does it: maps are merged, all else is replaced."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merged(old, value) if both else value
    return result


def link_to(url: str, ref: str = "HEAD") -> str:
    """What follows ``v2/`` and ``build/`` in the link to a git repository."""
    return f"git/{quote(url, safe='')}/{ref}"


@contextmanager
def installed(
    folder: Path, values: Mapping[str, Any], trusted: Path = build_settings.CA_BUNDLE
) -> Iterator[Installed]:
    """Install the chart in a new namespace, and remove all of it afterwards.

    ``trusted`` are the certificate authorities of `caConfigMap`, where the values name one.
    """
    with namespace("st") as name:
        release = Installed(name, dict(values), folder)
        try:
            if values.get("caConfigMap"):
                given = f"--from-file=ca.crt={trusted}"
                release.kubectl("create", "configmap", values["caConfigMap"], given)
            release.upgrade()
            yield release
        except BaseException:
            print(state_of(release))
            raise
        finally:
            for made in (release.builds, f"{name}-dockerfiles"):
                kubectl("delete", "namespace", made, "--ignore-not-found", "--wait=false")


def state_of(release: Installed) -> str:
    """What an operator looks at first, for the report of a test that failed."""
    parts = [release.kubectl("get", "pods,pvc", "-o", "wide")]
    parts.append(release.kubectl("get", "events", "--sort-by=.lastTimestamp")[-4000:])
    for part in ("hub", "binder", "registry"):
        log = release.kubectl(
            "logs", "-l", f"app.kubernetes.io/component={part}", "--tail=60", "--prefix"
        )
        parts.append(re.sub(r"token [0-9a-f]{16,}", "token …", log))
    return "\n".join(parts)
