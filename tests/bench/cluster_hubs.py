"""Our hub and plain KubeSpawner's, on this machine, with servers on the cluster of KUBECONFIG."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from studovna.paths import ROOT
from tests.bench.counting import CountingRelay
from tests.bench.hubs import Hub, free_port, plain_hub
from tests.bench.people import fill
from tests.bench.simulated_node import LABEL
from tests.cluster.kube import IMAGE, kubectl, namespace

CULLER_SCOPES = ["list:users", "read:users:activity", "read:servers", "delete:servers"]

# What jupyterhub_config.py does on a cluster, with the proxy beside the hub.
OURS = """
import sys
sys.path.insert(0, {root!r})
from spawner import cluster_config, hub_config
from spawner.deployment import deployment
from spawner.kubernetes_spawner import KubernetesSpawner
from studovna.release import Release
bench = [c.JupyterHub.bind_url, c.ConfigurableHTTPProxy.api_url]
bench_services, bench_roles = c.JupyterHub.services, c.JupyterHub.load_roles
shared = deployment({site!r}, {state!r})
release = Release(name="bench", instance="bench", namespace={namespace!r},
    builds_namespace={namespace!r}, registry_port=None, registry_url="")
KubernetesSpawner.prepare(c, shared, release, "")
c.JupyterHub.spawner_class = KubernetesSpawner
hub_config.configure_hub(c, shared, {address!r})
hub_config.configure_proxy(c, shared)
cluster_config.configure_spawner(c)
hub_config.configure_auth(c, shared)
hub_config.configure_security(c, shared)
hub_config.configure_spawner(c, shared)
hub_config.configure_pages(c, shared, [])
hub_config.configure_services(c, [hub_config.services(shared)])
c.JupyterHub.bind_url, c.ConfigurableHTTPProxy.api_url = bench
c.JupyterHub.hub_bind_url = f"http://{address}:{{c.JupyterHub.hub_port}}"
c.JupyterHub.services += bench_services
c.JupyterHub.load_roles += bench_roles
c.KubernetesSpawner.port = {port}
"""

# The values that zero-to-jupyterhub 4 sets by default, as far as they reach the hub. Left out, in
# its favour: the privileged init container that blocks the metadata address before each server.
PLAIN = """
import sys
c.JupyterHub.spawner_class = "kubespawner.KubeSpawner"
c.JupyterHub.hub_ip = {address!r}
c.JupyterHub.db_url = "sqlite:///{database}"
c.JupyterHub.cleanup_servers = False
c.JupyterHub.last_activity_interval = 60
c.JupyterHub.concurrent_spawn_limit = 64
c.JupyterHub.allow_named_servers = False
c.JupyterHub.tornado_settings = {{"slow_spawn_timeout": 0}}
c.Spawner.consecutive_failure_limit = 5
c.Spawner.cmd = "jupyterhub-singleuser"
c.KubeSpawner.namespace = {namespace!r}
labels = {{"app.kubernetes.io/name": "jupyterhub", "app": "jupyterhub", "release": "bench",
    "app.kubernetes.io/instance": "bench", "helm.sh/chart": "jupyterhub-4.0.0",
    "chart": "jupyterhub-4.0.0", "app.kubernetes.io/managed-by": "kubespawner"}}
c.KubeSpawner.common_labels = labels
c.KubeSpawner.extra_labels = {{"hub.jupyter.org/network-access-hub": "true"}}
c.KubeSpawner.start_timeout = 300
c.KubeSpawner.events_enabled = True
c.KubeSpawner.uid = 1000
c.KubeSpawner.fs_gid = 100
c.KubeSpawner.allow_privilege_escalation = False
c.KubeSpawner.mem_guarantee = "1G"
c.KubeSpawner.image = {image!r}
c.KubeSpawner.node_affinity_preferred = [{{"weight": 100, "preference": {{"matchExpressions": [
    {{"key": "hub.jupyter.org/node-purpose", "operator": "In", "values": ["user"]}}]}}}}]
c.KubeSpawner.tolerations = [
    {{"key": key, "operator": "Equal", "value": "user", "effect": "NoSchedule"}}
    for key in ("hub.jupyter.org/dedicated", "hub.jupyter.org_dedicated")]
c.KubeSpawner.storage_pvc_ensure = True
c.KubeSpawner.storage_capacity = "10Gi"
c.KubeSpawner.storage_access_modes = ["ReadWriteOnce"]
c.KubeSpawner.volumes = {{"home": {{
    "name": "volume-{{user_server}}", "persistentVolumeClaim": {{"claimName": "{{pvc_name}}"}}}}}}
