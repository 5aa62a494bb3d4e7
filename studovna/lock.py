"""``make lock``: every locked version made new, for the hub, the tests, the images and the proxy.

The lock files hold versions and hashes and no address of a registry: which one is used is the
machine's configuration.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from studovna.paths import ROOT

COMPILE = [
    "uv",
    "pip",
    "compile",
    "--quiet",
    "--upgrade",
    "--generate-hashes",
    "--no-header",
    "--no-emit-index-url",
    "--no-emit-find-links",
]
HUB_PYTHON = "3.11"
IMAGE_PYTHON = "3.13"


def lock(source: Path, target: Path, python: str, *options: str) -> None:
    """Resolve ``source`` for this Python and write ``target``."""
    argv = [*COMPILE, "--python-version", python, *options, str(source), "--output-file"]
    subprocess.run([*argv, str(target)], cwd=ROOT, check=True)
    print(f"{target.relative_to(ROOT)}: {target.read_text().count('==')} packages")


def main() -> None:
    """Lock everything, from the lowest layer up."""
    folder = ROOT / "requirements"
    lock(folder / "uv.in", folder / "uv.txt", HUB_PYTHON)
    lean = ("--override", str(folder / "overrides.txt"))
    lock(ROOT / "pyproject.toml", folder / "hub.txt", HUB_PYTHON, *lean)
    hub = ("--extra", "dev", "--constraint", str(folder / "hub.txt"), *lean)
    lock(ROOT / "pyproject.toml", folder / "dev.txt", HUB_PYTHON, *hub)
    cluster = ROOT / "images/hub-base/requirements.in"
    also = (str(ROOT / "pyproject.toml"), "--constraint", str(folder / "hub.txt"))
    lock(cluster, cluster.with_suffix(".txt"), IMAGE_PYTHON, *also, *lean)
    for source in sorted(ROOT.glob("images/*/requirements.in")):
        if source == cluster:
            continue
        parent = ROOT / "images/lab/requirements.txt"
        constraint = () if source.parent.name == "lab" else ("--constraint", str(parent))
        lock(source, source.with_suffix(".txt"), IMAGE_PYTHON, *constraint, *lean)
    subprocess.run(["npm", "update", "--package-lock-only"], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
