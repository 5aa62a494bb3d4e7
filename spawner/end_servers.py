"""``python -m spawner.end_servers STATE``: end every pod of one site and what podman keeps for it.

What ``studovna down --servers`` runs once the hub is down. Homes are kept.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from spawner.engine import EngineError
from spawner.podman_engine import PodmanEngine
from spawner.podman_network import remove_hub_address
from studovna.paths import site_id
from studovna.podman import Podman, PodmanError

GRACE = 10.0
"""Seconds that a server gets to save."""
AT_ONCE = 8


async def end_all(engine: PodmanEngine) -> int:
    """End every pod of the site, some at a time; how many there were."""
    names = list(await engine.states({}))
    limit = asyncio.Semaphore(AT_ONCE)

    async def end(name: str) -> None:
        async with limit:
            await engine.end(name, GRACE)

    await asyncio.gather(*(end(name) for name in names))
    return len(names)


def end_servers(state: Path) -> int:
    """End the site's pods and give its address back. Raises PodmanError or EngineError."""
    podman = Podman(state)
    podman.probe()
    ended = asyncio.run(end_all(PodmanEngine(podman, site_id(state))))
    remove_hub_address(podman, site_id(state))
    return ended


if __name__ == "__main__":
    try:
        print(end_servers(Path(sys.argv[1]).resolve()))
    except PodmanError as error:
        sys.exit(error.text)
    except EngineError as error:
        sys.exit(error.sentence)
    except OSError as error:
        sys.exit(str(error))
