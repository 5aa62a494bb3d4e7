"""Where a builder works: mounts, a store and limits of its own.

`Room` is for the builder's process, which is in mount, process and network namespaces of its own
already (`binder.stock`); what is below it needs none of that.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import pwd
import re
import shutil
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from spawner.podman_translate import PIDS_LIMIT
from studovna.podman import Podman
from studovna.text import Text

CGROUPS = Path("/sys/fs/cgroup")
BLOBS = Path("/var/lib/containers/cache")  # what podman, as root, knows of registries' layers
POLICY = "policy.json"
RESERVE = 512 * 2**20  # bytes of the machine's disk that a build leaves free
_PERIOD = 100_000  # microseconds
_MS_NOSUID, _MS_NODEV, _MS_BIND = 2, 4, 4096
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,100}")

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class StockBuild:
    """A folder to be built into an image by repo2docker's own buildpacks.

    ``state`` is the site's state folder, ``folder`` the build's: the repository is in ``src``.
    ``name`` is the cgroup's. ``push_to`` is the image's name in the registry as it is reached from
    here; ``auth.json`` has the credential, ``insecure`` says that there is no TLS. ``memory``,
    ``disk`` and ``log`` in bytes, ``cpu`` in cores, ``seconds`` the longest it may take; ``limits``
    says who enforces them: ``cgroupfs``, ``systemd``, or nobody. ``visible`` are the images of this
    machine that may be built upon; ``store`` is where and what this machine's store is.
    """

    state: str
    folder: str
    name: str
    push_to: str
    memory: int
    cpu: float
    seconds: float
    disk: int
    log: int
    insecure: bool = False
    limits: str = "cgroupfs"
    store: Mapping[str, str] = field(default_factory=dict)
    visible: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    arguments: Sequence[str] = ()
    appendix: str = ""


class AnyRoom(Protocol):
    """What a builder has to know of where it works."""

    environment: dict[str, str]

    def argv(self, *args: str) -> list[str]:
        """The builder's command line, with the build's own store."""

    def show(self, names: Set[str]) -> None:
        """Let the store see some of the images that are here already."""

    def limits(self) -> list[str]:
        """The options of a build that bound a step, and where images may come from."""

    def out_of_memory(self) -> bool:
        """Whether a step came to the end of its memory."""


class Room:
    """Podman in the build's folder, and what holds it."""

    def __init__(self, podman: Podman, build: StockBuild) -> None:
        if not _NAME.fullmatch(build.name):
            raise ValueError(f"{build.name!r} is no name of a build")
        self._podman = podman
        self._build = build
        self._folder = folder = Path(build.folder)
        self.environment = podman.environment | {
            "TMPDIR": str(folder / "tmp"),
            "HOME": str(folder / "home"),
            "XDG_RUNTIME_DIR": "/run",
            "REGISTRY_AUTH_FILE": str(folder / "nobody.json"),
        }

    def enter(self) -> None:
        """Take what this process shares with others out of its sight. Raises OSError."""
        for name in ("tmp", "home", "root"):
            (self._folder / name).mkdir(mode=0o700)
        (self._folder / "nobody.json").write_text("{}")
        (self._folder / POLICY).write_text(json.dumps(registries_only(_policy_of_this_machine())))
        if self._build.limits == "cgroupfs":
            self._make_cgroups()
        for store in _stores_of_people(Path(self._build.store["root"])):
            _mount("tmpfs", str(store), "tmpfs", _MS_NOSUID | _MS_NODEV)
        if os.access(BLOBS, os.R_OK | os.X_OK):
            # So the layers of the site's image are lent by the registry, and not packed again. A
            # copy: it would forget that one when it knew of more builds that have them.
            mine = self._folder / "blobs"
            _copy_unlocked(BLOBS, mine)
            _mount(str(mine), str(BLOBS), None, _MS_BIND)
        for place in ("/run", "/dev/shm"):  # noqa: S108 - podman's state and its locks
            _mount("tmpfs", place, "tmpfs", _MS_NOSUID | _MS_NODEV)
        resolve = Path(os.path.realpath("/etc/resolv.conf"))
        if resolve.is_file():
            _mount(str(self._folder / "resolv.conf"), str(resolve), None, _MS_BIND)
        else:  # it was in /run
            resolve.parent.mkdir(parents=True, exist_ok=True)
            resolve.write_bytes((self._folder / "resolv.conf").read_bytes())
        os.environ["TMPDIR"] = self.environment["TMPDIR"]

    def show(self, names: Set[str]) -> None:
        """Let the store see some of this machine's images, and no others. Raises OSError.

        Nor is there a way around: what is seen takes the place of this machine's own list.
        """
        driver, root = self._build.store["driver"], Path(self._build.store["root"])
        images = self._folder / "images"
        mine, theirs = images / f"{driver}-images", root / f"{driver}-images"
        mine.mkdir(parents=True)
        for part in (driver, f"{driver}-layers"):
            (images / part).symlink_to(root / part)
        (mine / "images.lock").touch()
        all_of_them = json.loads((theirs / "images.json").read_text())
        shown = [one for one in all_of_them if names & set(one.get("names") or [])]
        for one in shown:
            one["names"] = [name for name in one["names"] if name in names]
            shutil.copytree(theirs / one["id"], mine / one["id"], symlinks=True)
        (mine / "images.json").write_text(json.dumps(shown))
        # A Dockerfile may name a store by its place: containers-storage:[overlay@/var/lib/…]image.
        _mount(str(mine), str(theirs), None, _MS_BIND)

    def argv(self, *args: str) -> list[str]:
        """`podman ARGS` with the build's own store. Raises PodmanError without podman."""
        driver = self._build.store["driver"]
        own = ["--root", str(self._folder / "root"), "--runroot", "/run/studovna"]
        own += ["--tmpdir", "/run/libpod", "--storage-driver", driver]
        own += ["--storage-opt", f"additionalimagestore={self._folder / 'images'}"]
        if self._build.store.get("program"):
            own += ["--storage-opt", f"{driver}.mount_program={self._build.store['program']}"]
        manager = "systemd" if self._build.limits == "systemd" else "cgroupfs"
        return self._podman.argv(*own, "--cgroup-manager", manager, *args)

    def limits(self) -> list[str]:
        """The options of `podman build` that bound a step, and where images may come from."""
        return [*self._limits(), f"--signature-policy={self._folder / POLICY}"]

    def _limits(self) -> list[str]:
        if self._build.limits == "cgroupfs":
            return ["--cgroup-parent", f"/{self._build.name}/run/step"]
        if self._build.limits == "systemd":
            memory, quota = str(self._build.memory), str(int(self._build.cpu * _PERIOD))
            bounds = ["--memory", memory, "--memory-swap", memory]
            bounds += ["--cpu-period", str(_PERIOD), "--cpu-quota", quota]
            return [*bounds, "--cgroup-parent", f"user.slice:studovna:{self._build.name}"]
        return []

    def out_of_memory(self) -> bool:
        """Whether a step came to the end of its memory; a guess where nobody counts."""
        return self._build.limits != "cgroupfs" or out_of_memory(self._build.name)

    def _make_cgroups(self) -> None:
        """One for this process and podman, one for the steps: each within the build's memory."""
        memory, quota = str(self._build.memory), str(int(self._build.cpu * _PERIOD))
        if (CGROUPS / "cgroup.controllers").is_file():
            top = CGROUPS / self._build.name
            top.mkdir(exist_ok=True)
            for folder in (CGROUPS, top):
                (folder / "cgroup.subtree_control").write_text("+memory +pids +cpu")
            (top / "cpu.max").write_text(f"{quota} {_PERIOD}")
            for part in ("builder", "run"):
                (top / part).mkdir(exist_ok=True)
                (top / part / "memory.max").write_text(memory)
                (top / part / "pids.max").write_text(str(PIDS_LIMIT))
                with contextlib.suppress(OSError):  # no swap is counted here
                    (top / part / "memory.swap.max").write_text("0")
            (top / "builder/cgroup.procs").write_text("0")
            return
        for controller in ("memory", "pids", "cpu"):
            top = CGROUPS / controller / self._build.name
            for part in ("builder", "run"):
                (top / part).mkdir(parents=True, exist_ok=True)
                if controller == "memory":
                    (top / part / "memory.limit_in_bytes").write_text(memory)
                    with contextlib.suppress(OSError):  # no swap is counted here
                        (top / part / "memory.memsw.limit_in_bytes").write_text(
                            str(self._build.memory)
                        )
                elif controller == "pids":
                    (top / part / "pids.max").write_text(str(PIDS_LIMIT))
            if controller == "cpu":
                (top / "cpu.cfs_period_us").write_text(str(_PERIOD))
                (top / "cpu.cfs_quota_us").write_text(quota)
            (top / "builder/cgroup.procs").write_text("0")


