"""How podman is called on this machine.

Two things differ from machine to machine: what podman needs in its configuration to work at all
(found by trying one small container, never by editing the machine's own files), and what to tell a
person when it cannot work. Everything else in the project calls podman through `Podman`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import functools
import json
import os
import pwd
import re
import resource
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from studovna.system import find_program, search_path
from studovna.text import Text

PACKAGES = ("podman", "runc", "netavark", "aardvark-dns", "iptables")
ROOTLESS_PACKAGES = ("uidmap", "slirp4netns", "fuse-overlayfs")

_PASSED_ON = (
    "HOME",
    "PATH",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "CONTAINERS_STORAGE_CONF",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CAP_SYS_RESOURCE = 24
_TRIAL_SECONDS = 60.0


class PodmanError(Exception):
    """Podman could not do something; `text` says so to a person.

    `argv` and `stderr` are for the operator's log. `returncode` is podman's, or None when it did
    not run to its end (missing, or longer than its time limit).
    """

    def __init__(
        self, text: Text, argv: Sequence[str] = (), stderr: str = "", returncode: int | None = None
    ) -> None:
        super().__init__(text)
        self.text = text
        self.argv = tuple(argv)
        self.stderr = stderr
        self.returncode = returncode


@dataclasses.dataclass(frozen=True)
class Facts:
    """What podman can do here. `reason` is empty when limits are enforced."""

    version: str
    rootless: bool
    cgroups: int
    limits_enforced: bool
    reason: Text


# --- pure: what a machine needs, and what an error means -------------------------------------


def needed_settings(
    *,
    default_runtime: str,
    has_runc: bool,
    cgroups: int,
    systemd: bool,
    journald: bool,
    pin_limits: bool,
    hard_limits: Mapping[str, int],
) -> dict[str, dict[str, Any]]:
    """The containers.conf tables for a machine where podman does not work without any.

    `hard_limits` are this process's hard limits by ulimit name; unlimited ones are left out.
    """
    containers: dict[str, Any] = {}
    engine: dict[str, Any] = {}
    # crun refuses the hybrid layout (v1 controllers beside an empty v2 tree); runc knows it.
    if cgroups == 1 and default_runtime == "crun" and has_runc:
        engine["runtime"] = "runc"
    if not systemd:
        engine["cgroup_manager"] = "cgroupfs"
    if not journald:
        engine["events_logger"] = "file"
    # Podman raises the limits of root's containers, which needs CAP_SYS_RESOURCE.
    if pin_limits and hard_limits:
        containers["default_ulimits"] = [f"{n}={v}:{v}" for n, v in sorted(hard_limits.items())]
    tables = {"containers": containers, "engine": engine}
    return {name: table for name, table in tables.items() if table}


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two TOML documents as one: tables are merged, everything else is replaced by `above`."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def to_toml(tables: Mapping[str, Any], prefix: str = "") -> str:
    """Write tables of strings, numbers, booleans and lists: all that podman's files hold."""
    # JSON's strings, numbers, booleans and lists of them are TOML's as well.
    plain = [
        f"{_key(key)} = {json.dumps(value)}\n"
        for key, value in tables.items()
        if not isinstance(value, Mapping)
    ]
    head = f"[{prefix}]\n" if prefix and plain else ""
    inner = [
        to_toml(value, f"{prefix}.{_key(key)}" if prefix else _key(key))
        for key, value in tables.items()
        if isinstance(value, Mapping)
    ]
    return head + "".join(plain) + "".join(inner)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


def registries_conf(machine: str, port: int) -> str:
    """The machine's registries.conf text, with our registry on 127.0.0.1:`port` over plain HTTP.

    A file in the old format (`[registries.search]`) cannot be mixed with the present one; podman
    4 and later refuse it anyway, so it is left out.
    """
    try:
        old_format = "registries" in tomllib.loads(machine)
    except tomllib.TOMLDecodeError:
        old_format = True
    kept = "" if old_format else machine.rstrip() + "\n\n" if machine.strip() else ""
    return f'{kept}[[registry]]\nlocation = "127.0.0.1:{port}"\ninsecure = true\n'


def install_sentence(rootless: bool) -> Text:
    """What to install on Debian and Ubuntu so that podman runs."""
    packages = PACKAGES + (ROOTLESS_PACKAGES if rootless else ())
    return Text(
        "Podman is not installed. As root: apt-get install {packages}", packages=" ".join(packages)
    )


