"""One node: its programs, their settings, starting and stopping them.

Nothing of it listens on an address that other machines reach: the API server, the kubelet and the
registry listen on the pods' bridge, the rest on loopback.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from studovna.paths import ROOT
from studovna.system import install_packages
from tests.cluster.kubernetes import ClusterError, home, programs, settings
from tests.cluster.kubernetes.settings import ADDRESS, BRIDGE, NODE, PORTS, SERVICES

# What must be there → the Debian package that brings it.
NEEDED = {
    "etcd": "etcd-server",
    "containerd": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "dnsmasq": "dnsmasq-base",
    "catatonit": "catatonit",
    "ip": "iproute2",
    "kubectl": "kubernetes-client",
    "docker-registry": "docker-registry",
}

# In the order of their start.
STARTED = (
    "etcd", "containerd", "registry", "kube-apiserver", "kube-controller-manager", "kube-scheduler",
    "kubelet", "kube-proxy", "dnsmasq", "names", "volumes",
)  # fmt: skip
HELPERS = ("names", "volumes")  # of ours


def why_not() -> str | None:
    """Why there can be no cluster on this machine; None when there can."""
    if os.geteuid() != 0:
        return "a cluster of one node can only be started by root"
    if shutil.which("apt-get") is None:
        return "Kubernetes is built from Debian's source package, and this is no Debian"
    if not programs.are_built() and f"VERSION_CODENAME={programs.SUITE}" not in _os_release():
        return f"Kubernetes is built with the Go of Debian {programs.SUITE}, and this is another"
    return None


def _os_release() -> str:
    try:
        return Path("/etc/os-release").read_text()
    except OSError:
        return ""


class Node:
    """The node of this machine; there is one at most."""

    def __init__(self, say: Callable[[str], None] = print) -> None:
        self.state = home() / "state"
        self.kubeconfig = self.state / "kubeconfig"
        self._say = say

    # --- up and down ----------------------------------------------------------------------------

    def install(self) -> None:
        """Install the Debian packages that are missing. Raises ClusterError."""
        reason = why_not()
        if reason:
            raise ClusterError(reason)
        self._install(NEEDED | ({} if programs.are_built() else programs.NEEDED_TO_BUILD))

    def build(self) -> None:
        """Compile what is missing, packages included. Raises ClusterError."""
        self.install()
        if not programs.are_built():
            programs.build(self._say)

    def up(self) -> Path:
        """Build what is missing, start what does not run; returns the kubeconfig.

        Raises ClusterError.
        """
        if self.kubeconfig.is_file() and all(self.runs(name) for name in STARTED):
            return self.kubeconfig
        self.build()
        self.down()
        try:
            self._start_all()
        except BaseException:
            self._say(f"The logs are in {self.state}")
            raise
        return self.kubeconfig

    def _install(self, needed: dict[str, str]) -> None:
        missing = [
            package
            for what, package in needed.items()
            if shutil.which(what) is None and not Path(what).exists()
        ]
        if missing:
            self._say("Installing Debian packages: " + " ".join(missing))
            install_packages(missing, lambda line: None)

    def _start_all(self) -> None:
        settings.write(self.state, secrets.token_hex(24))
        self._network()
        self.start("etcd")
        self.start("containerd")
        self.start("registry")
        self.wait(lambda: _listens(PORTS["etcd"], "127.0.0.1"), 30, "etcd")
        self.start("kube-apiserver")
        self.wait(self.ready, 90, "the API server")
        for name in ("kube-controller-manager", "kube-scheduler"):
            self.start(name)
        self.wait((self.state / "containerd.sock").exists, 30, "containerd")
        self._import_pause()
        for name in ("kubelet", "kube-proxy", "dnsmasq", *HELPERS):
            self.start(name)
        self.kubectl("apply", "-f", str(self.state / "objects.json"))
        self.wait(self._node_ready, 120, "the node")
        self.wait(lambda: _listens(PORTS["registry"], ADDRESS), 30, "the registry")
        self.wait(lambda: _listens(PORTS["proxy-health"], "127.0.0.1"), 30, "kube-proxy")
        ended = [name for name in STARTED if not self.runs(name)]
        if ended:
            raise ClusterError(f"ended at once: {', '.join(ended)}")

    def _network(self) -> None:
        """Before any pod: what is sent to a pod's or a Service's address never leaves here."""
        for key, value in (
            ("net/ipv4/ip_forward", "1"),
            ("net/bridge/bridge-nf-call-iptables", "1"),
        ):
            with contextlib.suppress(FileNotFoundError):
                Path("/proc/sys", key).write_text(value)
        if not Path("/sys/class/net", BRIDGE).exists():
            _run("ip", "link", "add", BRIDGE, "type", "bridge")
        _run("ip", "addr", "replace", f"{ADDRESS}/24", "dev", BRIDGE)
        _run("ip", "link", "set", BRIDGE, "up")
        _run("ip", "route", "replace", SERVICES, "dev", BRIDGE)

    def down(self) -> None:
        """End everything and remove the state. The programs and the registry's data stay."""
        if not self.state.is_dir():
            return
        for name in (*HELPERS, "dnsmasq", "kube-proxy", "kubelet", "kube-scheduler"):
            self.stop(name)
        self.stop("kube-controller-manager")
        self._end_containers()
        for name in ("kube-apiserver", "registry", "containerd", "etcd"):
            self.stop(name)
        # The rules for Services that are no more.
        cleanup = [str(programs.folder() / "kube-proxy"), "--cleanup"]
        subprocess.run(cleanup, capture_output=True, check=False)
        for place in sorted(_mounts_below(self.state), reverse=True):
            subprocess.run(["umount", "-l", place], check=False)
        if Path("/sys/class/net", BRIDGE).exists():
            _run("ip", "link", "delete", BRIDGE)
        shutil.rmtree(self.state)

    def _end_containers(self) -> None:
        """Their shims outlive containerd, and hold the containers."""
        socket_path = str(self.state / "containerd.sock")
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            words = _command(int(folder.name))
            if words and "containerd-shim" in words[0] and socket_path in words:
                namespace = words[words.index("-id") + 1] if "-id" in words else ""
                self._say(f"Ending container {namespace[:12]}")
                _kill_tree(int(folder.name))

    # --- one program ----------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Start one of the node's programs, its log in the state folder."""
        argv = self.argv(name)
        with (self.state / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                argv,
                cwd=ROOT,
                env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (self.state / f"{name}.pid").write_text(str(process.pid))

    def stop(self, name: str, number: int = signal.SIGTERM) -> None:
        """End one of the node's programs, and wait for it."""
        pid = self._pid(name)
        if pid is None:
            return
        for attempt in (number, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, attempt)
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                if _is_gone(pid):
                    return
                time.sleep(0.05)

    def restart(self, name: str) -> None:
        """Kill one of the node's programs, and start it again."""
        self.stop(name, signal.SIGKILL)
        self.start(name)

    def runs(self, name: str) -> bool:
        """Whether one of the node's programs runs."""
        return self._pid(name) is not None

    def _pid(self, name: str) -> int | None:
        """A program's process; None when it has ended, or when its number is another's now."""
        try:
            pid = int((self.state / f"{name}.pid").read_text())
        except (OSError, ValueError):
            return None
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        # Its options may be another version's: the program and its module say which one it is.
        known = self.argv(name)[: 3 if name in HELPERS else 1]
        return pid if _command(pid)[: len(known)] == known else None

    def argv(self, name: str) -> list[str]:
        """The command line of one of the node's programs."""
        if name in HELPERS:
            return [sys.executable, "-m", f"tests.cluster.kubernetes.{name}", str(self.state)]
        return settings.command(name, self.state, programs.folder())

    # --- asking ---------------------------------------------------------------------------------

    def kubectl(self, *words: str) -> str:
        """kubectl of this machine on this cluster. Raises ClusterError."""
        argv = ["kubectl", f"--kubeconfig={self.kubeconfig}", *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ClusterError(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def ready(self) -> bool:
        """Whether the API server answers that it is ready."""
        try:
            return self.kubectl("get", "--raw", "/readyz") == "ok"
        except ClusterError:
            return False

    def _node_ready(self) -> bool:
        try:
            found = json.loads(self.kubectl("get", "node", NODE, "-o", "json"))
        except ClusterError:
            return False
        conditions = {one["type"]: one["status"] for one in found["status"].get("conditions", [])}
        return conditions.get("Ready") == "True"

    def wait(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait until it is so. Raises ClusterError."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise ClusterError(f"{what} did not come up within {seconds:.0f} s")
            time.sleep(0.3)

    def _import_pause(self) -> None:
        archive = self.state / "pause.tar"
        settings.write_pause_image(archive)
        containerd = ["ctr", "--address", str(self.state / "containerd.sock"), "-n", "k8s.io"]
        _run(*containerd, "images", "import", str(archive))


# --- the machine ----------------------------------------------------------------------------------


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"{' '.join(argv)}: {done.stderr.strip()}")


def _listens(port: int, address: str) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((address, port)) == 0


def _is_gone(pid: int) -> bool:
    """Whether a process has ended with all its threads, so that its ports are free."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "Z" and len(os.listdir(f"/proc/{pid}/task")) == 1
    except OSError:
        return True


def _command(pid: int) -> list[str]:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []
    return words[:-1]


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]


def _kill_tree(pid: int) -> None:
    below = _children(pid)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    for child in below:
        _kill_tree(child)


def _mounts_below(folder: Path) -> Sequence[str]:
    places = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    return [place for place in places if Path(place).is_relative_to(folder)]
