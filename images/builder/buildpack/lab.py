"""Run once, when the builder image is made: what builds need to know and would only find out again.

Every repository's environment begins as a copy of `paths.SKELETON`: a virtual environment that has
the Lab's packages behind its own, and the Lab's commands under its own Python.

uv takes an environment for one that stands alone, which it would fill with all that the Lab has
already. So the Lab's packages are entered in a new one as if they were there: their names,
versions and needs, and no files. What a repository changes is then installed over them, in one
step, and the entries are taken out again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from email.parser import HeaderParser
from pathlib import Path

from . import framework
from .paths import (
    CONSTRAINTS,
    ENV,
    FRAMEWORK,
    INSTALLED,
    LAB,
    SKELETON,
    UV_CACHE,
    site_packages,
)

SERVER = ("jupyterhub", "jupyterlab", "jupyter-server", "ipykernel")
# Of a package's metadata, what uv reads; descriptions are the most of it.
_HEADERS = ("Metadata-Version", "Name", "Version", "Requires-Python", "Requires-Dist",
            "Provides-Extra")  # fmt: skip


def main() -> None:
    metadata: dict[str, tuple[str, list[str]]] = {}
    installed: dict[str, str] = {}
    for folder in sorted(site_packages(LAB).glob("*.dist-info")):
        headers = HeaderParser().parsestr((folder / "METADATA").read_text(), headersonly=True)
        needs = headers.get_all("Requires-Dist") or []
        metadata[_name(headers["Name"])] = (headers["Version"], needs)
        kept = [(name, value) for name, value in headers.items() if name in _HEADERS]
        installed[folder.name] = "".join(f"{name}: {value}\n" for name, value in kept)
    INSTALLED.write_text(json.dumps(installed))
    CONSTRAINTS.write_text("".join(f"{line}\n" for line in constraints(metadata)))
    skeleton(ENV)
    ask = ["uv", "pip", "list", "--quiet", "--no-config", "--python", str(ENV)]
    subprocess.run(ask, env={**os.environ, "UV_CACHE_DIR": str(UV_CACHE)}, check=True)
    (UV_CACHE / ".lock").unlink(missing_ok=True)
    shutil.move(ENV, SKELETON)
    FRAMEWORK.write_text(json.dumps(framework.record()))
    print(json.dumps({"packages": len(metadata), "python": sys.version.split()[0]}))


def skeleton(env: Path) -> None:
    """An environment over the Lab's, made where it will be used."""
    argv = ["-I", "-m", "venv", "--without-pip", "--system-site-packages", str(env)]
    subprocess.run(["/usr/bin/python3", *argv], check=True)
    for script in ("activate", "activate.csh", "activate.fish", "Activate.ps1"):
        (env / "bin" / script).unlink(missing_ok=True)
    # After whatever .pth files the repository's packages have: theirs come first.
    (site_packages(env) / "zz_studovna_lab.pth").write_text(f"{site_packages(LAB)}\n")
    # `jupyter server extension disable --sys-prefix` knows what is entered below the prefix alone.
    shutil.copytree(LAB / "etc/jupyter", env / "etc/jupyter")
    for command in sorted((LAB / "bin").iterdir()):
        own = env / "bin" / command.name
        if command.is_symlink() or own.exists():
            continue
        with command.open("rb") as file:
            first = file.readline()
            if not first.startswith(f"#!{LAB}/bin/python".encode()):
                continue
            own.write_bytes(first.replace(bytes(LAB), bytes(env), 1) + file.read())
        own.chmod(0o755)


def constraints(metadata: dict[str, tuple[str, list[str]]]) -> list[str]:
    """What the server's packages need of each other, and the server's own major versions.

    `metadata` is version and Requires-Dist by name. Repositories may change any package within
    this; beyond it, the server would not start.
    """
    framework.find_library()
    from packaging.requirements import Requirement

    found: dict[str, set[str]] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(name, "") for name in SERVER]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen or name not in metadata:
            continue
        seen.add((name, extra))
        for line in metadata[name][1]:
            need = Requirement(line)
            if need.marker is not None and not need.marker.evaluate({"extra": extra}):
                continue
            other = _name(need.name)
            found.setdefault(other, set()).update(str(one) for one in need.specifier)
            waiting += [(other, ""), *((other, one) for one in need.extras)]
    for name in SERVER:
        found.setdefault(name, set()).add(f"=={metadata[name][0].split('.')[0]}.*")
    return [f"{name} {','.join(sorted(specs))}".strip() for name, specs in sorted(found.items())]


def _name(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
