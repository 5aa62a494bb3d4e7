"""What needs rights over the files and processes of pods: folders and claims, and the last kill.

What is in a claim belongs to people: it may hold links to anywhere, change while we look, and it is
never followed here. Without root the files belong to subordinate ids, and only a process in
podman's user namespace can do this: `podman unshare python -I podman_files.py` reads one request on
its standard input. So this file needs nothing but the standard library.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import errno
import json
import os
import re
import shutil
import signal
import stat
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_MS_NOSUID, _MS_NODEV, _MS_BIND = 2, 4, 4096
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_GROUP_FOLDER = 0o2770

_libc = ctypes.CDLL(None, use_errno=True)


class UnsafePath(Exception):
    """A part of a path is a link or a file where a folder is needed; the argument is the part."""


# --- pods ---------------------------------------------------------------------------------------


def prepare(request: Mapping[str, Any]) -> None:
    """Make the folders of a pod: see podman_plan for the entries. Raises UnsafePath, OSError."""
    for one in request["claims"]:
        _prepare_claim(one["path"], one["gid"], one["always"])
    for one in request["empty"]:
        os.makedirs(one["path"], mode=0o700, exist_ok=True)
        _open_to_all(one["path"], one["gid"])
    for one in request["files"]:
        _write_file(one["path"], base64.b64decode(one["content"]), one["mode"], one["gid"])
    for one in request["shared_memory"]:
        _mount_memory(one["path"], one["size"], one["gid"])
    for one in request["pins"]:
        _pin(one["base"], one["parts"], one["path"], one["gid"])


def clear(folder: str) -> None:
    """Remove the folder of a pod. What is mounted there is let go first and never looked into."""
    mounts = os.path.join(folder, "mounts")
    try:
        entries = os.listdir(mounts)
    except FileNotFoundError:
        entries = []
    for entry in entries:
        path = os.path.join(mounts, entry)
        while _libc.umount2(os.fsencode(path), _MNT_DETACH | _UMOUNT_NOFOLLOW) == 0:
            pass
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOENT):
            raise OSError(code, os.strerror(code), path)
        # Only an empty folder goes: a person's files would otherwise be deleted through it.
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(path)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


def erase(path: str) -> None:
    """Remove a folder and everything in it; nothing when it is not there."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)


def _open_to_all(path: str, gid: int | None) -> None:
    if gid is not None:
        os.chown(path, -1, gid)
    os.chmod(path, 0o2777 if gid is not None else 0o777)


def _write_file(path: str, content: bytes, mode: int, gid: int | None) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "wb") as out:
        out.write(content)
        if gid is not None:
            os.fchown(file, -1, gid)
        os.fchmod(file, mode)


def _mount(source: str, target: str, kind: str | None, flags: int, options: str | None) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    data = None if options is None else options.encode()
    if _libc.mount(*encoded, ctypes.c_ulong(flags), data) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), target)


def _mount_memory(path: str, size: int | None, gid: int | None) -> None:
    os.makedirs(path, mode=0o700)
    options = ["mode=0777" if gid is None else f"mode=2777,gid={gid}"]
    if size is not None:
        options.append(f"size={size}")
    _mount("tmpfs", path, "tmpfs", _MS_NOSUID | _MS_NODEV, ",".join(options))


def _pin(base: str, parts: Sequence[str], path: str, gid: int | None) -> None:
    folder = os.open(base, _OPEN_FOLDER)
    try:
        for part in parts:
            inner = _step(folder, part, gid)
            os.close(folder)
            folder = inner
        os.makedirs(path, mode=0o700)
        _mount(f"/proc/self/fd/{folder}", path, None, _MS_BIND, None)
    finally:
        os.close(folder)


def _step(folder: int, part: str, gid: int | None) -> int:
    """Open a folder below another, made when it is absent, and never through a link."""
    try:
        os.mkdir(part, 0o700, dir_fd=folder)
        made = True
    except FileExistsError:
        made = False
    try:
        inner = os.open(part, _OPEN_FOLDER, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENOENT):
            raise UnsafePath(part) from error
        raise
    if made:
        above = os.fstat(folder)
        os.fchown(inner, -1, above.st_gid if gid is None else gid)
        os.fchmod(inner, stat.S_IMODE(above.st_mode) if gid is None else _GROUP_FOLDER)
    return inner


# --- claims -------------------------------------------------------------------------------------


