"""Binder's configuration, in BinderHub's own option names.

Loads in upstream's BinderHub, too: what only ours knows comes from ``site.yaml`` by itself.
"""

from pathlib import Path
from urllib.parse import urlsplit

from binder.embedded_registry import embedded_host, embedded_url
from studovna.paths import site_file, state_dir
from studovna.secrets import read_secret
from studovna.site import load_site

c = get_config()  # noqa: F821 - traitlets gives it

site = load_site(site_file())
binder = site.binder

c.BinderHub.auth_enabled = True
c.BinderHub.base_url = "/services/binder/"
if site.public_url:
    c.BinderHub.hub_url = site.url + "/"
    # Behind an Ingress that ends TLS the requests here no longer tell how they began.
    c.BinderHub.badge_base_url = site.url + c.BinderHub.base_url
c.BinderHub.build_token_secret = read_secret(state_dir(), "build-token-secret")[0]
c.BinderHub.concurrent_build_limit = binder.concurrent_builds
c.BinderHub.per_repo_quota = binder.servers_per_repository or 0
c.BuildExecutor.memory_limit = int(binder.build_memory)

# Patterns of the site match the whole spec; upstream would look at its beginning only.
c.RepoProvider.allowed_specs = [rf"\A(?:{pattern})\Z" for pattern in binder.allow_repositories]
c.RepoProvider.banned_specs = [rf"\A(?:{pattern})\Z" for pattern in binder.ban_repositories]

if binder.ssh_key_file and binder.ssh_known_hosts_file:
    c.GitRepoProvider.ssh_key_file = str(site.path(binder.ssh_key_file))
    c.GitRepoProvider.ssh_known_hosts_file = str(site.path(binder.ssh_known_hosts_file))

c.RateLimiter.limit = binder.builds_per_hour
c.RateLimiter.period_seconds = 3600

c.Launcher.allow_named_servers = True
c.Launcher.named_server_limit_per_user = binder.servers

c.BinderHub.use_registry = True
if site.registry is None:
    # The registry that comes with Studovna, for this machine or this cluster only.
    c.DockerRegistry.url = embedded_url(state_dir())
    host, prefix = embedded_host(state_dir()), "binder"
else:
    c.DockerRegistry.url = site.registry.url.rstrip("/")
    host, prefix = urlsplit(c.DockerRegistry.url).netloc, site.registry.prefix.strip("/")
    if site.registry.username and site.registry.password_file:
        c.DockerRegistry.username = site.registry.username
        c.DockerRegistry.password = Path(site.path(site.registry.password_file)).read_text().strip()
c.BinderHub.image_prefix = f"{host}/{prefix}/"
