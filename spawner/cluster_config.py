"""The site's settings as JupyterHub's configuration where they differ on a cluster.

The hub's pod there has the hub and its cullers; the proxy, Binder and the registry are Deployments
of their own, reached by their Services.
"""

from __future__ import annotations

import os
from typing import Any

from spawner.deployment import Deployment
from spawner.hub_config import Services
from studovna.release import HUB_PORT, PROXY_API_PORT, Release
from studovna.secrets import read_secret


def configure_hub(c: Any, release: Release) -> None:
    """Where others find the hub, and its database."""
    c.JupyterHub.hub_connect_url = release.url("hub", HUB_PORT)
    # A release with a newer JupyterHub brings the database along; of SQLite's it keeps a copy.
    c.JupyterHub.upgrade_db = True
    if os.environ.get("STUDOVNA_DB_URL"):
        c.JupyterHub.db_url = os.environ["STUDOVNA_DB_URL"]
        # A database elsewhere may close connections that were not used for long.
        c.JupyterHub.db_kwargs = {"pool_pre_ping": True}


def configure_proxy(c: Any, deployment: Deployment, release: Release) -> None:
    """The proxy runs by itself, and goes on while the hub is away."""
    c.ConfigurableHTTPProxy.should_start = False
    c.ConfigurableHTTPProxy.api_url = release.url("proxy-api", PROXY_API_PORT)
    c.ConfigurableHTTPProxy.auth_token = read_secret(deployment.state_dir, "proxy-token")[0]
    # How soon a proxy that was started anew gets its routes back: they are compared where the hub
    # asks when servers were used last.
    c.JupyterHub.last_activity_interval = 15


def configure_spawner(c: Any) -> None:
    """What differs for servers: which images are pulled again, and what is trusted.

    Nodes keep what they have pulled, so a tag that moves has to be asked for again.

    Without a policy Kubernetes itself does that for `latest`, and pulls others where absent.
    https://kubernetes.io/docs/concepts/containers/images/#imagepullpolicy-defaulting
    """
    c.KubernetesSpawner.image_pull_policy = ""
    c.KubernetesSpawner.ca_config_map = os.environ.get("STUDOVNA_CA_CONFIG_MAP", "")


def metrics_service(deployment: Deployment) -> Services:
    """Who reads the hub's metrics; its token is in the release's Secret."""
    token = read_secret(deployment.state_dir, "service-token-metrics")[0]
    return Services(
        services=[{"name": "metrics", "api_token": token}],
        roles=[{"name": "metrics", "scopes": ["read:metrics"], "services": ["metrics"]}],
    )
