"""A Kubernetes pod as podman's command lines: pure, and no field is dropped silently.

Every field is translated, refused by name (`UntranslatableField`), or listed here as one that means
nothing on one machine, with the reason.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal

from kubernetes_asyncio.client import V1Pod

from spawner.engine import NoFreeDevice, PodData, UntranslatableField
from spawner.manifest import Fields, expand, plain, quantity
from spawner.podman_environment import for_podman, read_environment
from spawner.podman_plan import ContainerPlan, Plan, PullPolicy
from spawner.podman_volumes import (
    METADATA_MEANINGLESS,
    NAME,
    PodBuild,
    Settings,
    inner_path,
    mount_counts,
    read_data,
    read_mounts,
    read_volumes,
)
from studovna.text import Text

USERNAME_LABEL = "hub.jupyter.org/username"
LABEL_SITE = "studovna.site"
LABEL_POD = "studovna.pod"
LABEL_CONTAINER = "studovna.container"
LABEL_KIND = "studovna.kind"
LABEL_LABELS = "studovna.labels"
LABEL_CLAIMS = "studovna.claims"
LABEL_GPUS = "studovna.gpus"

PIDS_LIMIT = 4096
LOG_BYTES = 10 * 2**20
CA_PATH = "/etc/ssl/certs/ca-certificates.crt"
CA_VARIABLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")

_POLICIES: tuple[PullPolicy, ...] = ("Always", "IfNotPresent", "Never")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,500}")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_ADDRESS = re.compile(r"[0-9a-fA-F.:]{2,45}")
POD_MEANINGLESS = {
    "affinity": "there is one machine to run on",
    "nodeSelector": "there is one machine to run on",
    "tolerations": "there is one machine to run on",
    "topologySpreadConstraints": "there is one machine to run on",
    "schedulerName": "nothing is scheduled",
    "priority": "nothing is scheduled",
    "priorityClassName": "nothing is scheduled",
    "preemptionPolicy": "nothing is scheduled",
    "imagePullSecrets": "podman uses the logins of its own user",
    "serviceAccount": "there is no Kubernetes API to use it with",
    "serviceAccountName": "there is no Kubernetes API to use it with",
    "enableServiceLinks": "there are no Services",
}
CONTAINER_MEANINGLESS = {
    "terminationMessagePath": "the log is kept and shown instead",
    "terminationMessagePolicy": "the log is kept and shown instead",
}


def network_name(site: str, labels: Mapping[str, str], pod: str) -> str:
    """The network of a person's pods; a pod of nobody has one of its own."""
    person = labels.get(USERNAME_LABEL)
    kind, key = ("u", person) if person else ("p", pod)
    return f"{site}-{kind}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def translate(pod: V1Pod, settings: Settings, data: Sequence[PodData] = ()) -> Plan:
    """The plan for a pod. Raises UntranslatableField, or NoFreeDevice when GPUs are short."""
    top = Fields(plain(pod), "")
    top.only("apiVersion", ["v1"], Text("it must be v1"))
    top.only("kind", ["Pod"], Text("it must be Pod"))
    top.meaningless({"status": "it is output of the API"})
    metadata = top.inner("metadata") or Fields({}, "metadata")
    spec = top.inner("spec") or Fields({}, "spec")
    top.end()
    name = metadata.required("name")
    if not NAME.fullmatch(name):
        raise metadata.refused("name", Text("it must be a DNS name in lower case"))
    made = PodBuild(
        settings,
        name,
        metadata.labels("labels"),
        metadata.labels("annotations"),
        settings.pod_folder(name),
        read_data(data),
    )
    metadata.meaningless(METADATA_MEANINGLESS)
    metadata.end()

    security = spec.inner("securityContext") or Fields({}, "spec.securityContext")
    made.gid = security.number("fsGroup")
    change_policy = security.text("fsGroupChangePolicy")
    if change_policy not in (None, "Always", "OnRootMismatch"):
        raise security.refused("fsGroupChangePolicy", Text("it must be Always or OnRootMismatch"))
    groups = security.numbers("supplementalGroups")
    identity = _Identity.read(security, _Identity())
    _seccomp(security)
    security.end()

    init = list(spec.each("initContainers"))
    main = list(spec.each("containers"))
    if not main:
        raise spec.refused("containers", Text("there must be one"))
    read_volumes(spec, made, change_policy == "Always", mount_counts([*init, *main]))
    common = _common(spec, made, groups)
    hosts = _host_aliases(spec)
    deadline = spec.number("activeDeadlineSeconds", 1)
    if deadline is not None:
        # Podman counts for each container, so several init containers may take longer in sum.
        common += ["--timeout", str(deadline)]
    _refuse_or_drop(spec)
    spec.end()

    network = network_name(settings.site, made.labels, name)
    owner = f"{settings.site}-{name}"
    reads = [_Container.read(fields, made, identity, init=True) for fields in init]
    reads += [_Container.read(fields, made, identity, init=False) for fields in main]
    ports = [port for one in reads for port in one.ports if not one.init]
    seen: set[str] = set()
    plans = []
    first_main = True
    for one in reads:
        if one.name in seen:
            raise UntranslatableField(f"{one.path}.name", Text("it is there twice"))
        seen.add(one.name)
        if one.init or first_main:
            net = ["--network", network, *hosts]
            if not one.init:
                net += ports
        else:
            net = ["--network", f"container:{owner}"]
        podman_name = owner if first_main and not one.init else f"{owner}_{one.name}"
        first_main = first_main and one.init
        plans.append(_plan(one, made, podman_name, [*net, *common]))
    return Plan(
        name=name, labels=made.labels, folder=made.folder, network=network,
        containers=tuple(plans), claims=tuple(made.claims.values()), empty=tuple(made.empty),
        shared_memory=tuple(made.shared_memory), pins=tuple(made.pins), files=tuple(made.files),
        gpus=tuple(made.gpus), folders=tuple(made.host_folders),
    )  # fmt: skip


