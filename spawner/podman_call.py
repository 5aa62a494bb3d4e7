"""Calling podman for the engine, and what its failures mean."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shlex
import sys
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from spawner import podman_files
from spawner.engine import (
    DiskFull,
    EngineError,
    EngineUnavailable,
    ImageMissing,
    PodExists,
    PortInUse,
    RegistryUnreachable,
)
from studovna.podman import Podman, PodmanError
from studovna.text import Text

T = TypeVar("T")

CALL_SECONDS = 120.0
PULL_SECONDS = 3600.0

_NO_IMAGE = re.compile(
    r"image not known|manifest unknown|name unknown|repository \S+ not found|not found: manifest"
    r"|invalid reference format|did not resolve to an alias",
    re.IGNORECASE,
)
_NOT_ALLOWED = re.compile(r"unauthorized|access to the resource is denied|denied:", re.IGNORECASE)
_NO_REGISTRY = re.compile(
    r"pinging container registry|connection refused|no such host|i/o timeout|network is unreachable"
    r"|no route to host|tls: |x509: |context deadline exceeded|server misbehaving|\bEOF\b"
    r"|received unexpected HTTP status: 5|toomanyrequests",
    re.IGNORECASE,
)
# crun's words, and runc's.
_NO_PROGRAM = re.compile(r"(?:executable file `|exec: \"|exec \")([^`\"\n]{1,200})")


def meaning(error: PodmanError, *, image: str = "", pod: str = "") -> EngineError:
    """The engine's error for a failed podman call; `image` and `pod` are what it was about."""
    detail = f"{shlex.join(error.argv)}\n{error.stderr}".strip()
    said = error.stderr
    if error.returncode is None:
        return EngineUnavailable(error.text, detail)
    if "no space left on device" in said.lower():
        return DiskFull(
            Text("The disk of the machine is full. Tell the operator of this service."), detail
        )
    if "is already in use" in said and "name" in said:
        return PodExists(Text("There is a pod {pod} already.", pod=pod), detail)
    if "address already in use" in said:
        return PortInUse(Text("A port for the pod {pod} is taken. Try again.", pod=pod), detail)
    if image and _NOT_ALLOWED.search(said):
        return ImageMissing(
            Text("The image {image} does not exist, or may not be fetched from here.", image=image),
            detail,
        )
    if image and _NO_IMAGE.search(said):
        return ImageMissing(Text("The image {image} does not exist.", image=image), detail)
    if image and _NO_REGISTRY.search(said):
        return RegistryUnreachable(
            Text(
                "The registry of the image {image} does not answer. Try again later, or tell the "
                "operator of this service.",
                image=image,
            ),
            detail,
        )
    if "no command or entrypoint provided" in said:
        return EngineError(
            Text("The image {image} does not say what to run. Give a command.", image=image), detail
        )
    if "executable file not found" in said or (
        "OCI runtime attempted to invoke a command that was not found" in said
    ):
        program = _NO_PROGRAM.search(said)
        if program is None:
            sentence = Text("The image {image} has no such program as the pod starts.", image=image)
        else:
            sentence = Text(
                "The image {image} has no program {program}.", image=image, program=program[1]
            )
        return EngineError(sentence, detail)
    return EngineError(error.text, detail)


async def uninterrupted(work: Awaitable[T]) -> T:
    """Wait for work that must not be cut in half; a cancellation takes effect when it is done."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
        raise


class Caller:
    """Runs podman processes without blocking the loop, not too many at once, each to its end."""

    def __init__(self, podman: Podman) -> None:
        self.podman = podman
        self.rootless = os.geteuid() != 0
        self._slots = asyncio.Semaphore(max(4, 2 * (os.cpu_count() or 1)))
        self._environment: dict[str, str] | None = None

    @property
    def environment(self) -> dict[str, str]:
        if self._environment is None:
            self._environment = self.podman.environment
        return dict(self._environment)

    async def call(
        self,
        *args: str,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        seconds: float = CALL_SECONDS,
        input_: bytes | None = None,
    ) -> str:
        """What podman wrote. Raises PodmanError. Not cut short by a cancellation.

        `environment` is added to podman's own; `cwd` is where conmon, too, will live.
        """
        async with self._slots:
            return await uninterrupted(self._run(args, environment or {}, cwd, seconds, input_))

    async def _run(
        self,
        args: tuple[str, ...],
        environment: Mapping[str, str],
        cwd: Path | None,
        seconds: float,
        input_: bytes | None,
    ) -> str:
        argv = self.podman.argv(*args)
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                env={**environment, **self.environment},
                cwd=cwd or "/",
                stdin=asyncio.subprocess.DEVNULL if input_ is None else asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise PodmanError(Text("Podman cannot be run: {said}", said=error), argv) from error
        try:
            async with asyncio.timeout(seconds):
                out, err = await process.communicate(input_)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise PodmanError(
                Text("Podman did not finish within {seconds} seconds.", seconds=f"{seconds:g}"),
                argv,
            ) from None
        if process.returncode != 0:
            raise self.podman.error(argv, err.decode(errors="replace"), process.returncode)
        return out.decode(errors="replace")

    async def pull(self, image: str) -> None:
        """Fetch an image, but not for ever: a registry may stop sending. Raises PodmanError."""
        await self.podman.arun("pull", "--quiet", image, timeout=PULL_SECONDS)

    async def files(self, operation: str, *arguments: Any) -> Any:
        """An operation of podman_files, where it has the rights: here, or in podman's namespace.

        Raises OSError, UnsafePath, PodmanError.
        """
        if not self.rootless:
            work = asyncio.to_thread(podman_files.OPERATIONS[operation], *arguments)
            return await uninterrupted(work)
        request = json.dumps([operation, *arguments]).encode()
        answer = await self.call(
            "unshare", sys.executable, "-I", str(podman_files.SCRIPT), input_=request, seconds=600
        )
        return podman_files.unpack(json.loads(answer))