c.KubeSpawner.volume_mounts = {{"home": {{
    "name": "volume-{{user_server}}", "mountPath": "/home/jovyan"}}}}
c.JupyterHub.services.append({{"name": "jupyterhub-idle-culler", "command": [
    sys.executable, "-m", "jupyterhub_idle_culler", "--timeout=3600", "--cull-every=600",
    "--concurrency=10", f"--url=http://{address}:{{c.JupyterHub.hub_port}}/hub/api"]}})
c.JupyterHub.load_roles.append({{"name": "jupyterhub-idle-culler",
    "scopes": {scopes!r}, "services": ["jupyterhub-idle-culler"]}})
c.KubeSpawner.port = {port}
"""

# Where all pods are to run on a node that does not exist.
SIMULATED = """
c.KubeSpawner.node_selector = {{{label!r}: {node!r}}}
c.KubeSpawner.tolerations.append({{"key": {label!r}, "operator": "Exists"}})
c.KubeSpawner.storage_class = {node!r}
"""


def hub_address() -> str:
    """The address of this machine that the cluster's pods reach: the one towards its API."""
    config = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    server = urlsplit(config["clusters"][0]["cluster"]["server"])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((server.hostname, server.port or 443))
        return str(probe.getsockname()[0])


@contextmanager
def our_hub(
    folder: Path, *, node: str = "", port: int = 8888, people: int = 0
) -> Iterator[tuple[Hub, CountingRelay]]:
    """Our hub, with the profiles of this checkout; all on ``node`` if that is given.

    It knows this many ``people``.
    """
    folder.mkdir()
    settings: dict[str, object] = {
        "engine": "kubernetes",
        "images": IMAGE.rpartition("/")[0],
        "binder": {"enabled": False},
        "profiles": str(ROOT / "profiles"),
        "auth": {"type": "shared-password"},
    }
    if node:
        toleration = {"key": LABEL, "operator": "Exists"}
        place = {"node_selector": {LABEL: node}, "tolerations": [toleration]}
        settings["cluster"] = {"placement": {"cpu": place}}
        settings["storage"] = {"class": node}
    (folder / "site.yaml").write_text(yaml.safe_dump(settings))
    state = folder / "var"
    state.mkdir()
    fill(state / "jupyterhub.sqlite", people, {"profile": "cpu"})
    with ExitStack() as stack:
        where = stack.enter_context(namespace("bench-ours"))
        relay = stack.enter_context(CountingRelay(folder))
        config = OURS.format(
            root=str(ROOT), site=str(folder / "site.yaml"), state=str(state), namespace=where,
            address=hub_address(), port=port,
        )  # fmt: skip
        hub = stack.enter_context(
            plain_hub(
                folder, "hub", config, KUBECONFIG=str(relay.kubeconfig),
                STUDOVNA_SITE=str(folder / "site.yaml"), STUDOVNA_HOME=str(state),
            )
        )  # fmt: skip
        stack.callback(_remove_pods, where)
        yield hub, relay


@contextmanager
def kubespawner_hub(
    folder: Path, image: str, *, node: str = "", port: int = 8888, people: int = 0
) -> Iterator[tuple[Hub, CountingRelay]]:
    """KubeSpawner as zero-to-jupyterhub has it by default; all on ``node`` if that is given."""
    folder.mkdir()
    database = folder / "people.sqlite"
    fill(database, people)
    with ExitStack() as stack:
        where = stack.enter_context(namespace("bench-plain"))
        relay = stack.enter_context(CountingRelay(folder))
        config = PLAIN.format(
            namespace=where, address=hub_address(), image=image, scopes=CULLER_SCOPES, port=port,
            database=database,
        )  # fmt: skip
        if node:
            config += SIMULATED.format(label=LABEL, node=node)
        hub = stack.enter_context(
            plain_hub(folder, "hub", config, KUBECONFIG=str(relay.kubeconfig))
        )
        stack.callback(_remove_pods, where)
        yield hub, relay


def _remove_pods(where: str) -> None:
    """Servers outlive their hub, and a namespace waits for a node that does not exist."""
    kubectl("delete", "pods", "--all", "-n", where, "--grace-period=0", "--force", "--wait=false")


@contextmanager
def simulated_node(name: str) -> Iterator[int]:
    """A simulated node of this name; the port at which its pods answer."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.simulated_node", name, str(port)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError("the simulated node did not come up")
        yield port
    finally:
        process.terminate()
        process.wait()
        kubectl("delete", "persistentvolumes", "-l", f"{LABEL}={name}", "--wait=false")
        kubectl("delete", "node", name, "--ignore-not-found")
