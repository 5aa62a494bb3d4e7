"""What this machine has to offer servers: images that are there, and GPUs."""

from __future__ import annotations

import functools
import json
import logging
import re
import subprocess  # noqa: S404 - argv lists only, never a shell
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import yaml

from spawner.asking import Asking
from spawner.engine import EngineError
from spawner.podman_engine import PodmanEngine
from spawner.profile_list import GPU_PRODUCT, Capabilities, GpuNode
from studovna.podman import Podman, PodmanError
from studovna.system import find_program

log = logging.getLogger("jupyterhub.studovna")

CDI_FOLDERS = (Path("/etc/cdi"), Path("/var/run/cdi"))
"""Where the Container Device Interface describes devices.

https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md
"""
NVIDIA = "nvidia.com/gpu"
MAX_AGE = 10.0


_GPU = re.compile(r"GPU\s+(\d+):\s+(.+?)\s+\(UUID:")
_SLICE = re.compile(r"\s+MIG\s+(\S+)\s+Device\s+(\d+):\s+\(UUID:\s*([0-9A-Za-z/-]+)\)")
"""A line of a slice in what ``nvidia-smi -L`` prints, below the line of its GPU.

https://docs.nvidia.com/datacenter/tesla/mig-user-guide/
"""
SMI_SECONDS = 30.0


def gpus(folders: tuple[Path, ...] = CDI_FOLDERS) -> dict[str, str]:
    """The machine's GPUs: CDI name → resource, as on Kubernetes; the ``all`` device left out.

    A whole GPU is ``nvidia.com/gpu=0``, and so is its resource's name. NVIDIA describes MIG slices
    as devices of the same kind, ``0:1`` or by UUID, without their profile, which is asked of
    nvidia-smi: ``nvidia.com/mig-1g.10gb``. What it does not know is left out.
    """
    devices = _described(folders)
    slices = mig_slices(_smi()) if devices else {}
    sliced = {name.partition(":")[0] for name in slices if ":" in name}
    found = {}
    for kind, name in sorted(devices):
        if name.isdigit() and not (kind == NVIDIA and name in sliced):
            found[f"{kind}={name}"] = kind
        elif kind == NVIDIA and ":" in name and name not in slices:
            log.error("The GPU %s is not given out: nvidia-smi -L does not tell its profile", name)
        elif kind == NVIDIA and name in slices:
            # As NVIDIA's device plugin for Kubernetes names it.
            found[f"{kind}={name}"] = "nvidia.com/mig-" + slices[name].replace("+", ".")
    return found


def mig_slices(listing: str) -> dict[str, str]:
    """Profiles of MIG slices by both names that CDI may give them, from ``nvidia-smi -L``.

    >>> mig_slices("GPU 0: A100 (UUID: GPU-1)\\n  MIG 1g.10gb  Device  3: (UUID: MIG-2)")
    {'0:3': '1g.10gb', 'MIG-2': '1g.10gb'}
    """
    found: dict[str, str] = {}
    gpu = ""
    for line in listing.splitlines():
        if whole := _GPU.match(line):
            gpu = whole[1]
        elif part := _SLICE.match(line):
            profile, number, uuid = part.groups()
            found |= {f"{gpu}:{number}": profile, uuid: profile}
    return found


def labels() -> dict[str, str]:
    """The machine's labels, as a node's of a cluster: the model of its GPUs, if they have one."""
    return product_label(_smi())


def product_label(listing: str) -> dict[str, str]:
    """The model that all GPUs in the output of ``nvidia-smi -L`` have; empty where they differ.

    >>> product_label("GPU 0: NVIDIA A40 (UUID: GPU-1)\\nGPU 1: NVIDIA A40 (UUID: GPU-2)")
    {'nvidia.com/gpu.product': 'NVIDIA-A40'}
    """
    found = {gpu[2] for line in listing.splitlines() if (gpu := _GPU.match(line))}
    return {GPU_PRODUCT: "-".join(found.pop().split())} if len(found) == 1 else {}


@functools.cache
def _smi() -> str:
    program = find_program("nvidia-smi")
    if program is None:
        return ""
    try:
        return subprocess.run(  # noqa: S603
            [program, "-L"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
            timeout=SMI_SECONDS,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        log.error("nvidia-smi does not tell what GPUs there are: %s", error)
        return ""


def _described(folders: tuple[Path, ...]) -> set[tuple[str, str]]:
    """Kinds and names of the devices that the Container Device Interface describes."""
    devices: set[tuple[str, str]] = set()
    for file in sorted(spec for folder in folders for spec in folder.glob("*.*")):
        if file.suffix not in (".yaml", ".yml", ".json"):
            continue
        try:
            spec = yaml.safe_load(file.read_text())
            names = {str(device["name"]) for device in spec["devices"]}
            kind = str(spec["kind"])
        except (OSError, yaml.YAMLError, KeyError, TypeError):
            continue
        devices |= {(kind, name) for name in names}
    return devices


class Machine:
    """The machine's capabilities, asked again when older than ``MAX_AGE`` seconds."""

    def __init__(
        self,
        podman: Podman,
        engine: PodmanEngine,
        registry: str = "",
        commands: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self._podman = podman
        self._engine = engine
        self._registry = registry
        self._commands = commands or {}
        self._labels = labels or {}
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
        there = Counter(self._engine.gpus.values())
        free = Counter(self._engine.gpus[name] for name in await self._engine.free_gpus())
        node = GpuNode(self._labels, there, free)
        return Capabilities([node], images, self._registry, self._commands)
