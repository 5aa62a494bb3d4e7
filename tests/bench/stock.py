"""A repository built through repo2docker's stock template, upon the same image as ours.

The buildpacks that come with repo2docker begin with conda, which a closed network does not have; so
what is measured is their template and their layers alone, with pip for the packages: the least that
they could take.
"""

from __future__ import annotations

import os
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repo2docker.buildpacks.base import BuildPack

from binder.executor import pod_environment
from studovna import build_settings
from studovna.podman import Podman

BASE = "localhost/studovna-bench/stock-base:latest"
IMAGE = "localhost/studovna-bench/stock:latest"
LAB = "localhost/studovna/lab:latest"


class _Stock(BuildPack):
    """The template as it is, with the one step that the repository asks for."""

    def detect(self) -> bool:
        return True

    def get_assemble_scripts(self) -> list[tuple[str, str]]:
        return [("${NB_USER}", "pip install --no-cache-dir -r requirements.txt")]


class _Client:
    """What a buildpack asks of a container engine."""

    def __init__(self, podman: Podman, volumes: list[str]) -> None:
        self._podman = podman
        self._volumes = volumes

    def build(self, *, fileobj: Any, tag: str, buildargs: Any, **_more: Any) -> Iterator[str]:
        with tempfile.TemporaryDirectory(prefix="studovna-stock-") as folder:
            with tarfile.open(fileobj=fileobj) as tar:
                tar.extractall(folder, filter="tar")  # noqa: S202 - made by repo2docker just now
            options = [f"--build-arg={name}={value}" for name, value in (buildargs or {}).items()]
            self.run("build", "--no-cache", *options, f"--tag={tag}", *self._volumes, "--", folder)
        yield ""

    def run(self, *argv: str) -> None:
        done = subprocess.run(
            self._podman.argv(*argv),
            env=self._podman.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"podman {argv[0]}: {(done.stdout + done.stderr)[-2000:]}")


def build_seconds(podman: Podman, repository: Path) -> float:
    """How long the build of a checked-out repository takes. Raises RuntimeError."""
    with tempfile.TemporaryDirectory(prefix="studovna-stock-") as name:
        folder = Path(name)
        (folder / "settings").mkdir()
        (folder / "base").mkdir()
        settings = build_settings.of_this_machine()
        _, sources = build_settings.machine_apt("trixie")
        settings.files["sources.list"] = "\n".join(sources) + "\n"
        volumes = settings.write(folder / "settings")
        lines = [f"FROM {LAB}", "USER root"]
        env = {**settings.env, **pod_environment()}
        if "SSL_CERT_FILE" in env:
            env["PIP_CERT"] = env["SSL_CERT_FILE"]
        lines += [f'ENV {key}="{value}"' for key, value in sorted(env.items())]
        if sources:
            lines.append(
                "RUN rm -f /etc/apt/sources.list.d/* && "
                f"ln -sf {build_settings.MOUNT}/sources.list /etc/apt/sources.list"
            )
        (folder / "base" / "Containerfile").write_text("\n".join(lines) + "\n")
        client = _Client(podman, volumes)
        client.run("build", f"--tag={BASE}", *volumes, "--", str(folder / "base"))
        before = os.getcwd()
        os.chdir(repository)
        try:
            begun = time.perf_counter()
            args = {"NB_USER": "jovyan", "NB_UID": "1000", "REPO_DIR": "/home/jovyan"}
            for _ in _Stock(BASE).build(client, IMAGE, 0, args, [], {}):
                pass
            return time.perf_counter() - begun
        finally:
            os.chdir(before)
            for image in (IMAGE, BASE):
                subprocess.run(
                    podman.argv("rmi", "--force", "--ignore", image),
                    env=podman.environment,
                    capture_output=True,
                    check=False,
                )
