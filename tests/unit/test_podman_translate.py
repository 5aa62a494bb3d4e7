"""A pod manifest as podman's command lines: whole plans, and everything that is refused."""

from __future__ import annotations

import base64
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from kubernetes_asyncio.client import V1ConfigMap, V1ObjectMeta, V1Secret

from spawner.engine import (
    DiskFull,
    EngineError,
    EngineUnavailable,
    ImageMissing,
    NoFreeDevice,
    PodExists,
    PortInUse,
    RegistryUnreachable,
    UntranslatableField,
)
from spawner.manifest import expand, quantity
from spawner.podman_call import meaning
from spawner.podman_logs import LineReader
from spawner.podman_plan import ClaimFolder, DataFile, EmptyFolder, Pin, SharedMemory
from spawner.podman_states import parse, pod_state
from spawner.podman_translate import network_name, translate
from spawner.podman_volumes import Settings, claim_request
from studovna.podman import PodmanError
from studovna.text import Text

STATE = Path("/srv/var")
FOLDER = STATE / "engine" / "pods" / "p"
SITE = Settings("st000000", STATE)


def make(container: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    main = {"name": "main", "image": "quay.io/a/b:1", **(container or {})}
    spec.setdefault("containers", [main])
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}


def options(container: dict[str, Any] | None = None, **spec: Any) -> list[str]:
    """The options that a field adds to those of an empty pod."""
    plain = list(translate(make(), SITE).containers[0].argv)
    argv = list(translate(make(container, **spec), SITE).containers[0].argv)
    for part in plain:
        argv.remove(part)
    return argv


