"""The third container: one layer of what the other two left, on top of the site's image.

Nothing of the repository's is run here. Files are read without following links. The image gets its
name last of all, so a half-pushed one has none.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import json
import os
import re
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from . import framework, watch
from .detect import MAX_RESOURCES
from .paths import ENV, JOB, LAB, LIBRARY, PLAN, PUSH_SECRET, REPO, TMP, site_packages
from .registry import Answered, Registry, open_bytes, open_file, retried
from .report import Refusal, Text, say, say_text

OVERLAY = Path(__file__).parent / "overlay"
_BUILDPACKS = LIBRARY / "repo2docker/buildpacks"
_STARTS = ("repo2docker-entrypoint", "python3-login")  # what a `start` is run with
UID, GID = 1000, 100
MAX_PLAN = 4 * 2**20
TIME = 1_577_836_800  # of every file: the same contents are the same layer
_LAYER_KINDS = {
    "application/vnd.oci.image.manifest.v1+json": "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.docker.distribution.manifest.v2+json": (
        "application/vnd.docker.image.rootfs.diff.tar.gzip"
    ),
}


def main() -> None:
    job = json.loads(JOB.read_text())
    plan = read_plan(PLAN / "plan.json")
    if plan["stock"] and job["stock"]:
        return  # a builder's
    watch.start([TMP], job["disk"], job["files"])
    credential = json.loads((PUSH_SECRET / "credential.json").read_text())
    layer = Layer(TMP / "layer.tar.gz", job["disk"])
    layer.write()
    say_text("note", Text("One layer of {size} MB", size=f"{layer.size / 1e6:.1f}"))

    def push() -> str:
        registry = Registry(job["registry"], credential["username"], credential["password"])
        return push_image(registry, job, plan, layer)

    try:
        digest = retried(push)
    except Answered as error:
        if error.status in (401, 403):
            raise Refusal(
                Text("The registry refuses to take the image: the site may not write there.")
            ) from error
        raise Refusal(
            Text("The registry failed while the image was pushed: {said}", said=str(error)[:300])
        ) from error
    except (http.client.HTTPException, OSError) as error:
        raise Refusal(
            Text("The registry cannot be reached: {said}", said=str(error)[:300])
        ) from error
    say("done", digest=digest, size=layer.size)


def read_plan(path: Path) -> dict[str, str]:
    """What of the plan is for the image. The repository's code may have changed it."""
    try:
        data = json.loads(path.read_text()) if path.stat().st_size < MAX_PLAN else {}
    except (OSError, ValueError):
        data = {}
    if not isinstance(data, dict):
        data = {}
    start, resources = str(data.get("start") or ""), str(data.get("resources") or "")
    return {
        "start": start if re.fullmatch(r"(?:\.?binder/)?start", start) else "",
        "resources": resources[:MAX_RESOURCES].replace("\0", ""),
        "stock": "yes" if data.get("stock") else "",
    }


# --- the layer ------------------------------------------------------------------------------------


