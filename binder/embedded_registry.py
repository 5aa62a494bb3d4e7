"""The registry that comes with Studovna: Debian's docker-registry behind a gate of ours.

The registry itself listens on a socket in the site's state folder, which only the site's own user
can open. The gate in front of it listens where it is needed, and asks for a credential in each
place: on 127.0.0.1 for podman and the Binder service, and on the address that pods reach for the
*export* container of a build, whose token is good for one image and until the build's deadline.

On a cluster both are reached by the same Service: Binder and the nodes have passwords, and builds
have tokens.

The gate holds requests back while the registry collects its garbage: it must not run then, or it
would lose what is pushed in the meantime.

Run by JupyterHub as a managed service: ``python -m binder.embedded_registry``.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import ctypes
import hashlib
import hmac
import json
import logging
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from studovna.paths import state_dir
from studovna.release import REGISTRY_PORT, release
from studovna.secrets import read_secret

log = logging.getLogger("studovna.registry")

USERNAME = "studovna"
PULL_USERNAME = "pull"
PUSH_USERNAME = "build"
FIRST_PORT, LAST_PORT = 5000, 5999
QUIET = 5.0  # seconds without a write before the garbage is collected
UNNAMED = 120.0  # seconds in which an image whose layers came may still get its name
PATIENCE = 600.0  # seconds to wait for that
RESTART_PAUSE = 1.0
RETRIES = 25
SOCKET = "registry.sock"

_PATH = re.compile(r"/v2/(?P<name>[a-z0-9._/-]{1,255})/(?P<kind>manifests|blobs|tags)/(?P<rest>.+)")
_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authorization", "te", "trailer", "transfer-encoding",
     "upgrade", "authorization", "host", "expect")
)  # fmt: skip


# --- what the others need to know -----------------------------------------------------------------


def embedded_port(state: Path) -> int:
    """The port of the site's registry: chosen once, for it is a part of every image's name.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> embedded_port(folder) == embedded_port(folder)
    True
    """
    file = state / "registry" / "port"
    with contextlib.suppress(OSError, ValueError):
        return int(file.read_text())
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Each site searches from elsewhere, or one that stands still would lose its port to another.
    start = int.from_bytes(hashlib.sha256(os.fsencode(state.resolve())).digest()[:4])
    ports = range(FIRST_PORT, LAST_PORT)
    port = next(p for i in ports if _is_free(p := ports[(start + i) % len(ports)]))
    draft = file.with_name(f".port.{os.getpid()}")
    draft.write_text(f"{port}\n")
    with contextlib.suppress(FileExistsError):
        os.link(draft, file)
    draft.unlink()
    return int(file.read_text())


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def embedded_host(state: Path) -> str:
    """What the names of images in the site's registry begin with: where they are pulled from."""
    there = release()
    return there.registry_host if there else f"127.0.0.1:{embedded_port(state)}"


def embedded_url(state: Path) -> str:
    """Where the Binder service reaches the site's registry."""
    there = release()
    return there.registry_url if there else f"http://127.0.0.1:{embedded_port(state)}"


def embedded_credential(state: Path) -> tuple[str, str]:
    """User name and password of the site itself."""
    return USERNAME, read_secret(state, "registry-password")[0]


