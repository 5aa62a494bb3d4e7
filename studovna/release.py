"""What a container of the Helm chart knows of its release: the environment that the chart sets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

HUB_PORT = 8081
PROXY_API_PORT = 8001
BINDER_PORT = 8585
REGISTRY_PORT = 5000


@dataclass(frozen=True)
class Release:
    """One installation of the chart.

    ``name`` begins the names of its Services, ``instance`` is Helm's own name for it.
    ``registry_port`` is where every node reaches the release's registry on its own loopback, and
    ``registry_url`` is where pods reach it; both are empty where the site has a registry elsewhere.
    ``dockerfiles_namespace`` is where Dockerfiles are built; empty where they are not.
    ``jobs_role`` is the ClusterRole of servers that may run jobs; empty where none may.
    """

    name: str
    instance: str
    namespace: str
    builds_namespace: str
    registry_port: int | None
    registry_url: str
    dockerfiles_namespace: str = ""
    jobs_role: str = ""

    def url(self, part: str, port: int) -> str:
        """Where pods of every namespace reach one of the release's Services."""
        return f"http://{self.name}-{part}.{self.namespace}:{port}"

    @property
    def registry_host(self) -> str:
        """What the names of images in the release's registry begin with."""
        return f"127.0.0.1:{self.registry_port}"


def read_release(environ: Mapping[str, str]) -> Release | None:
    """The release that these variables tell of; None where there is none: on one machine.

    >>> read_release({}) is None
    True
    """
    if "STUDOVNA_RELEASE" not in environ:
        return None
    port = environ.get("STUDOVNA_REGISTRY_PORT")
    return Release(
        name=environ["STUDOVNA_RELEASE"],
        instance=environ["STUDOVNA_INSTANCE"],
        namespace=environ["STUDOVNA_NAMESPACE"],
        builds_namespace=environ["STUDOVNA_BUILDS_NAMESPACE"],
        registry_port=int(port) if port else None,
        registry_url=environ.get("STUDOVNA_REGISTRY_URL", ""),
        dockerfiles_namespace=environ.get("STUDOVNA_DOCKERFILES_NAMESPACE", ""),
        jobs_role=environ.get("STUDOVNA_JOBS_ROLE", ""),
    )


@cache
def release() -> Release | None:
    """The release that this process belongs to; None on one machine."""
    return read_release(os.environ)


def this_release() -> Release:
    """The release of this process. Raises RuntimeError where it belongs to none."""
    found = release()
    if found is None:
        raise RuntimeError(
            "engine: kubernetes works in the containers of the Helm chart, which sets "
            "STUDOVNA_RELEASE; on one machine use engine: podman"
        )
    return found
