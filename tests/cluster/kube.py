"""A namespace of a real cluster and what tests of the engine and the spawner do in it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from kubernetes_asyncio.config import kube_config
from kubespawner.clients import load_config

from studovna import images_push
from studovna.images import BuildError
from studovna.images_cli import IMAGES
from studovna.images_push import target_folder
from studovna.podman import Podman, PodmanError
from tests.cluster.kubernetes import settings
from tests.support import preparation_state

_REGISTRY = os.environ.get("STUDOVNA_TEST_REGISTRY") or settings.REGISTRY
IMAGE = f"{target_folder(_REGISTRY)}/lab:latest"
"""What tests of the engine and the spawner run; ``bring_image`` puts it there."""

_OWN = Path("~/.cache/studovna-kubernetes/state/kubeconfig").expanduser()


def kubectl(*argv: str, given: Any = None) -> str:
    """Run kubectl on the cluster of KUBECONFIG; what it wrote."""
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("there is no kubectl")
    done = subprocess.run(
        [program, *argv],
        input=json.dumps(given) if given is not None else None,
        capture_output=True,
        text=True,
        timeout=320,  # longer than what kubectl itself is told to wait
    )
    if done.returncode:
        raise AssertionError(f"kubectl {' '.join(argv)}: {done.stderr}")
    return done.stdout


def get(kind: str, *argv: str) -> list[dict[str, Any]]:
    """Objects of the cluster as JSON."""
    items: list[dict[str, Any]] = json.loads(kubectl("get", kind, "-o", "json", *argv))["items"]
    return items


def use_cluster() -> None:
    """Have KUBECONFIG name a cluster that answers, or skip."""
    os.environ.setdefault("KUBECONFIG", str(_OWN))
    if not Path(os.environ["KUBECONFIG"].split(":")[0]).is_file():
        pytest.skip("no cluster: KUBECONFIG names no file")
    # The client has read the variable when it was imported, which may be earlier than this.
    kube_config.KUBE_CONFIG_DEFAULT_LOCATION = os.environ["KUBECONFIG"]
    load_config.cache_clear()
    try:
        kubectl("get", "nodes", "--request-timeout=5s")
    except (AssertionError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"no cluster: {error}")


class _Silent:
    """Nobody watches the image being pushed."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


@cache
def bring_image(image: str = "lab") -> None:
    """Have an image of this checkout where the cluster finds it, or skip."""
    podman = Podman(preparation_state())
    folder, plain = target_folder(_REGISTRY), _REGISTRY == settings.REGISTRY
    try:
        podman.probe()
        images_push.push(podman, IMAGES, (image,), folder, _Silent(), plain_http=plain)
    except (PodmanError, BuildError) as error:
        pytest.skip(f"the image {image} cannot be pushed to {folder}: {error}")


@contextmanager
def namespace(prefix: str) -> Iterator[str]:
    """A namespace for a test; removed with all that is in it."""
    name = f"{prefix}-{secrets.token_hex(3)}"
    kubectl("create", "namespace", name)
    try:
        yield name
    finally:
        kubectl("delete", "namespace", name, "--wait=false")