def _common(spec: Fields, made: PodBuild, groups: Sequence[int]) -> list[str]:
    hostname = spec.text("hostname") or made.name
    if not _HOST.fullmatch(hostname):
        raise spec.refused("hostname", Text("it is not a host name"))
    argv = ["--hostname", hostname[:63].rstrip("-.")]
    grace = spec.number("terminationGracePeriodSeconds")
    if grace is not None:
        argv += ["--stop-timeout", str(grace)]
    if made.gid is not None:
        groups = [made.gid, *groups]
    for gid in dict.fromkeys(groups):
        argv += ["--group-add", str(gid)]
    return argv


def _host_aliases(spec: Fields) -> list[str]:
    argv = []
    for alias in spec.each("hostAliases"):
        address = alias.required("ip")
        names = alias.texts("hostnames") or []
        if not _ADDRESS.fullmatch(address) or not all(_HOST.fullmatch(name) for name in names):
            raise UntranslatableField(alias.path, Text("it is not an address with host names"))
        argv += [part for name in names for part in ("--add-host", f"{name}:{address}")]
        alias.end()
    return argv


def _refuse_or_drop(spec: Fields) -> None:
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        spec.only(key, [False], Text("pods are kept apart from this machine"))
    spec.only(
        "shareProcessNamespace", [False], Text("containers do not see each other's processes")
    )
    spec.only(
        "restartPolicy",
        ["Never", "OnFailure"],
        Text("a container that ended is not started again: use Never or OnFailure"),
    )
    spec.only(
        "automountServiceAccountToken", [False], Text("there is no Kubernetes API on this machine")
    )
    spec.only(
        "dnsPolicy", ["ClusterFirst", "Default"], Text("pods use the name servers of this machine")
    )
    spec.meaningless(POD_MEANINGLESS)


# --- containers ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Identity:
    """Who a container runs as."""

    user: int | None = None
    group: int | None = None
    non_root: bool = False

    @classmethod
    def read(cls, fields: Fields, above: _Identity) -> _Identity:
        user, group = fields.number("runAsUser"), fields.number("runAsGroup")
        non_root = fields.raw("runAsNonRoot")
        made = cls(
            above.user if user is None else user,
            above.group if group is None else group,
            above.non_root if non_root is None else non_root is True,
        )
        if made.non_root and made.user == 0:
            raise fields.refused("runAsUser", Text("it is 0, and runAsNonRoot is set"))
        if made.group is not None and made.user is None:
            raise fields.refused("runAsGroup", Text("it needs runAsUser beside it"))
        return made


