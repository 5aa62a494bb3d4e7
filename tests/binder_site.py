"""A real site with Binder, and a real git host that both it and the pods of builds reach."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from spawner.podman_network import hub_address
from studovna.paths import site_id
from studovna.podman import Podman
from tests.binder.githost import GitHost
from tests.site import RunningSite, running_site, wait_for

THREE_PACKAGES = "cowsay==6.1\nemoji==2.14.1\ntabulate==0.9.0\n"


@contextmanager
def running_binder(folder: Path, settings: str = "") -> Iterator[tuple[RunningSite, GitHost]]:
    """Bring both up; ``settings`` are further lines of site.yaml's ``binder``, indented."""
    state = folder / "site" / "var"
    state.mkdir(parents=True)
    podman = Podman(state)
    podman.probe()
    address = hub_address(podman, site_id(state))  # pods do not reach 127.0.0.1 of this machine
    host = GitHost(folder / "git", address)
    lines = f"binder:\n  allow_hosts: ['{address}']\n{settings}"
    try:
        with running_site(folder / "site", lines) as site:
            # The hub answers first.
            health = f"{site.url}/services/binder/health"
            wait_for(lambda: httpx.get(health, trust_env=False).is_success, 60)
            yield site, host
    finally:
        host.close()


def open_link(
    site: RunningSite, host: GitHost, person: str, name: str, **query: str
) -> list[dict[str, Any]]:
    """All events of the link to a repository of the host, as this person's API client has them."""
    events = []
    headers = {"Accept": "text/event-stream"}
    link = f"/services/binder/build/{link_to(host, name)}"
    with (
        site.client(person) as client,
        client.stream("GET", link, headers=headers, params=query, timeout=240) as answer,
    ):
        for line in answer.iter_lines():
            if line.startswith("data:"):
                events.append(json.loads(line[5:]))
    return events


def phases(events: list[dict[str, Any]]) -> list[str]:
    """The phases in their order, each time that it changes."""
    found = [event["phase"] for event in events]
    return [one for i, one in enumerate(found) if i == 0 or found[i - 1] != one]


def answers(site: RunningSite, person: str, events: list[dict[str, Any]]) -> bool:
    """Whether the server answers that a link led to."""
    last = events[-1]
    assert last["phase"] == "ready", events
    with site.client(person) as client:
        return client.get(f"{urlsplit(last['url']).path}api/status").is_success


def link_to(host: GitHost, name: str, ref: str = "HEAD") -> str:
    """What follows ``v2/`` and ``build/`` in the link to a repository of the host."""
    return f"git/{quote(f'{host.url}/{name}', safe='')}/{ref}"