def registries_only(policy: Mapping[str, Any]) -> dict[str, Any]:
    """A machine's containers-policy.json(5), for one who may take images from registries alone.

    A Dockerfile may name any folder or archive of this machine as an image (``FROM dir:/…``), and
    so may an image that it begins with (``ONBUILD COPY --from=…``).
    """
    usual = policy.get("default") or [{"type": "insecureAcceptAnything"}]
    docker = {"": usual, **dict((policy.get("transports") or {}).get("docker") or {})}
    return {"default": [{"type": "reject"}], "transports": {"docker": docker}}


def _policy_of_this_machine() -> dict[str, Any]:
    try:
        return dict(json.loads(Path("/etc/containers/policy.json").read_text()))
    except FileNotFoundError:
        return {}


def _stores_of_people(ours: Path) -> list[Path]:
    """The stores that people of this machine have, but for the one that is built with."""
    found = {Path(one.pw_dir) / ".local/share/containers" for one in pwd.getpwall()}
    with contextlib.suppress(OSError):
        return [one for one in sorted(found) if one.is_dir() and not ours.is_relative_to(one)]
    return []


def out_of_memory(name: str) -> bool:
    """Whether the memory of a build's cgroup was used up."""
    found = 0
    for part in ("builder", "run"):
        with contextlib.suppress(OSError, ValueError):
            text = (CGROUPS / name / part / "memory.events").read_text()
            found += sum(int(n) for n in re.findall(r"^oom_kill (\d+)$", text, re.MULTILINE))
        with contextlib.suppress(OSError, ValueError):
            # The old hierarchy counts the kills of a cgroup that is gone nowhere.
            folder = CGROUPS / "memory" / name / part
            most = int((folder / "memory.max_usage_in_bytes").read_text())
            found += most >= int((folder / "memory.limit_in_bytes").read_text())
    return found > 0


