"""The GPUs of a machine, as the Container Device Interface describes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest

from spawner import machine
from spawner.machine import Machine, gpus
from spawner.podman_engine import PodmanEngine
from studovna.podman import Podman


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


async def test_what_was_known_stays_while_podman_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    podman = tmp_path / "podman"
    podman.write_text('#!/bin/sh\necho \'[{"Names": ["localhost/a:1"], "Size": 7}]\'\n')
    podman.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(machine, "MAX_AGE", 0.0)
    engine: Any = PodmanEngine(Podman(tmp_path), "known")
    here = Machine(Podman(tmp_path), engine, "127.0.0.1:5000/")
    monkeypatch.setattr(engine, "_pods", AsyncMock(return_value={}))
    assert (await here.capabilities()).images == {"localhost/a:1": 7}
    podman.write_text("#!/bin/sh\nexit 125\n")
    assert (await here.capabilities()).images == {"localhost/a:1": 7}
    fresh = await Machine(Podman(tmp_path), engine, "127.0.0.1:5000/").capabilities()
    assert (fresh.images, fresh.registry) == (None, "127.0.0.1:5000/")
