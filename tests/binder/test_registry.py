"""A registry of the site's own over TLS: asked, pushed to, pulled from; full, and dying."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from spawner.podman_network import hub_address
from studovna.paths import site_id
from studovna.podman import Podman
from tests.binder.githost import GitHost, make_repository
from tests.binder.outside_registry import PASSWORD, USERNAME, OutsideRegistry
from tests.binder_site import answers, open_link, phases
from tests.site import RunningSite, running_site, wait_for, why_not

pytestmark = pytest.mark.slow


@dataclass
class Place:
    """A site with a registry outside of it, and a git host."""

    site: RunningSite
    host: GitHost
    registry: OutsideRegistry

    def open(self, person: str, name: str, **query: str) -> list[dict[str, Any]]:
        """All events of a link."""
        return open_link(self.site, self.host, person, name, **query)


@contextmanager
def place(
    folder: Path, kind: str, prepare: Callable[[Path], None] | None = None
) -> Iterator[Place]:
    """``prepare`` is given the folder in which the registry will keep its data."""
    state = folder / "site" / "var"
    state.mkdir(parents=True)
    podman = Podman(state)
    podman.probe()
    address = hub_address(podman, site_id(state))
    if prepare is not None:
        prepare(folder / "registry" / "data")
    registry = OutsideRegistry(folder / "registry", address, kind)
    host = GitHost(folder / "git", address)
    patch = pytest.MonkeyPatch()
    patch.setenv("SSL_CERT_FILE", str(registry.authority.bundle))
    lines = f"binder:\n  allow_hosts: ['{address}']\n{registry.site_settings}"
    try:
        with running_site(folder / "site", lines) as site:
            health = f"{site.url}/services/binder/health"
            wait_for(lambda: httpx.get(health, trust_env=False).is_success, 60)
            yield Place(site, host, registry)
    finally:
        patch.undo()
        host.close()
        for line in podman.run("images", "--format", "{{.Repository}}:{{.Tag}}").splitlines():
            if line.startswith(f"{registry.host}/"):
                podman.run("rmi", "--force", "--", line)
        registry.close()


@pytest.fixture(scope="module", params=["basic", "token"])
def outside(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with place(tmp_path_factory.mktemp(request.param), request.param) as found:
        yield found


def test_from_a_link_to_a_server_through_the_registry_outside(outside: Place) -> None:
    make_repository(outside.host.root / "notes", {"requirements.txt": "cowsay==6.1\n"})
    first = outside.open("ana", "notes")
    assert "building" in phases(first) and answers(outside.site, "ana", first), first
    image = first[-1]["image"]
    assert image.startswith(f"{outside.registry.host}/binder/")
    assert len(outside.registry.tags()) == 2  # the site's own image, and the one built upon it
    # What was pulled is from there, and the next person needs no build.
    assert image in outside.site.podman.run("images", "--format", "{{.Repository}}:{{.Tag}}")
    second = outside.open("ben", "notes")
    assert phases(second) == ["built", "launching", "ready"] and answers(
        outside.site, "ben", second
    )


def test_no_log_knows_a_credential(outside: Place) -> None:
    pair = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
    # A token's signature: no other text has it in it.
    secrets = [
        PASSWORD,
        pair,
        *(token.rpartition(".")[2] for token in outside.registry.tokens.given),
    ]
    may = {outside.site.state / "engine" / "auth.json"}
    # Pods have what they need in their folders, which go with them soon after a build.
    pods = outside.site.state / "engine" / "pods"
    wait_for(lambda: not list(pods.glob("build-*")), 60)
    files = [file for file in outside.site.state.rglob("*") if file.is_file() and file not in may]
    files.append(outside.registry.folder / "registry.log")
    assert outside.site.state / "log" in {file.parent for file in files}
    for file in files:
        text = file.read_bytes()
        assert not [one for one in secrets if one.encode() in text], file
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert PASSWORD.encode() not in line.read_bytes()
        except OSError:
            continue


def test_each_token_is_for_what_is_done(outside: Place) -> None:
    asked = {scope for scopes in outside.registry.tokens.asked for scope in scopes}
    if not asked:
        pytest.skip("this registry has no tokens")
    names = {scope.split(":")[1] for scope in asked}
    built = names - {"binder/site/lab"}
    assert len(built) == len(names) - 1 == 1 and "-notes-" in built.pop()
    assert not {scope for scope in asked if "*" in scope or "delete" in scope}


def test_a_registry_that_refuses_is_told(outside: Place) -> None:
    if not outside.registry.tokens.given:
        pytest.skip("this registry has no tokens")
    make_repository(outside.host.root / "refused", {"a.py": ""})
    outside.registry.tokens.open = False
    try:
        events = outside.open("ana", "refused")
    finally:
        outside.registry.tokens.open = True
    assert [event["phase"] for event in events].count("failed") == 1
    assert "The registry of this site does not answer as it should" in events[-1]["message"]
    assert outside.open("ana", "refused", build_only="true")[-1]["phase"] == "ready"


def test_a_registry_that_dies_in_the_middle_of_a_push(outside: Place) -> None:
    noise = "#!/bin/sh\nhead -c 30M /dev/urandom > noise\n"
    make_repository(outside.host.root / "dying", {"postBuild": noise})
    before = outside.registry.tags()
    relay = outside.registry.relay
    relay.cut_after = 10 * 10**6
    try:
        events = outside.open("ana", "dying")
    finally:
        assert relay.dead
        relay.cut_after = None
    assert [event["phase"] for event in events].count("failed") == 1
    assert "The registry cannot be reached" in events[-1]["message"]
    assert outside.registry.tags() == before
    # Back again: nothing half-pushed is taken for an image.
    again = outside.open("ana", "dying")
    assert "building" in phases(again) and answers(outside.site, "ana", again)


def disk_of(size: str) -> Callable[[Path], None]:
    """A disk of its own for a registry's data."""

    def mount(data: Path) -> None:
        data.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tests", data], check=True)

    return mount


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a small disk")
def test_a_registry_that_is_full_is_told(tmp_path: Path) -> None:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    data = tmp_path / "registry" / "data"
    try:
        with place(tmp_path, "basic", disk_of("64m")) as full:
            noise = "#!/bin/sh\nhead -c 150M /dev/urandom > noise\n"
            make_repository(full.host.root / "large", {"postBuild": noise})
            # Too full for the site's own image, which podman pushes.
            events = full.open("ana", "large", build_only="true")
            assert [event["phase"] for event in events].count("failed") == 1
            assert "The registry of this site does not take images" in events[-1]["message"]
            assert full.registry.tags() == {}
            # Too full for the layer, which the build's pod pushes.
            subprocess.run(["mount", "-o", "remount,size=360m", data], check=True)
            events = full.open("ana", "large", build_only="true")
            assert "The registry failed while the image was pushed" in events[-1]["message"]
            assert list(full.registry.tags()) == ["binder/site/lab"]
            # There is room again.
            subprocess.run(["mount", "-o", "remount,size=900m", data], check=True)
            again = full.open("ana", "large", build_only="true")
            assert "building" in phases(again) and again[-1]["phase"] == "ready"
    finally:
        subprocess.run(["umount", data], check=False)


