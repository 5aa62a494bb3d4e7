"""How long ``make up`` takes in a fresh clone with nothing built, and the second time."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

from studovna.paths import ROOT
from tests.bench.hubs import free_port
from tests.bench.results import Results

CASE = "make up"
AGAIN = 3


def measure(results: Results) -> None:
    """A clone, empty caches and an empty container storage: all but Debian's own packages."""
    with tempfile.TemporaryDirectory(prefix="studovna-fresh-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        clone = folder / "clone"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        storage = folder / "storage.conf"
        storage.write_text(
            "[storage]\n"
            'driver = "overlay"\n'
            f'graphroot = "{folder / "storage"}"\n'
            f'runroot = "{folder / "run"}"\n'
        )
        site = folder / "site.yaml"
        site.write_text(f"bind: 127.0.0.1:{free_port()}\nprofiles: {clone / 'profiles'}\n")
        environment = {
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(storage),
            "STUDOVNA_HOME": str(folder / "var"),
            "UV_CACHE_DIR": str(folder / "uv"),
            "PIP_CACHE_DIR": str(folder / "pip"),
            "npm_config_cache": str(folder / "npm"),
        }

        def timed(*argv: str) -> float:
            begun = time.perf_counter()
            subprocess.run(argv, cwd=clone, env=environment, check=True)
            return time.perf_counter() - begun

        try:
            results.add(CASE, "fresh clone, empty caches", timed("make", "up", f"SITE={site}"), "s")
            for _ in range(AGAIN):
                subprocess.run(["make", "down"], cwd=clone, env=environment, check=True)
                results.add(
                    CASE, "second time, hub was down", timed("make", "up", f"SITE={site}"), "s"
                )
            for _ in range(AGAIN):
                results.add(CASE, "second time, hub runs", timed("make", "up", f"SITE={site}"), "s")
        finally:
            subprocess.run(["make", "down", "SERVERS=1"], cwd=clone, env=environment, check=False)
            # Not "podman system reset": that would take the machine's own networks along.
            subprocess.run(["podman", "rmi", "--all", "--force"], env=environment, check=False)
