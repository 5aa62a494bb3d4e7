"""Crowds and crashes, with a real hub and a real git host; builds and registry are doubles."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import httpx
import psutil
import pytest

from tests.binder.conftest import Hub, start_hub
from tests.binder.githost import GitHost, make_repository
from tests.binder.test_service import link

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, git_host: GitHost) -> Iterator[Hub]:
    """A hub whose site has tight limits on servers, and none worth naming on builds."""
    hub = start_hub(
        tmp_path_factory.mktemp("faults"),
        git_host,
        concurrent_builds=8,
        builds_per_hour=100,
        servers=1,
        servers_per_repository=1,
        ban_repositories=[r"http://127\.0\.0\.1:[0-9]+/banned/.*"],
    )
    yield hub
    hub.stop()


def service_process(hub: Hub) -> psutil.Process:
    for child in psutil.Process(hub.process.pid).children(recursive=True):
        if "binder" in child.cmdline() and "-m" in child.cmdline():
            return child
    raise AssertionError("the service does not run")


async def read(session: aiohttp.ClientSession, url: str) -> tuple[float, list[dict]]:
    """The events of a stream, and how long the first one took."""
    start, first, events = time.monotonic(), 0.0, []
    async with session.get(url, headers={"Accept": "text/event-stream"}) as answer:
        async for line in answer.content:
            if line.startswith(b"data:"):
                first = first or time.monotonic() - start
                events.append(json.loads(line[5:]))
    return first, events


def session(hub: Hub, person: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        headers={"Authorization": f"token {hub.tokens[person]}"},
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=120),
    )


async def test_200_viewers_cost_one_build(hub: Hub, git_host: GitHost) -> None:
    before = service_process(hub).memory_info().rss
    url = f"{hub.binder}build/{link(git_host, 'long')}?build_only=true"
    async with session(hub, "ana") as client:
        first = asyncio.create_task(read(client, url))
        await asyncio.sleep(1)
        results = await asyncio.gather(first, *(read(client, url) for _ in range(199)))
    assert all(events[-1]["phase"] == "ready" for _, events in results)
    lines = [e["message"] for e in results[0][1] if e["phase"] == "building"]
    for _, events in results:
        assert [e["message"] for e in events if e["phase"] == "building"] == lines
    assert len([s for s in hub.starts() if s["repo_url"].endswith("/long")]) == 1
    assert service_process(hub).memory_info().rss - before < 60 * 1024**2
    print(f"slowest first event of 200: {max(t for t, _ in results):.2f} s")


async def test_100_links_at_once(hub: Hub, git_host: GitHost) -> None:
    template = git_host.root / "other"
    for number in range(100):
        shutil.copytree(template, git_host.root / f"many{number}")
    urls = [
        f"{hub.binder}build/{link(git_host, f'many{number}')}?build_only=true"
        for number in range(100)
    ]
    async with session(hub, "ana") as ana, session(hub, "ben") as ben:
        jobs = [read(ben if n % 10 == 0 else ana, url) for n, url in enumerate(urls)]
        streams = asyncio.gather(*jobs)
        slowest = 0.0
        while not streams.done():
            start = time.monotonic()
            async with ben.get(f"{hub.url}hub/api/user") as answer:
                assert answer.status == 200
            slowest = max(slowest, time.monotonic() - start)
            await asyncio.sleep(0.2)
        results = await streams
    assert [events[-1]["phase"] for _, events in results] == ["ready"] * 100
    assert slowest < 5  # the hub stayed answerable
    assert any("position" in e for _, events in results for e in events)


async def test_too_many_builds_of_one_person(hub: Hub, git_host: GitHost) -> None:
    names = [f"root{number}" for number in range(105)]
    for name in names:
        shutil.copytree(git_host.root / "other", git_host.root / name)
    urls = [f"{hub.binder}build/{link(git_host, name)}?build_only=true" for name in names]
    async with session(hub, "root") as client:
        results = await asyncio.gather(*(read(client, url) for url in urls))
    last = [events[-1] for _, events in results]
    refused = [event for event in last if event["phase"] == "failed"]
    assert len(refused) == 5 and {event["status_code"] for event in refused} == {429}
    assert "root has started 100 builds already" in refused[0]["message"]
    # What is built can still be opened, and others can still build.
    built = next(n for n, event in zip(names, last, strict=True) if event["phase"] == "ready")
    assert hub.events("root", link(git_host, built), build_only="true")[-1]["phase"] == "ready"


def test_banned_however_it_is_spelt(hub: Hub, git_host: GitHost) -> None:
    for name in ("banned", "/banned", "banned.git", "%62anned"):
        events = hub.events("ben", link(git_host, name))
        assert [event["phase"] for event in events] == ["failed"], name
        assert "is not allowed to launch on this site" in events[0]["message"]


def test_limits_on_servers(hub: Hub, git_host: GitHost) -> None:
    assert hub.events("ben", link(git_host, "other"))[-1]["phase"] == "ready"
    second = hub.events("ben", link(git_host, "long"))
    assert [e["phase"] for e in second].count("failed") == 1
    assert "at most 1 are allowed: other" in second[-1]["message"]
    third = hub.events("root", link(git_host, "other"))
    assert "which is as many as this site allows" in third[-1]["message"]
    # The one that runs can always be opened again.
    assert hub.events("ben", link(git_host, "other"))[-1]["phase"] == "ready"


def test_a_killed_service_finds_its_builds(hub: Hub, git_host: GitHost, tmp_path: Path) -> None:
    make_repository(git_host.root / "held", {"a.py": "1"})
    stream = hub.stream("ben", link(git_host, "held"), build_only="true")
    seen = []
    for event, event_id in stream:
        seen.append((event, event_id))
        if event["message"].startswith("line 20"):
            break
    os.kill(service_process(hub).pid, signal.SIGKILL)
    with pytest.raises((httpx.HTTPError, StopIteration)):
        for event, event_id in stream:
            seen.append((event, event_id))
        raise StopIteration
    deadline = time.monotonic() + 60
    while True:
        try:
            with hub.client() as client:
                if client.get("health").status_code == 200:
                    break
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.3)
    (hub.folder / "double" / "let-go").touch()
    again = hub.events("ben", link(git_host, "held"), build_only="true")
    assert again[-1]["phase"] == "ready"
    starts = [s for s in hub.starts() if s["repo_url"].endswith("/held")]
    assert [s["again"] for s in starts] == [False, True]


def test_binderhubs_own_client(hub: Hub, git_host: GitHost) -> None:
    root = Path(__file__).parents[2] / "node_modules"
    modules = Path(os.environ.get("STUDOVNA_NODE_MODULES", root))
    if not (modules / "@jupyterhub/binderhub-client").exists():
        pytest.skip("@jupyterhub/binderhub-client is not installed (npm ci)")
    make_repository(git_host.root / "fresh", {"a.py": ""})
    for spec, person, phase in [
        (link(git_host, "fresh"), "ana", "ready"),
        (link(git_host, "other"), "ben", "ready"),
        (link(git_host, "broken"), "ben", "failed"),
    ]:
        done = subprocess.run(
            ["node", str(Path(__file__).parent / "client.mjs"), str(modules),
             f"{hub.binder}build/", spec, hub.tokens[person], "0"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        events = [json.loads(line) for line in done.stdout.splitlines()]
        assert events[-1]["phase"] == phase, done.stderr
        assert sum(e["phase"] in ("ready", "failed") for e in events) == 1
        if person == "ana":  # the whole way: fetched, built, pushed, started, and there
            assert list(dict.fromkeys(e["phase"] for e in events)) == [
                "waiting", "fetching", "building", "pushing", "built", "launching", "ready",
            ]  # fmt: skip
            headers = {"Authorization": f"token {hub.tokens['ana']}"}
            with httpx.Client(trust_env=False, headers=headers) as client:
                assert client.get(f"{events[-1]['url']}api/status").is_success
