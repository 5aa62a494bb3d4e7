"""JupyterHub's configuration: reads the site and its profiles, and wires."""

from binder import hub_config as binder_config
from spawner import cluster_config, hub_config, leftovers
from spawner.deployment import deployment
from spawner.machine import Machine, gpus, labels
from studovna.hub_log import log_file
from studovna.images import build_commands
from studovna.paths import ROOT, site_file, site_id, state_dir
from studovna.release import this_release
from studovna.system import ca_bundle

c = get_config()  # noqa: F821 - traitlets gives it

shared = deployment(str(site_file()), str(state_dir()))
on_cluster = shared.site.engine == "kubernetes"
notices = []

if on_cluster:
    from spawner.kubernetes_spawner import KubernetesSpawner

    release = this_release()
    KubernetesSpawner.prepare(c, shared, release, binder_config.image_prefix(shared))
    c.JupyterHub.spawner_class = KubernetesSpawner
    hub_config.configure_hub(c, shared, "")
    cluster_config.configure_hub(c, release)
    cluster_config.configure_proxy(c, shared, release)
    cluster_config.configure_spawner(c)
else:
    from spawner.podman_engine import PodmanEngine
    from spawner.podman_spawner import PodmanSpawner

    podman = binder_config.podman(shared)
    facts = podman.probe()
    PodmanSpawner.engine = PodmanEngine(
        podman,
        site_id(shared.state_dir),
        ca_bundle=ca_bundle(),
        gpus=gpus(),
        folders=shared.site.folders,
    )
    PodmanSpawner.machine = Machine(
        podman,
        PodmanSpawner.engine,
        binder_config.image_prefix(shared),
        build_commands(ROOT / "images"),
        labels(),
    )
    leftovers.watch(PodmanSpawner.engine, log_file(shared.state_dir))
    c.JupyterHub.spawner_class = PodmanSpawner
    hub_config.configure_hub(c, shared, PodmanSpawner.engine.hub_address())
    hub_config.configure_proxy(c, shared)
    notices += [] if facts.limits_enforced else [facts.reason]

hub_config.configure_auth(c, shared)
hub_config.configure_security(c, shared)
hub_config.configure_spawner(c, shared)
hub_config.configure_pages(c, shared, notices)
# JupyterHub starts services one after another and waits for those that people reach: Binder first,
# before the others take the processor from it.
parts = [binder_config.services(shared)] if shared.site.binder.enabled else []
parts += [cluster_config.metrics_service(shared)] if on_cluster else []
hub_config.configure_services(c, [*parts, hub_config.services(shared)])
binder_config.keep_tokens(c)
