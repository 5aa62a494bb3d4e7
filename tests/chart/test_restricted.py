"""The checker finds what Pod Security *restricted* refuses: one broken rule at a time."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.chart.restricted import broken

GOOD: dict[str, Any] = {
    "spec": {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "box",
                "ports": [{"containerPort": 8000}],
                "resources": {
                    "requests": {"cpu": "1", "memory": "1Gi"},
                    "limits": {"cpu": "1", "memory": "1Gi"},
                },
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
}
POD = ("spec", "securityContext")
BOX = ("spec", "containers", 0)
BOX_SECURITY = (*BOX, "securityContext")

CASES: dict[str, tuple[tuple[str | int, ...], Any, str]] = {
    "host-network": (("spec", "hostNetwork"), True, "hostNetwork"),
    "host-path": (("spec", "volumes", 0), {"name": "v", "hostPath": {"path": "/"}}, "hostPath"),
    "root": ((*POD, "runAsUser"), 0, "runAsUser 0"),
    "maybe-root": ((*POD, "runAsNonRoot"), None, "runAsNonRoot is not set"),
    "no-user": ((*POD, "runAsUser"), None, "no numeric user"),
    "no-seccomp": ((*POD, "seccompProfile"), None, "no seccompProfile"),
    "unconfined": ((*POD, "seccompProfile"), {"type": "Unconfined"}, "seccompProfile"),
    "sysctl": ((*POD, "sysctls"), [{"name": "kernel.msgmax", "value": "1"}], "sysctl"),
    "selinux": ((*POD, "seLinuxOptions"), {"type": "spc_t"}, "seLinuxOptions"),
    "apparmor": ((*POD, "appArmorProfile"), {"type": "Unconfined"}, "appArmorProfile"),
    "box-root": ((*BOX_SECURITY, "runAsUser"), 0, "runAsUser 0"),
    "privileged": ((*BOX_SECURITY, "privileged"), True, "privileged"),
    "escalation": (
        (*BOX_SECURITY, "allowPrivilegeEscalation"),
        None,
        "allowPrivilegeEscalation",
    ),
    "keeps": ((*BOX_SECURITY, "capabilities"), None, "does not drop ALL"),
    "adds": (
        (*BOX_SECURITY, "capabilities"),
        {"drop": ["ALL"], "add": ["SYS_ADMIN"]},
        "adds capabilities",
    ),
    "proc": ((*BOX_SECURITY, "procMount"), "Unmasked", "procMount"),
    "host-port": ((*BOX, "ports"), [{"containerPort": 8000, "hostPort": 80}], "hostPort"),
    "low-port": ((*BOX, "ports"), [{"containerPort": 80}], "port below 1024"),
    "no-limit": ((*BOX, "resources", "limits", "memory"), None, "no resources.limits.memory"),
}


def test_a_good_pod_breaks_nothing() -> None:
    assert broken(GOOD) == []


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["containers", "initContainers"])
def test_each_rule(name: str, kind: str) -> None:
    path, value, sentence = CASES[name]
    pod = copy.deepcopy(GOOD)
    here: Any = pod
    for key in path[:-1]:
        here = here[key]
    if value is None:
        del here[path[-1]]
    else:
        here[path[-1]] = value
    if kind == "initContainers":
        pod["spec"][kind] = pod["spec"].pop("containers")
    found = broken(pod)
    assert len(found) == 1 and sentence in found[0], found