class _Hashed:
    """A file to write to that knows the hash of what went through."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        self.size += len(data)
        self._file.write(data)
        return len(data)

    def flush(self) -> None:
        self._file.flush()


class Layer:
    """The layer's file; `digest` is of the compressed, `diff_id` of the plain tar."""

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self.limit = limit
        self.digest = self.diff_id = ""
        self.size = 0

    def write(self) -> None:
        """Raises Refusal when a file cannot be put into an image."""
        with self.path.open("wb") as file:
            packed = _Hashed(file)
            with gzip.GzipFile("", "wb", 1, packed, mtime=0) as zipped:
                plain = _Hashed(zipped)
                out = cast(Any, plain)  # a stream is only ever written to
                with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
                    self._fill(tar)
        self.digest = f"sha256:{packed.hash.hexdigest()}"
        self.diff_id = f"sha256:{plain.hash.hexdigest()}"
        self.size = packed.size

    def _fill(self, tar: tarfile.TarFile) -> None:
        site = str(site_packages(LAB)).lstrip("/")
        _add_data(tar, f"{site}/studovna_repository.pth", OVERLAY / "studovna_repository.pth")
        _add_data(tar, f"{site}/studovna_repository.py", OVERLAY / "studovna_repository.py")
        for program in (OVERLAY / "studovna-repository", *map(_BUILDPACKS.joinpath, _STARTS)):
            _add_data(tar, f"usr/local/bin/{program.name}", program, 0o755)
        _add_data(tar, "etc/profile.d/zz-studovna-repository.sh", OVERLAY / "profile.sh")
        # For programs below the repository's prefix, the Lab's kernels and pages are the system's.
        link = tarfile.TarInfo("usr/local/share/jupyter")
        link.type, link.linkname, link.mtime = tarfile.SYMTYPE, f"{LAB}/share/jupyter", TIME
        tar.addfile(link)
        total = 0
        links: dict[tuple[int, int], str] = {}
        for folder in (ENV, REPO):
            for path, name, info in walk(folder):
                member = _member(path, name, info, links)
                if member is None:
                    say_text("note", Text("Left out, being no file: {name}", name=name))
                    continue
                if folder == ENV:
                    _settle(member)
                total += member.size
                if total > self.limit:
                    raise Refusal(
                        Text(
                            "The repository and what it installs are larger than {limit} GB.",
                            limit=f"{self.limit / 10**9:.3g}",
                        )
                    )
                _add(tar, member, path)


def walk(folder: Path) -> Iterator[tuple[str, str, os.stat_result]]:
    """Every file below a folder, itself first, in one order: path, name in the layer, lstat."""
    yield os.fspath(folder), os.fspath(folder).lstrip("/"), os.lstat(folder)
    waiting = [os.fspath(folder)]
    while waiting:
        here = waiting.pop()
        with os.scandir(here) as entries:
            found = sorted(entries, key=lambda entry: os.fsencode(entry.name))
        for entry in found:
            info = entry.stat(follow_symlinks=False)
            yield entry.path, entry.path.lstrip("/"), info
            if stat.S_ISDIR(info.st_mode):
                waiting.append(entry.path)


def _member(
    path: str, name: str, info: os.stat_result, links: dict[tuple[int, int], str]
) -> tarfile.TarInfo | None:
    """The entry of one file; None for what no image needs (sockets, pipes)."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise Refusal(Text("The name of the file {name} is not UTF-8.", name=ascii(name))) from None
    # A file of such a name in a layer means to a registry's client that another one is deleted.
    if os.path.basename(name).startswith(".wh."):
        raise Refusal(Text("The file {name} cannot be part of an image.", name=name))
    member = tarfile.TarInfo(name)
    member.uid, member.gid, member.mtime = UID, GID, TIME
    member.mode = stat.S_IMODE(info.st_mode) & 0o777
    if stat.S_ISDIR(info.st_mode):
        member.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(info.st_mode):
        member.type, member.linkname = tarfile.SYMTYPE, os.readlink(path)
    elif stat.S_ISREG(info.st_mode):
        key = (info.st_dev, info.st_ino)
        if info.st_nlink > 1 and key in links:
            member.type, member.linkname = tarfile.LNKTYPE, links[key]
        else:
            member.size = info.st_size
            links[key] = name
    else:
        return None
    return member


def _settle(member: tarfile.TarInfo) -> None:
    """A file of the environment as one of the system's: what people install goes to their homes."""
    member.uid = member.gid = 0
    if not member.issym():
        execute = 0o111 if member.mode & 0o100 or member.isdir() else 0
        member.mode = member.mode & 0o755 | 0o444 | execute