def explain(stderr: str, *, user: str, rootless: bool) -> Text:
    """The sentence for what podman wrote when it failed."""
    low = stderr.lower()
    last = _last_line(stderr)
    if "no space left on device" in low:
        return Text(
            "The disk is full: podman could not write. Free some space where podman keeps its "
            "images (podman info --format '{{{{.Store.GraphRoot}}}}' says where), then try again.",
            said=last,
        )
    if "disk quota exceeded" in low:
        return Text("The disk quota of {user} is used up: podman could not write.", user=user)
    if rootless and "/dev/net/tun" in low:
        return Text(
            "{user} may not open /dev/net/tun, so pods would have no network. As root: "
            "chmod 0666 /dev/net/tun",
            user=user,
        )
    if rootless and ("/etc/subuid" in low or "subuid" in low or "newuidmap" in low):
        return no_subuid(user)
    if "short-name" in low and "did not resolve" in low:
        return Text(
            "No such image is on this machine, and no registry is configured: {said}", said=last
        )
    return Text("Podman failed: {said}", said=last or Text("it wrote no reason."))


def no_subuid(user: str) -> Text:
    """What to do when a user has no range of subordinate ids, which rootless podman needs."""
    return Text(
        "{user} has no range of subordinate user ids. As root: "
        "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}; "
        "then, as {user}: podman system migrate",
        user=user,
    )