@dataclasses.dataclass(frozen=True)
class _Container:
    """A container as read; its name on podman and its network are decided afterwards."""

    path: str
    name: str
    init: bool
    image: str
    pull: PullPolicy
    options: tuple[str, ...]
    command: tuple[str, ...]
    ports: tuple[str, ...]
    env: Mapping[str, str]
    must_not_be_root: bool

    @classmethod
    def read(cls, fields: Fields, made: PodBuild, above: _Identity, *, init: bool) -> _Container:
        name = fields.required("name")
        if not NAME.fullmatch(name):
            raise fields.refused("name", Text("it must be a DNS name in lower case"))
        image = fields.required("image")
        if not _IMAGE.fullmatch(image):
            raise fields.refused("image", Text("{image} is not the name of an image", image=image))
        policy = fields.text("imagePullPolicy") or "IfNotPresent"
        pull = next((one for one in _POLICIES if one == policy), None)
        if pull is None:
            raise fields.refused("imagePullPolicy", Text("it is not one of Kubernetes' policies"))
        env = read_environment(fields, made)
        # One that the manifest sets wins over ours.
        if made.settings.ca_bundle is not None:
            env = {variable: CA_PATH for variable in CA_VARIABLES} | env
        command = [expand(part, env) for part in fields.texts("command") or []]
        args = [expand(part, env) for part in fields.texts("args") or []]
        options, identity = _security(fields, above)
        memory, more = _resources(fields, made)
        options += more
        options += read_mounts(fields, made, name, memory)
        if made.settings.ca_bundle is not None:
            options += ["--volume", f"{made.settings.ca_bundle}:{CA_PATH}:ro"]
        if folder := fields.text("workingDir"):
            options += ["--workdir", inner_path(folder, fields.at("workingDir"))]
        if command:
            options += ["--entrypoint", json.dumps(command)]
        ports = _ports(fields)
        for key in ("stdin", "stdinOnce", "tty"):
            fields.only(key, [False], Text("nobody is attached to a container"))
        fields.only("restartPolicy", [], Text("an init container runs once and ends"))
        fields.meaningless(CONTAINER_MEANINGLESS)
        fields.end()
        return cls(
            fields.path, name, init, image, pull, tuple(options), (image, *args), tuple(ports), env,
            identity.non_root and identity.user is None,
        )  # fmt: skip


def _plan(one: _Container, made: PodBuild, podman_name: str, shared: list[str]) -> ContainerPlan:
    path = made.folder / "env" / one.name
    lines, environment, names = for_podman(one.env, one.path)
    labels = {
        LABEL_SITE: made.settings.site,
        LABEL_POD: made.name,
        LABEL_CONTAINER: one.name,
        LABEL_KIND: "init" if one.init else "main",
        LABEL_LABELS: json.dumps(made.labels, sort_keys=True),
        LABEL_CLAIMS: json.dumps(sorted(made.claims)),
        LABEL_GPUS: json.dumps(made.gpus),
    }
    argv = ["--pull=never", "--name", podman_name]
    for key, value in labels.items():
        argv += ["--label", f"{key}={value}"]
    argv += [
        "--log-driver", "k8s-file", "--log-opt", f"path={made.folder}/logs/{one.name}.log",
        "--log-opt", f"max-size={LOG_BYTES}", "--http-proxy=false", "--env-file", str(path),
    ]  # fmt: skip
    argv += [part for name in names for part in ("--env", name)]
    argv += [*shared, *one.options, *one.command]
    return ContainerPlan(
        name=one.name, podman_name=podman_name, init=one.init, image=one.image, pull=one.pull,
        argv=tuple(argv), folder=made.folder / "run" / one.name, env_path=path, env_file=lines,
        environment=environment, must_not_be_root=one.must_not_be_root,
    )  # fmt: skip


