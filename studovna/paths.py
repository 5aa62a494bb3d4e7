"""Where things are: the checkout, the state folder, the site file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The checkout (or the folder of the hub image) that holds images/, profiles/ and the configs."""


def state_dir() -> Path:
    """``$STUDOVNA_HOME``, or ``var/`` in the checkout; made when it is not there."""
    folder = Path(os.environ.get("STUDOVNA_HOME") or ROOT / "var").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def site_file() -> Path:
    """``$STUDOVNA_SITE``, or ``site.yaml`` in the checkout."""
    return Path(os.environ.get("STUDOVNA_SITE") or ROOT / "site.yaml").resolve()


def site_id(state: Path) -> str:
    """A short name for what this state folder owns among other sites of the same machine.

    >>> len(site_id(Path("/srv/studovna")))
    8
    """
    return "st" + hashlib.sha256(str(state.resolve()).encode()).hexdigest()[:6]