def _last_line(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return re.sub(r"^(Error|error): ?", "", lines[-1])[:500] if lines else ""


def enforcement(rootless: bool, cgroups: int, controllers: Sequence[str]) -> tuple[bool, Text]:
    """Whether memory and CPU limits of pods hold on this machine, and if not, why."""
    missing = [name for name in ("cpu", "memory") if name not in controllers]
    if not rootless:
        if not missing:
            return True, Text("")
        return False, Text(
            "Limits on {missing} are not enforced: this machine does not offer these controllers. "
            "In a container, give it cgroups of its own; else the kernel was booted without them.",
            missing=", ".join(missing),
        )
    if cgroups == 1:
        return False, Text(
            "Memory and CPU limits are not enforced: podman without root cannot use cgroups v1. "
            "Start the service as root, or boot with systemd.unified_cgroup_hierarchy=1."
        )
    if missing:
        return False, Text(
            "Limits on {missing} are not enforced: systemd does not delegate these controllers to "
            "this user (Delegate= of user@.service).",
            missing=", ".join(missing),
        )
    return True, Text("")


# --- effects ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Podman:
    """Podman on this machine, for one site.

    `state` is the site's state folder; podman's configuration for it is written to `engine/` there.
    `registry_port` is the port of the site's own registry on 127.0.0.1, spoken to without TLS.
    """

    state: Path
    registry_port: int | None = None

    @property
    def folder(self) -> Path:
        """Where our containers.conf, registries.conf and the last probe are."""
        return self.state / "engine"

    @property
    def environment(self) -> dict[str, str]:
        """All that podman gets to see: nothing of the hub's secrets may reach conmon."""
        env = {name: os.environ[name] for name in _PASSED_ON if os.environ.get(name)}
        # Also what podman itself calls: netavark wants iptables.
        env["PATH"] = search_path(env.get("PATH", _DEFAULT_PATH))
        env.setdefault("HOME", pwd.getpwuid(os.geteuid()).pw_dir)
        for name in _PROXIES:
            for spelling in (name, name.upper()):
                if os.environ.get(spelling):
                    env[spelling] = os.environ[spelling]
        for variable, file in (
            ("CONTAINERS_CONF", "containers.conf"),
            ("CONTAINERS_REGISTRIES_CONF", "registries.conf"),
            ("REGISTRY_AUTH_FILE", "auth.json"),
        ):
            path = self.folder / file
            if path.is_file():
                env[variable] = str(path.resolve())
        return env

    def argv(self, *args: str) -> list[str]:
        """The command line of `podman ARGS`, for a caller that streams. Raises `PodmanError`."""
        path = shutil.which("podman", path=os.environ.get("PATH", _DEFAULT_PATH))
        if path is None:
            raise PodmanError(install_sentence(os.geteuid() != 0), ("podman", *args))
        return [path, *args]

    def run(
        self,
        *args: str,
        input: str | None = None,
        timeout: float | None = 60.0,  # noqa: A002
    ) -> str:
        """Run podman to its end and return what it wrote. `timeout` in seconds, None for no limit.

        Raises `PodmanError` when podman is missing, fails or takes longer.
        """
        argv = self.argv(*args)
        stdin = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
        try:
            done = subprocess.run(
                argv,
                env=self.environment,
                text=True,
                errors="replace",
                capture_output=True,
                timeout=timeout,
                check=False,
                **stdin,
            )
        except subprocess.TimeoutExpired as error:
            raise self._too_slow(argv, timeout) from error
        except OSError as error:
            raise PodmanError(Text("Podman cannot be run: {said}", said=error), argv) from error
        return self._checked(argv, done.returncode, done.stdout, done.stderr)

    async def arun(
        self,
        *args: str,
        input: str | None = None,
        timeout: float | None = 60.0,  # noqa: A002, ASYNC109
    ) -> str:
        """`run` without blocking the loop; podman is ended when the waiting is cancelled."""
        argv = self.argv(*args)
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                env=self.environment,
                stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except OSError as error:
            raise PodmanError(Text("Podman cannot be run: {said}", said=error), argv) from error
        try:
            async with asyncio.timeout(timeout):
                out, err = await process.communicate(None if input is None else input.encode())
        except TimeoutError as error:
            raise self._too_slow(argv, timeout) from error
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        return self._checked(
            argv,
            process.returncode or 0,
            out.decode(errors="replace"),
            err.decode(errors="replace"),
        )

    def error(self, argv: Sequence[str], stderr: str, returncode: int | None) -> PodmanError:
        """The error for a podman that ended badly, for a caller that streamed its output."""
        text = explain(stderr, user=_user(), rootless=os.geteuid() != 0)
        return PodmanError(text, argv, stderr, returncode)

    def probe(self) -> Facts:
        """Make podman work here and say what it can do.

        Writes `containers.conf` (only where podman does not work without one) and `registries.conf`
        (only with a registry of our own). The result is kept for this boot and podman version, so
        that only the first call tries a container. Raises `PodmanError` with what to do.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_registries()
        version = self._version()
        key = {
            "version": version,
            "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            "uid": os.geteuid(),
            "limits": _hard_limits(),
            "runtimes": [find_program(name) for name in ("crun", "runc")],
            "machine": _machine_conf_stamp(),
        }
        cache = self.folder / "probe.json"
        info = _cached(cache, key)
        if info is None:
            # The hub and its services may start together; the trial replaces what others read.
            with (self.folder / "probe.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                info = _cached(cache, key) or self._try_settings()
                _write(cache, json.dumps({"key": key, "info": info}, indent=1))
        enforced, reason = enforcement(info["rootless"], info["cgroups"], info["controllers"])
        return Facts(version, info["rootless"], info["cgroups"], enforced, reason)

    def _version(self) -> str:
        out = self.run("--version", timeout=20)
        found = re.search(r"\d+\.\d+[.\w-]*", out)
        if found is None:
            raise PodmanError(Text("Podman does not tell its version, but: {said}", said=out[:200]))
        return found[0]

    def _write_registries(self) -> None:
        path = self.folder / "registries.conf"
        if self.registry_port is None:
            path.unlink(missing_ok=True)
            return
        machine = [Path("/etc/containers/registries.conf")]
        if os.geteuid() != 0:
            machine.insert(0, Path.home() / ".config/containers/registries.conf")
        found = next((p.read_text() for p in machine if p.is_file()), "")
        _write(path, registries_conf(found, self.registry_port))

    def _try_settings(self) -> dict[str, Any]:
        """Try a container without any settings of ours, then with what this machine lacks."""
        if os.geteuid() != 0:
            _check_rootless()
        conf = self.folder / "containers.conf"
        conf.unlink(missing_ok=True)
        try:
            self._trial()
        except PodmanError:
            info = self._info(check=False)
            settings = needed_settings(
                default_runtime=info.get("runtime") or ("crun" if find_program("crun") else "runc"),
                has_runc=find_program("runc") is not None,
                cgroups=info.get("cgroups") or _cgroups(),
                systemd=Path("/run/systemd/system").is_dir(),
                journald=Path("/run/systemd/journal/socket").exists(),
                pin_limits=os.geteuid() == 0 and not _may_raise_limits(),
                hard_limits=_hard_limits(),
            )
            if not settings:
                raise
            # CONTAINERS_CONF replaces the machine's files, so what they say is carried over.
            header = "# Written by studovna for this machine; probe.json beside it says when.\n"
            _write(conf, header + to_toml(merge(_machine_conf(), settings)))
            try:
                self._trial()
            except PodmanError:
                conf.unlink(missing_ok=True)
                raise
        return self._info(check=True)

    def _trial(self) -> None:
        """Run /usr/bin/true in a container made of the machine's own /usr: no image is needed."""
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="trial-") as folder:
            root = Path(folder)
            volumes: list[str] = []
            for name in ("usr", "lib", "lib64", "bin"):
                source = Path("/", name)
                if source.is_symlink():
                    (root / name).symlink_to(os.readlink(source))
                elif source.is_dir():
                    (root / name).mkdir()
                    volumes += ["--volume", f"{source}:/{name}:ro"]
            root.chmod(0o755)
            try:
                self.run(
                    "run",
                    "--rm",
                    "--network",
                    "none",
                    *volumes,
                    "--rootfs",
                    str(root),
                    "/usr/bin/true",
                    timeout=_TRIAL_SECONDS,
                )
            except PodmanError as error:
                raise PodmanError(
                    Text("Podman cannot run a container here. {said}", said=error.text),
                    error.argv,
                    error.stderr,
                    error.returncode,
                ) from error

    def _info(self, *, check: bool) -> dict[str, Any]:
        try:
            host = json.loads(self.run("info", "--format", "json", timeout=30))["host"]
            return {
                "rootless": bool(host["security"]["rootless"]),
                "cgroups": 2 if host["cgroupVersion"] == "v2" else 1,
                "controllers": list(host.get("cgroupControllers") or []),
                "runtime": str(host["ociRuntime"]["name"]),
            }
        except PodmanError:
            if check:
                raise
            return {}
        except (ValueError, KeyError, TypeError) as error:
            raise PodmanError(
                Text("What podman info says is not understood: {said}", said=repr(error))
            ) from error

    def _checked(self, argv: list[str], returncode: int, out: str, err: str) -> str:
        if returncode != 0:
            raise self.error(argv, err, returncode)
        return out

    def _too_slow(self, argv: Sequence[str], timeout: float | None) -> PodmanError:
        return PodmanError(
            Text(
                "Podman did not finish within {seconds} s: podman {what}",
                seconds=f"{timeout or 0:g}",
                what=" ".join(argv[1:3]),
            ),
            argv,
        )


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _check_rootless() -> None:
    """Raise with the remedy for what a user without root commonly lacks."""
    missing = [
        p
        for p, tool in (("uidmap", "newuidmap"), ("slirp4netns", "slirp4netns"))
        if not find_program(tool) and not (tool == "slirp4netns" and find_program("pasta"))
    ]
    if missing:
        raise PodmanError(
            Text(
                "Podman without root needs more packages. As root: apt-get install {packages}",
                packages=" ".join(missing),
            )
        )
    names = {_user(), str(os.geteuid())}
    for file in (Path("/etc/subuid"), Path("/etc/subgid")):
        lines = file.read_text().splitlines() if file.is_file() else []
        if not any(line.split(":")[0] in names for line in lines):
            raise PodmanError(no_subuid(_user()))
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        text = explain(f"/dev/net/tun: {error}", user=_user(), rootless=True)
        raise PodmanError(text, stderr=str(error)) from error


