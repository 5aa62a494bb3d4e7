"""What only a Kubernetes cluster knows: the schema of ``cluster`` in ``site.yaml``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .fields import Settings, Slug
from .profile_schema import Toleration

_PART = r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
ResourceClass = Annotated[str, Field(pattern=rf"^(cpu|gpu|builds|{_PART})$")]
SecretName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
LabelKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_./]{0,315}[A-Za-z0-9])?$")]
LabelValue = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")]


class Placement(Settings):
    """Where pods may run. What a profile says itself comes on top."""

    node_selector: dict[LabelKey, LabelValue] = {}
    """Labels that the node must have."""
    tolerations: list[Toleration] = []
    """Taints of nodes that the pods may run in spite of."""


class Cluster(Settings):
    """What only a Kubernetes cluster knows."""

    namespaces: Literal["shared", "person"] = "shared"
    """Where servers run: all in one namespace, or each person's in one of their own, which the hub
    makes with a ResourceQuota and a LimitRange of the project's size."""
    image_tag: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")] = "latest"
    """The tag of the images that are named by their folder. The chart sets it (`images.tag`)."""
    images: list[Slug] | None = None
    """Which of those are in the registry; what stands on another cannot be started. Null: all are.
    The chart sets it (`images.pushed`)."""
    pull_secrets: list[SecretName] = []
    """Secrets with the credentials of registries; they have to be in the servers' namespace."""
    placement: dict[ResourceClass, Placement] = {}
    """Where pods may run, by resource class: cpu (servers without a GPU), gpu (servers with one),
    the name of one resource such as nvidia.com/mig-1g.10gb (on top of gpu), builds."""
    room_minutes: Annotated[float, Field(gt=0, le=24 * 60)] = 2.0
    """How long a server waits for a node with room before it gives up. Where nodes are added on
    demand: as long as a new node takes."""
