"""The GPUs of a machine, as the Container Device Interface describes them."""

from __future__ import annotations

import json
from pathlib import Path

from spawner.machine import gpus


def test_whole_gpus_are_read_from_every_description_that_can_be_read(tmp_path: Path) -> None:
    names = ["0", "1", "1:0", "all"]
    spec = {
        "cdiVersion": "0.5.0",
        "kind": "nvidia.com/gpu",
        "devices": [{"name": n} for n in names],
    }
    (tmp_path / "nvidia.json").write_text(json.dumps(spec))
    (tmp_path / "again.yaml").write_text(json.dumps(spec))
    (tmp_path / "amd.yaml").write_text("kind: amd.com/gpu\ndevices: [{name: '0'}]\n")
    (tmp_path / "broken.yaml").write_text("kind: [")
    (tmp_path / "other.yaml").write_text("devices: 3")
    (tmp_path / "notes.txt").write_text("kind: x/y\ndevices: [{name: '0'}]\n")
    found = gpus((tmp_path, tmp_path / "absent"))
    assert found == ["amd.com/gpu=0", "nvidia.com/gpu=0", "nvidia.com/gpu=1"]
