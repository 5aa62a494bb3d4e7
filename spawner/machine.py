"""What this machine has to offer servers: images that are there, and GPUs."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import yaml

from spawner.asking import Asking
from spawner.engine import EngineError
from spawner.podman_engine import PodmanEngine
from spawner.profile_list import Capabilities, GpuNode
from studovna.podman import Podman, PodmanError

log = logging.getLogger("jupyterhub.studovna")

CDI_FOLDERS = (Path("/etc/cdi"), Path("/var/run/cdi"))
"""Where the Container Device Interface describes devices.

https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md
"""
MAX_AGE = 10.0


def gpus(folders: tuple[Path, ...] = CDI_FOLDERS) -> list[str]:
    """The CDI names of the machine's GPUs (``nvidia.com/gpu=0``), the ``all`` device left out.

    NVIDIA names MIG slices ``0:1`` in the same kind as whole GPUs; those count as slices only
    where the specification says which profile they have, so here they are left out.
    """
    devices: set[str] = set()
    for file in sorted(spec for folder in folders for spec in folder.glob("*.*")):
        if file.suffix not in (".yaml", ".yml", ".json"):
            continue
        try:
            spec = yaml.safe_load(file.read_text())
            names = {str(device["name"]) for device in spec["devices"]}
            kind = str(spec["kind"])
        except (OSError, yaml.YAMLError, KeyError, TypeError):
            continue
        devices |= {f"{kind}={name}" for name in names if name.isdigit()}
    return sorted(devices)


class Machine:
    """The machine's capabilities, asked again when older than ``MAX_AGE`` seconds."""

    def __init__(
        self,
        podman: Podman,
        engine: PodmanEngine,
        registry: str = "",
        commands: Mapping[str, str] | None = None,
    ) -> None:
        self._podman = podman
        self._engine = engine
        self._registry = registry
        self._commands = commands or {}
        self._known = Capabilities(images=None, registry=registry, commands=self._commands)
        self._asking = Asking(self._ask, MAX_AGE)

    async def capabilities(self) -> Capabilities:
        """Images and GPUs; many who ask at once cost one question.

        When podman does not answer, what was known stays: pages are still shown, and a start then
        says what is wrong with podman itself.
        """
        try:
            self._known = await self._asking.answer()
        except (PodmanError, EngineError) as error:
            log.error("Podman cannot be asked what there is: %s", error)
        return self._known

    async def _ask(self) -> Capabilities:
        listed = json.loads(await self._podman.arun("images", "--format", "json") or "[]")
        images = {
            str(name): int(image["Size"]) for image in listed for name in image.get("Names") or ()
        }
        there = Counter(name.partition("=")[0] for name in self._engine.gpus)
        free = Counter(name.partition("=")[0] for name in await self._engine.free_gpus())
        node = GpuNode({}, there, free)
        return Capabilities([node], images, self._registry, self._commands)
