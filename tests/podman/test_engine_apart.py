"""What pods reach and what they do not: each other, this machine, other people's files."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from kubernetes_asyncio.client import (
    V1Capabilities,
    V1EmptyDirVolumeSource,
    V1ObjectMeta,
    V1PersistentVolumeClaimVolumeSource,
    V1PodSecurityContext,
    V1ResourceRequirements,
    V1Secret,
    V1SecretVolumeSource,
    V1SecurityContext,
    V1Volume,
    V1VolumeMount,
)

from spawner.engine import ClaimInUse, ClaimMissing, EngineError
from studovna.paths import site_id

CONNECT = """
import socket, sys
s = socket.socket(); s.settimeout(2)
try:
    s.connect((sys.argv[1], int(sys.argv[2]))); print("reached")
except OSError as error:
    print(type(error).__name__, error)
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="looks at the pods' own addresses")


def _listen(address: str) -> socket.socket:
    server = socket.create_server((address, 0))
    server.settimeout(0)
    return server


@needs_root
async def test_a_pods_network_has_no_ipv6_at_the_machines_end(engine, make_pod, site_podman):
    await engine.run(make_pod("ana-1", "sleep 60", user="ana"))
    [network] = json.loads(
        site_podman.run(
            "inspect", "--format", "{{json .NetworkSettings.Networks}}",
            f"{site_id(site_podman.state)}-ana-1",
        )
    )  # fmt: skip
    [found] = json.loads(site_podman.run("network", "inspect", network))
    bridge = found["network_interface"]
    interfaces = [bridge, *os.listdir(f"/sys/class/net/{bridge}/brif")]
    assert len(interfaces) == 2
    # It would have an address after looking for another with the same one: a second or two.
    await asyncio.sleep(2.5)
    assert not {line.split()[-1] for line in await _addresses()} & set(interfaces)


async def _addresses() -> list[str]:
    """The machine's IPv6 addresses, a line each; the last word is the interface."""
    text = await asyncio.to_thread(Path("/proc/net/if_inet6").read_text)
    return text.splitlines()


@needs_root
async def test_pods_reach_the_hub_and_not_each_other(engine, make_pod, site_podman, inside):
    serve = "exec python3 -m http.server 8888"
    await engine.run(make_pod("ana-1", serve, user="ana"))
    await engine.run(make_pod("ana-2", serve, user="ana"))
    await engine.run(make_pod("bob-1", serve, user="bob"))
    await engine.run(make_pod("nobody", serve))

    def reach(pod: str, address: str, port: int) -> str:
        return inside(pod, "python3", "-c", CONNECT, address, str(port)).strip()

    def address(pod: str) -> str:
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return site_podman.run(
            "inspect", "--format", form, f"{site_id(site_podman.state)}-{pod}"
        ).strip()

    # The same person's pods see each other, so the address and the port are right.
    async with asyncio.timeout(10):
        while await asyncio.to_thread(reach, "ana-2", address("ana-1"), 8888) != "reached":  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    # When a network goes, netavark 1.4 stops isolating those that stay.
    await engine.run(make_pod("leaves", user="leaves"))
    await engine.end("leaves", 0)
    for other in ("bob-1", "nobody"):
        assert await asyncio.to_thread(reach, other, address("ana-1"), 8888) != "reached"
        assert await asyncio.to_thread(reach, "ana-1", address(other), 8888) != "reached"

    hub = await asyncio.to_thread(engine.hub_address)
    assert hub == await asyncio.to_thread(engine.hub_address)
    with _listen(hub) as server:
        port = server.getsockname()[1]
        for pod in ("ana-1", "bob-1", "nobody"):
            assert await asyncio.to_thread(reach, pod, hub, port) == "reached"

    # The registry listens on 127.0.0.1: out of reach by every address of this machine.
    with _listen("127.0.0.1") as server:
        port = server.getsockname()[1]
        gateway = ".".join([*address("ana-1").split(".")[:3], "1"])
        for target in ("127.0.0.1", gateway, hub, "host.containers.internal"):
            assert await asyncio.to_thread(reach, "ana-1", target, port) != "reached"