def test_the_smallest_pod_as_a_whole():
    (one,) = translate(make(), SITE).containers
    assert one.argv == (
        "--pull=never",
        "--name",
        "st000000-p",
        "--label",
        "studovna.site=st000000",
        "--label",
        "studovna.pod=p",
        "--label",
        "studovna.container=main",
        "--label",
        "studovna.kind=main",
        "--label",
        "studovna.labels={}",
        "--label",
        "studovna.claims=[]",
        "--label",
        "studovna.gpus=[]",
        "--log-driver",
        "k8s-file",
        "--log-opt",
        f"path={FOLDER}/logs/main.log",
        "--log-opt",
        "max-size=10485760",
        "--http-proxy=false",
        "--env-file",
        f"{FOLDER}/env/main",
        "--network",
        "st000000-p-148de9c5a7a4",
        "--hostname",
        "p",
        "--cap-drop",
        "NET_RAW",
        "--pids-limit",
        "4096",
        "quay.io/a/b:1",
    )
    assert (one.name, one.podman_name, one.init, one.pull) == (
        "main",
        "st000000-p",
        False,
        "IfNotPresent",
    )
    assert one.env_file == "" and not one.environment and not one.must_not_be_root


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "command": ({"command": ["a", "b c"]}, {}, ["--entrypoint", '["a", "b c"]']),
    "args": ({"args": ["-x", "y"]}, {}, ["-x", "y"]),
    "workdir": ({"workingDir": "/w"}, {}, ["--workdir", "/w"]),
    "port": (
        {"ports": [{"containerPort": 8888, "name": "http", "protocol": "TCP"}]},
        {},
        ["--publish", "127.0.0.1::8888/tcp"],
    ),
    "limits": (
        {"resources": {"limits": {"cpu": "1500m", "memory": "1Gi"}}},
        {},
        [
            "--cpus",
            "1.5",
            "--cpu-shares",
            "1536",
            "--memory",
            "1073741824",
            "--memory-swap",
            "1073741824",
        ],
    ),
    "requests": (
        {"resources": {"limits": {"cpu": 2}, "requests": {"cpu": "250m", "memory": "1G"}}},
        {},
        ["--cpus", "2", "--cpu-shares", "256"],
    ),
    "user": (
        {},
        {"securityContext": {"runAsUser": 1000, "runAsGroup": 100, "runAsNonRoot": True}},
        ["--user", "1000:100"],
    ),
    "container's user wins": (
        {"securityContext": {"runAsUser": 5}},
        {"securityContext": {"runAsUser": 6}},
        ["--user", "5"],
    ),
    "groups": (
        {},
        {"securityContext": {"fsGroup": 100, "supplementalGroups": [7, 100]}},
        ["--group-add", "100", "--group-add", "7"],
    ),
    "no escalation": (
        {
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "seccompProfile": {"type": "RuntimeDefault"},
                "readOnlyRootFilesystem": True,
                "privileged": False,
            }
        },
        {},
        ["--security-opt", "no-new-privileges", "--read-only", "--read-only-tmpfs=false"],
    ),
    "aliases": (
        {},
        {"hostAliases": [{"ip": "10.0.0.1", "hostnames": ["a", "b.c"]}]},
        ["--add-host", "a:10.0.0.1", "--add-host", "b.c:10.0.0.1"],
    ),
    "grace": ({}, {"terminationGracePeriodSeconds": 5}, ["--stop-timeout", "5"]),
    "deadline": ({}, {"activeDeadlineSeconds": 60}, ["--timeout", "60"]),
    "memory at /dev/shm": (
        {"volumeMounts": [{"name": "v", "mountPath": "/dev/shm"}]},
        {"volumes": [{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]},
        ["--shm-size", "1048576"],
    ),
    "memory as large as the limit": (
        {
            "volumeMounts": [{"name": "v", "mountPath": "/dev/shm"}],
            "resources": {"limits": {"memory": "1Mi"}},
        },
        {"volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}]},
        ["--memory", "1048576", "--memory-swap", "1048576", "--shm-size", "1048576"],
    ),
    "memory elsewhere": (
        {"volumeMounts": [{"name": "v", "mountPath": "/scratch/"}]},
        {"volumes": [{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1k"}}]},
        ["--mount", "type=tmpfs,destination=/scratch,tmpfs-mode=0777,notmpcopyup,tmpfs-size=1000"],
    ),
    "empty folder": (
        {"volumeMounts": [{"name": "v", "mountPath": "/x"}]},
        {"volumes": [{"name": "v", "emptyDir": {}}]},
        ["--volume", f"{FOLDER}/empty/v:/x:rw,nosuid,nodev"],
    ),
    "one machine": (
        {"terminationMessagePolicy": "File", "stdin": False},
        {
            "tolerations": [{"key": "a"}],
            "nodeSelector": {"a": "b"},
            "affinity": {"nodeAffinity": {}},
            "imagePullSecrets": [{"name": "x"}],
            "priorityClassName": "low",
            "restartPolicy": "OnFailure",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "serviceAccountName": "x",
            "schedulerName": "x",
            "dnsPolicy": "ClusterFirst",
        },
        [],
    ),
}


@pytest.mark.parametrize(("container", "spec", "added"), CASES.values(), ids=CASES.keys())
def test_what_a_field_becomes(container, spec, added):
    assert options(container, **spec) == added


def test_drop_all_stands_for_every_capability():
    security = {"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}
    argv = translate(make({"securityContext": security}), SITE).containers[0].argv
    at = argv.index("--cap-drop")
    assert argv[at : at + 4] == ("--cap-drop", "all", "--cap-add", "NET_BIND_SERVICE")
    assert "NET_RAW" not in argv


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "spec.hostNetwork": ({}, {"hostNetwork": True}),
    "spec.hostPID": ({}, {"hostPID": True}),
    "spec.hostIPC": ({}, {"hostIPC": True}),
    "spec.hostUsers": ({}, {"hostUsers": True}),
    "spec.shareProcessNamespace": ({}, {"shareProcessNamespace": True}),
    "spec.restartPolicy": ({}, {"restartPolicy": "Always"}),
    "spec.runtimeClassName": ({}, {"runtimeClassName": "gvisor"}),
    "spec.automountServiceAccountToken": ({}, {"automountServiceAccountToken": True}),
    "spec.dnsConfig": ({}, {"dnsConfig": {"nameservers": ["1.1.1.1"]}}),
    "spec.ephemeralContainers": ({}, {"ephemeralContainers": [{"name": "x"}]}),
    "spec.resources": ({}, {"resources": {"limits": {"cpu": 1}}}),
    "spec.nodeName": ({}, {"nodeName": "x"}),
    "spec.noSuchField": ({}, {"noSuchField": 1}),
    "spec.containers": ({}, {"containers": []}),
    "spec.securityContext.sysctls": ({}, {"securityContext": {"sysctls": [{"name": "x"}]}}),
    "spec.securityContext.runAsUser": (
        {},
        {"securityContext": {"runAsUser": 0, "runAsNonRoot": True}},
    ),
    "spec.securityContext.runAsGroup": ({}, {"securityContext": {"runAsGroup": 1}}),
    "spec.securityContext.fsGroupChangePolicy": (
        {},
        {"securityContext": {"fsGroupChangePolicy": "Never"}},
    ),
    "spec.securityContext.seccompProfile": (
        {},
        {"securityContext": {"seccompProfile": {"type": "Unconfined"}}},
    ),
    "spec.containers[0].livenessProbe": ({"livenessProbe": {"httpGet": {"port": 1}}}, {}),
    "spec.containers[0].readinessProbe": ({"readinessProbe": {"httpGet": {"port": 1}}}, {}),
    "spec.containers[0].lifecycle": ({"lifecycle": {"postStart": {}}}, {}),
    "spec.containers[0].tty": ({"tty": True}, {}),
    "spec.containers[0].image": ({"image": "-v/:/host"}, {}),
    "spec.containers[0].name": ({"name": "A"}, {}),
    "spec.containers[0].imagePullPolicy": ({"imagePullPolicy": "Sometimes"}, {}),
    "spec.containers[0].volumeDevices": ({"volumeDevices": [{"name": "x"}]}, {}),
    "spec.containers[0].workingDir": ({"workingDir": "w"}, {}),
    "spec.containers[0].securityContext.privileged": (
        {"securityContext": {"privileged": True}},
        {},
    ),
    "spec.containers[0].securityContext.procMount": (
        {"securityContext": {"procMount": "Unmasked"}},
        {},
    ),
    "spec.containers[0].securityContext.capabilities.add": (
        {"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}},
        {},
    ),
    "spec.containers[0].resources.limits": (
        {"resources": {"limits": {"ephemeral-storage": "1Gi"}}},
        {},
    ),
    "spec.containers[0].resources.limits.memory": (
        {"resources": {"limits": {"memory": "1 GB"}}},
        {},
    ),
    "spec.containers[0].resources.claims": ({"resources": {"claims": [{"name": "x"}]}}, {}),
    "spec.containers[0].ports[0].hostPort": ({"ports": [{"containerPort": 1, "hostPort": 80}]}, {}),
    "spec.containers[0].ports[0].containerPort": ({"ports": [{"containerPort": 70000}]}, {}),
    "spec.containers[0].env[0].name": ({"env": [{"name": "A B"}]}, {}),
    "spec.containers[0].env": ({"env": [{"name": "LD_PRELOAD", "value": "a\nb"}]}, {}),
    "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath": (
        {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]},
        {},
    ),
    "spec.containers[0].env[0].valueFrom.resourceFieldRef": (
        {"env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "x"}}}]},
        {},
    ),
    "spec.containers[0].env[0].valueFrom.secretKeyRef": (
        {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
        {},
    ),
    "spec.containers[0].volumeMounts[0].name": (
        {"volumeMounts": [{"name": "v", "mountPath": "/x"}]},
        {},
    ),
    "spec.volumes[0].hostPath.path": ({}, {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}),
    "spec.volumes[0].nfs": ({}, {"volumes": [{"name": "v", "nfs": {"server": "x", "path": "/"}}]}),
    "spec.volumes[0].secret.secretName": (
        {},
        {"volumes": [{"name": "v", "secret": {"secretName": "s"}}]},
    ),
    "spec.volumes[0].configMap.name": (
        {},
        {"volumes": [{"name": "v", "configMap": {"name": "s"}}]},
    ),
    "spec.volumes[0].emptyDir.sizeLimit": (
        {},
        {"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}]},
    ),
    "spec.volumes[0].persistentVolumeClaim.claimName": (
        {},
        {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "../x"}}]},
    ),
    "spec.volumes[0]": ({}, {"volumes": [{"name": "v"}]}),
}


@pytest.mark.parametrize(("container", "spec"), REFUSED.values(), ids=REFUSED.keys())
def test_what_has_no_counterpart_is_refused_by_name(container, spec, request):
    with pytest.raises(UntranslatableField) as caught:
        translate(make(container, **spec), SITE)
    assert caught.value.field == request.node.callspec.id


@pytest.mark.parametrize("path", ["x", "/a/../b", "/a:/b", "/a,b", "/a\nb"])
def test_mount_paths_that_could_mean_something_else(path):
    mounts = {"volumeMounts": [{"name": "v", "mountPath": path}]}
    with pytest.raises(UntranslatableField, match="mountPath"):
        translate(make(mounts, volumes=[{"name": "v", "emptyDir": {}}]), SITE)


@pytest.mark.parametrize("sub", ["/etc", "..", "a/../b", "a/..", "/", "."])
def test_sub_paths_that_lead_out(sub):
    mounts = {"volumeMounts": [{"name": "v", "mountPath": "/x", "subPath": sub}]}
    with pytest.raises(UntranslatableField, match="subPath"):
        translate(make(mounts, volumes=[{"name": "v", "emptyDir": {}}]), SITE)


def test_volumes_as_a_whole():
    mounts = [
        {"name": "home", "mountPath": "/home", "subPath": "people/ana/"},
        {"name": "data", "mountPath": "/data"},
        {"name": "ram", "mountPath": "/ram"},
        {"name": "key", "mountPath": "/key"},
        {"name": "conf", "mountPath": "/etc/one.conf", "subPath": "renamed"},
    ]
    side = {"name": "side", "image": "i", "volumeMounts": [mounts[2] | {"readOnly": True}]}
    plan = translate(
        make(
            containers=[{"name": "main", "image": "i", "volumeMounts": mounts}, side],
            securityContext={"fsGroup": 100, "fsGroupChangePolicy": "OnRootMismatch"},
            volumes=[
                {"name": "home", "persistentVolumeClaim": {"claimName": "homes"}},
                {"name": "data", "persistentVolumeClaim": {"claimName": "data", "readOnly": True}},
                {"name": "ram", "emptyDir": {"medium": "Memory", "sizeLimit": "1Ki"}},
                {"name": "key", "secret": {"secretName": "s", "defaultMode": 0o400}},
                {
                    "name": "conf",
                    "configMap": {"name": "c", "items": [{"key": "one", "path": "renamed"}]},
                },
            ],
        ),
        SITE,
        [
            V1Secret(metadata=V1ObjectMeta(name="s"), data={"a": base64.b64encode(b"\0").decode()}),
            V1ConfigMap(metadata=V1ObjectMeta(name="c"), data={"one": "1", "two": "2"}),
        ],
    )
    assert plan.claims == (ClaimFolder("homes", 100), ClaimFolder("data", None))
    assert plan.pins == (
        Pin(STATE / "claims/homes/data", ("people", "ana"), FOLDER / "mounts/pin_main_0", 100),
    )
    assert plan.shared_memory == (SharedMemory(FOLDER / "mounts/volume_ram", 1024, 100),)
    assert plan.empty == (
        EmptyFolder(FOLDER / "data/key", None),
        EmptyFolder(FOLDER / "data/conf", None),
    )
    assert plan.files == (
        DataFile(FOLDER / "data/key/a", b"\0", 0o440, 100),
        DataFile(FOLDER / "data/conf/renamed", b"1", 0o644, 100),
    )
    main, beside = plan.containers
    assert [part for part in main.argv if ":/" in part] == [
        f"{FOLDER}/mounts/pin_main_0:/home:rw,nosuid,nodev",
        f"{STATE}/claims/data/data:/data:ro,nosuid,nodev",
        f"{FOLDER}/mounts/volume_ram:/ram:rw,nosuid,nodev",
        f"{FOLDER}/data/key:/key:ro,nosuid,nodev",
        f"{FOLDER}/data/conf/renamed:/etc/one.conf:ro,nosuid,nodev",
    ]
    assert [part for part in beside.argv if ":/" in part] == [
        f"{FOLDER}/mounts/volume_ram:/ram:ro,nosuid,nodev"
    ]


def test_several_containers_share_the_network_of_the_first():
    port = {"ports": [{"containerPort": 1}]}
    pod = make(
        initContainers=[{"name": "i", "image": "x"}],
        containers=[{"name": "a", "image": "x"}, {"name": "b", "image": "x", **port}],
    )
    plan = translate(pod, SITE)
    assert [one.podman_name for one in plan.containers] == [
        "st000000-p_i",
        "st000000-p",
        "st000000-p_b",
    ]
    networks = [one.argv[one.argv.index("--network") + 1] for one in plan.containers]
    assert networks == [plan.network, plan.network, "container:st000000-p"]
    assert ["--publish" in one.argv for one in plan.containers] == [False, True, False]
    pod["spec"]["containers"][1]["name"] = "a"
    with pytest.raises(UntranslatableField, match="twice"):
        translate(pod, SITE)


def test_environment_is_in_no_argument():
    env = [
        {"name": "PLAIN", "value": "x=y z"},
        {"name": "EMPTY"},
        {"name": "LINES", "value": "a\nb"},
        {"name": "QUOTED", "value": "'q'"},
        {"name": "REF", "value": "$(PLAIN)/$(NONE)/$$(PLAIN)"},
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "PW", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        {
            "name": "GONE",
            "valueFrom": {"secretKeyRef": {"name": "x", "key": "k", "optional": True}},
        },
    ]
    secret = V1Secret(metadata=V1ObjectMeta(name="s"), string_data={"k": "hidden"})
    pod = make({"env": env, "envFrom": [{"prefix": "P_", "secretRef": {"name": "s"}}]})
    (one,) = translate(pod, SITE, [secret]).containers
    assert one.env_file.splitlines() == [
        "P_k=hidden",
        "PLAIN=x=y z",
        "EMPTY=",
        "REF=x=y z/$(NONE)/$(PLAIN)",
        "NAME=p",
        "PW=hidden",
    ]
    assert one.environment == {"LINES": "a\nb", "QUOTED": "'q'"}
    assert [one.argv[at + 1] for at, part in enumerate(one.argv) if part == "--env"] == [
        "LINES",
        "QUOTED",
    ]
    assert "hidden" not in " ".join(one.argv) and "hidden" not in repr(one)


def test_gpus_are_given_out_while_there_are_some():
    pod = make({"resources": {"limits": {"nvidia.com/gpu": "2"}}})
    names = [f"nvidia.com/gpu={number}" for number in range(3)]
    plan = translate(pod, Settings("st000000", STATE, gpus=dict.fromkeys(names, "nvidia.com/gpu")))
    argv = plan.containers[0].argv
    assert plan.gpus == tuple(names[:2])
    assert [argv[at + 1] for at, part in enumerate(argv) if part == "--device"] == names[:2]
    assert 'studovna.gpus=["nvidia.com/gpu=0", "nvidia.com/gpu=1"]' in argv
    with pytest.raises(NoFreeDevice, match="2 wanted, 1 free"):
        translate(pod, Settings("st000000", STATE, gpus={names[0]: "nvidia.com/gpu"}))


def test_the_machines_certificates_yield_to_the_manifest():
    site = Settings("st000000", STATE, ca_bundle=Path("/etc/site.crt"))
    (one,) = translate(make({"env": [{"name": "PIP_CERT", "value": "/mine"}]}), site).containers
    assert "/etc/site.crt:/etc/ssl/certs/ca-certificates.crt:ro" in one.argv
    assert "PIP_CERT=/mine" in one.env_file.splitlines()
    assert "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt" in one.env_file.splitlines()


def test_networks_are_per_person():
    label = "hub.jupyter.org/username"
    ana = network_name("st0", {label: "ana"}, "p1")
    assert ana == network_name("st0", {label: "ana"}, "p2") != network_name("st0", {}, "p1")
    assert ana != network_name("st0", {label: "anabel"}, "p1")
    assert network_name("st0", {label: "ana"}, "x") != network_name("st0", {}, "ana")


def test_a_claim_as_a_whole():
    claim = {
        "metadata": {"name": "h", "labels": {"a": "b"}, "annotations": {"x": "y"}},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "x",
            "resources": {"requests": {"storage": "2Gi"}},
        },
    }
    assert claim_request(claim) == ("h", {"a": "b"}, 2**31)
    claim["spec"]["dataSource"] = {"name": "x"}
    with pytest.raises(UntranslatableField, match="spec.dataSource"):
        claim_request(claim)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("1.5", Decimal("1.5")),
        ("500m", Decimal("0.5")),
        ("2Gi", 2**31),
        ("1e3", 1000),
        ("1k", 1000),
        ("1M", 10**6),
        (2, 2),
        (".5", Decimal("0.5")),
    ],
)
def test_quantities(text, value):
    assert quantity(text, "x") == value


@pytest.mark.parametrize("text", ["", "1 Gi", "-1", "1GB", "0x1", "inf", "1Gi\n", True, "1e"])
def test_what_is_no_quantity(text):
    with pytest.raises(UntranslatableField):
        quantity(text, "x")


def test_references_as_kubernetes_reads_them():
    assert expand("$(A) $(B) $$(A) $$$(A) $A $(", {"A": "1"}) == "1 $(B) $(A) $1 $A $("


MEANINGS = [
    ("writing blob: write /var/tmp/x: no space left on device", DiskFull),
    ("Error: localhost/x:1: image not known", ImageMissing),
    ("reading manifest 9 in quay.io/a/b: manifest unknown", ImageMissing),
    ("requested access to the resource is denied", ImageMissing),
    (
        "pinging container registry r: Get https://r/v2/: dial tcp: connect: connection refused",
        RegistryUnreachable,
    ),
    ("lookup r.example: no such host", RegistryUnreachable),
    ("x509: certificate signed by unknown authority", RegistryUnreachable),
    ('the container name "st-p" is already in use by 0123', PodExists),
    ("listen tcp4 127.0.0.1:22222: bind: address already in use", PortInUse),
    ('exec: "x": executable file not found in $PATH', EngineError),
]


@pytest.mark.parametrize(("stderr", "kind"), MEANINGS)
def test_what_podman_says_and_what_it_means(stderr, kind):
    error = PodmanError(Text("Podman failed."), ["podman", "run"], stderr, 125)
    found = meaning(error, image="r/x:1", pod="p")
    assert type(found) is kind
    assert found.detail == f"podman run\n{stderr}"
    assert isinstance(found.sentence, Text)


def test_a_podman_that_does_not_run():
    found = meaning(PodmanError(Text("Podman is not installed."), ["podman"]))
    assert type(found) is EngineUnavailable and "not installed" in found.sentence


def entry(name: str, state: str, code: int = 0, kind: str = "main") -> dict[str, Any]:
    return {
        "Id": name * 4,
        "Names": [f"st0-p_{name}"],
        "State": state,
        "ExitCode": code,
        "Created": 1,
        "StartedAt": 100,
        "ExitedAt": 200 if state == "exited" else -62135596800,
        "Networks": ["n"],
        "Labels": {"studovna.pod": "p", "studovna.container": name, "studovna.kind": kind},
        "Ports": [{"host_ip": "127.0.0.1", "container_port": 80, "host_port": 4000, "range": 2}],
    }


PHASES = {
    "runs": ([entry("m", "running")], False, "Running"),
    "one of two runs": ([entry("m", "running"), entry("s", "exited", 1)], False, "Running"),
    "is being started": ([entry("m", "created")], True, "Pending"),
    "was left half started": ([entry("m", "created")], False, "Failed"),
    "second is being started": ([entry("m", "running"), entry("s", "created")], True, "Pending"),
    "prepares": ([entry("i", "running", kind="init"), entry("m", "created")], True, "Pending"),
    "could not prepare": (
        [entry("i", "exited", 2, kind="init"), entry("m", "created")],
        True,
        "Failed",
    ),
    "done": ([entry("i", "exited", kind="init"), entry("m", "exited")], False, "Succeeded"),
    "done badly": ([entry("m", "exited"), entry("s", "exited", 3)], False, "Failed"),
    "goes away": ([entry("m", "stopping")], False, "Running"),
}


@pytest.mark.parametrize(("entries", "starting", "phase"), PHASES.values(), ids=PHASES.keys())
def test_phases(entries, starting, phase):
    pod = parse([*entries, {"Labels": None}, {"Labels": {"other": "x"}}])["p"]
    assert pod_state(pod, starting=starting).phase == phase
    assert pod.containers[0].ports == {80: ("127.0.0.1", 4000), 81: ("127.0.0.1", 4001)}


def test_log_lines_are_put_together():
    reader = LineReader()
    stamp = b"2026-11-23T05:37:06.407994333+00:00"
    feed = (
        stamp
        + b" stdout P one "
        + b"\n"
        + stamp
        + b" stderr F err\n"
        + stamp
        + b" stdout F two\r\n"
        + stamp
        + b" stdout F \n"
        + stamp
        + b" stdout P la"
    )
    assert reader.feed(feed[:50]) + reader.feed(feed[50:]) == ["err", "one two", ""]
    assert reader.feed(b"st\n") == [] and reader.finish() == ["last"]


@pytest.mark.parametrize("resource", ["amd.com/gpu", "nvidia.com/mig-1g.10gb"])
def test_devices_are_given_out_by_their_resource(resource: str):
    pod = make({"resources": {"limits": {resource: "1"}, "requests": {resource: "1"}}})
    gpus = {
        "amd.com/gpu=0": "amd.com/gpu",
        "nvidia.com/gpu=0": "nvidia.com/gpu",
        "nvidia.com/gpu=1:0": "nvidia.com/mig-1g.10gb",
    }
    [name] = [name for name, kind in gpus.items() if kind == resource]
    assert translate(pod, Settings("st000000", STATE, gpus=gpus)).gpus == (name,)
    del gpus[name]
    with pytest.raises(NoFreeDevice):
        translate(pod, Settings("st000000", STATE, gpus=gpus))


def test_only_the_sites_folders_are_mounted_and_read_only():
    folder = Path("/srv/matlab")
    volumes = [{"name": "v", "hostPath": {"path": str(folder), "type": "Directory"}}]
    pod = make({"volumeMounts": [{"name": "v", "mountPath": "/opt/matlab"}]}, volumes=volumes)
    plan = translate(pod, Settings("st000000", STATE, folders=[folder]))
    assert f"{folder}:/opt/matlab:ro,nosuid,nodev" in plan.containers[0].argv
    assert plan.folders == (folder,)
    for folders in ([], [Path("/srv")], [Path("/srv/matlab/inner")]):
        with pytest.raises(UntranslatableField, match="no volume at"):
            translate(pod, Settings("st000000", STATE, folders=folders))
