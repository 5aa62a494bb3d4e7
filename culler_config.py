"""The idle culler's configuration: `STUDOVNA_CULL` says whose servers this one looks after."""

import os

from spawner.culling import idle_seconds, may_cull, oldest_seconds
from studovna.paths import site_file
from studovna.site import load_site

c = get_config()  # noqa: F821 - traitlets gives it

site = load_site(site_file())
kind = "binder" if os.environ["STUDOVNA_CULL"] == "binder" else "others"
limit, oldest = idle_seconds(site, kind), oldest_seconds(site, kind)

c.IdleCuller.cull_arbiter_hook = lambda inactive, inactive_limit, server: may_cull(
    kind, limit, oldest, server, inactive
)
c.IdleCuller.timeout = int(limit or 86400)
c.IdleCuller.cull_every = min(600, max(10, int(min(limit or 1200, oldest or 1200) / 2)))
c.IdleCuller.remove_named_servers = kind == "binder"