# --- which kinds of images are seen ---------------------------------------------------------------

DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
PARTS = {
    DOCKER: (
        "application/vnd.docker.container.image.v1+json",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ),
    OCI: (
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.oci.image.layer.v1.tar+gzip",
    ),
}

ASK = """
import asyncio, json, sys
from binder.registry import DockerRegistry
from studovna.paths import state_dir

async def ask():
    registry = DockerRegistry(**json.loads(sys.argv[1]))
    found = [await registry.image(image) for image in sys.argv[2:]]
    deleted = [await registry.delete(image) for image in sys.argv[2:]]
    gone = [await registry.image(image) for image in sys.argv[2:]]
    await registry.close()
    print(json.dumps([[one and [one.digest, dict(one.labels), len(one.blobs)] for one in found],
                      deleted, [one is None for one in gone]]))

asyncio.run(ask())
"""


def store(client: httpx.Client, name: str, kind: str, inner: str) -> str:
    """An image of this kind, of ``inner`` manifests where it is an index; its digest."""

    def digest_of(data: bytes) -> str:
        return "sha256:" + hashlib.sha256(data).hexdigest()

    def put(data: dict[str, Any], kind: str, tag: str) -> tuple[str, int]:
        body = json.dumps(data).encode()
        answer = client.put(
            f"/v2/{name}/manifests/{tag or digest_of(body)}",
            content=body,
            headers={"Content-Type": kind},
        )
        assert answer.status_code == 201, answer.text
        return digest_of(body), len(body)

    def blob(data: bytes) -> dict[str, Any]:
        where = client.post(f"/v2/{name}/blobs/uploads/").headers["Location"]
        parameter = ("&" if "?" in where else "?") + f"digest={digest_of(data)}"
        answer = client.put(
            where + parameter, content=data, headers={"Content-Type": "application/octet-stream"}
        )
        assert answer.status_code == 201, answer.text
        return {"digest": digest_of(data), "size": len(data)}

    config_kind, layer_kind = PARTS[inner]
    config = json.dumps({"config": {"Labels": {"kind": kind}}, "os": "linux"}).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": inner,
        "config": {"mediaType": config_kind, **blob(config)},
        "layers": [{"mediaType": layer_kind, **blob(b"a layer")}],
    }
    if kind == inner:
        return put(manifest, kind, "v1")[0]
    digest, size = put(manifest, inner, "")
    platform = {"architecture": "amd64", "os": "linux"}
    entry = {"mediaType": inner, "digest": digest, "size": size, "platform": platform}
    return put({"schemaVersion": 2, "mediaType": kind, "manifests": [entry]}, kind, "v1")[0]


def test_every_kind_of_image_is_seen(tmp_path: Path) -> None:
    registry = OutsideRegistry(tmp_path / "registry", "127.0.0.1", "basic")
    kinds = {"docker": (DOCKER, DOCKER), "list": (DOCKER_LIST, DOCKER)}
    kinds |= {"oci": (OCI, OCI), "index": (OCI_INDEX, OCI)}
    try:
        with httpx.Client(
            base_url=registry.url, auth=(USERNAME, PASSWORD), trust_env=False,
            verify=ssl.create_default_context(cafile=registry.authority.ca),
        ) as client:  # fmt: skip
            stored = [store(client, f"kinds/{name}", *pair) for name, pair in kinds.items()]
        options = {"url": registry.url, "username": USERNAME, "password": PASSWORD}
        images = [f"{registry.host}/kinds/{name}:v1" for name in kinds]
        argv = [
            sys.executable,
            "-c",
            ASK,
            json.dumps(options),
            *images,
            f"{registry.host}/kinds/oci:v2",
        ]
        env = {**os.environ, "SSL_CERT_FILE": str(registry.authority.bundle)}
        env["STUDOVNA_HOME"] = str(tmp_path)
        said = subprocess.run(argv, env=env, check=True, capture_output=True, text=True).stdout
    finally:
        registry.close()
    found, deleted, gone = json.loads(said)
    for one, digest, (kind, _) in zip(found, stored, kinds.values(), strict=False):
        assert one == [digest, {"kind": kind}, 2], kind
    assert found[-1] is None
    assert deleted == [True] * 4 + [False] and gone == [True] * 5
