"""Images within their budget, through the running service and the registry that comes with it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from binder.cleaner import Stored, disk
from binder.embedded_registry import QUIET, embedded_credential, embedded_url
from binder.registry import DockerRegistry, ImageInfo
from studovna import hub_process
from studovna.podman import PodmanError
from tests.binder.githost import GitHost, make_repository
from tests.binder_site import answers, open_link, phases, running_binder
from tests.site import RunningSite, wait_for, why_not

pytestmark = pytest.mark.slow

NOISE = 60 * 10**6  # bytes, of each image's own layer
HOUR = 3600


@pytest.fixture(scope="module")
def binder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningSite, GitHost]]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with running_binder(tmp_path_factory.mktemp("cleaner")) as both:
        yield both


def found(state: Path, images: list[str]) -> list[ImageInfo | None]:
    """What the registry has of these images."""

    async def ask() -> list[ImageInfo | None]:
        registry = DockerRegistry(state=state)
        try:
            return [await registry.image(image) for image in images]
        finally:
            await registry.close()

    return asyncio.run(ask())


def listens(state: Path) -> bool:
    """Whether the site's registry is there."""
    try:
        return httpx.get(embedded_url(state), trust_env=False).status_code == 401
    except httpx.TransportError:
        return False


def copies(site: RunningSite) -> set[str]:
    """The images that this machine has."""
    while True:
        with contextlib.suppress(PodmanError):
            return set(site.podman.run("images", "--format", "{{.Repository}}:{{.Tag}}").split())


class SlowPush:
    """An image pushed layer by layer, at the pace of a bad connection."""

    def __init__(self, state: Path) -> None:
        url = embedded_url(state)
        self.client = httpx.Client(
            base_url=url, auth=embedded_credential(state), trust_env=False, timeout=120
        )
        self.image = f"{urlsplit(url).netloc}/binder/slow:v1"
        self._layers: list[dict[str, Any]] = []

    def layer(self) -> None:
        kind = "application/vnd.oci.image.layer.v1.tar+gzip"
        data = f"layer {len(self._layers)}".encode()
        self._layers.append({"mediaType": kind, **self._blob(data)})

    def _blob(self, data: bytes) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        where = self.client.post("/v2/binder/slow/blobs/uploads/").headers["Location"]
        address = f"{where}{'&' if '?' in where else '?'}digest={digest}"
        headers = {"Content-Type": "application/octet-stream"}
        answer = self.client.put(address, content=data, headers=headers)
        assert answer.status_code == 201, answer.text
        return {"digest": digest, "size": len(data)}

    def end(self) -> None:
        config = json.dumps({"config": {"Labels": {}}, "os": "linux"}).encode()
        kind = "application/vnd.oci.image.{}.v1+json"
        manifest = {
            "schemaVersion": 2,
            "mediaType": kind.format("manifest"),
            "config": {"mediaType": kind.format("config"), **self._blob(config)},
            "layers": self._layers,
        }
        answer = self.client.put(
            "/v2/binder/slow/manifests/v1",
            content=json.dumps(manifest),
            headers={"Content-Type": manifest["mediaType"]},
        )
        assert answer.status_code == 201, answer.text

    def is_whole(self) -> bool:
        """Whether everything of the image is there, as it was pushed."""
        for layer in self._layers:
            data = self.client.get(f"/v2/binder/slow/blobs/{layer['digest']}").content
            if f"sha256:{hashlib.sha256(data).hexdigest()}" != layer["digest"]:
                return False
        return bool(self._layers)


def check_resources(site: RunningSite, events: list[dict[str, Any]]) -> None:
    """The server has what the repository's file asks for, and its bad line is named."""
    listed = site.podman.run("ps", "--format", "{{.Names}} {{.Image}}").splitlines()
    (server,) = [line.split()[0] for line in listed if line.endswith(events[-1]["image"])]
    limits = "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}"
    assert site.podman.run("inspect", "--format", limits, server).split() == [
        str(3 * 2**30),
        str(10**9),
    ]
    said = [event["message"] for event in events if event["phase"] == "launching"]
    assert sum("Line 3 of .resources is not used: memory=lots" in one for one in said) == 1


def test_what_is_over_the_budget_goes_and_can_be_built_again(
    binder: tuple[RunningSite, GitHost],
) -> None:
    site, host = binder
    images = []
    for person in ("ana", "ben", "cid"):
        script = f"#!/bin/sh\nhead -c {NOISE} /dev/urandom > noise\n"
        files = {"postBuild": script}
        if person == "ana":
            files[".resources"] = "cpul=1\nmeml=3\nmemory=lots\n"
        make_repository(host.root / f"of-{person}", files)
        events = open_link(site, host, person, f"of-{person}")
        assert answers(site, person, events)
        images.append(events[-1]["image"])
        if person == "ana":
            check_resources(site, events)
    # Ana's server runs; Ben's and Cid's have ended, and theirs were used after hers.
    for person in ("ben", "cid"):
        with site.client(person) as client:
            servers = client.get(f"/hub/api/users/{person}").json()["servers"]
            for name in servers:
                client.delete(f"/hub/api/users/{person}/servers/{name}")
            address = f"/hub/api/users/{person}"
            wait_for(lambda c=client, a=address: not c.get(a).json()["servers"], 60)
    ana, ben, cid = images
    total = disk(Stored("", 0.0, info.blobs) for info in found(site.state, images) if info)
    assert total > 3 * NOISE

    hub_process.stop(site.state)
    now = time.time()
    used = {ana: now - 4 * HOUR, ben: now - 3 * HOUR, cid: now - 2 * HOUR}
    (site.state / "binder" / "used.json").write_text(json.dumps(used))
    text = site.site.file.read_text()
    budget = total - 5 * 10**6
    site.site.file.write_text(
        text.replace("binder:\n", f"binder:\n  image_disk: {budget // 1024}K\n")
    )
    begin = len(site.log())
    site.up()

    # A push goes on from before the cleaning until long after it.
    wait_for(lambda: listens(site.state), 60)
    push = SlowPush(site.state)
    deadline = time.monotonic() + 200
    while f"Removed {ben}" not in site.log()[begin:]:
        assert time.monotonic() < deadline
        push.layer()
        time.sleep(1)
    time.sleep(QUIET + 2)
    assert "Garbage collected" not in site.log()[begin:]  # though garbage is to be collected
    push.end()
    wait_for(lambda: "Garbage collected" in site.log()[begin:], 120)
    assert push.is_whole()

    there = [info is not None for info in found(site.state, [*images, push.image])]
    assert there == [True, False, True, True]  # the oldest that does not run, and no more
    # A look at all images fails when another site removes one at that moment; the next does not.
    wait_for(lambda: ben not in copies(site), 180, every=2)
    assert {ana, cid} <= copies(site)
    with site.client("ana") as client:
        (name,) = client.get("/hub/api/users/ana").json()["servers"]
        assert site.answers(client, "ana", name)

    again = open_link(site, host, "ben", "of-ben")
    assert again[-1].get("image") == ben
    assert "building" in phases(again) and answers(site, "ben", again)
    # One that stayed is pulled whole where no copy is left.
    site.podman.run("rmi", "--", cid)
    kept = open_link(site, host, "cid", "of-cid")
    assert "building" not in phases(kept) and answers(site, "cid", kept)
