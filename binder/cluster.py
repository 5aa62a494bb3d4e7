"""Builds on a cluster: the same pods, in a namespace of their own, through the Kubernetes API."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from tornado.log import app_log

from spawner.engine import Engine, EngineError, PodExists, PodMissing, QuotaFull
from spawner.kubernetes_engine import KubernetesEngine
from studovna.paths import site_file, state_dir
from studovna.podman import Podman
from studovna.release import this_release
from studovna.text import Text

from .buildpod import FETCH, LABELS, BuildPod
from .builds import BuildRequest
from .dockerfile_pod import CONTAINERS, REGISTRIES, make_dockerfile_pod
from .errors import Failed
from .events import Event, event
from .executor import (
    BASE_SECONDS,
    CONTROL,
    LAST_LINES,
    PHASES,
    QUOTA_PAUSE,
    STILL_FULL,
    WAITING_FOR_QUOTA,
    Base,
    Message,
    PodBuildExecutor,
    read_message,
)
from .registry import docker_login

IMAGES_LOGIN = "images-auth.json"
"""Among the secrets: the login for the registry of the site's images, as Docker stores it."""

REGISTRIES_CONF = REGISTRIES
"""Beside site.yaml: mirrors, and registries without TLS; containers-registries.conf(5)."""


class ClusterBuildExecutor(PodBuildExecutor):
    """PodBuildExecutor in the builds' namespace of this release; no podman is needed."""

    podman: Podman | None  # type: ignore[assignment]
    dockerfiles: Engine | None = None
    """What runs the pods of repositories that need a builder; None where the site has none."""

    def connect(self, state: Path, podman: Podman | None, engine: Engine | None) -> Engine:
        self.podman = None
        file = os.environ.get("SSL_CERT_FILE")
        self._ca = Path(file).read_text() if file else ""
        if engine is not None:
            return engine
        there = this_release()
        if self.site.binder.dockerfiles:
            self.dockerfiles = self._engine(there.dockerfiles_namespace, there.instance)
        return self._engine(there.builds_namespace, there.instance)

    def _engine(self, namespace: str, instance: str) -> Engine:
        cluster = self.site.cluster
        return KubernetesEngine(
            namespace,
            instance,
            pull_secrets=cluster.pull_secrets,
            placement=cluster.placement.get("builds"),
            room_seconds=cluster.room_minutes * 60,
        )

    def registry_of_pods(self) -> str:
        return self.registry.url

    def pod(self, request: BuildRequest, base: Base) -> BuildPod:
        pod = super().pod(request, base)
        # Nodes keep what they have pulled: a tag that moves is asked for again.
        policy = "Always" if pod.image.endswith(":latest") else pod.pull_policy
        job = {**pod.job, "stock": self.dockerfiles is not None}
        return dataclasses.replace(
            pod, job=job, bound_volumes=True, ca=self._ca, pull_policy=policy
        )

    # --- repositories that need a builder -------------------------------------------------------

    async def running(self) -> set[str]:
        found = await super().running()
        return found | (set(await self.dockerfiles.states(LABELS)) if self.dockerfiles else set())

    async def _build_stock(
        self, request: BuildRequest, asked: Message, said: asyncio.Queue[Event | None]
    ) -> Failed | None:
        """Build it in a pod of the other namespace; why that failed, or None."""
        if self.dockerfiles is None:  # no longer: the setting was changed since the build began
            return Failed(Text("This site does not build Dockerfiles any more."))
        build, _ = self.stock_build(request, asked)
        registries = site_file().with_name(REGISTRIES_CONF)
        pod, data = make_dockerfile_pod(
            self.pod(request, self._base_of(request.image)),
            build,
            self.site.image_reference("dockerfiles"),
            registries.read_text() if registries.is_file() else "",
        )
        for waited in self._turns():
            try:
                await self.start_pod(self.dockerfiles, pod, data)
                break
            except PodExists:
                app_log.info("%s has a builder already", request.name)
                break
            except QuotaFull:
                if not waited:
                    await said.put(event("waiting", WAITING_FOR_QUOTA))
                await asyncio.sleep(QUOTA_PAUSE)
            except EngineError as error:
                app_log.error("%s could not start: %s %s", request.name, error, error.detail)
                return Failed(Text("The build could not start. {why}", why=error.sentence))
        else:
            return Failed(STILL_FULL)
        for container in CONTAINERS:
            failed = await self._read_stock(self.dockerfiles, request.name, container, said)
            if failed is not None:
                return failed
        return None

    async def _read_stock(
        self, engine: Engine, name: str, container: str, said: asyncio.Queue[Event | None]
    ) -> Failed | None:
        """Read one container of the pod to its end; why it failed, or None."""
        phase = PHASES.get(container, "building")
        last: list[str] = []
        logs = engine.logs(name, container, follow=True)
        with contextlib.suppress(PodMissing):
            async with contextlib.aclosing(logs) as lines:  # type: ignore[type-var]
                async for line in lines:
                    message = read_message(line)
                    if message is None:
                        line = CONTROL.sub("", line)
                        last = [*last[-LAST_LINES:], line] if line.strip() else last
                    elif message.kind == "end":
                        return None
                    elif message.kind == "failed" and message.text is not None:
                        said_so = Failed(message.text)
                        return await self._more(engine, name, container, container, said_so)
                    # What fetching says has been said by the pod that fetched first.
                    if container == FETCH:
                        continue
                    if message is None:
                        await said.put(event(phase, line))
                    elif message.text is not None:
                        await said.put(event(phase, message.text))
        state = await self._state_after_end(engine, name, container)
        return self._why(container, container, state, last)

    async def _end_all(self, name: str) -> None:
        if self.dockerfiles is not None:
            try:
                await self.dockerfiles.end(name, 0)
            except EngineError as error:
                app_log.error("%s could not be ended: %s %s", name, error, error.detail)
        await super()._end_all(name)

    # --- the site's image -----------------------------------------------------------------------

    async def copy_lab(self, local: str, base: Base) -> None:
        host = urlsplit(self.registry.url).netloc
        target = f"{host}/{base.name}:{base.tag}"
        with tempfile.TemporaryDirectory(prefix="copy-") as folder:
            login = Path(folder) / "login.json"
            login.write_text(
                json.dumps(docker_login(host, self.registry.username, self.registry.password))
            )
            argv = copy_argv(
                local,
                target,
                login=login,
                plain_http=self.registry.url.startswith("http://"),
                images_login=state_dir() / "secrets" / IMAGES_LOGIN,
                registries=site_file().with_name(REGISTRIES_CONF),
                folder=Path(folder),
            )
            code, said = await _run(argv, copy_environment(os.environ), BASE_SECONDS)
        if code:
            app_log.error("skopeo could not copy %s to %s: %s", local, target, said)
            raise Failed(
                Text(
                    "The Lab's image could not be brought to the registry of this site. Try again "
                    "later, or tell its administrators."
                ),
                status=503,
            )


