"""What tests on a cluster share: the images in a registry, and one installation of the chart."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from studovna import build_settings, images_push
from studovna.images import BuildError
from studovna.images_cli import IMAGES
from studovna.podman import Podman, PodmanError
from tests import kubetools
from tests.cluster import kube
from tests.cluster.installed import NO_IMAGE, Installed, installed
from tests.cluster.kubernetes import settings
from tests.desktop.inside import SAVES
from tests.support import preparation_state

CLUSTER_IMAGES = ("lab", "builder", "hub", "binder", "dockerfiles", "sidecar", "octave")

SLOW = {
    "title": {"en": "Slow", "cs": "Pomalý"},
    "category": "notebooks",
    "image": "lab",
    "command": ["sh", "-c", "sleep 12; exec python3 -m http.server 8888"],
    "cpu": {"request": 0.01, "limit": 1},
    "memory": {"request": "32M", "limit": "64M"},
    "home": "none",
}
"""A server that needs little, and whose start can be interrupted on any machine."""

UNSAVED = {
    "title": "Unsaved",
    "category": "desktops",
    "image": "octave",
    "default_url": "/desktop/",
    "application": {"title": "Unsaved", "command": ["/usr/bin/python3", "-c", SAVES]},
    "cpu": {"request": 0.1, "limit": 1},
    "memory": {"request": "256M", "limit": "1G"},
}

_ROUTED = "192.0.2.1"  # for documentation: nothing is ever sent there


class _Quiet:
    def begin(self, image: str, number: int, count: int) -> None:
        """Nobody waits for it."""

    def done(self, image: str, seconds: float, reference: str) -> None:
        print(f"pushed {reference} in {seconds:.1f} s")


@pytest.fixture(scope="session")
def pushed() -> images_push.Pushed:
    """One of this checkout's images, which are all in a registry that the cluster pulls from.

    ``STUDOVNA_TEST_REGISTRY`` where the cluster is not the one that `make test-cluster` starts.
    """
    kube.use_cluster()
    if reason := kubetools.why_not():
        pytest.skip(reason)
    host = os.environ.get("STUDOVNA_TEST_REGISTRY")
    own = f"{settings.REGISTRY}/studovna"
    folder = images_push.target_folder(host or own)
    podman = Podman(preparation_state())
    try:
        podman.probe()
        found = images_push.push(
            podman,
            IMAGES,
            CLUSTER_IMAGES,
            folder,
            _Quiet(),
            plain_http=folder.startswith(settings.REGISTRY),
        )
    except (PodmanError, BuildError) as error:
        pytest.fail(f"the cluster's images cannot be pushed to {folder}: {error}")
    return found[0]


@pytest.fixture(scope="session")
def registry(pushed: images_push.Pushed) -> str:
    """The folder of the registry that the cluster pulls from."""
    return pushed.repository.rpartition("/")[0]


@pytest.fixture(scope="session")
def here() -> str:
    """An address of this machine that pods reach."""
    if address := os.environ.get("STUDOVNA_TEST_ADDRESS"):
        return address
    if Path("/sys/class/net", settings.BRIDGE).exists():
        return settings.ADDRESS
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((_ROUTED, 9))
        return str(probe.getsockname()[0])


@pytest.fixture(scope="session")
def values(registry: str, pushed: images_push.Pushed, here: str) -> dict[str, Any]:
    """The chart's values for a small installation of this checkout."""
    host = registry.partition("/")[0]
    insecure = f'[[registry]]\nlocation = "{host}"\ninsecure = true\n'
    small = {"requests": {"cpu": "20m", "memory": "64Mi"}}
    found: dict[str, Any] = {
        "site": {
            "name": "Cluster",
            "images": registry,
            "auth": {"type": "shared-password", "admins": ["admin"]},
            "binder": {"allow_hosts": [here]},
        },
        "images": {
            "tag": pushed.tag,
            "registriesConf": insecure if host == settings.REGISTRY else "",
        },
        "service": {"type": "NodePort"},
        # With one that nobody can pull.
        "prePuller": {"images": [NO_IMAGE]},
        "profiles": {"slow": SLOW, "unsaved": UNSAVED},
        "binder": {"env": _indexes()},
    }
    for part in ("hub", "proxy", "binder", "registry"):
        found.setdefault(part, {})["resources"] = small
    if build_settings.CA_BUNDLE.is_file():
        found["caConfigMap"] = "machine"
    return found


def _indexes() -> dict[str, str]:
    """The package indexes of this machine that pods reach, too."""
    options = build_settings.pip_options(
        build_settings.pip_files(os.environ, Path.home()), os.environ
    )
    names = {"index-url": "PIP_INDEX_URL", "extra-index-url": "PIP_EXTRA_INDEX_URL"}
    given = {
        variable: " ".join(url for url in options.get(option, ()) if url.startswith("http"))
        for option, variable in names.items()
    }
    return {variable: urls for variable, urls in given.items() if urls}


@pytest.fixture(scope="session")
def release(
    values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installed]:
    """One installation for all tests that leave it as they found it."""
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl")
    with installed(tmp_path_factory.mktemp("release"), values) as found:
        yield found
