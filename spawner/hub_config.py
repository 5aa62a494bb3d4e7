"""The site's settings as JupyterHub's configuration: one function a topic."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from typing import Any

from spawner import handlers, pages
from spawner.deployment import Deployment
from spawner.shared_password import in_ascii
from studovna.auth import OpenIDConnect
from studovna.paths import ROOT
from studovna.profile_rules import ways
from studovna.release import HUB_PORT
from studovna.secrets import read_secret
from studovna.site import Site
from studovna.text import Text

ANSWER_SECONDS = 120
SIGNED_IN_DAYS = 1  # with OpenID Connect: how long groups can be those of before


def configure_hub(c: Any, deployment: Deployment, hub_address: str) -> None:
    """Addresses, database, limits. ``hub_address`` is where pods reach the hub, and only there."""
    site, state = deployment.site, deployment.state_dir
    host, port = site.bind_address
    c.JupyterHub.bind_url = f"http://{_in_url(host)}:{port}"
    if site.public_url:
        c.JupyterHub.public_url = site.url + "/"
    c.JupyterHub.hub_bind_url = f"http://{_in_url(hub_address)}:{HUB_PORT}"
    c.JupyterHub.db_url = f"sqlite:///{state / 'jupyterhub.sqlite'}"
    c.JupyterHub.cookie_secret = bytes.fromhex(read_secret(state, "cookie-secret")[0])
    # Servers go on when the hub ends, and are found again when it starts.
    c.JupyterHub.cleanup_servers = False
    c.JupyterHub.allow_named_servers = True
    c.JupyterHub.named_server_limit_per_user = 4 * site.project.servers
    c.JupyterHub.concurrent_spawn_limit = 64
    # After signing in a person chooses; a Binder link must not meet a server that just started.
    c.JupyterHub.redirect_to_server = False
    c.JupyterHub.default_url = "/hub/home"
    c.JupyterHub.load_groups = {
        group: {"users": list(members)} for group, members in site.groups.items()
    }


def configure_proxy(c: Any, deployment: Deployment) -> None:
    """configurable-http-proxy, started and watched by the hub."""
    state = deployment.state_dir
    _, port = deployment.site.bind_address
    c.ConfigurableHTTPProxy.command = [
        "node",
        str(ROOT / "node_modules/configurable-http-proxy/bin/configurable-http-proxy"),
    ]
    c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{port + 1}"
    c.ConfigurableHTTPProxy.auth_token = read_secret(state, "proxy-token")[0]
    c.ConfigurableHTTPProxy.pid_file = str(state / "proxy.pid")
    # How soon a proxy that died is noticed and started again, with its routes.
    c.ConfigurableHTTPProxy.check_running_interval = 2


def configure_auth(c: Any, deployment: Deployment) -> None:
    """Who may sign in, and how."""
    site, state = deployment.site, deployment.state_dir
    if isinstance(site.auth, OpenIDConnect):
        _configure_openid_connect(c, site, site.auth)
    else:
        c.JupyterHub.authenticator_class = "spawner.shared_password.SharedPassword"
        people, admins = (read_secret(state, f"password-{who}")[0] for who in ("people", "admin"))
        c.SharedPasswordAuthenticator.user_password = in_ascii(people)
        c.SharedPasswordAuthenticator.admin_password = in_ascii(admins)
        c.Authenticator.allow_all = True
    c.Authenticator.admin_users = set(site.auth.admins)
    c.Authenticator.username_pattern = rf"\A(?:{site.auth.username_pattern})\Z"
    c.Authenticator.enable_auth_state = True
    c.CryptKeeper.keys = [bytes.fromhex(read_secret(state, "crypt-key")[0])]


def _configure_openid_connect(c: Any, site: Site, auth: OpenIDConnect) -> None:
    # Imported where it is wanted: other sites start without it.
    c.JupyterHub.authenticator_class = "spawner.openid_connect.OpenIDConnectAuthenticator"
    settings = c.OpenIDConnectAuthenticator
    settings.issuer = auth.issuer
    settings.client_id = auth.client_id
    settings.client_secret = site.path(auth.client_secret_file).read_text().strip()
    settings.oauth_callback_url = f"{site.url}/hub/oauth_callback"
    settings.login_service = auth.service
    settings.scope = list(auth.scopes)
    settings.username_claim = auth.username_claim
    settings.name_pattern = auth.username_pattern
    settings.enable_pkce = True
    settings.http_request_kwargs = {"connect_timeout": 5, "request_timeout": 15}
    settings.allow_all = not auth.allowed_groups
    settings.manage_groups = auth.groups_claim is not None
    if auth.groups_claim is not None:
        settings.groups_claim = auth.groups_claim
        settings.allowed_groups = set(auth.allowed_groups)
        settings.admin_groups = set(auth.admin_groups)
    if auth.logout_redirect_url:
        settings.logout_redirect_url = auth.logout_redirect_url
    # Names, groups and rights are those of the last sign-in, which is never long ago; asking the
    # provider in between would end people's work whenever it is away.
    settings.auth_refresh_age = 0
    c.JupyterHub.cookie_max_age_days = SIGNED_IN_DAYS


def configure_security(c: Any, deployment: Deployment) -> None:
    """Headers and cookies as JupyterHub recommends.

    https://jupyterhub.readthedocs.io/en/stable/explanation/websecurity.html
    """
    c.JupyterHub.tornado_settings = {
        "headers": {
            "Content-Security-Policy": "; ".join(
                [
                    "default-src 'self'",
                    # JupyterHub's own pages carry their scripts inline.
                    "script-src 'self' 'unsafe-inline'",
                    "style-src 'self' 'unsafe-inline'",
                    "img-src 'self' data:",
                    "object-src 'none'",
                    "base-uri 'self'",
                    "frame-ancestors 'none'",
                ]
            ),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "strict-origin-when-cross-origin",
        },
        "cookie_options": {"samesite": "Lax", "secure": deployment.site.https},
        "slow_spawn_timeout": 10,
    }


def configure_spawner(c: Any, deployment: Deployment) -> None:
    """How pods are made: what a profile does not say."""
    site = deployment.site
    c.ProfileSpawner.deployment = deployment
    c.ProfileSpawner.cmd = ["jupyterhub-singleuser"]
    c.ProfileSpawner.default_url = "/lab"
    c.ProfileSpawner.storage_capacity = str(site.storage.home_size)
    c.ProfileSpawner.storage_class = site.storage.storage_class
    c.ProfileSpawner.storage_access_modes = list(site.storage.access_modes)
    c.ProfileSpawner.image_pull_policy = "IfNotPresent"
    # JupyterHub's own limit has no sentence for the person: it is later than ours together.
    c.ProfileSpawner.run_timeout = 600
    c.ProfileSpawner.start_timeout = 600 + longest_answer(deployment) + 60
    c.ProfileSpawner.http_timeout = ANSWER_SECONDS
    c.ProfileSpawner.delete_grace_period = 10
    # One call to the engine answers for all servers, so asking often costs little.
    c.ProfileSpawner.poll_interval = 10


def longest_answer(deployment: Deployment) -> int:
    """The most seconds that a server of any profile may take until it answers."""
    effects: list[Any] = []
    for profile in deployment.profiles.values():
        effects += [profile, *(way for one in profile.options.values() for way in ways(one))]
    return max([ANSWER_SECONDS, *(one.answer_seconds or 0 for one in effects)])


def configure_pages(c: Any, deployment: Deployment, notices: list[Text]) -> None:
    """Our templates over JupyterHub's own, in the browser's language."""
    pages.load_translations()
    c.JupyterHub.template_paths = [str(pages.PAGES / "templates")]
    c.JupyterHub.template_vars = pages.template_vars(deployment, notices)


@dataclass
class Services:
    """What a part of the site adds to the hub: services, their roles, handlers and scopes."""

    services: list[dict[str, Any]]
    roles: list[dict[str, Any]]
    handlers: list[tuple[Any, ...]] = field(default_factory=list)
    scopes: dict[str, dict[str, Any]] = field(default_factory=dict)


def services(deployment: Deployment) -> Services:
    """The culler, the operator's own token for the command line, and what our pages ask for."""
    culler = [sys.executable, "-m", "jupyterhub_idle_culler"]
    culler += ["--config", str(ROOT / "culler_config.py")]
    operator = read_secret(deployment.state_dir, "service-token-operator")[0]
    return Services(
        services=[
            {
                "name": "culler",
                "command": culler,
                "environment": service_environment(STUDOVNA_CULL="others"),
            },
            {"name": "operator", "api_token": operator},
        ],
        roles=[
            {
                "name": "culler",
                "scopes": ["list:users", "read:users:activity", "read:servers", "delete:servers"],
                "services": ["culler"],
            },
            {
                "name": "operator",
                "scopes": ["admin:users", "admin:servers", "tokens", "read:hub", "read:metrics"],
                "services": ["operator"],
            },
        ],
        handlers=[*handlers.extra_handlers, *pages.static_handlers()],
    )


def configure_services(c: Any, parts: list[Services]) -> None:
    """Everything that the parts of the site add to the hub."""
    c.JupyterHub.services = [service for part in parts for service in part.services]
    c.JupyterHub.load_roles = [role for part in parts for role in part.roles]
    c.JupyterHub.extra_handlers = [handler for part in parts for handler in part.handlers]
    scopes = {name: scope for part in parts for name, scope in part.scopes.items()}
    c.JupyterHub.custom_scopes = scopes


def service_environment(**more: str) -> dict[str, str]:
    """What a service needs of the hub's environment beside JupyterHub's own variables."""
    names = (
        "PATH",
        "HOME",
        "LANG",
        "TMPDIR",
        "XDG_RUNTIME_DIR",
        "CONTAINERS_STORAGE_CONF",
        "STUDOVNA_HOME",
        "STUDOVNA_SITE",
        "STUDOVNA_RUN",
        "SSL_CERT_FILE",
    )
    return {name: os.environ[name] for name in names if name in os.environ} | more


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
