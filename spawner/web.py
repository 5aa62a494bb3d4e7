"""An application that serves HTTP itself, as a pod: the hub's sign-in stands before it. Pure.

Two containers share the pod's network. The sidecar (images/sidecar) has what the hub gives a
server (its token, its address) and the only port that anybody outside reaches; the application has
its own image, its own command, the home, and no secret.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from kubernetes_asyncio.client import V1Container, V1EnvVar, V1Pod, V1ResourceRequirements

from spawner.quota import Resources
from studovna.units import MIB

SIDECAR_CONTAINER = "sidecar"
STATE_PATH = "_studovna/state"
"""Below the server's prefix, where the sidecar tells the hub of the application."""

SIDECAR = Resources(0.05, 0.5, 96 * MIB, 256 * MIB)
"""What a sidecar asks for: 81 MB after its start (measured), more with much traffic."""

# Names that are no secrets, and that an application may want to know.
_KNOWN = ("JUPYTERHUB_SERVICE_PREFIX", "JUPYTERHUB_SERVER_NAME", "JUPYTERHUB_USER")


@dataclass(frozen=True)
class Web:
    """What is to be known of an application.

    ``args`` are the words after its image's entry point; empty: the image's own. ``variables`` are
    the names of the environment that its profile sets.
    """

    port: int
    prefix: str
    image: str
    args: Sequence[str] = ()
    variables: Collection[str] = ()
    home: str | None = None


def with_sidecar(pod: V1Pod, web: Web) -> V1Pod:
    """KubeSpawner's pod of a server, as one of an application behind its sidecar (``web.image``).

    The sidecar comes first: on podman the first container has the pod's network and its ports, and
    an application that ends does not take them with it.
    """
    result = copy.deepcopy(pod)
    server: Any = result.spec.containers[0]
    variables = {one.name: one for one in server.env or []}
    sidecar = V1Container(
        name=SIDECAR_CONTAINER,
        image=web.image,
        image_pull_policy=server.image_pull_policy,
        ports=server.ports,
        env=[
            *(one for one in variables.values() if one.name.startswith("JUPYTERHUB_")),
            V1EnvVar(name="STUDOVNA_WEB_PORT", value=str(web.port)),
            V1EnvVar(name="STUDOVNA_WEB_PREFIX", value=web.prefix),
        ],
        resources=V1ResourceRequirements(
            requests={"cpu": str(SIDECAR.cpu_request), "memory": str(SIDECAR.memory_request)},
            limits={"cpu": str(SIDECAR.cpu_limit), "memory": str(SIDECAR.memory_limit)},
        ),
        security_context=copy.deepcopy(server.security_context),
    )
    given = {name: variables[name] for name in _KNOWN if name in variables}
    given["PORT"] = V1EnvVar(name="PORT", value=str(web.port))
    if web.home is not None:
        given["HOME"] = V1EnvVar(name="HOME", value=web.home)
    # The profile's own come last: they may refer to the others.
    for name in sorted(set(web.variables) & variables.keys()):
        given.pop(name, None)
        given[name] = variables[name]
    server.args = list(web.args) or None
    server.env = list(given.values())
    server.ports = None
    result.spec.containers = [sidecar, *result.spec.containers]
    return result
