"""Where the hub, the proxy and the services write, and how long that gets."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from studovna.units import MIB

MAX_LOG = 50 * MIB
"""How large the log grows; then it begins anew, and the one before is kept beside it."""


def begin_anew(log: Path) -> None:
    """Move what a log that is too large holds to `hub.log.1`; whoever writes goes on at its begin.

    For writers that append, as the hub and all its services do.
    """
    if log.exists() and log.stat().st_size > MAX_LOG:
        before = log.with_name(log.name + ".1")
        try:
            shutil.copy(log, before)
        except OSError:  # on a full disk room is worth more than what was said before
            before.unlink(missing_ok=True)
        os.truncate(log, 0)


def log_file(state: Path) -> Path:
    """Where the hub, the proxy and the services write."""
    return state / "log" / "hub.log"
