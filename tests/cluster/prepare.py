"""What `make test-cluster` does before the tests: a cluster, and the images that it runs."""

from __future__ import annotations

import os

from rich.console import Console

from studovna import images_push
from studovna.images import BuildError
from studovna.images_cli import IMAGES, PushLines, build_with_display
from studovna.podman import Podman, PodmanError
from studovna.up import step
from tests.cluster.kubernetes import ClusterError
from tests.cluster.kubernetes.node import Node, why_not
from tests.cluster.kubernetes.settings import REGISTRY
from tests.support import preparation_state

IMAGE_NAMES = (
    "base", "lab", "builder", "hub", "binder", "dockerfiles", "sidecar", "octave",
)  # fmt: skip


def prepare(console: Console) -> dict[str, str]:
    """The environment of the tests, with a cluster in it where one can be had.

    A cluster that KUBECONFIG names is taken as it is; STUDOVNA_TEST_REGISTRY names the registry
    that it pulls from.
    """
    environment = dict(os.environ)
    own = "KUBECONFIG" not in environment
    registry = environment.get("STUDOVNA_TEST_REGISTRY", f"{REGISTRY}/studovna")
    if own and (reason := why_not()):
        console.print(f"Tests on a cluster will be skipped: {reason}", markup=False)
        return environment
    try:
        if own:
            with step(console, "Starting a Kubernetes of one node") as line:
                environment["KUBECONFIG"] = str(Node(line).up())
        podman = Podman(preparation_state())
        podman.probe()
        build_with_display(podman, list(IMAGE_NAMES), console)
        images_push.push(
            podman, IMAGES, IMAGE_NAMES, registry, PushLines(console),
            plain_http=registry.startswith(REGISTRY),
        )  # fmt: skip
    except (ClusterError, PodmanError, BuildError) as error:
        raise SystemExit(f"There is no cluster to test on: {error}") from error
    return environment
