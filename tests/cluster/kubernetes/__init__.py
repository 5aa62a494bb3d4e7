"""A real Kubernetes of one node on a Debian machine that has none.

Debian 12 has the source of Kubernetes 1.20 and of its programs only kubectl: `programs` builds the
others, once; `node` runs them. Requires root. Everything is in one folder, `home()`::

    1.20.2/bin/   the programs, kept
    registry/     what was pushed to the registry beside the cluster, kept
    state/        the cluster itself, removed when it goes down

    python -m tests.cluster.kubernetes up      # prints the path of its kubeconfig
    python -m tests.cluster.kubernetes down

It has RBAC, the scheduler, quotas and limits, volumes, Services and their names in DNS. It has no
NetworkPolicies (they are stored, and nothing enforces them), no Pod Security admission, no Ingress
controller and no second node.
"""

from __future__ import annotations

import os
from pathlib import Path

VERSION = "1.20.2"


class ClusterError(Exception):
    """The cluster cannot be made here; the message says why."""


def home() -> Path:
    """`$STUDOVNA_KUBERNETES`, or a folder in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("STUDOVNA_KUBERNETES") or cache / "studovna-kubernetes")