def write_login(state: Path, host: str, username: str, password: str) -> None:
    """Let the site's podman sign in to a registry: `engine/auth.json`, beside its own logins."""
    file = state / "engine" / "auth.json"
    logins: dict[str, object] = {}
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    home = Path(os.environ.get("HOME") or "/root")
    places = [home / ".docker/config.json", home / ".config/containers/auth.json"]
    places += [Path("/run/containers/0/auth.json"), Path(runtime) / "containers/auth.json", file]
    for place in places:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            logins |= json.loads(place.read_text()).get("auths") or {}
    pair = base64.b64encode(f"{username}:{password}".encode()).decode()
    logins[host] = {"auth": pair}
    text = json.dumps({"auths": logins}, indent=1)
    file.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
        if file.read_text() == text:
            return
    draft = file.with_name(f".auth.json.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write(text)
    draft.replace(file)


def prepare(state: Path) -> int:
    """Make the site's registry known to its podman; returns its port for `Podman(registry_port=)`.

    Called by whatever uses podman for images of Binder, before it does.
    """
    port = embedded_port(state)
    write_login(state, f"127.0.0.1:{port}", *embedded_credential(state))
    return port


# --- who may do what: pure ------------------------------------------------------------------------


@dataclass(frozen=True)
class Push:
    """What a build's token allows: to write one image, and to read the one that it stands on.

    ``until`` is in seconds since 1970.
    """

    name: str
    tag: str
    base: str
    until: float

    def token(self, key: str) -> str:
        """The password that goes with the user name ``build``."""
        body = json.dumps([self.name, self.tag, self.base, self.until]).encode()
        text = base64.urlsafe_b64encode(body).decode().rstrip("=")
        return f"{text}.{_sign(key, text)}"

    @classmethod
    def read(cls, token: str, key: str, now: float) -> Push | None:
        """What a token allows; None when it is not ours or no longer good."""
        text, _, signature = token.partition(".")
        if not hmac.compare_digest(signature.encode(), _sign(key, text).encode()):
            return None
        try:
            fields = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
            push = cls(*fields)
        except (ValueError, TypeError, binascii.Error):
            return None
        return push if now < push.until else None

    def allows(self, method: str, path: str, query: Mapping[str, str]) -> bool:
        """Whether a request is within what the token is for."""
        if path == "/v2/" and method == "GET":
            return True
        found = _PATH.fullmatch(path)
        if found is None or ".." in path or "//" in path:
            return False
        name, kind, rest = found["name"], found["kind"], found["rest"]
        if name == self.base and name != self.name:
            return method in ("GET", "HEAD")
        if name != self.name:
            return False
        if kind == "blobs" and method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
            if method == "DELETE" and not rest.startswith("uploads/"):
                return False
            return "from" not in query or query["from"] == self.base
        if kind == "manifests":
            return method in ("GET", "HEAD") or (method == "PUT" and rest == self.tag)
        return False


def _sign(key: str, text: str) -> str:
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()


# --- the gate -------------------------------------------------------------------------------------


class Gate:
    """Passes requests on to the registry, from those who may, while it runs."""

    def __init__(self, socket_path: str, password: str, pull_password: str = "") -> None:
        self._password = password
        self._pull_password = pull_password
        self._socket = socket_path
        self._session: aiohttp.ClientSession | None = None
        self._open = asyncio.Event()
        self._running = 0
        self._written = 0.0
        self._unnamed: dict[str, float] = {}
        self.collect_wanted = asyncio.Event()

    def application(self, *, inside: bool) -> web.Application:
        """The routes: `inside` for this machine, otherwise for pods, where only tokens count."""
        app = web.Application(client_max_size=2**20)
        if inside:
            app.router.add_post("/studovna/collect", self._collect)

        async def handle(request: web.Request) -> web.StreamResponse:
            return await self._handle(request, inside)

        app.router.add_route("*", "/{path:.*}", handle)
        return app

    def _who(self, request: web.Request) -> Push | bool:
        """The token of a request, or whether it is the site itself (or a node that pulls)."""
        kind, _, value = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "basic":
            return False
        try:
            user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
        except (ValueError, binascii.Error):
            return False
        if user == PUSH_USERNAME:
            return Push.read(password, self._password, time.time()) or False
        if user == PULL_USERNAME and self._pull_password:
            reads = request.method in ("GET", "HEAD")
            return reads and hmac.compare_digest(password.encode(), self._pull_password.encode())
        known = hmac.compare_digest(password.encode(), self._password.encode())
        return user == USERNAME and known

    async def _collect(self, request: web.Request) -> web.Response:
        if self._who(request) is not True:
            return _refusal(401)
        self.collect_wanted.set()
        return web.Response(status=202)

    async def _handle(self, request: web.Request, inside: bool) -> web.StreamResponse:
        who = self._who(request)
        if who is False or (who is True and not inside):
            return _refusal(401)
        if isinstance(who, Push) and not who.allows(request.method, request.path, request.query):
            return _refusal(403)
        if request.raw_path != request.path_qs and "%2" in request.raw_path.partition("?")[0]:
            return _refusal(400)
        try:
            async with asyncio.timeout(PATIENCE):
                await self._open.wait()
        except TimeoutError:
            return _refusal(503)
        self._running += 1
        try:
            for _ in range(RETRIES):
                # Killed just now, and not started again yet: nothing of the request was sent.
                with contextlib.suppress(aiohttp.ClientConnectorError):
                    return await self._pass_on(request)
                await asyncio.sleep(0.2)
            return await self._pass_on(request)
        except (aiohttp.ClientConnectionError, ConnectionResetError) as error:
            log.warning("%s %s: %s", request.method, request.path, error)
            return _refusal(503)
        finally:
            self._running -= 1
            if request.method not in ("GET", "HEAD"):
                self._note(request.method, request.path)

    def _note(self, method: str, path: str) -> None:
        """Remember a write, and whose layers have no image yet: they would be garbage."""
        self._written = time.monotonic()
        found = _PATH.fullmatch(path)
        if found is None:
            return
        self._unnamed.pop(found["name"], None)
        if found["kind"] == "blobs" and method != "DELETE":
            self._unnamed[found["name"]] = self._written

    def _pushing(self) -> bool:
        now = time.monotonic()
        self._unnamed = {name: at for name, at in self._unnamed.items() if now - at < UNNAMED}
        return bool(self._running or self._unnamed) or now - self._written < QUIET

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(self._socket, limit=0),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=600),
                auto_decompress=False,
            )
        headers = _kept(request.headers)
        body = request.content if request.can_read_body else None
        url = f"http://registry{request.raw_path}"
        async with self._session.request(
            request.method, url, headers=headers, data=body, allow_redirects=False,
            skip_auto_headers=("Content-Type", "User-Agent", "Accept-Encoding"),
        ) as answer:  # fmt: skip
            response = web.StreamResponse(status=answer.status, headers=_kept(answer.headers))
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response

    async def quiet(self) -> None:
        """Wait for a moment at which nobody pushes, and hold requests back from it on.

        Raises TimeoutError when none comes.
        """
        async with asyncio.timeout(PATIENCE):
            while self._pushing():  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        self.hold()

    def open(self) -> None:
        """The registry listens: let requests through."""
        self._open.set()

    def hold(self) -> None:
        """The registry is away: requests wait."""
        self._open.clear()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def _kept(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """The headers to pass on; one that came several times (Accept) goes on several times."""
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in _HOP)