def _security(fields: Fields, above: _Identity) -> tuple[list[str], _Identity]:
    security = fields.inner("securityContext") or Fields({}, fields.at("securityContext"))
    identity = _Identity.read(security, above)
    argv: list[str] = []
    if identity.user is not None:
        argv += [
            "--user",
            ":".join(str(x) for x in (identity.user, identity.group) if x is not None),
        ]
    security.only("privileged", [False], Text("privileged pods are not run"))
    if security.raw("allowPrivilegeEscalation") is False:
        argv += ["--security-opt", "no-new-privileges"]
    if security.flag("readOnlyRootFilesystem"):
        argv += ["--read-only", "--read-only-tmpfs=false"]
    security.only("procMount", ["Default"], Text("only Default is allowed"))
    _seccomp(security)
    capabilities = security.inner("capabilities") or Fields({}, security.at("capabilities"))
    dropped = _capabilities(capabilities, "drop")
    # With raw packets a pod could pretend to be another, and reach the machine's 127.0.0.1.
    argv += ["--cap-drop", "all"] if "ALL" in dropped else ["--cap-drop", "NET_RAW"]
    if "ALL" not in dropped:
        argv += [part for cap in dropped if cap != "NET_RAW" for part in ("--cap-drop", cap)]
    for cap in _capabilities(capabilities, "add"):
        if cap != "NET_BIND_SERVICE":
            raise capabilities.refused("add", Text("{cap} is too much for a pod", cap=cap))
        argv += ["--cap-add", cap]
    capabilities.end()
    security.end()
    return argv, identity


def _capabilities(fields: Fields, key: str) -> list[str]:
    names = [name.upper().removeprefix("CAP_") for name in fields.texts(key) or []]
    if not all(re.fullmatch(r"[A-Z_]{2,30}", name) for name in names):
        raise fields.refused(key, Text("it must be a list of capabilities"))
    return names


def _seccomp(security: Fields) -> None:
    for key in ("seccompProfile", "appArmorProfile"):
        security.only(
            key, [{"type": "RuntimeDefault"}], Text("only the type RuntimeDefault is allowed")
        )


def _resources(fields: Fields, made: PodBuild) -> tuple[int | None, list[str]]:
    """The memory limit in bytes, and podman's options."""
    resources = fields.inner("resources") or Fields({}, fields.at("resources"))
    amounts: dict[str, dict[str, Decimal]] = {}
    for side in ("limits", "requests"):
        path = resources.at(side)
        amounts[side] = {
            name: quantity(value, f"{path}.{name}")
            for name, value in resources.labels(side).items()
        }
    resources.end()
    limits, requests = amounts["limits"], amounts["requests"]
    argv = ["--pids-limit", str(PIDS_LIMIT)]
    cpu = limits.pop("cpu", None)
    if cpu:
        argv += ["--cpus", f"{cpu.normalize():f}"]
    weight = requests.pop("cpu", cpu)
    if weight is not None:
        argv += ["--cpu-shares", str(min(max(2, int(weight * 1024)), 262144))]
    memory = limits.pop("memory", None)
    if memory:
        # Equal to the memory limit: without swap, or the limit would be twice as large.
        argv += ["--memory", str(int(memory)), "--memory-swap", str(int(memory))]
    requests.pop("memory", None)  # Only a scheduler uses it.
    requests.pop("ephemeral-storage", None)  # Likewise.
    for name in [one for one in {**requests, **limits} if "/" in one]:
        count = int(limits.pop(name, requests.get(name, Decimal(0))))
        requests.pop(name, None)
        argv += _devices(name, count, made)
    for side, rest in amounts.items():
        for name in rest:
            raise resources.refused(side, Text("{name} cannot be given out here", name=name))
    return int(memory) if memory else None, argv


def _devices(kind: str, count: int, made: PodBuild) -> list[str]:
    """Free devices of a resource, which is named as on Kubernetes."""
    free = [one for one, resource in made.settings.gpus.items() if resource == kind]
    free = [one for one in free if one not in made.gpus]
    if len(free) < count:
        raise NoFreeDevice(
            Text(
                "All GPUs of this machine are in use: {wanted} wanted, {free} free. "
                "Try again later, or start a profile without a GPU.",
                wanted=count,
                free=len(free),
            )
        )
    made.gpus += free[:count]
    return [part for device in free[:count] for part in ("--device", device)]


def _ports(fields: Fields) -> list[str]:
    argv = []
    for port in fields.each("ports"):
        number = port.number("containerPort", 1, 65535)
        if number is None:
            raise port.refused("containerPort", Text("it must be set"))
        protocol = (port.text("protocol") or "TCP").lower()
        if protocol not in ("tcp", "udp"):
            raise port.refused("protocol", Text("it must be TCP or UDP"))
        port.text("name")
        port.only("hostPort", [], Text("ports are published on 127.0.0.1 only, where one is free"))
        port.only("hostIP", [], Text("ports are published on 127.0.0.1 only"))
        port.end()
        argv += ["--publish", f"127.0.0.1::{number}/{protocol}"]
    return argv