@functools.cache
def _may_raise_limits() -> bool:
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> _CAP_SYS_RESOURCE & 1)


def _hard_limits() -> dict[str, int]:
    limits = {
        "nofile": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "nproc": resource.getrlimit(resource.RLIMIT_NPROC)[1],
    }
    found = {name: value for name, value in limits.items() if value != resource.RLIM_INFINITY}
    # Podman lowers its own limit on processes to the kernel's largest process id before it starts
    # the runtime, which then cannot go above that again.
    if "nproc" in found:
        largest = int(Path("/proc/sys/kernel/pid_max").read_text())
        found["nproc"] = min(found["nproc"], largest)
    return found


def _cgroups() -> int:
    return 2 if Path("/sys/fs/cgroup/cgroup.controllers").is_file() else 1


def _machine_conf_files() -> list[Path]:
    folders = [Path("/usr/share/containers"), Path("/etc/containers")]
    if os.geteuid() != 0:
        folders.append(Path.home() / ".config/containers")
    files = []
    for folder in folders:
        files.append(folder / "containers.conf")
        files += sorted((folder / "containers.conf.d").glob("*.conf"))
    return [file for file in files if file.is_file()]


def _machine_conf() -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for file in _machine_conf_files():
        with contextlib.suppress(tomllib.TOMLDecodeError):
            merged = merge(merged, tomllib.loads(file.read_text()))
    return merged


def _machine_conf_stamp() -> list[str]:
    return [f"{file} {file.stat().st_mtime_ns}" for file in _machine_conf_files()]


def _cached(path: Path, key: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        kept = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(kept, dict) or kept.get("key") != key:
        return None
    info = kept.get("info")
    return info if isinstance(info, dict) else None


def _write(path: Path, text: str) -> None:
    """Replace a file in one step, so that a podman that starts now never reads half of it."""
    if path.is_file() and path.read_text() == text:
        return
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text)
    part.replace(path)
