"""From a link to an answering server: nothing cached, cached, beside an ordinary start."""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import httpx
from yarl import URL

from binder.launcher import server_name
from studovna.hub_api import new_token
from tests.bench import stock
from tests.bench.results import Results
from tests.binder.githost import GitHost, make_repository
from tests.binder_site import THREE_PACKAGES, link_to, running_binder
from tests.site import RunningSite, wait_for

CASE = "link to answering server, three small packages"
ORDINARY = "ordinary start, profile cpu"
CACHED = "link, image in the registry"
NEW = "link, nothing cached"
BUILD = "build of the same repository"
OURS = "studovna, pushed to the registry"
STOCK = "repo2docker's stock template, same base, not pushed"
STOCK_RUNS = 2
MANY = "50 viewers of one build"
VIEWERS = 50
PERSON = "bench"
STREAM = {"Accept": "text/event-stream"}


@dataclass(frozen=True)
class _Bench:
    site: RunningSite
    host: GitHost
    client: httpx.Client

    def repository(self, name: str) -> str:
        """A new one with three packages; its address."""
        make_repository(self.host.root / name, {"requirements.txt": THREE_PACKAGES, "a.py": name})
        return f"{self.host.url}/{name}"

    def ordinary(self) -> float:
        begun = time.perf_counter()
        reply = self.client.post(f"/hub/api/users/{PERSON}/servers/plain", json={"profile": "cpu"})
        reply.raise_for_status()
        return self._answer("plain", begun)

    def open_link(self, name: str) -> float:
        """Seconds until the server of a link answers."""
        begun = time.perf_counter()
        last = self.events(name)[-1]
        if last["phase"] != "ready":
            raise RuntimeError(f"{name}: {last}")
        return self._answer(server_name(f"{self.host.url}/{name}"), begun)

    def events(self, name: str, **query: str) -> list[dict[str, Any]]:
        path = f"/services/binder/build/{link_to(self.host, name)}"
        found: list[dict[str, Any]] = []
        with self.client.stream("GET", path, params=query, headers=STREAM, timeout=300) as answer:
            for line in answer.iter_lines():
                if line.startswith("data:"):
                    found.append(json.loads(line[5:]))
                if found and found[-1]["phase"] in ("ready", "failed"):
                    break
        return found

    def builds(self, name: str) -> float:
        """How often a repository was built, as the service's metrics say."""
        text = self.client.get("/services/binder/metrics").text
        pattern = rf"^binderhub_build_count_total\{{.*/{name}\",.*\}} ([0-9.]+)$"
        return sum(float(count) for count in re.findall(pattern, text, re.MULTILINE))

    def _answer(self, server: str, begun: float) -> float:
        while not self.site.answers(self.client, PERSON, server):
            if time.perf_counter() - begun > 120:
                raise RuntimeError(f"no answer from the server {server}")
            time.sleep(0.02)
        return time.perf_counter() - begun

    def stop(self, server: str) -> None:
        self.client.request(
            "DELETE", f"/hub/api/users/{PERSON}/servers/{server}", json={"remove": True}
        )
        wait_for(lambda: self.site.server(self.client, PERSON, server) is None, 30)
        time.sleep(1)  # what is tidied up afterwards is not the next start's to pay


def measure(results: Results, runs: int) -> None:
    """The three kinds in turn, so that a busy minute hits all alike; builds; many viewers."""
    with (
        tempfile.TemporaryDirectory(prefix="studovna-bench-", ignore_cleanup_errors=True) as name,
        running_binder(Path(name), "  builds_per_hour: 1000\n") as (site, host),
    ):
        bench = _Bench(site, host, site.client(PERSON))
        cached = bench.repository("cached")
        bench.open_link("cached")  # brings the site's image into the registry, once for all
        bench.stop(server_name(cached))
        for run in range(runs + 1):
            new = bench.repository(f"new-{run}")
            seconds = {ORDINARY: bench.ordinary()}
            bench.stop("plain")
            seconds[CACHED] = bench.open_link("cached")
            bench.stop(server_name(cached))
            seconds[NEW] = bench.open_link(f"new-{run}")
            bench.stop(server_name(new))
            if run:  # the first of each warms every cache and is not counted
                for subject, value in seconds.items():
                    results.add(CASE, subject, value, "s")
        for run in range(runs):
            bench.repository(f"build-{run}")
            begun = time.perf_counter()
            bench.events(f"build-{run}", build_only="true")
            results.add(BUILD, OURS, time.perf_counter() - begun, "s")
        for _ in range(min(runs, STOCK_RUNS)):
            results.add(BUILD, STOCK, stock.build_seconds(site.podman, host.root / "cached"), "s")
        bench.repository("many")
        first = asyncio.run(_view(site, link_to(host, "many")))
        results.add(MANY, "slowest first event", max(first), "s")
        results.add(MANY, "builds", bench.builds("many"), "")


async def _view(site: RunningSite, link: str) -> list[float]:
    """Fifty people open one link at once: seconds to each one's first event."""
    people = [f"viewer{number}" for number in range(VIEWERS)]
    tokens = [new_token(site.site, site.state, person, 3600, "bench") for person in people]
    url = f"{site.url}/services/binder/build/{link}?build_only=true"
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def one(token: str) -> float:
            headers = {**STREAM, "Authorization": f"token {token}"}
            begun, first = time.perf_counter(), 0.0
            async with session.get(URL(url, encoded=True), headers=headers) as answer:
                async for line in answer.content:
                    if not line.startswith(b"data:"):
                        continue
                    first = first or time.perf_counter() - begun
                    event = json.loads(line[5:])
                    if event["phase"] == "failed":
                        raise RuntimeError(event["message"])
                    if event["phase"] == "ready":
                        break
            return first

        return list(await asyncio.gather(*(one(token) for token in tokens)))
