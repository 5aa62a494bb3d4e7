"""Devices and folders of the machine in real pods.

The GPUs are doubles: the Container Device Interface describes them, and podman reads that as it
does for real ones; but each is a variable of the container and no more.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kubernetes_asyncio.client import (
    V1HostPathVolumeSource,
    V1ResourceRequirements,
    V1Volume,
    V1VolumeMount,
)

from spawner.engine import EngineError, NoFreeDevice
from spawner.machine import gpus
from spawner.podman_engine import PodmanEngine

KIND = "studovna.test/gpu"
NAMES = ("0", "1", "1:0")
"""The last is named as NVIDIA names a slice."""
ONE = V1ResourceRequirements(limits={KIND: "1"}, requests={KIND: "1"})


@pytest.fixture
def double_gpus() -> Iterator[dict[str, str]]:
    if os.geteuid() != 0:
        pytest.skip("devices are described below /var/run, which is root's")
    folder = Path("/var/run/cdi")
    folder.mkdir(exist_ok=True)
    file = folder / "studovna-test.json"
    devices = [{"name": name, "containerEdits": {"env": [f"DOUBLE_GPU={name}"]}} for name in NAMES]
    file.write_text(json.dumps({"cdiVersion": "0.5.0", "kind": KIND, "devices": devices}))
    yield {name: resource for name, resource in gpus().items() if resource == KIND}
    file.unlink()


async def test_each_pod_gets_a_gpu_of_its_own_and_gives_it_back(
    engine: PodmanEngine, make_engine, make_pod, double_gpus: dict[str, str]
) -> None:
    assert double_gpus == {f"{KIND}=0": KIND, f"{KIND}=1": KIND}
    engine = make_engine(gpus=double_gpus)
    seen = set()
    for name in ("first", "second"):
        await engine.run(make_pod(name, "printenv DOUBLE_GPU; sleep 1000", resources=ONE))
        seen |= {await anext(engine.logs(name, "main", follow=True))}
    assert seen == {"0", "1"}
    assert await engine.free_gpus() == ()
    with pytest.raises(NoFreeDevice, match="1 wanted, 0 free"):
        await engine.run(make_pod("third", resources=ONE))
    # What is taken is known after the hub was started again, too.
    assert await make_engine(gpus=double_gpus).free_gpus() == ()
    await engine.end("first", 0)
    await engine.run(make_pod("third", resources=ONE))
    assert await engine.free_gpus() == ()


async def test_a_slice_of_a_gpu_is_given_by_its_profile(
    make_engine, make_pod, double_gpus: dict[str, str]
) -> None:
    mig = "nvidia.com/mig-1g.10gb"
    engine = make_engine(gpus={**double_gpus, f"{KIND}=1:0": mig})
    resources = V1ResourceRequirements(limits={mig: "1"}, requests={mig: "1"})
    await engine.run(make_pod("first", "printenv DOUBLE_GPU; sleep 1000", resources=resources))
    assert await anext(engine.logs("first", "main", follow=True)) == "1:0"
    assert await engine.free_gpus() == tuple(double_gpus)
    await engine.end("first", 0)


async def test_a_folder_of_the_site_is_read_and_never_written(
    engine: PodmanEngine, make_engine: Callable[..., PodmanEngine], make_pod, inside, tmp_path: Path
) -> None:
    vendor = tmp_path / "vendor"
    vendor.mkdir()
    (vendor / "program").write_text("here")
    for folder in (tmp_path, vendor):
        folder.chmod(0o755)
    engine = make_engine(folders=[vendor, tmp_path / "gone"])

    def pod(name: str, path: Path):
        source = V1HostPathVolumeSource(path=str(path), type="Directory")
        mount = V1VolumeMount(name="vendor", mount_path="/opt/vendor", read_only=True)
        volumes = [V1Volume(name="vendor", host_path=source)]
        return make_pod(name, volumes=volumes, volume_mounts=[mount])

    await engine.run(pod("reads", vendor))
    assert inside("reads", "cat", "/opt/vendor/program") == "here"
    assert "Read-only" in inside("reads", "touch", "/opt/vendor/new", user="0")
    with pytest.raises(EngineError, match=f"{tmp_path}/gone is not on this machine"):
        await engine.run(pod("gone", tmp_path / "gone"))
    with pytest.raises(EngineError, match="no volume at /etc"):
        await engine.run(pod("etc", Path("/etc")))