def _add(tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
    if not member.isreg():
        tar.addfile(member)
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise Refusal(
            Text("The file {name} cannot be read: {said}.", name=member.name, said=error.strerror)
        ) from error
    with os.fdopen(descriptor, "rb") as file:
        tar.addfile(member, file)


def _add_data(tar: tarfile.TarFile, name: str, source: Path, mode: int = 0o644) -> None:
    data = source.read_bytes()
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(data), mode, TIME
    tar.addfile(member, io.BytesIO(data))


# --- the image ------------------------------------------------------------------------------------


def push_image(registry: Registry, job: dict[str, Any], plan: dict[str, Any], layer: Layer) -> str:
    """Put the base's layers, ours and a configuration together; the digest of the image."""
    base, name = job["base"], job["name"]
    base_manifest, kind = registry.manifest(base, job["base_tag"])
    config = json.loads(registry.blob(base, base_manifest["config"]["digest"]))
    for entry in base_manifest["layers"]:
        digest = entry["digest"]
        if not registry.mount(name, digest, base) and not registry.has(name, digest):
            _copy(registry, base, name, entry)
    registry.upload(name, layer.digest, layer.size, open_file(layer.path))
    version = framework.recorded()["version"]
    new = configuration(config, job, plan, layer.diff_id, version)
    data = json.dumps(new, sort_keys=True).encode()
    config_digest = "sha256:" + hashlib.sha256(data).hexdigest()
    registry.upload(name, config_digest, len(data), open_bytes(data))
    manifest = {
        "schemaVersion": 2,
        "mediaType": kind,
        "config": {
            "mediaType": base_manifest["config"]["mediaType"],
            "digest": config_digest,
            "size": len(data),
        },
        "layers": [
            *base_manifest["layers"],
            {"mediaType": _LAYER_KINDS[kind], "digest": layer.digest, "size": layer.size},
        ],
    }
    return registry.put_manifest(name, job["tag"], json.dumps(manifest).encode(), kind)


def _copy(registry: Registry, base: str, name: str, entry: dict[str, Any]) -> None:
    """A registry that does not lend blobs between its repositories: down and up again."""
    size = f"{entry['size'] / 1e6:.0f}"
    say_text("note", Text("Copying a layer of {size} MB to the image", size=size))
    path = TMP / "blob"
    registry.download(base, entry["digest"], path)
    registry.upload(name, entry["digest"], entry["size"], open_file(path))
    path.unlink()


def configuration(
    base: dict[str, Any], job: dict[str, Any], plan: dict[str, Any], diff_id: str, version: str
) -> dict[str, Any]:
    """The image's configuration: the base's, with our layer, labels and entry point. Pure.

    `version` is repo2docker's.
    """
    new: dict[str, Any] = json.loads(json.dumps(base))
    inner = new.setdefault("config", {})
    env = dict(one.split("=", 1) for one in inner.get("Env") or [])
    env["PATH"] = f"{ENV}/bin:" + env.get("PATH", "/usr/local/bin:/usr/bin:/bin")
    env |= {
        "JUPYTER_PATH": f"{ENV}/share/jupyter:{REPO}/.local/share/jupyter",
        "JUPYTER_CONFIG_PATH": f"{ENV}/etc/jupyter",
        "NB_PYTHON_PREFIX": str(ENV),
        "KERNEL_PYTHON_PREFIX": str(ENV),
        "REPO_DIR": str(REPO),
        "REPO_NAME": job["folder"],
        "REPO_REF": job["ref"],
    }
    if plan["start"]:
        env["R2D_ENTRYPOINT"] = f"{REPO}/{plan['start']}"
    inner["Env"] = [f"{name}={value}" for name, value in env.items()]
    labels = {
        "repo2docker.repo": job["repo_url"],
        "repo2docker.ref": job["ref"],
        "repo2docker.version": version,
    }
    if plan["resources"]:
        labels["studovna.resources"] = plan["resources"]
    inner["Labels"] = (inner.get("Labels") or {}) | labels
    inner["Entrypoint"] = ["tini", "-g", "--", "/usr/local/bin/studovna-repository"]
    inner["Cmd"] = inner.get("Cmd") or ["jupyterhub-singleuser"]
    new["rootfs"]["diff_ids"] = [*new["rootfs"]["diff_ids"], diff_id]
    said = re.sub(r"[^\x20-\x7e]", "", f"{job['repo_url']} at {job['ref']}")[:300]
    history = {"created": base.get("created"), "created_by": "studovna", "comment": said}
    new["history"] = [*new.get("history", []), history]
    return new
