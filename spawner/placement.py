"""Which nodes a pod may run on, by what it asks for. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from studovna.cluster_settings import Placement


def for_server(placements: Mapping[str, Placement], resources: Collection[str]) -> Placement:
    """The placement of a server that asks for these GPU resources (none: the class ``cpu``)."""
    if not resources:
        return placements.get("cpu") or Placement()
    found = [placements[name] for name in ("gpu", *sorted(resources)) if name in placements]
    return Placement(
        node_selector={key: value for one in found for key, value in one.node_selector.items()},
        tolerations=[toleration for one in found for toleration in one.tolerations],
    )


def merged(spec: Mapping[str, Any], placement: Placement) -> dict[str, Any]:
    """A pod's spec with a placement; the labels that it names itself come first."""
    result = dict(spec)
    selector = {**placement.node_selector, **(spec.get("nodeSelector") or {})}
    if selector:
        result["nodeSelector"] = selector
    own = list(spec.get("tolerations") or [])
    added = tolerations(placement)
    if own or added:
        result["tolerations"] = own + [one for one in added if one not in own]
    return result


def tolerations(placement: Placement) -> list[dict[str, Any]]:
    """A placement's tolerations as the API wants them."""
    return [one.model_dump(exclude_none=True) for one in placement.tolerations]
