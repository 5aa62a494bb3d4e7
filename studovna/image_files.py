"""The files that an image is built from: what is hashed is exactly what the build sees."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from studovna.paths import ROOT

_IGNORED = ("__pycache__", "*.pyc", "*~", ".*", "*.md")

_CONTAINERFILE = b"""\
ARG PARENT
FROM ${PARENT}
USER 0:0
RUN --mount=type=bind,target=/tmp/inputs sh /tmp/inputs/install.sh
USER 1000:100
"""
_INSTALL = """\
set -eu
[ ! -r /dev/studovna/env ] || . /dev/studovna/env
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -y -q --no-install-recommends -- {packages}
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives /var/log/*.log /var/log/apt
"""

File = tuple[bool, bytes]
"""Whether it is executable, and what it holds."""


def folder_files(folder: Path) -> dict[str, File]:
    """A folder's files by path, without byte code, hidden files, editors' copies and notes."""
    files = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        ignored = any(Path(part).match(pattern) for part in relative.parts for pattern in _IGNORED)
        if path.is_file() and not ignored:
            files[relative.as_posix()] = _read(path)
    return files


def checkout_files(names: Iterable[str], root: Path = ROOT) -> dict[str, File]:
    """The named files and folders of the checkout, below `checkout/`.

    Raises FileNotFoundError for one that is not there.
    """
    files: dict[str, File] = {}
    for name in names:
        path = root / name
        if path.is_dir():
            inside = folder_files(path)
            files |= {f"checkout/{name}/{inner}": file for inner, file in inside.items()}
        else:
            files[f"checkout/{name}"] = _read(path)
    return files


def package_files(packages: Sequence[str]) -> dict[str, File]:
    """What builds an image that is its parent and these Debian packages."""
    script = _INSTALL.format(packages=" ".join(packages))
    return {"Containerfile": (False, _CONTAINERFILE), "install.sh": (False, script.encode())}


def write_files(files: Mapping[str, File], folder: Path) -> None:
    """Write them below a folder, readable by everybody, as the build gets them."""
    folder.chmod(0o755)
    for name, (executable, content) in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o755 if executable else 0o644)


def _read(path: Path) -> File:
    return bool(path.stat().st_mode & 0o100), path.read_bytes()