@needs_root
async def test_link_local_addresses_are_out_of_reach(engine, make_pod, inside):
    await engine.run(make_pod("cloud", user="cloud"))
    # Refused by this machine at once, not dropped by someone further on.
    said = await asyncio.to_thread(
        inside, "cloud", "python3", "-c", CONNECT, "169.254.169.254", "80"
    )
    assert "unreachable" in said or "No route" in said


def _mount(name: str, path: str, **more: Any) -> V1VolumeMount:
    return V1VolumeMount(name=name, mount_path=path, **more)


def _home(claim: str, name: str = "home", **more: Any) -> V1Volume:
    source = V1PersistentVolumeClaimVolumeSource(claim_name=claim, **more)
    return V1Volume(name=name, persistent_volume_claim=source)


PERSON = V1PodSecurityContext(
    run_as_user=1000, run_as_group=100, run_as_non_root=True, fs_group=100,
    fs_group_change_policy="OnRootMismatch",
)  # fmt: skip
RESTRICTED = V1SecurityContext(
    allow_privilege_escalation=False, capabilities=V1Capabilities(drop=["ALL"]),
)  # fmt: skip


async def test_a_home_belongs_to_the_person_and_stays(
    engine, make_pod, make_claim, until, site_podman
):
    claim = make_claim("home-ana", person="ana")
    home = {
        "volumes": [_home("home-ana")], "volume_mounts": [_mount("home", "/home/jovyan")],
        "security_context": PERSON,
    }  # fmt: skip
    with pytest.raises(ClaimMissing, match="home-ana"):
        await engine.run(make_pod("first", **home))
    await engine.run(
        make_pod("first", "echo mine > ~/note; stat -c %g ~ ~/note; sleep 99", **home), [claim]
    )
    with pytest.raises(ClaimInUse, match="first"):
        await engine.erase_claim("home-ana")
    await asyncio.sleep(0.3)
    assert await engine.tail("first", "main", 5) == ["100", "100"]
    await engine.end("first", 0)
    await engine.run(make_pod("second", "cat ~/note", **home), [claim])
    await until(engine, "second", "Succeeded")
    assert await engine.tail("second", "main", 5) == ["mine"]
    await engine.end("second", 0)
    (found,) = await engine.claims({"person": "ana"})
    assert (found.name, found.requested, found.labels) == ("home-ana", 2**30, {"person": "ana"})
    assert found.size is not None and 0 < found.size < 100_000
    assert not await engine.claims({"person": "bob"})
    await engine.erase_claim("home-ana")
    await engine.erase_claim("home-ana")
    assert not await engine.claims({})
    assert not list((site_podman.state / "claims").iterdir())


@needs_root
async def test_files_are_given_to_the_group_only_when_the_root_does_not_match(
    engine, make_pod, make_claim, site_podman
):
    pod = make_pod(
        "give",
        volumes=[_home("old")],
        volume_mounts=[_mount("home", "/home/jovyan")],
        security_context=PERSON,
    )
    data = site_podman.state / "claims" / "old" / "data"
    outside = site_podman.state / "outside"
    outside.write_text("")
    outside.chmod(0o600)
    (data / "deep").mkdir(parents=True)
    (data / "deep" / "file").write_text("x")
    (data / "deep" / "file").chmod(0o600)
    (data / "link").symlink_to(outside)
    (data / "links").symlink_to(data.parent)
    await engine.run(pod, [make_claim("old")])
    await engine.end("give", 0)
    assert (data / "deep" / "file").stat().st_gid == 100
    assert stat.S_IMODE((data / "deep" / "file").stat().st_mode) == 0o660
    assert stat.S_IMODE((data / "deep").stat().st_mode) & 0o2070 == 0o2070
    assert (outside.stat().st_gid, stat.S_IMODE(outside.stat().st_mode)) == (0, 0o600)
    assert data.parent.stat().st_gid == 0
    (data / "deep" / "file").chmod(0o600)
    await engine.run(pod)
    assert stat.S_IMODE((data / "deep" / "file").stat().st_mode) == 0o600


