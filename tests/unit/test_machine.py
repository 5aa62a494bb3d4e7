"""The GPUs of a machine, as the Container Device Interface describes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest

from spawner import machine
from spawner.machine import Machine, gpus, labels, product_label
from spawner.podman_engine import PodmanEngine
from studovna.podman import Podman


@pytest.fixture(autouse=True)
def asked_anew() -> None:
    """What nvidia-smi said in another test is forgotten."""
    machine._smi.cache_clear()


def test_whole_gpus_are_read_from_every_description_that_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "find_program", lambda name: None)
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
    assert found == {
        "amd.com/gpu=0": "amd.com/gpu",
        "nvidia.com/gpu=0": "nvidia.com/gpu",
        "nvidia.com/gpu=1": "nvidia.com/gpu",
    }


LISTING = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-4cf8db2d-06c0-7d70-1a51-e59b25b2c16c)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-69ba5cd3-1a51-7d70-06c0-e59b25b2c16c)
  MIG 3g.20gb     Device  0: (UUID: MIG-c7384736-a75d-5afc-978f-d2f1294409fd)
  MIG 1g.5gb+me   Device  1: (UUID: MIG-a28ad590-3fda-56dd-84fc-0a0b96edc58d)
"""


def _stand_in_smi(folder: Path, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not nvidia-smi: it prints what the real one does for MIG."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n[ $1 = -L ] && cat <<'END'\n{says}END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def _describe(folder: Path, *names: str) -> None:
    devices = [{"name": name} for name in names]
    spec = {"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": devices}
    (folder / "nvidia.json").write_text(json.dumps(spec))


def test_slices_are_resources_by_their_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stand_in_smi(tmp_path, LISTING, monkeypatch)
    _describe(tmp_path, "0", "1", "1:0", "1:1", "1:7", "all")
    assert gpus((tmp_path,)) == {
        "nvidia.com/gpu=0": "nvidia.com/gpu",
        "nvidia.com/gpu=1:0": "nvidia.com/mig-3g.20gb",
        "nvidia.com/gpu=1:1": "nvidia.com/mig-1g.5gb.me",
    }


def test_what_is_described_by_index_and_uuid_is_there_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stand_in_smi(tmp_path, LISTING, monkeypatch)
    whole, part = (
        "GPU-4cf8db2d-06c0-7d70-1a51-e59b25b2c16c",
        "MIG-c7384736-a75d-5afc-978f-d2f1294409fd",
    )
    _describe(tmp_path, "0", whole, "1:0", part)
    assert list(gpus((tmp_path,))) == ["nvidia.com/gpu=0", "nvidia.com/gpu=1:0"]
    _describe(tmp_path, whole, part)
    assert gpus((tmp_path,)) == {
        f"nvidia.com/gpu={whole}": "nvidia.com/gpu",
        f"nvidia.com/gpu={part}": "nvidia.com/mig-3g.20gb",
    }


def test_slices_of_which_nothing_is_known_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _describe(tmp_path, "0", "1:0")
    monkeypatch.setattr(machine, "find_program", lambda name: None)
    assert gpus((tmp_path,)) == {"nvidia.com/gpu=0": "nvidia.com/gpu"}
    assert "The GPU 1:0 is not given out" in caplog.text


def test_the_model_is_a_label_where_all_gpus_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stand_in_smi(tmp_path, LISTING, monkeypatch)
    assert labels() == {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB"}
    assert product_label(LISTING + "GPU 2: NVIDIA A40 (UUID: GPU-1)\n") == {}
    assert product_label("No devices found.\n") == {}


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