def cgroup_folders(name: str) -> list[Path]:
    """A cgroup in every hierarchy that the machine has, inner ones first."""
    tops = [CGROUPS / name, *(folder / name for folder in CGROUPS.glob("*") if folder.is_dir())]
    found = [inner for top in tops if top.is_dir() for inner in (top, *top.rglob("*/"))]
    return sorted({one for one in found if one.is_dir()}, key=lambda one: -len(one.parts))


def remove_cgroup(name: str) -> None:
    """Remove a cgroup whose processes have been killed: the last may take a moment to be gone."""
    for _ in range(50):
        found = cgroup_folders(name)
        for folder in found:
            with contextlib.suppress(OSError):
                folder.rmdir()
        if not found:
            return
        time.sleep(0.1)


def over(folder: Path, limit: int) -> Text | None:
    """The sentence to end with when a build takes more than ``limit`` bytes of disk."""
    if size_on_disk(folder, limit) > limit:
        return Text(
            "The build needs more than {limit} GB of disk, which is as much as this site gives to "
            "one: make the repository or what it installs smaller.",
            limit=f"{limit / 10**9:.3g}",
        )
    disk = os.statvfs(folder)
    if disk.f_bavail * disk.f_frsize < RESERVE:
        return Text("The disk of the site is full. Tell its administrators.")
    return None


def size_on_disk(folder: Path, stop_at: int) -> int:
    """Bytes on disk below a folder, not of what is mounted there; stops counting when over."""
    device = folder.stat().st_dev
    size, waiting = 0, [os.fspath(folder)]
    while waiting and size <= stop_at:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    found = entry.stat(follow_symlinks=False)
                    if found.st_dev != device:
                        continue
                    size += 512 * found.st_blocks
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
    return size


def found_in(root: str, paths: Sequence[str]) -> bool:
    """Whether one of some paths exists in an image's file system, its links followed within it."""
    child = os.fork()
    if child == 0:
        try:
            os.chroot(root)
            os.chdir("/")
            os._exit(0 if any(os.path.exists(path) for path in paths) else 1)
        except OSError:
            os._exit(2)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, 1):
        raise OSError(f"{root} cannot be looked into")
    return code == 0


def _copy_unlocked(source: Path, target: Path) -> None:
    """Copy a folder of small databases, each while nobody writes to it."""
    target.mkdir(mode=0o700)
    for path in source.iterdir():
        with path.open("rb") as file, (target / path.name).open("xb") as out:
            fcntl.flock(file, fcntl.LOCK_SH)
            shutil.copyfileobj(file, out)


def _mount(source: str, target: str, kind: str | None, flags: int) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    if _libc.mount(*encoded, ctypes.c_ulong(flags), None) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), target)
