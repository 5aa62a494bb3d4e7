"""What the podman engine will do for one pod, as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

PullPolicy = Literal["Always", "IfNotPresent", "Never"]


@dataclasses.dataclass(frozen=True)
class ClaimFolder:
    """A claim whose files are given to `gid` unless its root folder is already (or always)."""

    name: str
    gid: int | None
    always: bool = False


@dataclasses.dataclass(frozen=True)
class EmptyFolder:
    """A folder of the pod on disk, writable by all of its containers."""

    path: Path
    gid: int | None


@dataclasses.dataclass(frozen=True)
class SharedMemory:
    """A folder of the pod in memory, for several containers; `size` in bytes, None: no bound."""

    path: Path
    size: int | None
    gid: int | None


@dataclasses.dataclass(frozen=True)
class Pin:
    """A folder below `base`, made when it is absent, held fast at `path` by a bind mount.

    What is below `base` belongs to people. Podman looks a path up again each time it uses it, and a
    link put there in between would lead it out of the volume; a bind mount stays where it was made.
    """

    base: Path
    parts: tuple[str, ...]
    path: Path
    gid: int | None


@dataclasses.dataclass(frozen=True)
class DataFile:
    """One file of a Secret or ConfigMap volume."""

    path: Path
    content: bytes = dataclasses.field(repr=False)
    mode: int
    gid: int | None


@dataclasses.dataclass(frozen=True)
class ContainerPlan:
    """One container: `argv` follows `podman create` or `podman run --detach`.

    `env_file` is written to `env_path` for podman to read and removed again; `environment` is given
    to podman's own process (values of several lines, which the file cannot hold). Neither can be
    seen by other users of the machine.
    """

    name: str
    podman_name: str
    init: bool
    image: str
    pull: PullPolicy
    argv: tuple[str, ...]
    folder: Path
    env_path: Path
    env_file: str = dataclasses.field(repr=False)
    environment: Mapping[str, str] = dataclasses.field(repr=False)
    must_not_be_root: bool


@dataclasses.dataclass(frozen=True)
class Plan:
    """One pod. `containers` are in the order of their start; the first main one has the network."""

    name: str
    labels: Mapping[str, str]
    folder: Path
    network: str
    containers: tuple[ContainerPlan, ...]
    claims: tuple[ClaimFolder, ...] = ()
    empty: tuple[EmptyFolder, ...] = ()
    shared_memory: tuple[SharedMemory, ...] = ()
    pins: tuple[Pin, ...] = ()
    files: tuple[DataFile, ...] = ()
    gpus: tuple[str, ...] = ()
    folders: tuple[Path, ...] = ()

    @property
    def init(self) -> tuple[ContainerPlan, ...]:
        return tuple(one for one in self.containers if one.init)

    @property
    def main(self) -> tuple[ContainerPlan, ...]:
        return tuple(one for one in self.containers if not one.init)
