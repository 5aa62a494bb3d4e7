"""Volumes of a pod: which folders there must be, and podman's options for their mounts. Pure."""

from __future__ import annotations

import base64
import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kubernetes_asyncio.client import V1Secret

from spawner.engine import PodData, UntranslatableField
from spawner.manifest import Fields, plain, quantity
from spawner.podman_plan import ClaimFolder, DataFile, EmptyFolder, Pin, SharedMemory
from studovna.text import Text

NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")
METADATA_MEANINGLESS = {
    "namespace": "a site is its own namespace",
    "creationTimestamp": "it is output of the API",
}
CLAIM_NOTHING_ELSE = Text("podman's claims are folders on this machine")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the translation has to know of the site.

    `gpus` are the free devices, CDI name → resource; `ca_bundle` is mounted into every container;
    `folders` are those of this machine that pods may mount, read-only.
    """

    site: str
    state: Path
    gpus: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ca_bundle: Path | None = None
    folders: Sequence[Path] = ()

    def pod_folder(self, name: str) -> Path:
        return self.state / "engine" / "pods" / name

    def claim_data(self, name: str) -> Path:
        return self.state / "claims" / name / "data"


@dataclasses.dataclass(frozen=True)
class Volume:
    """A volume: a folder of this machine, or memory of one container (`path` is None)."""

    path: Path | None
    read_only: bool = False
    size: int | None = None
    trusted: bool = False


@dataclasses.dataclass
class PodBuild:
    """What is collected while the pod is read."""

    settings: Settings
    name: str
    labels: dict[str, str]
    annotations: dict[str, str]
    folder: Path
    data: Mapping[tuple[str, str], Mapping[str, bytes]]
    gid: int | None = None
    volumes: dict[str, Volume] = dataclasses.field(default_factory=dict)
    claims: dict[str, ClaimFolder] = dataclasses.field(default_factory=dict)
    empty: list[EmptyFolder] = dataclasses.field(default_factory=list)
    shared_memory: list[SharedMemory] = dataclasses.field(default_factory=list)
    pins: list[Pin] = dataclasses.field(default_factory=list)
    files: list[DataFile] = dataclasses.field(default_factory=list)
    gpus: list[str] = dataclasses.field(default_factory=list)
    host_folders: list[Path] = dataclasses.field(default_factory=list)


def read_data(objects: Sequence[PodData]) -> dict[tuple[str, str], dict[str, bytes]]:
    found: dict[tuple[str, str], dict[str, bytes]] = {}
    for one in objects:
        fields = plain(one)
        name = fields["metadata"]["name"]
        if isinstance(one, V1Secret):
            content = {key: base64.b64decode(v) for key, v in fields.get("data", {}).items()}
            content |= {key: v.encode() for key, v in fields.get("stringData", {}).items()}
            found["secret", name] = content
        else:
            content = {key: v.encode() for key, v in fields.get("data", {}).items()}
            content |= {key: base64.b64decode(v) for key, v in fields.get("binaryData", {}).items()}
            found["configMap", name] = content
    return found


def mount_counts(containers: Sequence[Fields]) -> dict[str, int]:
    """How often each volume is mounted; twice for a sub-path, which needs a real folder."""
    counts: dict[str, int] = {}
    for fields in containers:
        for mount in fields.look("volumeMounts") or []:
            if isinstance(mount, dict):
                name = str(mount.get("name"))
                counts[name] = counts.get(name, 0) + (2 if mount.get("subPath") else 1)
    return counts


def read_volumes(spec: Fields, made: PodBuild, always: bool, counts: Mapping[str, int]) -> None:
    for fields in spec.each("volumes"):
        name = fields.required("name")
        if not NAME.fullmatch(name) or name in made.volumes:
            raise fields.refused("name", Text("it must be a DNS name, and there once"))
        if (empty := fields.inner("emptyDir")) is not None:
            made.volumes[name] = _empty_dir(empty, made, name, counts.get(name, 0))
        elif (claim := fields.inner("persistentVolumeClaim")) is not None:
            made.volumes[name] = _claim(claim, made, always)
        elif (secret := fields.inner("secret")) is not None:
            made.volumes[name] = _data_volume(secret, made, name, "secret", "secretName")
        elif (config := fields.inner("configMap")) is not None:
            made.volumes[name] = _data_volume(config, made, name, "configMap", "name")
        elif (folder := fields.inner("hostPath")) is not None:
            made.volumes[name] = _folder(folder, made)
        fields.end()
        if name not in made.volumes:
            raise UntranslatableField(fields.path, Text("it does not say what kind it is"))


def _empty_dir(fields: Fields, made: PodBuild, name: str, mounts: int) -> Volume:
    medium = fields.text("medium")
    limit = fields.raw("sizeLimit")
    size = None if limit is None else int(quantity(limit, fields.at("sizeLimit")))
    fields.end()
    if medium == "Memory":
        if mounts <= 1:
            return Volume(None, size=size)
        path = made.folder / "mounts" / f"volume_{name}"
        made.shared_memory.append(SharedMemory(path, size, made.gid))
        return Volume(path)
    if medium not in (None, ""):
        raise fields.refused("medium", Text("it must be empty or Memory"))
    if size is not None:
        raise fields.refused("sizeLimit", Text("a folder on disk cannot be bounded here"))
    path = made.folder / "empty" / name
    made.empty.append(EmptyFolder(path, made.gid))
    return Volume(path)


def _claim(fields: Fields, made: PodBuild, always: bool) -> Volume:
    name = fields.required("claimName")
    if not NAME.fullmatch(name):
        raise fields.refused("claimName", Text("it must be a DNS name in lower case"))
    read_only = fields.flag("readOnly")
    fields.end()
    gid = None if read_only else made.gid
    old = made.claims.get(name)
    made.claims[name] = ClaimFolder(name, old.gid if old and gid is None else gid, always)
    return Volume(made.settings.claim_data(name), read_only)


def _folder(fields: Fields, made: PodBuild) -> Volume:
    path = Path(fields.required("path"))
    fields.only("type", ["Directory"], Text("it must be a folder"))
    if path not in made.settings.folders:
        raise fields.refused("path", Text("the site has no volume at {path}", path=path))
    fields.end()
    made.host_folders.append(path)
    return Volume(path, read_only=True)


def _data_volume(fields: Fields, made: PodBuild, name: str, kind: str, key: str) -> Volume:
    source = fields.required(key)
    optional = fields.flag("optional")
    mode = fields.number("defaultMode", 0, 0o777)
    content = made.data.get((kind, source))
    if content is None and not optional:
        raise fields.refused(key, Text("{name} was not given with the pod", name=source))
    files: dict[str, tuple[str, int | None]] = {one: (one, None) for one in content or {}}
    items = list(fields.each("items"))
    if items:
        files = {}
        for item in items:
            item_key = item.required("key")
            files[item.required("path")] = (item_key, item.number("mode", 0, 0o777))
            item.end()
    folder = made.folder / "data" / name
    made.empty.append(EmptyFolder(folder, None))
    for path, (item_key, item_mode) in files.items():
        if "/" in path or path in (".", "..") or not path:
            raise UntranslatableField(fields.path, Text("{path} is not a file name", path=path))
        if content is None or item_key not in content:
            raise UntranslatableField(
                fields.path, Text("{name} has no key {key}", name=source, key=item_key)
            )
        bits = item_mode if item_mode is not None else mode if mode is not None else 0o644
        if made.gid is not None:
            bits |= 0o440
        made.files.append(DataFile(folder / path, content[item_key], bits, made.gid))
    fields.end()
    return Volume(folder, read_only=True, trusted=True)


def read_mounts(fields: Fields, made: PodBuild, container: str, memory: int | None) -> list[str]:
    argv: list[str] = []
    seen: set[str] = set()
    for index, mount in enumerate(fields.each("volumeMounts")):
        name = mount.required("name")
        target = inner_path(mount.required("mountPath"), mount.at("mountPath"))
        read_only = mount.flag("readOnly")
        sub = mount.text("subPath")
        mount.only("mountPropagation", ["None"], Text("mounts are not passed on"))
        mount.end()
        volume = made.volumes.get(name)
        if volume is None:
            raise mount.refused("name", Text("there is no volume {name}", name=name))
        if target in seen:
            raise mount.refused("mountPath", Text("it is there twice"))
        seen.add(target)
        if volume.path is None:
            argv += _memory_mount(target, volume.size or memory, read_only)
            continue
        path = volume.path
        if sub:
            path = _sub_path(sub, mount.at("subPath"), volume, made, f"pin_{container}_{index}")
        options = "ro" if read_only or volume.read_only else "rw"
        argv += ["--volume", f"{path}:{target}:{options},nosuid,nodev"]
    return argv


def _memory_mount(target: str, size: int | None, read_only: bool) -> list[str]:
    if target == "/dev/shm" and not read_only:  # noqa: S108 - a path in the container
        return ["--shm-size", str(size or 0)]
    options = ["type=tmpfs", f"destination={target}", "tmpfs-mode=0777", "notmpcopyup"]
    if size:
        options.append(f"tmpfs-size={size}")
    if read_only:
        options.append("ro")
    return ["--mount", ",".join(options)]


def _sub_path(sub: str, where: str, volume: Volume, made: PodBuild, pin: str) -> Path:
    assert volume.path is not None
    parts = tuple(part for part in sub.split("/") if part not in ("", "."))
    if sub.startswith("/") or ".." in parts or not parts or len(parts) > 20 or len(sub) > 1000:
        raise UntranslatableField(where, Text("it must be a path below the volume, without .."))
    if volume.trusted:
        return volume.path.joinpath(*parts)
    path = made.folder / "mounts" / pin
    made.pins.append(Pin(volume.path, parts, path, None if volume.read_only else made.gid))
    return path


def inner_path(path: str, where: str) -> str:
    """A path in a container that podman's option syntax can hold."""
    if not re.fullmatch(r"/[^:,\x00-\x1f]{0,1000}", path) or ".." in path.split("/"):
        raise UntranslatableField(where, Text("it must be an absolute path without .. : and ,"))
    return path.rstrip("/") or "/"