async def test_a_sub_path_is_a_folder_of_its_own(engine, make_pod, make_claim, until, site_podman):
    def pod(name: str, sub: str, script: str) -> Any:
        return make_pod(
            name,
            script,
            volumes=[_home("shared")],
            security_context=PERSON,
            volume_mounts=[_mount("home", "/home/jovyan", sub_path=sub)],
        )

    await engine.run(pod("sub-a", "people/ana", "echo a > ~/f; ls ~"), [make_claim("shared")])
    await engine.run(pod("sub-b", "people/bob", "ls ~; touch ~/g"))
    await until(engine, "sub-a", "Succeeded")
    await until(engine, "sub-b", "Succeeded")
    assert await engine.tail("sub-a", "main", 5) == ["f"]
    assert await engine.tail("sub-b", "main", 5) == []
    await engine.end("sub-a", 0)
    await engine.end("sub-b", 0)
    # Ending a pod lets the folder go and deletes nothing in it.
    await engine.run(pod("sub-c", "people", "cat ~/ana/f; ls ~/bob"))
    await until(engine, "sub-c", "Succeeded")
    assert await engine.tail("sub-c", "main", 5) == ["a", "g"]


@pytest.mark.parametrize("target", ["/", "../../..", "/etc"])
async def test_a_planted_link_leads_nowhere(engine, make_pod, make_claim, until, target):
    whole = {"volumes": [_home("evil")], "security_context": PERSON}
    await engine.run(
        make_pod(
            "plant",
            f"ln -s {target} ~/work",
            volume_mounts=[_mount("home", "/home/jovyan")],
            **whole,
        ),
        [make_claim("evil")],
    )  # fmt: skip
    await until(engine, "plant", "Succeeded")
    for sub in ("work", "work/deeper"):
        with pytest.raises(EngineError, match="work in the home is a link"):
            mounts = [_mount("home", "/mnt", sub_path=sub)]
            await engine.run(make_pod("follow", volume_mounts=mounts, **whole))


async def test_memory_and_secrets_and_restriction(engine, make_pod, until, site_podman):
    volumes = [
        V1Volume(name="shm", empty_dir=V1EmptyDirVolumeSource(medium="Memory", size_limit="96Mi")),
        V1Volume(name="ram", empty_dir=V1EmptyDirVolumeSource(medium="Memory", size_limit="8Mi")),
        V1Volume(name="key", secret=V1SecretVolumeSource(secret_name="push")),
    ]
    mounts = [
        _mount("shm", "/dev/shm"),
        _mount("ram", "/ram"),
        _mount("key", "/key", read_only=True),
    ]
    script = (
        "id -u; id -G; grep -E 'CapEff|NoNewPrivs' /proc/self/status; cat /key/password; echo; "
        "df -k --output=size /dev/shm /ram | tail -2; touch /key/x || echo read-only; "
        "head -c 80M /dev/zero > /dev/shm/x"
    )
    pod = make_pod(
        "strict",
        script,
        volumes=volumes,
        volume_mounts=mounts,
        resources=V1ResourceRequirements(limits={"memory": "48Mi"}),
    )
    pod.spec.security_context = PERSON
    pod.spec.containers[0].security_context = RESTRICTED
    await engine.run(
        pod, data=[V1Secret(metadata=V1ObjectMeta(name="push"), string_data={"password": "pw"})]
    )
    # What is written to memory counts in the limit of the pod.
    state = await until(engine, "strict", "Failed")
    assert state.containers["main"].oom_killed
    lines = await engine.tail("strict", "main", 20)
    assert lines[:5] == ["1000", "100", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "pw"]
    assert [line.strip() for line in lines[5:7]] == ["98304", "8192"]
    assert "read-only" in lines
    await engine.end("strict", 0)
    assert "strict" not in os.listdir(site_podman.state / "engine" / "pods")


async def test_the_machines_certificates(make_engine, make_pod, until, tmp_path, engine):
    bundle = tmp_path / "ca.crt"
    bundle.write_text("our own\n")
    trusting = make_engine(ca_bundle=bundle)
    await trusting.run(make_pod("ca", "cat $SSL_CERT_FILE; echo $PIP_CERT"))
    await until(trusting, "ca", "Succeeded")
    assert await trusting.tail("ca", "main", 5) == ["our own", "/etc/ssl/certs/ca-certificates.crt"]
