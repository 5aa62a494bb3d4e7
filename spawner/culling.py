"""When an idle server is stopped: what the idle culler asks about each one.

Binder's servers live longer than others, and are removed rather than stopped: so there are two
cullers, each with the servers that are its own.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from studovna.site import Site

BINDER_PROFILE = "binder"
Kind = Literal["binder", "others"]


def kind_of(server: dict[str, Any]) -> Kind:
    """Which culler a server belongs to, from its model in the hub's REST API."""
    options = server.get("user_options") or {}
    return "binder" if options.get("profile") == BINDER_PROFILE else "others"


def idle_seconds(site: Site, kind: Kind) -> float | None:
    """After how many seconds without use such a server is culled; None: never."""
    if kind == "binder":
        return site.binder.idle_days * 86400
    return None if site.servers.idle_hours is None else site.servers.idle_hours * 3600


def oldest_seconds(site: Site, kind: Kind) -> float | None:
    """After how many seconds such a server is culled however much it is used; None: never."""
    hours = site.servers.max_age_hours
    return None if kind == "binder" or hours is None else hours * 3600


def may_cull(
    kind: Kind,
    limit: float | None,
    oldest: float | None,
    server: dict[str, Any],
    inactive: timedelta | None,
) -> bool:
    """Whether this culler stops this server now, after ``limit`` or ``oldest`` seconds.

    The culler's own ``max_age`` asks nobody, and would end the other culler's servers too.
    """
    if kind_of(server) != kind:
        return False
    if oldest is not None and server.get("started"):
        age = datetime.now(UTC) - datetime.fromisoformat(server["started"])
        if age.total_seconds() >= oldest:
            return True
    return limit is not None and inactive is not None and inactive.total_seconds() >= limit