def claim_request(manifest: Any) -> tuple[str, dict[str, str], int | None]:
    """Name, labels and requested bytes of a V1PersistentVolumeClaim; raises UntranslatableField."""
    top = Fields(plain(manifest), "")
    top.only("apiVersion", ["v1"], Text("it must be v1"))
    top.only("kind", ["PersistentVolumeClaim"], Text("it must be PersistentVolumeClaim"))
    top.meaningless({"status": "it is output of the API"})
    metadata = top.inner("metadata") or Fields({}, "metadata")
    spec = top.inner("spec") or Fields({}, "spec")
    top.end()
    name = metadata.required("name")
    if not NAME.fullmatch(name):
        raise metadata.refused("name", Text("it must be a DNS name in lower case"))
    labels = metadata.labels("labels")
    metadata.meaningless({"annotations": "nothing reads them here"} | METADATA_MEANINGLESS)
    metadata.end()
    resources = spec.inner("resources") or Fields({}, "spec.resources")
    requests = resources.labels("requests")
    resources.meaningless({"limits": "a folder cannot be bounded"})
    resources.end()
    size = requests.get("storage")
    spec.meaningless(
        {
            "accessModes": "every pod of this machine can mount it",
            "storageClassName": "there is one kind of storage",
            "volumeMode": "a folder is a filesystem",
        }
    )
    for key in ("dataSource", "dataSourceRef", "selector", "volumeName"):
        spec.only(key, [], CLAIM_NOTHING_ELSE)
    spec.end()
    bytes_wanted = None if size is None else int(quantity(size, "spec.resources.requests.storage"))
    return name, labels, bytes_wanted
