"""Volumes for claims: a folder of this machine each, made and removed as the API says.

Run by the node: `python -m tests.cluster.kubernetes.volumes STATE`. Kubernetes' own host-path
provisioner makes folders that only root can write; these are `local` volumes, whose owner the
kubelet sets as a pod's fsGroup asks.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.cluster.kubernetes.api import Api
from tests.cluster.kubernetes.settings import NODE, PROVISIONER, STORAGE_CLASS

VOLUMES = "/api/v1/persistentvolumes"


def volume(claim: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The PersistentVolume for a claim."""
    metadata, spec = claim["metadata"], claim["spec"]
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": folder.name,
            "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER},
        },
        "spec": {
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "accessModes": spec["accessModes"],
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": STORAGE_CLASS,
            "local": {"path": str(folder)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
        },
    }


def make(api: Api, state: Path) -> None:
    """Make volumes for claims that have none."""
    for claims in api.follow("/api/v1/persistentvolumeclaims"):
        for uid, claim in claims.items():
            spec = claim["spec"]
            if spec.get("storageClassName") != STORAGE_CLASS or spec.get("volumeName"):
                continue
            folder = state / "volumes" / f"pvc-{uid}"
            folder.mkdir(parents=True, exist_ok=True)
            api.call("POST", VOLUMES, volume(claim, folder))


def remove(api: Api, state: Path) -> None:
    """Remove the volumes of claims that are gone."""
    for volumes in api.follow(VOLUMES):
        for one in volumes.values():
            name = one["metadata"]["name"]
            if one["status"].get("phase") == "Released" and name.startswith("pvc-"):
                shutil.rmtree(state / "volumes" / name, ignore_errors=True)
                api.call("DELETE", f"{VOLUMES}/{name}")


def main() -> None:
    state = Path(sys.argv[1])

    def again(step: Any) -> None:
        while True:
            try:
                step(Api(state), state)
            except (OSError, ValueError, KeyError) as error:
                print(repr(error), file=sys.stderr, flush=True)
                time.sleep(1)

    threading.Thread(target=again, args=[remove], daemon=True).start()
    again(make)


if __name__ == "__main__":
    main()
