"""The idle culler's configuration: `STUDOVNA_CULL` says whose servers this one looks after."""

import os

from spawner.culling import idle_seconds, may_cull
from studovna.paths import site_file
from studovna.site import load_site

c = get_config()  # noqa: F821 - traitlets gives it

site = load_site(site_file())
kind = "binder" if os.environ["STUDOVNA_CULL"] == "binder" else "others"
limit = idle_seconds(site, kind)

c.IdleCuller.cull_arbiter_hook = lambda inactive, inactive_limit, server: (
    limit is not None and may_cull(kind, limit, server, inactive)
)
c.IdleCuller.timeout = int(limit or 86400)
c.IdleCuller.cull_every = min(600, max(10, int((limit or 1200) / 2)))
c.IdleCuller.remove_named_servers = kind == "binder"
if kind == "others" and site.servers.max_age_hours:
    c.IdleCuller.max_age = int(site.servers.max_age_hours * 3600)
