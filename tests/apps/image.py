"""Images of applications that know nothing of the hub."""

from __future__ import annotations

import shutil
from pathlib import Path

from studovna.podman import Podman

HERE = Path(__file__).parent
PLAIN = "localhost/studovna-test/application:1"
"""Debian with Python, and an application of the standard library; no Jupyter."""


def build(podman: Podman, folder: Path, tag: str, lines: list[str]) -> None:
    """A small image of some files."""
    (folder / "Containerfile").write_text("\n".join(lines) + "\n")
    podman.run("build", "--quiet", "--tag", tag, str(folder), timeout=300)


def build_plain(podman: Podman, folder: Path) -> None:
    """Build ``PLAIN``."""
    files = folder / "plain"
    files.mkdir()
    shutil.copy(HERE / "application.py", files)
    build(podman, files, PLAIN, [
        "FROM localhost/studovna/base:latest", "COPY application.py /opt/application.py",
        'ENTRYPOINT ["python3", "-u", "/opt/application.py"]', 'CMD ["8080"]',
    ])  # fmt: skip