def _prepare_claim(path: str, gid: int | None, always: bool) -> None:
    """Kubernetes' rule for fsGroup: OnRootMismatch, or always."""
    try:
        os.mkdir(path, 0o700)
        os.chmod(path, 0o777 if gid is None else 0o700)
    except FileExistsError:
        pass
    if gid is None:
        return
    folder = os.open(path, _OPEN_FOLDER)
    try:
        found = os.fstat(folder)
        if found.st_gid == gid and found.st_mode & _GROUP_FOLDER == _GROUP_FOLDER and not always:
            return
        for _, folders, files, inner in os.fwalk(".", dir_fd=folder, follow_symlinks=False):
            for name in (*folders, *files):
                with contextlib.suppress(FileNotFoundError):
                    _give(name, inner, gid)
        # The root last: it is what says that all the rest is done.
        os.fchown(folder, -1, gid)
        os.fchmod(folder, stat.S_IMODE(found.st_mode) | _GROUP_FOLDER)
    finally:
        os.close(folder)


def _give(name: str, folder: int, gid: int) -> None:
    entry = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        mode = os.fstat(entry).st_mode
        os.chown(name, -1, gid, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
            more = _GROUP_FOLDER if stat.S_ISDIR(mode) else 0o660
            os.chmod(f"/proc/self/fd/{entry}", stat.S_IMODE(mode) | more)
    finally:
        os.close(entry)


def measure(paths: Sequence[str], seconds: float) -> list[int | None]:
    """What the files below each path take on disk, in bytes; None for those it has no time for."""
    until = time.monotonic() + seconds
    return [_size(path, until) for path in paths]


def _size(path: str, until: float) -> int | None:
    total = 0
    several: set[tuple[int, int]] = set()
    for _, folders, files, inner in os.fwalk(path, follow_symlinks=False):
        if time.monotonic() > until:
            return None
        for name in (*folders, *files):
            with contextlib.suppress(FileNotFoundError):
                found = os.stat(name, dir_fd=inner, follow_symlinks=False)
                if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
                    if (found.st_dev, found.st_ino) in several:
                        continue
                    several.add((found.st_dev, found.st_ino))
                total += found.st_blocks * 512
    return total


# --- processes ----------------------------------------------------------------------------------


def kill(ids: Sequence[str], seconds: float) -> None:
    """Kill every process of some containers and wait until none is left; OSError after `seconds`.

    Podman kills the first one, and the kernel the rest with it. But that one may have to wait for a
    processor behind a thousand others within the container's limit, so the limit is lifted.
    """
    wanted = re.compile(
        "|".join(rf"/libpod-{re.escape(one)}(?:\.scope)?(?:/|$)" for one in ids), re.M
    )
    until = time.monotonic() + seconds
    lifted: set[str] = set()
    while found := _processes(wanted):
        for process, groups in found.items():
            if groups not in lifted:
                lifted.add(groups)
                _lift_limits(groups)
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        if time.monotonic() > until:
            raise OSError(errno.EBUSY, f"{len(found)} processes do not die", ids[0])
        time.sleep(0.1)


def _processes(wanted: re.Pattern[str]) -> dict[int, str]:
    """Process ids with their cgroups, of those whose cgroups match."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/cgroup") as file:
                groups = file.read()
                if wanted.search(groups):
                    found[int(entry)] = groups
    return found


def _lift_limits(groups: str) -> None:
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            writes = [
                (f"/sys/fs/cgroup{path}/cpu.max", "max"),
                (f"/sys/fs/cgroup{path}/cgroup.kill", "1"),
            ]
        elif "cpu" in controllers.split(","):
            writes = [(f"/sys/fs/cgroup/{controllers}{path}/cpu.cfs_quota_us", "-1")]
        else:
            continue
        for file, value in writes:
            with contextlib.suppress(OSError), open(file, "w") as out:
                out.write(value)


# --- in podman's user namespace -----------------------------------------------------------------

OPERATIONS: dict[str, Callable[..., Any]] = {
    "prepare": prepare,
    "clear": clear,
    "erase": erase,
    "measure": measure,
    "kill": kill,
}


def main() -> None:
    """One request on standard input, `[operation, arguments…]`; its answer on standard output."""
    operation, *arguments = json.loads(sys.stdin.read())
    answer: dict[str, Any]
    try:
        answer = {"result": OPERATIONS[operation](*arguments)}
    except UnsafePath as error:
        answer = {"unsafe": str(error)}
    except OSError as error:
        answer = {"errno": error.errno, "strerror": error.strerror, "filename": str(error.filename)}
    print(json.dumps(answer))


def unpack(answer: Mapping[str, Any]) -> Any:
    """The result in an answer of `main`, or its exception."""
    if "unsafe" in answer:
        raise UnsafePath(answer["unsafe"])
    if "errno" in answer:
        raise OSError(answer["errno"], answer["strerror"], answer["filename"])
    return answer["result"]


SCRIPT = Path(__file__).resolve()

if __name__ == "__main__":
    main()
