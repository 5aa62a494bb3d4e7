"""The site's certificate authorities in the pods of people's servers. Pure.

They stand where the image has its own, as on one machine, so that also programs trust them that
read no variable.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from spawner.podman_translate import CA_PATH, CA_VARIABLES

CA_KEY = "ca.crt"
_VOLUME = "site-ca"


def trusting(spec: Mapping[str, Any], config_map: str) -> dict[str, Any]:
    """A pod's spec whose containers trust what this ConfigMap's ``ca.crt`` holds.

    Variables that a container sets itself stay as they are.
    """
    mount = {
        "name": _VOLUME, "mountPath": CA_PATH, "subPath": PurePosixPath(CA_PATH).name,
        "readOnly": True,
    }  # fmt: skip
    result = dict(spec)
    for kind in ("initContainers", "containers"):
        if kind not in spec:
            continue
        result[kind] = []
        for container in spec[kind]:
            own = list(container.get("env") or [])
            names = {one["name"] for one in own}
            more = [{"name": one, "value": CA_PATH} for one in CA_VARIABLES if one not in names]
            mounts = [*(container.get("volumeMounts") or []), mount]
            result[kind].append({**container, "env": [*own, *more], "volumeMounts": mounts})
    items = [{"key": CA_KEY, "path": PurePosixPath(CA_PATH).name}]
    volume = {"name": _VOLUME, "configMap": {"name": config_map, "items": items}}
    result["volumes"] = [*(spec.get("volumes") or []), volume]
    return result


def make_config_map(name: str, bundle: str) -> dict[str, Any]:
    """The same authorities (PEM) for the namespace of one person."""
    return {
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
        "data": {CA_KEY: bundle},
    }  # fmt: skip
