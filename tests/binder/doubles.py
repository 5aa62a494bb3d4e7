"""A build executor and a registry that live in the service's process, for tests of the queue and
of the service around it. The real ones are tested with podman."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator
from pathlib import Path

from traitlets import Float, Integer, Unicode
from traitlets.config import LoggingConfigurable

from binder.builds import BuildExecutor, BuildRequest
from binder.errors import Failed
from binder.events import Event, event
from studovna.text import Text


class DoubleExecutor(BuildExecutor):
    """A "build" is some events over some time, and a file that says that the image is there.

    ``folder`` outlives the process, as the engine's pods do: ``<name>.running`` is a build. That of
    a repository named ``held`` goes on until there is a file ``let-go``, and that of ``asking`` has
    a ``.resources`` file.
    """

    folder = Unicode().tag(config=True)
    step_seconds = Float(0.05).tag(config=True)
    lines = Integer(3).tag(config=True)

    async def run(self, request: BuildRequest) -> AsyncGenerator[Event, None]:
        mark = Path(self.folder) / f"{request.name}.running"
        with (Path(self.folder) / "starts").open("a") as stream:
            stream.write(json.dumps({**request.to_dict(), "again": mark.exists()}) + "\n")
        mark.touch()
        leaving = False
        try:
            yield event("fetching", Text("Fetching {url}", url=request.repo_url))
            lines = {"long": 100, "longest": 100, "endless": 100_000, "held": 100_000}
            name = request.repo_url.rpartition("/")[2]
            for number in range(lines.get(name, self.lines)):
                await asyncio.sleep(self.step_seconds)
                if name == "held" and (Path(self.folder) / "let-go").exists():
                    break
                yield event("building", f"line {number} <b>\x1b[31mred\x1b[0m</b>")
            if "broken" in request.repo_url:
                raise Failed(Text("requirements.txt asks for a package that does not exist."))
            if "bug" in request.repo_url:
                raise ZeroDivisionError
            yield event("pushing", Text("Saving the image"))
            await asyncio.sleep(self.step_seconds)
            image = Path(self.folder) / "images" / request.image.replace("/", "%")
            image.parent.mkdir(exist_ok=True)
            image.write_text("cpul=1\nmeml=9999\nmemory=lots\n" if name == "asking" else "")
        except asyncio.CancelledError:
            leaving = True
            raise
        finally:
            if not leaving:
                mark.unlink(missing_ok=True)

    async def cancel(self, name: str) -> None:
        (Path(self.folder) / f"{name}.running").unlink(missing_ok=True)

    async def running(self) -> set[str]:
        return {name[:-8] for name in os.listdir(self.folder) if name.endswith(".running")}

    async def builder_info(self) -> dict[str, str]:
        return {"repo2docker-version": "double"}


class DoubleRegistry(LoggingConfigurable):
    """The images that the executor has left in its folder."""

    async def image_labels(self, image: str) -> dict[str, str] | None:
        folder = Path(self.config.DoubleExecutor.folder) / "images"
        try:
            return {"studovna.resources": (folder / image.replace("/", "%")).read_text()}
        except FileNotFoundError:
            return None

    async def healthy(self) -> bool:
        return True