def _refusal(status: int) -> web.Response:
    code = {401: "UNAUTHORIZED", 403: "DENIED", 400: "UNSUPPORTED", 503: "UNAVAILABLE"}[status]
    headers = {401: {"WWW-Authenticate": 'Basic realm="studovna"'}, 503: {"Retry-After": "1"}}
    body = json.dumps({"errors": [{"code": code, "message": code.lower()}]})
    return web.Response(
        status=status, text=body, content_type="application/json", headers=headers.get(status)
    )


# --- the registry ---------------------------------------------------------------------------------


def configuration(folder: Path, secret: str) -> str:
    """docker-registry's settings; JSON is YAML. `secret` signs the state of uploads."""
    settings = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(folder / "data")},
            "delete": {"enabled": True},
            "maintenance": {
                "uploadpurging": {
                    "enabled": True, "age": "2h", "interval": "1h", "dryrun": False,
                },
            },
        },
        # Below the folder that it is started in: a socket's path cannot be long.
        "http": {"net": "unix", "addr": SOCKET, "relativeurls": True, "secret": secret},
    }  # fmt: skip
    return json.dumps(settings, indent=1)


class Registry:
    """The docker-registry process: kept running, stopped only to collect garbage."""

    def __init__(self, folder: Path, secret: str) -> None:
        self.folder = folder
        self._secret = secret
        self._logs: set[asyncio.Task[None]] = set()

    def prepare(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        (self.folder / "data").mkdir(exist_ok=True)
        (self.folder / "config.yml").write_text(configuration(self.folder, self._secret))

    async def _start(self, *args: str) -> asyncio.subprocess.Process:
        # Nothing of the hub's environment: it holds the service's token.
        env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.folder)}
        process = await asyncio.create_subprocess_exec(
            "docker-registry", *args, "config.yml", cwd=self.folder, env=env,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE, preexec_fn=_die_with_parent,
        )  # fmt: skip
        listening = asyncio.create_task(_log_of(process))
        self._logs.add(listening)
        listening.add_done_callback(self._logs.discard)
        return process

    async def keep_running(self, gate: Gate) -> None:
        """Start it again whenever it ends, and collect garbage when that is wanted."""
        while True:
            (self.folder / SOCKET).unlink(missing_ok=True)
            process = await self._start("serve")
            try:
                if await self._listening(process):
                    gate.open()
                    if await self._wanted(gate, process):
                        await _end(process)
                        await self._collect()
                        continue
            finally:
                gate.hold()
                await _end(process)
            log.warning("docker-registry ended with %s; starting it again", process.returncode)
            await asyncio.sleep(RESTART_PAUSE)

    async def _listening(self, process: asyncio.subprocess.Process) -> bool:
        """Wait until it answers; False when it has ended instead."""
        while process.returncode is None:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_unix_connection(SOCKET)
                writer.close()
                return True
            await asyncio.sleep(0.02)
        return False

    async def _wanted(self, gate: Gate, process: asyncio.subprocess.Process) -> bool:
        """Wait until garbage is to be collected and nobody pushes; False when it ended before."""

        async def moment() -> None:
            while True:
                await gate.collect_wanted.wait()
                gate.collect_wanted.clear()
                try:
                    await gate.quiet()
                    return
                except TimeoutError:
                    log.warning("The registry is never quiet; its garbage stays for now")

        tasks = [asyncio.create_task(process.wait()), asyncio.create_task(moment())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return not tasks[0].done()
        finally:
            for task in tasks:
                task.cancel()

    async def _collect(self) -> None:
        started = time.monotonic()
        collector = await self._start("garbage-collect")
        try:
            code = await collector.wait()
        finally:
            await _end(collector)
        log.info("Garbage collected in %.1f s (exit code %s)", time.monotonic() - started, code)


async def _log_of(process: asyncio.subprocess.Process) -> None:
    """What it has to say, without the questions that were answered with no."""
    assert process.stderr is not None
    while True:
        try:
            line = await process.stderr.readline()
        except ValueError:  # longer than the buffer
            continue
        if not line:
            return
        if b"http.response.status=404" not in line:
            log.warning("%s", line.decode(errors="replace").rstrip())


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def serve(state: Path, places: Mapping[str | None, bool], port: int, gate: Gate) -> None:
    """Run the registry and its gate until cancelled. Raises OSError when the port is taken.

    ``places``: addresses to listen on (None: all), each with whether the site itself comes there.
    """
    folder = (state / "registry").resolve()
    registry = Registry(folder, _sign(embedded_credential(state)[1], "uploads"))
    registry.prepare()
    os.chdir(folder)
    runners = []
    try:
        for host, inside in places.items():
            runner = web.AppRunner(gate.application(inside=inside), access_log=None)
            await runner.setup()
            runners.append(runner)
            await web.TCPSite(runner, host, port).start()
            log.info("The registry listens on %s:%s", host or "*", port)
        await registry.keep_running(gate)
    finally:
        for runner in runners:
            await runner.cleanup()
        await gate.close()


async def serve_machine(state: Path, pods_address: str | None) -> None:
    """The registry of one machine: on its loopback, and where its pods reach it."""
    port = prepare(state)
    places: dict[str | None, bool] = {"127.0.0.1": True}
    if pods_address:
        places.setdefault(pods_address, False)
    await serve(state, places, port, Gate(SOCKET, embedded_credential(state)[1]))


async def serve_cluster(state: Path) -> None:
    """The registry of a cluster, in a container of its own."""
    pull = read_secret(state, "registry-pull-password")[0]
    gate = Gate(SOCKET, embedded_credential(state)[1], pull)
    await serve(state, {None: True}, REGISTRY_PORT, gate)


def _of_this_place() -> Coroutine[None, None, None]:
    """The registry of the cluster or the machine that this process is on."""
    state = state_dir()
    if release() is not None:
        return serve_cluster(state)
    from spawner.podman_network import hub_address
    from studovna.paths import site_id
    from studovna.podman import Podman

    podman = Podman(state, registry_port=prepare(state))
    podman.probe()
    return serve_machine(state, hub_address(podman, site_id(state)))


def main() -> None:
    """The managed service, or the container."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.INFO)
    serving = _of_this_place()

    async def run() -> None:
        task = asyncio.create_task(serving)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await task

    try:
        asyncio.run(run())
    except OSError as error:
        sys.exit(f"The registry cannot listen: {error}")


if __name__ == "__main__":
    main()
