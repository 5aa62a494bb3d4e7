"""What Binder adds to JupyterHub's configuration: its services, their roles, and git tokens."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from binder import embedded_registry, tokens
from spawner.deployment import Deployment
from spawner.hub_config import Services, service_environment
from studovna.paths import ROOT
from studovna.podman import Podman
from studovna.release import BINDER_PORT, release
from studovna.secrets import read_secret
from studovna.site import Site


def services(deployment: Deployment) -> Services:
    """Binder, its culler, and the registry that comes with Studovna where the site has none."""
    site, state = deployment.site, deployment.state_dir
    there = release()
    found = Services(
        services=[
            {
                "name": "binder",
                # On a cluster it is a Deployment of its own.
                **({"url": there.url("binder", BINDER_PORT)} if there else _managed(site)),
                "api_token": read_secret(state, "service-token-binder")[0],
                "oauth_no_confirm": True,
            },
            {
                "name": "binder-culler",
                "command": [
                    sys.executable,
                    "-m",
                    "jupyterhub_idle_culler",
                    "--config",
                    str(ROOT / "culler_config.py"),
                ],
                "environment": service_environment(STUDOVNA_CULL="binder"),
            },
        ],
        roles=[
            {
                "name": "binder",
                "scopes": ["read:users", "list:users", "servers", tokens.SCOPE],
                "services": ["binder"],
            },
            {
                "name": "binder-culler",
                "scopes": ["list:users", "read:users:activity", "read:servers", "delete:servers"],
                "services": ["binder-culler"],
            },
            {"name": "user", "scopes": ["self", "access:services!service=binder"]},
        ],
        handlers=list(tokens.hub_handlers),
        scopes=tokens.CUSTOM_SCOPES,
    )
    if site.registry is None and there is None:
        found.services.append(
            {
                "name": "registry",
                "command": [sys.executable, "-m", "binder.embedded_registry"],
                "environment": service_environment(),
            }
        )
    return found


def _managed(site: Site) -> dict[str, Any]:
    """Binder as a process that the hub starts and watches."""
    _, port = site.bind_address
    command = [sys.executable, "-m", "binder", "--config", str(ROOT / "binderhub_config.py")]
    return {
        "url": f"http://127.0.0.1:{port + 2}",
        "command": command,
        "environment": service_environment(**_way_out()),
    }


def _way_out(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """How this machine reaches the internet: what git, the archives and builds need of it."""
    proxies = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
    authorities = ("GIT_SSL_CAINFO", "REQUESTS_CA_BUNDLE")
    names = [*proxies, *(name.upper() for name in proxies), *authorities]
    return {name: environ[name] for name in names if name in environ}


def image_prefix(deployment: Deployment) -> str:
    """What the names of all images begin with that Binder builds; empty without Binder."""
    site = deployment.site
    if not site.binder.enabled:
        return ""
    if site.registry is None:
        return f"{embedded_registry.embedded_host(deployment.state_dir)}/binder/"
    return f"{urlsplit(site.registry.url).netloc}/{site.registry.prefix.strip('/')}/"


def podman(deployment: Deployment) -> Podman:
    """Podman that knows the site's registry, and may pull from it."""
    site, state = deployment.site, deployment.state_dir
    if not site.binder.enabled:
        return Podman(state)
    if site.registry is None:
        return Podman(state, registry_port=embedded_registry.prepare(state))
    if site.registry.username and site.registry.password_file:
        password = site.path(site.registry.password_file).read_text().strip()
        host = urlsplit(site.registry.url).netloc
        embedded_registry.write_login(state, host, site.registry.username, password)
    return Podman(state)


def keep_tokens(c: Any) -> None:
    """Signing in again keeps the git tokens that a person has given."""
    c.Authenticator.reconcile_auth_state_hook = tokens.keep_git_tokens
