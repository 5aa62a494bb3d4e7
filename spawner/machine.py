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

_GPU = re.compile(r"GPU\s+(\d+):\s+(.+?)\s+\(UUID:\s*([0-9A-Za-z/-]+)\)")
_SLICE = re.compile(r"\s+MIG\s+(\S+)\s+Device\s+(\d+):\s+\(UUID:\s*([0-9A-Za-z/-]+)\)")
"""What ``nvidia-smi -L`` prints: a line for each GPU, and below it one for each of its slices.

https://docs.nvidia.com/datacenter/tesla/mig-user-guide/
"""
SMI_SECONDS = 30.0


def gpus(folders: tuple[Path, ...] = CDI_FOLDERS) -> dict[str, str]:
    """The machine's GPUs: CDI name → resource, as on Kubernetes; the ``all`` device left out.

    A whole GPU is ``nvidia.com/gpu=0``, and so is its resource's name. NVIDIA describes MIG slices
    as devices of the same kind, ``0:1``, without their profile, which is asked of nvidia-smi:
    ``nvidia.com/mig-1g.10gb``. Each may be there by its UUID, too, or only by that.
    """
    devices = _described(folders)
    known = nvidia_gpus(_smi()) if any(kind == NVIDIA for kind, _ in devices) else {}
    found = {}
    for kind, name in sorted(devices):
        index, resource = name, kind if name.isdigit() else ""
        if kind == NVIDIA and known:
            index, resource = known.get(name, (name, ""))
        if resource and (name == index or (kind, index) not in devices):
            found[f"{kind}={name}"] = resource
        elif kind == NVIDIA and not resource and ":" in name:
            log.error("The GPU %s is not given out: nvidia-smi -L does not tell its profile", name)
    return found


def nvidia_gpus(listing: str) -> dict[str, tuple[str, str]]:
    """Index and resource of what servers can have of ``nvidia-smi -L``, by index and by UUID.

    A GPU with slices is given out in slices only. Their resources are named as by NVIDIA's device
    plugin for Kubernetes.

    >>> nvidia_gpus("GPU 0: A30 (UUID: GPU-1)\\n  MIG 1g.6gb  Device  3: (UUID: MIG-2)")
    {'0:3': ('0:3', 'nvidia.com/mig-1g.6gb'), 'MIG-2': ('0:3', 'nvidia.com/mig-1g.6gb')}
    """
    found: dict[str, tuple[str, str]] = {}
    gpu = uuid = ""
    for line in listing.splitlines():
        if whole := _GPU.match(line):
            gpu, _, uuid = whole.groups()
            found |= {gpu: (gpu, NVIDIA), uuid: (gpu, NVIDIA)}
        elif part := _SLICE.match(line):
            for name in (gpu, uuid):
                found.pop(name, None)
            profile, number, slice_uuid = part.groups()
            one = (f"{gpu}:{number}", "nvidia.com/mig-" + profile.replace("+", "."))
            found |= {one[0]: one, slice_uuid: one}
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
