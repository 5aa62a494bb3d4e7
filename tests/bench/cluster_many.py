"""What hundreds of servers cost the hub, on a node that is simulated: ours, and KubeSpawner's."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil

from tests.bench.cluster_hubs import kubespawner_hub, our_hub, simulated_node
from tests.bench.counting import CountingRelay
from tests.bench.hubs import Hub
from tests.bench.people import names
from tests.bench.results import Results
from tests.cluster.kube import IMAGE, use_cluster

OURS = "studovna"
PLAIN = "KubeSpawner with z2jh's settings"
AT_ONCE = 50  # below the 64 that both hubs take at a time
HOLD_SECONDS = 60.0
START_SECONDS = 400.0


def cpu_seconds(hub: Hub) -> float:
    """Processor time of the hub's process so far, without its proxy and culler."""
    times = psutil.Process(hub.pid).cpu_times()
    return float(times.user + times.system)


def peak_memory(hub: Hub) -> float:
    """The most resident memory that the hub's process ever had, in MB."""
    for line in Path(f"/proc/{hub.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("the kernel does not tell of peak memory")


async def start_one(client: httpx.AsyncClient, person: str, options: dict[str, str]) -> str:
    """Ask for a server and follow its progress, as the page does; why it failed, if it did."""
    reply = await client.post(f"/hub/api/users/{person}/server", json=options)
    if reply.status_code not in (201, 202):
        return f"{reply.status_code} {reply.text[:500]}"
    async with client.stream("GET", f"/hub/api/users/{person}/server/progress") as stream:
        async for line in stream.aiter_lines():
            if line.startswith("data:"):
                event = json.loads(line[5:])
                if event.get("ready"):
                    return ""
                if event.get("failed"):
                    return str(event["message"])
    return "the progress ended without an end"


async def start_all(
    hub: Hub, people: list[str], options: dict[str, str]
) -> tuple[float, dict[str, str]]:
    """Start a server for everyone, ``AT_ONCE`` at a time; the seconds until all are ready, and
    whose start failed and why."""
    headers = {"Authorization": f"token {hub.token}"}
    limits = httpx.Limits(max_connections=2 * AT_ONCE)
    async with httpx.AsyncClient(
        base_url=hub.url, headers=headers, timeout=START_SECONDS, limits=limits, trust_env=False
    ) as client:
        begun = time.perf_counter()
        room = asyncio.Semaphore(AT_ONCE)
        failed = {}

        async def one(person: str) -> None:
            async with room:
                why = await start_one(client, person, options)
            if why:
                failed[person] = why

        async with asyncio.TaskGroup() as group:
            for person in people:
                group.create_task(one(person))
        return time.perf_counter() - begun, failed


def answering(hub: Hub, people: list[str]) -> int:
    """How many of these people's servers answer through the proxy."""
    with hub.client() as client:
        replies = [client.get(f"/user/{person}/api") for person in people]
    return sum(reply.status_code == 200 and "version" in reply.text for reply in replies)


def measure_one(
    results: Results, subject: str, hub: Hub, relay: CountingRelay, count: int, hold: float
) -> None:
    """Start ``count`` servers, let them be for ``hold`` seconds, and see what the hub took."""
    case = f"cluster, {count} servers"
    people = names(count)
    options = {"profile": "cpu"} if subject == OURS else {}
    before = hub.memory()
    relay.counts.clear()
    relay.received = 0
    cpu = cpu_seconds(hub)
    seconds, failed = asyncio.run(start_all(hub, people, options))
    for person, why in failed.items():
        print(f"{subject}: {person} has no server: {why}", flush=True)
    results.add(f"{case}: all ready", subject, seconds, "s")
    results.add(f"{case}: starts that failed", subject, len(failed), "")
    results.add(f"{case}: hub's CPU while they start", subject, cpu_seconds(hub) - cpu, "s")
    _requests(results, f"{case}: API requests while they start", subject, relay)
    sample = [person for person in people[:: max(1, count // 20)] if person not in failed]
    if answering(hub, sample) < len(sample):
        raise RuntimeError(f"{subject}: not all servers answer")
    time.sleep(5)
    relay.counts.clear()
    relay.received = 0
    cpu = cpu_seconds(hub)
    time.sleep(hold)
    results.add(f"{case}: hub's CPU in {hold:.0f} s", subject, cpu_seconds(hub) - cpu, "s")
    _requests(results, f"{case}: API requests in {hold:.0f} s", subject, relay)
    results.add(f"{case}: hub's memory before", subject, before, "MB")
    results.add(f"{case}: hub's peak memory", subject, peak_memory(hub), "MB")


def _requests(results: Results, case: str, subject: str, relay: CountingRelay) -> None:
    counts = ", ".join(f"{kind} {count}" for kind, count in sorted(relay.counts.items()))
    print(f"{subject}, {case}: {counts}; {relay.received / 1e6:.1f} MB", flush=True)
    results.add(case, subject, sum(relay.counts.values()), "")


def measure(results: Results, count: int, hold: float = HOLD_SECONDS) -> None:
    """One hub after the other: each has the machine for itself."""
    use_cluster()
    name = f"bench-{secrets.token_hex(3)}"
    print(f"load before: {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory(prefix="studovna-bench-") as there:
        for subject in (OURS, PLAIN):
            with ExitStack() as stack:
                port = stack.enter_context(simulated_node(name))
                folder = Path(there) / name / subject.split()[0]
                folder.parent.mkdir(exist_ok=True)
                hub, relay = stack.enter_context(
                    our_hub(folder, node=name, port=port, people=count)
                    if subject == OURS
                    else kubespawner_hub(folder, IMAGE, node=name, port=port, people=count)
                )
                measure_one(results, subject, hub, relay, count, hold)
