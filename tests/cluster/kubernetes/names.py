"""The names of Services, for the cluster's DNS: follows them in the API.

Run by the node: `python -m tests.cluster.kubernetes.names STATE`. It writes the file that dnsmasq
answers from, and tells dnsmasq when that has changed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.cluster.kubernetes.api import Api


def lines(services: dict[str, dict[str, Any]]) -> str:
    """The hosts file: each Service by its names, from the long one to the short one."""
    found = []
    for service in services.values():
        address = service["spec"].get("clusterIP", "")
        if address in ("", "None"):
            continue
        name = f"{service['metadata']['name']}.{service['metadata']['namespace']}"
        found.append(f"{address} {name}.svc.cluster.local {name}.svc {name}\n")
    return "".join(sorted(found))


def publish(state: Path, services: dict[str, dict[str, Any]]) -> None:
    """Write the names down where they differ from what is there."""
    hosts, text = state / "hosts", lines(services)
    if hosts.read_text() == text:
        return
    hosts.write_text(text)
    with contextlib.suppress(OSError, ValueError):
        os.kill(int((state / "dnsmasq.pid").read_text()), signal.SIGHUP)


def main() -> None:
    state = Path(sys.argv[1])
    while True:
        try:
            for services in Api(state).follow("/api/v1/services"):
                publish(state, services)
        except (OSError, ValueError, KeyError) as error:
            print(repr(error), file=sys.stderr, flush=True)
            time.sleep(1)


if __name__ == "__main__":
    main()
