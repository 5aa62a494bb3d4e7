"""Pod Security *restricted*, as Kubernetes' own documentation has it, and what this project adds.

https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim",
    "projected", "secret",
}  # fmt: skip
SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range", "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes",
}  # fmt: skip
SELINUX = {None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
SECCOMP = {"RuntimeDefault", "Localhost"}
APPARMOR = {None, "RuntimeDefault", "Localhost"}
LOWEST_PORT = 1024


def broken(pod: dict[str, Any]) -> list[str]:
    """The rules that a pod (or a template of pods) breaks; empty: it is admitted."""
    return [*_pod(pod["spec"]), *_containers(pod["spec"])]


def _pod(spec: dict[str, Any]) -> Iterator[str]:
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield key
    security = spec.get("securityContext", {})
    for one in security.get("sysctls", []):
        if one["name"] not in SYSCTLS:
            yield f"sysctl {one['name']}"
    yield from _context("pod", security)
    for volume in spec.get("volumes", []):
        for kind in volume.keys() - {"name"} - VOLUMES:
            yield f"volume {volume['name']}: {kind}"


def _context(where: str, security: dict[str, Any]) -> Iterator[str]:
    """What holds for a pod's settings as for a container's."""
    if security.get("runAsUser") == 0:
        yield f"{where}: runAsUser 0"
    if security.get("runAsNonRoot") is False:
        yield f"{where}: runAsNonRoot false"
    selinux = security.get("seLinuxOptions", {})
    if selinux.get("type") not in SELINUX or selinux.get("user") or selinux.get("role"):
        yield f"{where}: seLinuxOptions"
    if security.get("seccompProfile", {}).get("type", "RuntimeDefault") not in SECCOMP:
        yield f"{where}: seccompProfile"
    if security.get("appArmorProfile", {}).get("type") not in APPARMOR:
        yield f"{where}: appArmorProfile"
    if security.get("windowsOptions", {}).get("hostProcess"):
        yield f"{where}: hostProcess"


def _containers(spec: dict[str, Any]) -> Iterator[str]:
    outer = spec.get("securityContext", {})
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(kind, []):
            name, security = container["name"], container.get("securityContext", {})
            yield from _context(name, security)
            merged = {**outer, **security}
            if not merged.get("runAsNonRoot"):
                yield f"{name}: runAsNonRoot is not set"
            if merged.get("runAsUser") is None:
                yield f"{name}: no numeric user"
            if "seccompProfile" not in merged:
                yield f"{name}: no seccompProfile"
            if security.get("privileged"):
                yield f"{name}: privileged"
            if security.get("allowPrivilegeEscalation") is not False:
                yield f"{name}: allowPrivilegeEscalation"
            capabilities = security.get("capabilities", {})
            if "ALL" not in capabilities.get("drop", []):
                yield f"{name}: does not drop ALL"
            if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
                yield f"{name}: adds capabilities"
            if security.get("procMount", "Default") != "Default":
                yield f"{name}: procMount"
            for port in container.get("ports", []):
                if port.get("hostPort"):
                    yield f"{name}: hostPort"
                if port["containerPort"] < LOWEST_PORT:
                    yield f"{name}: port below {LOWEST_PORT}"
            for amount in ("requests", "limits"):
                for what in ("cpu", "memory"):
                    if what not in container.get("resources", {}).get(amount, {}):
                        yield f"{name}: no resources.{amount}.{what}"