# --- pure -----------------------------------------------------------------------------------------


def copy_argv(
    source: str,
    target: str,
    *,
    login: Path,
    plain_http: bool,
    images_login: Path,
    registries: Path,
    folder: Path,
) -> list[str]:
    """skopeo's command line; ``login`` is for the target, ``folder`` takes layers on their way."""
    return [
        "skopeo",
        # There is no policy of signatures here: the registries' names and TLS are what is trusted.
        "--insecure-policy",
        f"--tmpdir={folder}",
        *([f"--registries-conf={registries}"] if registries.is_file() else []),
        "copy",
        "--quiet",
        "--format=oci",
        f"--dest-authfile={login}",
        *(["--dest-tls-verify=false"] if plain_http else []),
        *([f"--src-authfile={images_login}"] if images_login.is_file() else ["--src-no-creds"]),
        "--",
        f"docker://{source}",
        f"docker://{target}",
    ]


def copy_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What skopeo gets to see of the environment: nothing of Binder's tokens."""
    names: tuple[str, ...] = ("PATH", "HOME", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")
    names += ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
    return {name: environ[name] for name in names if environ.get(name)}


async def _run(argv: list[str], env: Mapping[str, str], seconds: float) -> tuple[int, str]:
    """Run a program to its end: its exit code (-1: it took too long) and what it wrote."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        env=dict(env),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(seconds):
            out, _ = await process.communicate()
    except TimeoutError:
        return -1, f"not within {seconds:.0f} s"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode(errors="replace")[-2000:]
